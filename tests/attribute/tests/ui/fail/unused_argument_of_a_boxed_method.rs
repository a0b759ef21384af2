#![deny(unused_variables)]

use async_trait::async_trait;
use lock_runtime::{LockError, distributed_lock};

struct Shop;

#[async_trait]
trait Opens {
    async fn open(&self, tenant: u64, door: u8) -> Result<u8, LockError>;
}

#[async_trait]
impl Opens for Shop {
    #[distributed_lock(key = "door:<door>")]
    async fn open(&self, tenant: u64, door: u8) -> Result<u8, LockError> {
        Ok(door)
    }
}

fn main() {}
