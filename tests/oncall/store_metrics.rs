//! Metrics of the connections to a store. The backend's own thread tells them, so their recorder is
//! that of the process: no other test may run beside it.

// A test that meets an error has failed.
#![allow(clippy::unwrap_used)]

mod recorded;

use std::collections::BTreeMap;
use std::time::Instant;

use lock_runtime::LockRuntime;
use lock_tests::server::Server;
use lock_tests::{ms, secs};
use metrics_util::debugging::DebuggingRecorder;
use tokio::time::sleep;

use self::recorded::{count, seen};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_and_margins_of_a_real_store_are_counted() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    recorder.install().unwrap();
    let mut server = Server::start();
    let locks = LockRuntime::redis(server.url()).build().await.unwrap();
    let guard = locks
        .lock("k")
        .name("real")
        .ttl(secs(1))
        .acquire()
        .await
        .unwrap();
    let mut sums = BTreeMap::<String, i64>::new();
    let mut until = async |name: &'static str, value: i64| {
        let deadline = Instant::now() + secs(30);
        loop {
            let now = seen(&snapshotter);
            for (name, _) in &now {
                *sums.entry(name.clone()).or_default() += count(&now, name);
            }
            let sum = sums.get(name).copied().unwrap_or_default();
            // A busy machine counts several between two looks; a gauge has one value.
            let is_gauge = name.contains("_connected");
            if sum == value || !is_gauge && sum > value {
                return;
            }
            assert!(Instant::now() < deadline, "{name}: {sums:?}");
            sleep(ms(20)).await;
        }
    };
    until("distributed_lock_lease_margin_seconds{}", 2).await;
    until("distributed_lock_store_connected{way=lane}", 1).await;
    server.kill();
    until("distributed_lock_store_connected{way=lane}", 0).await;
    until("distributed_lock_store_reconnects_total{way=lane}", 1).await;
    until("distributed_lock_lost_total{lock=real,reason=expired}", 1).await;
    until(
        "distributed_lock_renewal_failures_total{cause=connection}",
        2,
    )
    .await;
    drop(guard);
    server.restart();
    until("distributed_lock_store_connected{way=lane}", 1).await;
    locks.shutdown().await.unwrap();
}
