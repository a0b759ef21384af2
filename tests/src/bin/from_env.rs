//! A process that builds its runtime from `LOCK_URL`, and says what became of it.

use lock_runtime::LockRuntime;

#[tokio::main]
async fn main() {
    match LockRuntime::from_env().build().await {
        Ok(_) => println!("ready"),
        Err(error) => println!("{error}"),
    }
}
