//! Waiters for one lock, each of a runtime of its own, who come one after the other.

use std::time::Duration;

use lock_runtime::{LockGuard, LockRuntime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{sleep, timeout};

use super::eventually;
use super::pipe::Pipe;
use crate::ms;

/// Waiters for the lock `k`, behind one another.
pub struct Line {
    granted: UnboundedSender<(usize, LockGuard)>,
    served: UnboundedReceiver<(usize, LockGuard)>,
    /// How many have come.
    came: usize,
    /// How many have been served.
    gone: usize,
    /// The token of the last holder.
    token: u64,
}

impl Line {
    /// Behind a holder with this fencing token.
    pub fn behind(token: u64) -> Line {
        let (granted, served) = unbounded_channel();
        Line {
            granted,
            served,
            came: 0,
            gone: 0,
            token,
        }
    }

    /// Lets another wait, which lives until the test is over.
    pub fn join(&mut self, locks: LockRuntime, ttl: Duration, wait: Duration) {
        let (granted, number) = (self.granted.clone(), self.came);
        self.came += 1;
        tokio::spawn(async move {
            let guard = locks.lock("k").ttl(ttl).wait(wait).acquire().await.unwrap();
            granted.send((number, guard)).unwrap();
            // Its runtime lives as long as the guard, which is sent.
            std::future::pending::<()>().await;
        });
    }

    /// The guard of whoever is served next, which has to be the one that came next, with a larger
    /// token than all before.
    pub async fn next(&mut self, within: Duration) -> LockGuard {
        let next = timeout(within, self.served.recv()).await.unwrap();
        let (number, guard) = next.unwrap();
        assert_eq!(number, self.gone, "it went ahead of others");
        self.gone += 1;
        let token = u64::from(guard.fencing_token());
        assert!(token > self.token, "{token} after {}", self.token);
        self.token = token;
        guard
    }
}

/// Cuts all connections for a moment, and waits until this many clients have come back.
pub async fn reconnect(pipes: &[Pipe], clients: u64) {
    let connections = || pipes.iter().map(Pipe::connections).sum::<u64>();
    let before = connections();
    pipes.iter().for_each(Pipe::cut);
    sleep(ms(100)).await;
    pipes.iter().for_each(Pipe::open);
    eventually("they connect again", || connections() >= before + clients).await;
}
