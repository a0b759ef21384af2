use lock_runtime::{distributed_lock};

#[distributed_lock(key = "job:<id>", on_taken = skip, on_error = |_| 0)]
async fn job(id: u64) -> u64 {
    id
}

fn main() {}
