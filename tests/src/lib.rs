//! What the tests share.

// A test that meets an error has failed.
#![allow(clippy::unwrap_used)]

pub mod checker;
pub mod etcd;
pub mod etcd_store;
pub mod faults;
pub mod memory_store;
pub mod redis_store;
pub mod redlock_store;
pub mod server;

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
