//! What the tests share.

// A test that meets an error has failed.
#![allow(clippy::unwrap_used)]

pub mod checker;
pub mod conformance;
pub mod faults;
pub mod memory_store;
pub mod redis_store;
pub mod server;
