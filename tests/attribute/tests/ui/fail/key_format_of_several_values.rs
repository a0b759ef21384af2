use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = format!("seat:{row}-{number}"))]
async fn claim(row: &str, number: &str) -> Result<usize, LockError> {
    Ok(row.len() + number.len())
}

fn main() {}
