use lock_runtime::{LockError, LockRuntime, distributed_lock};

struct Hall {
    name: String,
    free: u32,
}

impl Hall {
    #[distributed_lock(key = "hall:<self.name>", ttl = "5s")]
    async fn take(&mut self, seats: u32) -> Result<&str, LockError> {
        self.free -= seats;
        Ok(&self.name)
    }
}

#[tokio::main]
async fn main() -> Result<(), LockError> {
    let locks = LockRuntime::in_memory().build().await?;
    let mut hall = Hall { name: "great".to_owned(), free: 3 };
    assert_eq!(LockRuntime::scope(locks, hall.take(2)).await?, "great");
    assert_eq!(hall.free, 1);
    Ok(())
}
