#![deny(unused_variables)]

use lock_runtime::{LockError, distributed_lock};

struct Seat {
    row: u8,
    number: u8,
}

#[distributed_lock(key = "row:<row>")]
async fn reserve(Seat { row, number }: Seat) -> Result<(), LockError> {
    Ok(())
}

fn main() {
    let _ = |seat: Seat| (seat.row, seat.number);
}
