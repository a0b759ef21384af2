use axum::extract::Path;
use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "seat:<row>-<number>")]
async fn reserve(Path((row, number)): Path<(String, u8)>) -> Result<u8, LockError> {
    Ok(number + row.len() as u8)
}

fn main() {}
