//! What tells that the key in front of a waiter was changed: a long poll for each, up to a number
//! of them, and for the rest a look four times a second.
//!
//! What it tells only wakes: who holds a lock is concluded from consistent reads alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lock_protocol::{LockKey, OwnerToken, Sinks};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::book::{Book, Place, Turn, Watched};
use crate::client::{Client, Polled};
use crate::fault::Fault;
use crate::layout::Layout;
use crate::txn::{Done, MOST_OPS, Txn};

/// The pause before a waiter asks whose long poll failed: what has failed at once would do so
/// again.
const PAUSE: Duration = Duration::from_millis(100);
/// How often it is looked for the waiters without a long poll.
const LOOK: Duration = Duration::from_millis(250);

/// A claim whose place in the queue was changed.
pub(crate) type Moved = (LockKey, OwnerToken);

/// The way to what listens.
pub(crate) struct Watching {
    orders: UnboundedSender<Order>,
    client: Arc<Client>,
    next: AtomicU64,
}

impl Watching {
    /// The way to what listens, and what has to run for it. The claims whose place in the queue was
    /// changed go to `moved`.
    pub(crate) fn new(
        client: &Arc<Client>,
        book: &Arc<Book>,
        sinks: &Arc<Sinks>,
        moved: UnboundedSender<Moved>,
    ) -> (Watching, impl Future<Output = ()> + use<>) {
        let (orders, received) = unbounded_channel();
        let (told, heard) = unbounded_channel();
        let listener = Listener {
            client: Arc::clone(client),
            book: Arc::clone(book),
            sinks: Arc::clone(sinks),
            moved,
            told,
            watchers: HashMap::new(),
            polls: 0,
            is_looking: false,
        };
        let watching = Watching {
            orders,
            client: Arc::clone(client),
            next: AtomicU64::new(1),
        };
        (watching, listener.run(received, heard))
    }

    /// Listens for a change of the key `ahead`, unless somebody does already, as `watched` says;
    /// what `watched` is from now on.
    pub(crate) fn watch(
        &self,
        key: &LockKey,
        owner: &OwnerToken,
        ahead: (String, u64),
        watched: Option<Watched>,
    ) -> Watched {
        let choice = self.client.place().number;
        if let Some(watched) = watched {
            if watched.ahead == ahead && watched.choice == choice {
                return watched;
            }
            self.forget(&watched);
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let watcher = Watcher {
            key: key.clone(),
            owner: owner.clone(),
            ahead: ahead.clone(),
            poll: None,
        };
        let _ = self.orders.send(Order::Watch(id, watcher));
        Watched { ahead, choice, id }
    }

    /// Listens no longer.
    pub(crate) fn forget(&self, watched: &Watched) {
        let _ = self.orders.send(Order::Forget(watched.id));
    }
}

/// A waiter, and what it waits for.
struct Watcher {
    key: LockKey,
    owner: OwnerToken,
    ahead: (String, u64),
    /// Its long poll, if it has one.
    poll: Option<AbortHandle>,
}

enum Order {
    Watch(u64, Watcher),
    Forget(u64),
}

struct Listener {
    client: Arc<Client>,
    book: Arc<Book>,
    sinks: Arc<Sinks>,
    moved: UnboundedSender<Moved>,
    told: UnboundedSender<Heard>,
    watchers: HashMap<u64, Watcher>,
    /// How many long polls there are.
    polls: usize,
    /// Whether a look is under way.
    is_looking: bool,
}

impl Listener {
    async fn run(
        mut self,
        mut orders: UnboundedReceiver<Order>,
        mut heard: UnboundedReceiver<Heard>,
    ) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut choice = self.client.place().number;
        let mut room = self.client.room();
        loop {
            let left = self.client.left(choice);
            let is_looked_for = self.watchers.len() > self.polls && !self.is_looking;
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Watch(id, watcher)) => self.watch(id, watcher),
                    Some(Order::Forget(id)) => drop(self.remove(id)),
                    None => return,
                },
                Some(news) = heard.recv() => match news {
                    Heard::Of(id, outcome) => self.hear(id, &outcome),
                    Heard::Looked(changed) => {
                        self.is_looking = false;
                        changed.into_iter().for_each(|id| self.hear(id, &Ok(Polled::Changed)));
                    }
                },
                _ = looks.tick(), if is_looked_for => self.look(),
                Ok(()) = room.changed() => self.fit(),
                // What the old agent does not say any more, the new one may.
                () = left => {
                    choice = self.client.place().number;
                    for id in self.watchers.keys().copied().collect::<Vec<_>>() {
                        self.hear(id, &Err(Fault::Timeout));
                    }
                }
            }
        }
    }

    fn watch(&mut self, id: u64, watcher: Watcher) {
        self.watchers.insert(id, watcher);
        self.poll(id);
    }

    /// Begins a long poll for a waiter, if there is room for one.
    fn poll(&mut self, id: u64) {
        if self.polls >= self.client.most_polls() {
            return;
        }
        let Some(watcher) = self.watchers.get_mut(&id) else {
            return;
        };
        let (client, told) = (Arc::clone(&self.client), self.told.clone());
        let (key, index) = watcher.ahead.clone();
        let polling = tokio::spawn(async move {
            let outcome = loop {
                match client.poll(&key, index).await {
                    Ok(Polled::Same) => {}
                    outcome => break outcome,
                }
            };
            let _ = told.send(Heard::Of(id, outcome));
        });
        watcher.poll = Some(polling.abort_handle());
        self.polls += 1;
    }

    fn remove(&mut self, id: u64) -> Option<Watcher> {
        let watcher = self.watchers.remove(&id)?;
        if let Some(poll) = &watcher.poll {
            poll.abort();
            self.polls -= 1;
            // One of those who have none gets its place.
            self.fit();
        }
        Some(watcher)
    }

    /// Has as many long polls as there is room for: who loses his is looked for, as the rest.
    fn fit(&mut self) {
        let most = self.client.most_polls();
        let with = self.watchers.values_mut();
        for watcher in with.filter(|watcher| watcher.poll.is_some()) {
            if self.polls <= most {
                break;
            }
            if let Some(poll) = watcher.poll.take() {
                poll.abort();
                self.polls -= 1;
            }
        }
        let without = self.watchers.iter();
        let without = without.filter(|(_, other)| other.poll.is_none());
        let room = most.saturating_sub(self.polls);
        for id in without.map(|(id, _)| *id).take(room).collect::<Vec<_>>() {
            self.poll(id);
        }
    }

    /// Looks for those who have no long poll.
    fn look(&mut self) {
        let waiting: Vec<(u64, (String, u64))> = self
            .watchers
            .iter()
            .filter(|(_, watcher)| watcher.poll.is_none())
            .map(|(id, watcher)| (*id, watcher.ahead.clone()))
            .collect();
        self.is_looking = true;
        let (client, told) = (Arc::clone(&self.client), self.told.clone());
        tokio::spawn(async move {
            let mut changed = Vec::new();
            for some in waiting.chunks(MOST_OPS) {
                let mut txn = Txn::default();
                for (_, (key, index)) in some {
                    txn.unchanged(key.clone(), *index);
                }
                if let Ok(answer) = client.glance(txn.ops()).await
                    && let Done::No(conflicts) = Done::from(answer)
                {
                    let steps = some.iter().enumerate();
                    let of_these = steps.filter(|(step, _)| conflicts.at(*step));
                    changed.extend(of_these.map(|(_, (id, _))| *id));
                }
            }
            let _ = told.send(Heard::Looked(changed));
        });
    }

    fn hear(&mut self, id: u64, outcome: &Result<Polled, Fault>) {
        let Some(watcher) = self.remove(id) else {
            return;
        };
        let now = Instant::now();
        let is_changed = outcome.is_ok();
        let is_head = watcher.ahead.0 == Layout::of(&watcher.key).lock();
        self.book.change(watcher.owner.as_str(), |entry| {
            if entry
                .watched
                .as_ref()
                .is_some_and(|watched| watched.id == id)
            {
                entry.watched = None;
            }
            if is_changed && is_head && entry.place == Place::Waits {
                entry.turn = Some(Turn::at(now));
            }
        });
        match (is_changed, is_head) {
            (true, true) => self.sinks.ask_at(&watcher.key, &watcher.owner, now.into()),
            // It is no news of this claim that the one in front of it has gone, as a rule.
            (true, false) => drop(self.moved.send((watcher.key, watcher.owner))),
            (false, _) => {
                let sinks = Arc::clone(&self.sinks);
                tokio::spawn(async move {
                    sleep(PAUSE).await;
                    sinks.ask_at(&watcher.key, &watcher.owner, Instant::now().into());
                });
            }
        }
    }
}

/// What was heard.
enum Heard {
    /// Of one waiter.
    Of(u64, Result<Polled, Fault>),
    /// Of those without a long poll, these: what is in front of them was changed.
    Looked(Vec<u64>),
}
