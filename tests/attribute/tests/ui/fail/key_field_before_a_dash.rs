use lock_runtime::{LockError, distributed_lock};

struct Seat {
    row: String,
    number: u8,
}

#[distributed_lock(key = "seat:<seat.row>-<seat.number>")]
async fn reserve(seat: Seat) -> Result<u8, LockError> {
    Ok(seat.number + seat.row.len() as u8)
}

fn main() {}
