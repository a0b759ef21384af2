//! Hostile and careless input: rows B1 to B4 of the fault catalogue. (B5, the attribute, is what
//! the tests of its messages are for.)
//!
//! Every case has a name, and ends in a typed error or a correct result; none in a panic, a hang,
//! or another key than the one asked for.

mod b1_keys;
mod b2_foreign_values;
mod b3_durations;
mod b4_settings;
mod b5_bytes_of_a_peer;

use std::io::{Read, Write};
use std::time::Duration;

use lock_runtime::backend::LockKey;
use lock_runtime::memory::MemoryBackend;
use lock_runtime::redis::deadpool_redis::{Config, PoolConfig};
use lock_runtime::redis::{RedisBackend, RedisSettings};
use lock_runtime::{LockError, LockRuntime, LockRuntimeBuilder};
use lock_tests::faults::{DEADLINE, SLACK, builder, eventually, locks, nothing_left, owner};
use lock_tests::server::Server;
use lock_tests::{causes, ms, secs};
use proptest::prelude::*;
use tokio::time::timeout;

/// Makes a test of each case.
macro_rules! cases {
    ($check:ident: $($name:ident: $case:expr,)+) => {
        $(
            #[tokio::test]
            async fn $name() {
                $check($case).await;
            }
        )+
    };
}
pub(crate) use cases;
