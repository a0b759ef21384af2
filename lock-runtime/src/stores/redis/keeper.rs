//! What keeps a link: the task that opens its connections, sends what waits, and repairs.

use std::future::poll_fn;
use std::mem::replace;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use lock_protocol::Note;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, unconstrained};
use tokio::time::{Instant, sleep, sleep_until};

use super::connection::{Connection, Target};
use super::fault::Fault;
use super::link::{Batch, Link, Next, Terms};
use super::listening::Listening;
use super::wakeups::Wakeups;
use crate::backoff::{Backoff, Retry, jittered};

/// The pauses between attempts to connect.
const RECONNECT: Backoff = Backoff {
    first: Duration::from_millis(10),
    longest: Duration::from_millis(500),
};
/// A server that refuses for good is asked again this often, in case somebody mends it.
const REFUSED_PAUSE: Duration = Duration::from_secs(2);

/// Keeps a link until the backend is closed or dropped, or the tokio runtime ends that this runs
/// on. It has let go of a connection before it opens the next. One of a lane has ended then; one of
/// a direct link goes on as long as a caller's future is parked that waits for an answer by it,
/// which is why what comes by it must be told from what comes by the next ([`Listening::Anew`]).
pub(super) struct Keeper {
    link: Arc<Link>,
    /// What the link leads to.
    target: Target,
    /// Who has to ask when the link may have missed what it listens to.
    wakeups: Option<Arc<Wakeups>>,
    /// Whether it was told that no connection can be opened.
    has_told: bool,
    closing: watch::Receiver<bool>,
    _keeps: mpsc::Receiver<()>,
}

impl Keeper {
    /// A link by these `terms` to `target`, and its keeper.
    ///
    /// If its connections listen, `wakeups` are told of each new one.
    pub(super) fn new(
        terms: Terms,
        target: Target,
        listening: Option<(Listening, Arc<Wakeups>)>,
        closing: watch::Receiver<bool>,
    ) -> (Arc<Link>, Keeper) {
        let (listening, wakeups) = listening.unzip();
        let listening = listening.unwrap_or(Listening::No);
        let (link, _keeps) = Link::new(terms, target.sharing, listening, target.command_timeout);
        let keeper = Keeper {
            link: Arc::clone(&link),
            target,
            wakeups,
            has_told: false,
            closing,
            _keeps,
        };
        (link, keeper)
    }

    pub(super) async fn run(mut self) {
        let mut failures = 0;
        while let Some(connection) = self.connect(&mut failures).await {
            // By a channel that is not new something may have been missed.
            if let Some(wakeups) = &self.wakeups
                && self.link.channel().is_some()
            {
                wakeups.ask_all();
            }
            let since = Instant::now();
            self.link
                .opened(connection.commands(), connection.channel());
            self.has_told = false;
            self.note(None, true);
            let ended = self.serve().await;
            connection.discard();
            let cause = (ended == Ended::Broken).then(|| self.link.failed());
            self.note(Some(cause), true);
            self.told_no_more();
            match ended {
                Ended::Closed => return,
                // One that breaks at once is no success.
                Ended::Broken if since.elapsed() < RECONNECT.longest => failures += 1,
                Ended::Broken => failures = 0,
            }
        }
    }

    /// A connection, as soon as there is one; nothing if the backend is closed first.
    async fn connect(&mut self, failures: &mut u32) -> Option<Connection> {
        loop {
            let pause = match *failures {
                _ if self.link.is_refused() => jittered(REFUSED_PAUSE),
                0 => Duration::ZERO,
                failures => RECONNECT.pause(failures).unwrap_or(RECONNECT.longest),
            };
            self.meanwhile(sleep(pause)).await?;
            let attempt = self.target.clone().open(Arc::clone(&self.link));
            match self.meanwhile(attempt).await? {
                Ok(connection) => return Some(connection),
                Err(fault) => {
                    // The next attempts follow soon, and say the same.
                    if !replace(&mut self.has_told, true) {
                        self.note(Some(Some(fault.clone())), false);
                    }
                    self.link.cannot_open(fault);
                }
            }
            *failures += 1;
        }
    }

    /// Tells those on call of a connection: that there is one, or why it ended, or could not be
    /// opened; `Some(None)`: it was closed.
    fn note(&self, ended: Option<Option<Fault>>, was_connected: bool) {
        let (address, way) = (Arc::clone(&self.target.address), self.link.way());
        let note = match ended {
            None => Note::Connected { address, way },
            Some(fault) => Note::Disconnected {
                address,
                way,
                was_connected,
                cause: fault.map(|fault| Arc::new(fault.into())),
            },
        };
        self.target.wakeups.note(&note);
    }

    /// Does `work` while there is no connection: what waits for one fails when its time is up.
    /// `None` if the backend is closed.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        loop {
            let oldest = self.link.oldest();
            tokio::select! {
                output = &mut work => return Some(output),
                () = sleep_until(oldest.unwrap_or_else(Instant::now)), if oldest.is_some() => {
                    self.link.give_up_oldest();
                }
                // There is something that waits.
                () = self.link.work.notified() => {}
                _ = self.closing.wait_for(|closing| *closing) => return None,
            }
        }
    }

    /// Sends what waits until the connection is given up or the backend is closed.
    async fn serve(&mut self) -> Ended {
        let mut exchanges = JoinSet::new();
        let mut closing = false;
        let ended = loop {
            // Those who are ready to speak share the message to the server.
            step_back().await;
            match self.link.next() {
                Next::Send(batch) => {
                    self.send(batch, &mut exchanges).await;
                    continue;
                }
                Next::Wait if closing => break Ended::Closed,
                Next::Wait => {}
                Next::Reopen => break Ended::Broken,
            }
            tokio::select! {
                biased;
                _ = self.closing.wait_for(|closing| *closing), if !closing => {
                    closing = true;
                    self.link.close();
                }
                () = self.link.work.notified() => {}
            }
        };
        if ended == Ended::Closed {
            // What has been sent is bounded by its deadlines.
            while exchanges.join_next().await.is_some() {}
        }
        exchanges.shutdown().await;
        ended
    }

    /// Makes those ask who were to be told by a channel that nobody listens to any more: they are
    /// told by another link now.
    fn told_no_more(&self) {
        let is_closing = *self.closing.borrow();
        if let Some(wakeups) = &self.wakeups
            && self.link.channel().is_none()
            && !is_closing
        {
            wakeups.ask_all();
        }
    }

    async fn send(&self, batch: Batch, exchanges: &mut JoinSet<()>) {
        while exchanges.try_join_next().is_some() {}
        // Without tokio's cooperative budget, which could make the first poll send nothing.
        let mut exchange = Box::pin(unconstrained(Arc::clone(&self.link).carry(batch)));
        let first = poll_fn(|context| Poll::Ready(exchange.as_mut().poll(context))).await;
        if first.is_pending() {
            exchanges.spawn(exchange);
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.link.abandoned();
        self.told_no_more();
    }
}

/// Why a connection is no longer served.
#[derive(PartialEq, Eq)]
enum Ended {
    Broken,
    Closed,
}

/// Lets those who are ready speak first. Unlike `yield_now` it waits in the queue of the tasks,
/// where other threads find it when this one is blocked.
async fn step_back() {
    let mut has_waited = false;
    poll_fn(|context| {
        if replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
