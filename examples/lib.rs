//! What the examples share.

use lock_runtime::{LockRuntime, LockRuntimeBuilder};

/// The locks of an example: on the store that `LOCK_URL` names, or in memory if it is not set.
pub fn locks() -> LockRuntimeBuilder {
    match std::env::var_os("LOCK_URL") {
        Some(_) => LockRuntime::from_env(),
        None => LockRuntime::in_memory(),
    }
}

/// The code of the README, which is compiled with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
