use lock_runtime::KeyPart;

#[derive(KeyPart)]
struct Seat {
    row: u8,
    number: u8,
}

fn main() {
    let _ = |seat: Seat| (seat.row, seat.number);
}
