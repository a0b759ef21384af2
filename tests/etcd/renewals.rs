//! Renewals of many leases at once, over a network that takes its time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lock_etcd::{EtcdBackend, EtcdSettings};
use lock_protocol::{Acquired, Backend, Claim, LockKey, OwnerToken, Renewal, Renewed};
use lock_tests::etcd::Cluster;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

const TTL: Duration = Duration::from_secs(300);
/// How long everything is on its way, one way.
const DELAY: Duration = Duration::from_millis(20);
const LEASES: usize = 100;

/// The address of what leads to the member, and delays everything.
async fn slow(cluster: &Cluster) -> String {
    let target = format!("127.0.0.1:{}", cluster.port(0));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&target).await.unwrap();
            server.set_nodelay(true).unwrap();
            client.set_nodelay(true).unwrap();
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::spawn(carry(from_client, to_server));
            tokio::spawn(carry(from_server, to_client));
        }
    });
    address
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let (send, mut sent) = unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((at, bytes)) = sent.recv().await {
            sleep_until(at.into()).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut room = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut room).await {
        let _ = send.send((Instant::now() + DELAY, room[..count].to_vec()));
    }
}

/// How long it takes to renew these, with a new token for each, which is a write for each.
async fn renew(backend: &EtcdBackend, leases: &[Renewal]) -> Duration {
    let started = Instant::now();
    for answer in backend.renew(leases).await {
        let Renewed::Held(extension) = answer.unwrap() else {
            panic!("a lease was lost");
        };
        assert!(extension.tokens.is_some());
    }
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_renewals_that_write_take_not_much_longer_than_one() {
    let cluster = Cluster::start();
    let mut settings = EtcdSettings::new([slow(&cluster).await]);
    settings.command_timeout = Duration::from_secs(30);
    let backend = Arc::new(EtcdBackend::connect(settings).await.unwrap());

    let mut taking = JoinSet::new();
    for lock in 0..LEASES {
        let backend = Arc::clone(&backend);
        taking.spawn(async move {
            let key = LockKey::new("lock:", &format!("k{lock}")).unwrap();
            let owner = OwnerToken::new(format!("o{lock}"));
            let claim = Claim::new(key.clone(), owner.clone(), TTL);
            let granted = backend.acquire(&claim).await.unwrap();
            assert!(matches!(granted, Acquired::Granted(_)), "{granted:?}");
            let mut renewal = Renewal::new(key, owner, TTL);
            renewal.tokens = 1;
            renewal
        });
    }
    let leases = taking.join_all().await;

    let (mut one, mut all) = (Duration::ZERO, Duration::MAX);
    for _ in 0..3 {
        one = one.max(renew(&backend, &leases[..1]).await);
        all = all.min(renew(&backend, &leases).await);
    }
    // The delay is seen. One after the other they would take some fifty times as long as one.
    assert!(one > 2 * DELAY);
    assert!(all < 20 * one, "{all:?} for all, {one:?} for one");
}
