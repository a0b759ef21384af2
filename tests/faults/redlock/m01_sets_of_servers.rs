//! M1: all 32 sets of servers that refuse connections, hang, lose their answers, are replicas, have
//! another type in the place of the lock, are full, or hold the lock of another library.

use lock_tests::faults::is_withdrawal;
use lock_tests::faults::proxy::{Fault as Reply, Proxy};

use super::*;

/// What a server does that is no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Refuses,
    Hangs,
    /// What it is asked takes effect, and its answers get lost.
    LosesReplies,
    IsReplica,
    WrongType,
    Full,
    Foreign,
}

impl Fault {
    fn begin(self, server: &mut Server, proxy: &Proxy) {
        match self {
            Fault::Refuses => server.kill(),
            Fault::Hangs => server.pause(),
            Fault::LosesReplies => proxy.fault_all("voting", Reply::LoseAnswer),
            Fault::IsReplica => {
                server.run::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
                let role: Vec<redis::Value> = server.run(&["ROLE"]);
                assert_eq!(role[0], redis::Value::BulkString(b"slave".to_vec()));
            }
            Fault::WrongType => {
                server.run::<()>(&["RPUSH", "lock:k", "no lock"]);
                server.forgive("lock:k");
            }
            Fault::Full => server.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]),
            Fault::Foreign => {
                server.run::<()>(&["SET", "lock:k", "another library's token"]);
                server.forgive("lock:k");
            }
        }
    }

    fn end(self, server: &mut Server, proxy: &Proxy) {
        match self {
            Fault::Refuses => server.restart(),
            Fault::Hangs => server.resume(),
            Fault::LosesReplies => proxy.heal(),
            Fault::IsReplica => server.run::<()>(&["REPLICAOF", "NO", "ONE"]),
            Fault::WrongType | Fault::Foreign => server.run::<()>(&["DEL", "lock:k"]),
            Fault::Full => server.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]),
        }
    }
}

/// All masks of good and bad servers, one fault at a time: a lock is granted exactly if three are
/// good, else it is not, and no vote stays behind in either case.
async fn masks(fault: Fault) {
    let mut servers = five();
    for mask in 0_u32..32 {
        let is_bad = |node: usize| mask & (1 << node) != 0;
        let proxies: Vec<_> = servers
            .iter()
            .map(|server| Proxy::start(server.port()))
            .collect();
        let locks = match fault {
            Fault::LosesReplies => runtime_at(proxies.iter().map(Proxy::url).collect()).await,
            _ => runtime(&servers).await,
        };
        for (node, (server, proxy)) in servers.iter_mut().zip(&proxies).enumerate() {
            if is_bad(node) {
                fault.begin(server, proxy);
            }
        }
        let is_enough = mask.count_ones() <= 2;
        let started = Instant::now();
        let lock = locks.lock("k").ttl(ms(2000)).try_acquire().await;
        match (&lock, fault) {
            (Ok(Some(_)), _) => assert!(is_enough, "{fault:?} {mask:05b}: granted"),
            (Ok(None), Fault::Foreign) => assert!(!is_enough, "{fault:?} {mask:05b}: taken"),
            (Ok(None), _) => panic!("{fault:?} {mask:05b}: taken by nobody"),
            (Err(error), Fault::Foreign) => panic!("{mask:05b}: {error:?}"),
            (Err(_), _) => assert!(!is_enough, "{fault:?} {mask:05b}: {lock:?}"),
        }
        assert!(started.elapsed() < DEADLINE);
        drop(lock);
        if fault == Fault::LosesReplies {
            // Where three answer, nobody waits for the rest.
            comes_true("the loss of answers", async || {
                (0..5).all(|node| (proxies[node].faults() > 0) == is_bad(node))
            })
            .await;
        }
        for (node, (server, proxy)) in servers.iter_mut().zip(&proxies).enumerate() {
            if is_bad(node) {
                fault.end(server, proxy);
            }
        }
        // Neither a vote nor a place in a queue.
        comes_true("the end of all votes", async || {
            servers.iter().all(|server| left(server).is_empty())
        })
        .await;
        locks.shutdown().await.unwrap();
    }
}

/// The keys of locks that a server has.
fn left(server: &Server) -> Vec<String> {
    let mut keys: Vec<String> = server.run(&["KEYS", "*lock:k*"]);
    keys.retain(|key| !key.ends_with(":fence") && !is_withdrawal(key));
    keys
}

#[tokio::test]
async fn a_majority_of_servers_that_do_not_refuse_connections_decides() {
    masks(Fault::Refuses).await;
}

#[tokio::test]
async fn a_majority_of_servers_that_do_not_hang_decides() {
    masks(Fault::Hangs).await;
}

#[tokio::test]
async fn a_majority_of_servers_whose_answers_arrive_decides() {
    masks(Fault::LosesReplies).await;
}

#[tokio::test]
async fn a_majority_of_servers_that_are_no_replicas_decides() {
    masks(Fault::IsReplica).await;
}

#[tokio::test]
async fn a_majority_of_servers_whose_key_is_a_lock_decides() {
    masks(Fault::WrongType).await;
}

#[tokio::test]
async fn a_majority_of_servers_that_have_memory_decides() {
    masks(Fault::Full).await;
}

#[tokio::test]
async fn a_majority_of_servers_without_a_foreign_owner_decides() {
    masks(Fault::Foreign).await;
}
