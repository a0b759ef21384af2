//! What the tests share.

// A test that meets an error has failed.
#![allow(clippy::unwrap_used)]

pub mod checker;
pub mod consul;
pub mod consul_store;
pub mod etcd;
mod etcd_peers;
pub mod etcd_store;
pub mod faults;
pub mod memory_store;
pub mod others;
mod ports;
pub mod redis_store;
pub mod redlock_store;
pub mod server;

use std::time::Duration;

pub use ports::free_ports;
use tokio::sync::{Mutex, MutexGuard};

/// So many milliseconds.
pub const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// So many seconds.
pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The turn of a test that loads the whole machine, or measures what load would disturb, until it
/// is dropped. The other tests that take one wait for it; those that take none run beside it.
pub async fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

/// The text of an error and all of its causes, as a log shows it.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
