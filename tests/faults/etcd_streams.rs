//! Faults of one stream of etcd while the calls beside it pass, and what the protections of renewals
//! and withdrawals are for: each is taken out, and missed.

use std::time::{Duration, Instant};

use lock_etcd::{EtcdBackend, EtcdSettings, Mistake};
use lock_protocol::{Acquired, Backend, Claim, LockKey, OwnerToken, Release};
use lock_runtime::{LockGuard, LockRuntime};
use lock_tests::etcd::Cluster;
use lock_tests::faults::eventually;
use lock_tests::faults::grpc::Grpc;
use lock_tests::faults::pipe::Pipe;
use tokio::time::{sleep, timeout};

const WATCH: &str = "/etcdserverpb.Watch/Watch";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const TXN: &str = "/etcdserverpb.KV/Txn";

/// By when everything here has happened, on a machine that is busy with other things.
const DEADLINE: Duration = Duration::from_secs(60);
const TTL: Duration = Duration::from_secs(4);

async fn runtime(endpoint: String) -> LockRuntime {
    let locks = LockRuntime::etcd([endpoint]).command_timeout(Duration::from_secs(4));
    locks
        .heartbeat(Duration::from_secs(2))
        .build()
        .await
        .unwrap()
}

async fn held(locks: &LockRuntime) -> LockGuard {
    let lock = locks.lock("k").ttl(TTL).wait(DEADLINE);
    lock.acquire().await.unwrap()
}

async fn claims(cluster: &Cluster, count: usize) {
    eventually("there are so many claims", || {
        cluster.claims().len() == count
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e08_renewals_go_on_by_a_new_stream_where_the_old_one_is_cut() {
    let cluster = Cluster::start();
    let proxy = Grpc::to(cluster.port(0));
    let locks = runtime(proxy.endpoint()).await;
    let guard = held(&locks).await;
    let began = Instant::now();
    let mut cuts = 0;
    // Longer than the lease would last without a renewal.
    while began.elapsed() < TTL * 3 / 2 {
        // The next renewal opens it again.
        let opened = || {
            let seen = proxy.seen(KEEP_ALIVE);
            seen.calls > seen.cut && seen.passed > cuts
        };
        eventually("there is a stream of renewals", opened).await;
        let (before, passed) = (proxy.seen(TXN), proxy.seen(KEEP_ALIVE).passed);
        proxy.cut(KEEP_ALIVE);
        eventually("it is cut", || proxy.seen(KEEP_ALIVE).cut > cuts).await;
        cuts = proxy.seen(KEEP_ALIVE).cut;
        eventually("a lease was renewed since", || {
            proxy.seen(KEEP_ALIVE).passed > passed && proxy.seen(TXN).passed > before.passed
        })
        .await;
        assert!(guard.is_held(), "the lock was lost after {cuts} cuts");
    }
    assert_eq!(proxy.seen(TXN).cut, 0, "the calls beside it pass");
    guard.release().await.unwrap();
}

/// A hand-over is not heard of: a waiter looks by itself, a heartbeat after it last asked.
#[tokio::test(flavor = "multi_thread")]
async fn e09_a_waiter_whose_watch_is_silent_is_served_by_its_heartbeat() {
    let cluster = Cluster::start();
    let proxy = Grpc::to(cluster.port(0));
    let (locks, behind) = (
        runtime(format!("127.0.0.1:{}", cluster.port(0))).await,
        runtime(proxy.endpoint()).await,
    );
    for is_silent in [false, true] {
        let guard = held(&locks).await;
        let waiting = tokio::spawn({
            let behind = behind.clone();
            async move { held(&behind).await }
        });
        claims(&cluster, 2).await;
        let heard = proxy.seen(WATCH);
        eventually("it watches", || proxy.seen(WATCH).calls > 0).await;
        if is_silent {
            proxy.silence(WATCH);
        }
        guard.release().await.unwrap();
        let next = timeout(DEADLINE, waiting).await.unwrap().unwrap();
        assert!(next.is_held());
        let seen = proxy.seen(WATCH);
        if is_silent {
            assert!(seen.swallowed > 0, "its event was swallowed");
            assert_eq!(seen.passed, heard.passed, "it heard nothing");
        } else {
            assert!(seen.passed > 0, "the control: it heard");
        }
        next.release().await.unwrap();
    }
}

fn claim() -> Claim {
    let key = LockKey::new("lock:", "k").unwrap();
    Claim::new(key, OwnerToken::unique("fault"), Duration::from_secs(20))
}

async fn backend(endpoint: &str, mistake: Option<Mistake>) -> EtcdBackend {
    let mut settings = EtcdSettings::new([endpoint]);
    settings.command_timeout = Duration::from_secs(2);
    settings.mistake = mistake;
    EtcdBackend::connect(settings).await.unwrap()
}

/// Whether a holder notices that its key was deleted by hand, before its lock is another's and longer
/// than it would take to renew it.
async fn notices_a_deleted_key(mistake: Option<Mistake>) -> bool {
    let cluster = Cluster::start();
    let endpoint = format!("127.0.0.1:{}", cluster.port(0));
    let careless = LockRuntime::backend(backend(&endpoint, mistake).await);
    let careless = careless.build().await.unwrap();
    let guard = held(&careless).await;
    let (owner, _) = cluster.owner("lock:k").unwrap();
    assert_eq!(cluster.ctl(&["del", &owner]).trim(), "1");
    let next = held(&runtime(endpoint).await).await;
    let noticed = timeout(TTL * 2, guard.lost()).await.is_ok();
    // What it would be taken for if it did not.
    assert!(next.is_held());
    noticed
}

#[tokio::test(flavor = "multi_thread")]
async fn e07_control_a_renewal_by_the_lease_alone_overlooks_a_deleted_key() {
    assert!(notices_a_deleted_key(None).await);
    let mistake = Some(Mistake::RenewsByTheLeaseAlone);
    assert!(!notices_a_deleted_key(mistake).await);
}

/// Whether a claim that was withdrawn in doubt takes the lock when its question arrives at last.
async fn comes_back(mistake: Option<Mistake>) -> bool {
    let cluster = Cluster::start();
    let pipe = Pipe::to(cluster.port(0));
    // Its questions by the pipe, until it is given up for the other way.
    let mut settings = EtcdSettings::new([pipe.endpoint()]);
    settings.command_timeout = Duration::from_secs(2);
    let here = EtcdBackend::connect(settings).await.unwrap();
    let elsewhere = backend(&format!("127.0.0.1:{}", cluster.port(0)), mistake).await;
    // A lease that is used again, so that the claim itself is what is under way.
    let before = claim();
    let granted = here.acquire(&before).await.unwrap();
    assert!(matches!(granted, Acquired::Granted(_)), "{granted:?}");
    let release = Release::new(before.key, before.owner);
    here.release(&release).await.unwrap();
    pipe.hold();
    let gone = claim();
    {
        let mut asking = Box::pin(here.acquire(&gone));
        assert!(
            timeout(Duration::from_millis(1), &mut asking)
                .await
                .is_err()
        );
        eventually("the claim is on its way", || pipe.held() > 200).await;
        sleep(Duration::from_millis(200)).await;
        pipe.seal();
        assert!(asking.await.is_err());
    }
    let mut withdrawn = gone.clone();
    withdrawn.in_doubt = true;
    elsewhere.abandon(&withdrawn).await.unwrap();
    let before = cluster.answered(0, "Txn");
    pipe.open();
    eventually("the claim arrives", || cluster.answered(0, "Txn") > before).await;
    !cluster.claims().is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn e04_control_a_withdrawal_by_deletion_alone_is_undone_by_what_comes_late() {
    assert!(!comes_back(None).await);
    let mistake = Some(Mistake::WithdrawsByDeletionAlone);
    assert!(comes_back(mistake).await);
}
