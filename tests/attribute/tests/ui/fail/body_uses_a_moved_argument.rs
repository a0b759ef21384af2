use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "note:<text>")]
async fn note(text: String) -> Result<String, LockError> {
    drop(text);
    Ok(text)
}

fn main() {}
