use lock_runtime::{LockError, distributed_lock};

fn nothing(error: LockError) -> Option<u32> {
    assert!(error.is_not_installed());
    None
}

#[distributed_lock(key = "answer", on_error = nothing)]
async fn answer() -> Option<u32> {
    Some(42)
}

#[tokio::main]
async fn main() {
    assert_eq!(answer().await, None);
}
