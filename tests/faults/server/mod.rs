//! Promises about servers that forget, refuse, stand still or lie about the time: rows R1 to R3, R7
//! to R18 and R20 to R22.

mod r01_restart_without_persistence;
mod r02_restart_with_persistence;
mod r03_deletion;
mod r07_replica;
mod r07_to_r14_refusals;
mod r08_loading;
mod r09_forgotten_scripts;
mod r10_full_memory;
mod r11_eviction;
mod r12_too_many_clients;
mod r13_endless_script;
mod r14_full_disk;
mod r15_clock_ahead;
mod r16_clock_behind;
mod r17_standstill;
mod r18_permissions;
mod r20_lost_write;
mod r21_wrong_peer;
mod r22_missing_commands;

use std::time::Duration;

use lock_runtime::fencing::Writer;
use lock_runtime::{LockGuard, LockRuntime};
use lock_tests::faults::clock::Clock;
use lock_tests::faults::proxy::{Fault, Proxy};
use lock_tests::faults::resource::{Resource, Write};
use lock_tests::faults::{
    DEADLINE, SLACK, builder, can_be_had, comes_true, eventually, free, locks, nothing_left, owner,
    queued, remaining,
};
use lock_tests::server::{Options, Server};
use lock_tests::{alone, causes, ms};
use tokio::time::{Instant, sleep, sleep_until, timeout};

async fn write(resource: &Resource, guard: &LockGuard) -> Write {
    resource.write(&Writer::from(guard)).await
}

/// Asserts that a new holder can write, and the one from before cannot any more.
async fn assert_fenced(resource: &Resource, stale: &LockGuard, fresh: &LockGuard) {
    assert!(fresh.fencing_token() > stale.fencing_token());
    assert_eq!(write(resource, fresh).await, Write::Accepted);
    assert_eq!(write(resource, stale).await, Write::Refused);
    assert_eq!(resource.stale_writes().await, 0);
    resource.write_unguarded(&Writer::from(stale)).await;
    assert_eq!(
        resource.stale_writes().await,
        1,
        "a resource that does not compare is no witness"
    );
}

/// Waits until the server has read its files.
async fn loaded(server: &Server) {
    let loading = || {
        server
            .run::<String>(&["INFO", "persistence"])
            .contains("loading:1")
    };
    eventually("it has loaded", || !loading()).await;
}
