use lock_runtime::distributed_lock;

fn main() {}

#[tokio::test]
#[distributed_lock(key = "nightly")]
async fn works() -> Result<(), lock_runtime::LockError> {
    Ok(())
}
