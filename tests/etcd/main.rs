//! etcd.

// A test that meets an error has failed.
#![allow(clippy::unwrap_used)]

mod claims;
mod conformance;
mod conformance_control;
mod e15_other_clients;
mod leases;
mod renewals;
mod security;
mod ttl;
mod watchers;

use std::time::Duration;

use lock_runtime::LockRuntime;
use lock_tests::etcd::Cluster;
use lock_tests::secs;

/// By when everything here has happened, on a machine that is busy with other things.
const DEADLINE: Duration = secs(60);

async fn runtime(cluster: &Cluster) -> LockRuntime {
    LockRuntime::etcd(cluster.endpoints())
        .command_timeout(secs(4))
        .build()
        .await
        .unwrap()
}
