//! Who waits for leases that go together: many are served by one call, and each of the others is
//! told when to look.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use lock_conformance::inbox::{Inbox, Told};
use lock_conformance::poll_once;
use lock_runtime::backend::{
    Acquired, Backend, Claim, Grant, LockKey, Mode, OwnerToken, Release, Released, Renewal, Renewed,
};
use lock_runtime::redis::RedisBackend;
use lock_tests::faults::{eventually, listeners};
use lock_tests::ms;
use lock_tests::redis_store::connect;
use lock_tests::server::Server;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// No lease ends by itself while a test runs, and nobody asks for that long.
const TTL: Duration = Duration::from_secs(300);
const SOON: Duration = Duration::from_secs(30);
/// More than one call serves, or passes over.
const MANY: u8 = 40;

const SHARDS: Mode = Mode::Shard {
    of: 64,
    prefer: 0,
    except: 0,
};
const PERMITS: Mode = Mode::Permits { take: 1, of: 64 };
const MODES: [(&str, Mode); 3] = [
    ("shares", Mode::Shared),
    ("permits", PERMITS),
    ("shards", SHARDS),
];
/// Those who want this exclude all the others.
const ONE_OF_ONE: Mode = Mode::Permits { take: 1, of: 1 };

fn claim(name: &str, mode: Mode) -> Claim {
    let key = LockKey::new("lock:", name).unwrap();
    let mut claim = Claim::new(key, OwnerToken::unique("test"), TTL).queued();
    claim.grace = TTL;
    claim.mode = mode;
    claim
}

/// The same, with a lease that ends soon.
fn brief(mut claim: Claim) -> Claim {
    claim.ttl = ms(500);
    claim.grace = claim.ttl;
    claim
}

async fn granted(backend: &RedisBackend, claim: &Claim) -> Grant {
    match backend.acquire(claim).await.unwrap() {
        Acquired::Granted(grant) => grant,
        other => panic!("{other:?}"),
    }
}

async fn queued(backend: &RedisBackend, claim: &Claim) {
    let answer = backend.acquire(claim).await.unwrap();
    assert!(matches!(answer, Acquired::Queued(_)), "{answer:?}");
}

async fn release(backend: &RedisBackend, claim: &Claim) -> Released {
    backend.release(&ending(claim)).await.unwrap()
}

fn ending(claim: &Claim) -> Release {
    let mut release = Release::new(claim.key.clone(), claim.owner.clone());
    release.mode = claim.mode;
    release
}

async fn holds(backend: &RedisBackend, claim: &Claim, shard: u8) -> bool {
    let mut renewal = Renewal::new(claim.key.clone(), claim.owner.clone(), claim.ttl);
    renewal.mode = claim.mode;
    renewal.shard = shard;
    let answer = backend.renew(&[renewal]).await.remove(0).unwrap();
    matches!(answer, Renewed::Held(_))
}

/// A process whose claims ask when they are told to, by news or by an answer, and at no other time.
struct Process {
    backend: Arc<RedisBackend>,
    inbox: Arc<Inbox>,
}

impl Process {
    async fn start(server: &Server) -> Process {
        let backend = Arc::new(connect(server).await);
        let inbox = Inbox::of(&*backend);
        Process { backend, inbox }
    }

    /// How many of these claims are not granted, though each of them asks whenever it is told to.
    async fn left<'a>(&self, claims: impl IntoIterator<Item = &'a Claim>) -> usize {
        let mut waits = JoinSet::new();
        for claim in claims {
            let (backend, inbox) = (Arc::clone(&self.backend), Arc::clone(&self.inbox));
            let claim = claim.clone();
            waits.spawn(async move {
                let mut patience = TTL;
                loop {
                    let told = timeout(patience, inbox.changed(&claim)).await;
                    if let Ok(Told::Granted { .. }) = told {
                        return;
                    }
                    match backend.acquire(&claim).await.unwrap() {
                        Acquired::Queued(holder) => patience = holder.remaining.unwrap(),
                        answer => {
                            assert!(matches!(answer, Acquired::Granted(_)), "{answer:?}");
                            return;
                        }
                    }
                }
            });
        }
        let all = async { while waits.join_next().await.transpose().unwrap().is_some() {} };
        let _ = timeout(SOON, all).await;
        waits.len()
    }

    /// Queues the claims; what they were told until now is forgotten.
    async fn queue(&self, claims: &[Claim]) {
        for claim in claims {
            queued(&self.backend, claim).await;
        }
        for claim in claims {
            while poll_once(pin!(self.inbox.changed(claim))).is_ready() {}
        }
    }
}

/// Waits until each process has all connections that it will have: whoever listens anew asks.
async fn settled(server: &Server, processes: &[&RedisBackend]) {
    for (index, backend) in processes.iter().enumerate() {
        let warm = claim(&format!("warm:{index}"), Mode::Exclusive);
        granted(backend, &warm).await;
        release(backend, &warm).await;
    }
    eventually(
        "each listens by its lane and by that of its callers",
        || {
            let clients: String = server.run(&["CLIENT", "LIST"]);
            let listen = clients.lines().filter(|line| line.contains(" sub=1 "));
            listen.count() == 2 * processes.len()
        },
    )
    .await;
}

/// How a lock is given up for which others wait.
#[derive(Clone, Copy, Debug)]
enum End {
    Release,
    ReleaseWithNext,
    Withdrawal,
    /// One of ours notices.
    Loss,
    ReleaseOfAnotherKind,
    WithdrawalOfAnotherKind,
    BreakOfAnotherKind,
}

const ENDS: [End; 7] = [
    End::Release,
    End::ReleaseWithNext,
    End::Withdrawal,
    End::Loss,
    End::ReleaseOfAnotherKind,
    End::WithdrawalOfAnotherKind,
    End::BreakOfAnotherKind,
];

impl End {
    /// Who holds the lock before.
    fn holder(self, name: &str, mode: Mode) -> Claim {
        let other = match mode {
            Mode::Permits { .. } => Mode::Shared,
            _ => ONE_OF_ONE,
        };
        match self {
            End::ReleaseOfAnotherKind | End::WithdrawalOfAnotherKind | End::BreakOfAnotherKind => {
                claim(name, other)
            }
            _ => claim(name, Mode::Exclusive),
        }
    }

    /// Whoever comes with it waits behind those who do, and asks no more.
    async fn happen(self, server: &Server, backend: &RedisBackend, holder: &Claim) {
        let next = claim(holder.key.as_str(), Mode::Exclusive);
        match self {
            End::Release | End::ReleaseOfAnotherKind => {
                assert_eq!(release(backend, holder).await, Released::Released(None));
            }
            End::ReleaseWithNext => {
                let release = ending(holder).then(Some(next));
                let answer = backend.release(&release).await.unwrap();
                let Released::Released(Some(Acquired::Queued(_))) = answer else {
                    panic!("{answer:?}");
                };
            }
            End::Withdrawal | End::WithdrawalOfAnotherKind => {
                backend.abandon(holder).await.unwrap();
            }
            End::Loss => {
                let lost: i64 = server.run(&["DEL", holder.key.stored()]);
                assert_eq!(lost, 1);
                queued(backend, &next).await;
            }
            End::BreakOfAnotherKind => {
                let broken = backend.break_lock(&holder.key, &holder.owner).await;
                assert_eq!(broken.unwrap(), Released::Released(None));
            }
        }
    }
}

#[tokio::test]
async fn a_batch_is_served_to_its_end_though_each_asks_only_when_it_is_told() {
    let server = Server::start();
    let (here, there) = (connect(&server).await, Process::start(&server).await);
    settled(&server, &[&here, &there.backend]).await;
    for (kind, mode) in MODES {
        for end in ENDS {
            let name = format!("{end:?}:{kind}");
            let holder = end.holder(&name, mode);
            granted(&here, &holder).await;
            let waiting: Vec<_> = (0..MANY).map(|_| claim(&name, mode)).collect();
            there.queue(&waiting).await;
            end.happen(&server, &here, &holder).await;
            let left = there.left(&waiting).await;
            assert_eq!(left, 0, "of {MANY}: {name}");
        }
    }
}

/// However many they are, and whether they stand first, behind one who is served, or behind one who
/// is told to look.
#[tokio::test]
async fn whoever_stands_behind_many_dead_waiters_is_told() {
    let server = Server::start();
    let (here, there) = (connect(&server).await, Process::start(&server).await);
    let gone = connect(&server).await;
    settled(&server, &[&here, &there.backend, &gone]).await;
    let mut cases = Vec::new();
    for (kind, mode) in MODES {
        for end in ENDS {
            for before in [0, 1, 17] {
                let name = format!("{end:?}:{kind}:{before}");
                let holder = end.holder(&name, mode);
                granted(&here, &holder).await;
                let mut alive: Vec<_> = (0..before).map(|_| claim(&name, mode)).collect();
                there.queue(&alive).await;
                for _ in 0..MANY {
                    queued(&gone, &claim(&name, mode)).await;
                }
                let last = claim(&name, mode);
                there.queue(std::slice::from_ref(&last)).await;
                alive.push(last);
                cases.push((name, end, holder, alive));
            }
        }
    }
    gone.close().await;
    drop(gone);
    for (name, end, holder, alive) in &cases {
        let hear = |heard: &[u64]| heard.iter().filter(|heard| **heard > 0).count();
        eventually("nobody listens for the dead", || {
            hear(&listeners(&server, name)) == alive.len()
        })
        .await;
        end.happen(&server, &here, holder).await;
        let left = there.left(alive).await;
        assert_eq!(left, 0, "of {}: {name}", alive.len());
    }
}

/// The first in the queue may be served because it asked; the next one then has to look when one of
/// the leases ends, and not when all have ended.
#[tokio::test]
async fn who_comes_first_because_another_asked_is_told_when_to_look() {
    let server = Server::start();
    let (one, there) = (Process::start(&server).await, Process::start(&server).await);
    let here = &*one.backend;
    settled(&server, &[here, &there.backend]).await;
    let pair = Mode::Permits { take: 1, of: 2 };
    granted(here, &claim("asked", pair)).await;
    granted(here, &brief(claim("asked", pair))).await;
    let (first, second) = (brief(claim("asked", pair)), claim("asked", pair));
    queued(here, &first).await;
    there.queue(std::slice::from_ref(&second)).await;
    let asked = async {
        while let Acquired::Queued(_) = here.acquire(&first).await.unwrap() {
            tokio::time::sleep(ms(20)).await;
        }
    };
    timeout(SOON, asked).await.unwrap();
    // Nobody renews what the first has.
    assert_eq!(there.left([&second]).await, 0);

    // A claim that does not wait serves those who do, and does not look after them.
    let (first, second) = (
        brief(claim("passed", Mode::Exclusive)),
        claim("passed", Mode::Exclusive),
    );
    let holder = claim("passed", Mode::Exclusive);
    granted(here, &holder).await;
    queued(here, &first).await;
    there.queue(std::slice::from_ref(&second)).await;
    server.run::<()>(&["DEL", holder.key.stored()]);
    let mut reader = claim("passed", Mode::Shared);
    reader.queue = false;
    let answer = here.acquire(&reader).await.unwrap();
    assert!(matches!(answer, Acquired::Taken(_)), "{answer:?}");
    let owner: String = server.run(&["GET", holder.key.stored()]);
    assert_eq!(owner, first.owner.as_str(), "it is the first one's turn");
    assert_eq!(there.left([&second]).await, 0);
}

/// A lease that is kept is not what it was before, also for those who know nothing of leases that
/// go together.
#[tokio::test]
async fn a_kept_lease_keeps_the_lock_from_everybody_no_longer_than_that() {
    let server = Server::start();
    let (here, there) = (connect(&server).await, Process::start(&server).await);
    settled(&server, &[&here, &there.backend]).await;
    for (kind, mode) in MODES {
        let name = format!("kept:{kind}");
        let holder = claim(&name, mode);
        granted(&here, &holder).await;
        let alone = claim(&name, Mode::Exclusive);
        there.queue(std::slice::from_ref(&alone)).await;
        let mut release = ending(&holder);
        release.keep = Some(ms(2_000));
        let answer = here.release(&release).await.unwrap();
        assert_eq!(answer, Released::Released(None));
        for key in [format!("lock:{name}"), format!("{{lock:{name}}}:holders")] {
            let left: i64 = server.run(&["PTTL", &key]);
            assert!((1..=2_000).contains(&left), "{key}: {left}");
        }
        assert_eq!(there.left([&alone]).await, 0, "{kind}");
    }
    server.finish();
}

/// Leases of one lock may live for different times.
#[tokio::test]
async fn a_marker_lives_no_longer_than_the_leases_that_there_are() {
    let server = Server::start();
    let backend = connect(&server).await;
    let parts = Mode::Shard {
        of: 2,
        prefer: 0,
        except: 0,
    };
    let pairs = [
        ("permits", Mode::Permits { take: 1, of: 2 }),
        ("shards", parts),
    ];
    for (kind, mode) in pairs {
        let name = format!("mixed:{kind}");
        let (long, mut short) = (claim(&name, mode), claim(&name, mode));
        short.ttl = TTL / 10;
        short.grace = short.ttl;
        let mut next = short.clone();
        next.owner = OwnerToken::unique("next");
        granted(&backend, &long).await;
        granted(&backend, &short).await;
        queued(&backend, &next).await;
        assert_eq!(release(&backend, &long).await, Released::Released(None));
        assert!(holds(&backend, &next, 0).await);
        let left: i64 = server.run(&["PTTL", &format!("lock:{name}")]);
        assert!((1..=30_000).contains(&left), "{left}");
    }
    server.finish();
}
