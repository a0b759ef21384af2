use lock_runtime::{LockError, LockRuntime, distributed_lock};

#[distributed_lock(key = "user:<name>", wait = "0s")]
async fn longest<'a>(name: &'a str, other: &'a str) -> Result<&'a str, LockError> {
    Ok(if name.len() > other.len() { name } else { other })
}

#[tokio::main]
async fn main() -> Result<(), LockError> {
    let locks = LockRuntime::in_memory().build().await?;
    let other = String::from("alexander");
    assert_eq!(LockRuntime::scope(locks, longest("bob", &other)).await?, "alexander");
    Ok(())
}
