use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "coupon:<id>", runtime = app)]
async fn claim(id: u64, app: std::sync::Arc<App>) -> Result<u64, LockError> {
    drop(app);
    Ok(id)
}

fn main() {}

struct App(lock_runtime::LockRuntime);

impl AsRef<lock_runtime::LockRuntime> for App {
    fn as_ref(&self) -> &lock_runtime::LockRuntime {
        &self.0
    }
}
