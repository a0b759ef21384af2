use lock_runtime::{LockError, distributed_lock};

struct Seat {
    id: u64,
}

impl Seat {
    #[distributed_lock(key = "seat:{self.id}")]
    async fn reserve(&self) -> Result<u64, LockError> {
        Ok(self.id)
    }
}

fn main() {}
