use lock_runtime::{LockError, distributed_lock};

struct Request {
    status: axum::http::StatusCode,
}

impl Request {
    #[distributed_lock(key = "request:<self.status>")]
    async fn answer(&self) -> Result<u16, LockError> {
        Ok(self.status.as_u16())
    }
}

fn main() {}
