//! Consul.

// A test that meets an error has failed.
#![allow(clippy::unwrap_used)]

mod beside_go;
mod claims;
mod conformance;
mod security;
mod ttl;

use std::time::Duration;

use lock_runtime::LockRuntime;
use lock_tests::consul::Cluster;
use lock_tests::secs;

/// By when everything here has happened, on a machine that is busy with other things.
const DEADLINE: Duration = secs(60);

async fn runtime(cluster: &Cluster) -> LockRuntime {
    LockRuntime::consul(cluster.endpoints())
        .command_timeout(secs(4))
        .build()
        .await
        .unwrap()
}
