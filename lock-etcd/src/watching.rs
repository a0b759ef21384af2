//! The stream that tells when the claim in front of a waiter has gone.
//!
//! What it tells only wakes: who holds a lock is concluded from reads alone.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lock_protocol::{LockKey, OwnerToken, Sinks};
use tokio::sync::mpsc::{
    UnboundedReceiver, UnboundedSender, WeakUnboundedSender, unbounded_channel,
};
use tokio::time::sleep;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

use crate::book::Book;
use crate::client::{Client, method};
use crate::fault::Fault;
use crate::messages::{
    NO_PUTS, RangeRequest, RangeResponse, WatchCancelRequest, WatchCreateRequest, WatchRequest,
    WatchResponse, WatchVerb,
};

/// The pause before a stream that broke is opened again, and before a waiter asks whose watcher was
/// cancelled: what has failed at once would do so again.
const PAUSE: Duration = Duration::from_millis(100);

/// The way to the stream.
pub(crate) struct Watching {
    orders: UnboundedSender<Order>,
    next: AtomicI64,
    /// How many streams there have been.
    stream: Arc<AtomicU64>,
}

impl Watching {
    /// The way to the stream, and what has to run for it.
    pub(crate) fn new(
        client: &Arc<Client>,
        book: &Arc<Book>,
        sinks: &Arc<Sinks>,
    ) -> (Watching, impl Future<Output = ()> + use<>) {
        let (orders, received) = unbounded_channel();
        let stream = Arc::new(AtomicU64::new(0));
        let task = Stream {
            client: Arc::clone(client),
            book: Arc::clone(book),
            sinks: Arc::clone(sinks),
            number: Arc::clone(&stream),
            orders: orders.downgrade(),
            watchers: HashMap::new(),
        };
        let watching = Watching {
            orders,
            next: AtomicI64::new(1),
            stream,
        };
        (watching, task.run(received))
    }

    /// Listens for the deletion of `ahead`, which was there at the revision `seen`, unless somebody
    /// does already, as `watched` says; what `watched` is from now on.
    pub(crate) fn watch(
        &self,
        key: &LockKey,
        owner: &OwnerToken,
        ahead: &[u8],
        seen: i64,
        watched: Option<(Vec<u8>, u64, i64)>,
    ) -> (Vec<u8>, u64, i64) {
        let stream = self.stream.load(Ordering::Acquire);
        if let Some(watched) = watched {
            if watched.0 == ahead && watched.1 == stream {
                return watched;
            }
            self.forget(&watched);
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let watcher = Watcher {
            key: key.clone(),
            owner: owner.clone(),
            ahead: ahead.to_vec(),
            seen,
        };
        let _ = self.orders.send(Order::Watch(id, watcher));
        (ahead.to_vec(), stream, id)
    }

    /// Listens no longer.
    pub(crate) fn forget(&self, watched: &(Vec<u8>, u64, i64)) {
        let _ = self.orders.send(Order::Forget(watched.2));
    }
}

/// A waiter, and what it waits for.
#[derive(Clone, Debug)]
struct Watcher {
    key: LockKey,
    owner: OwnerToken,
    /// Whose deletion is to be told.
    ahead: Vec<u8>,
    /// The revision at which it was seen to be there.
    seen: i64,
}

enum Order {
    Watch(i64, Watcher),
    Forget(i64),
}

struct Stream {
    client: Arc<Client>,
    book: Arc<Book>,
    sinks: Arc<Sinks>,
    number: Arc<AtomicU64>,
    orders: WeakUnboundedSender<Order>,
    watchers: HashMap<i64, Watcher>,
}

impl Stream {
    async fn run(mut self, mut orders: UnboundedReceiver<Order>) {
        while let Some(first) = orders.recv().await {
            if let Order::Watch(..) = first {
                self.serve(first, &mut orders).await;
                // Those who were watched for hear nothing any more, and ask.
                self.watchers.clear();
                self.number.fetch_add(1, Ordering::AcqRel);
                self.sinks.ask_all();
                sleep(PAUSE).await;
            }
        }
    }

    /// Watches until the stream breaks.
    async fn serve(&mut self, first: Order, orders: &mut UnboundedReceiver<Order>) {
        let (questions, outbound) = unbounded_channel();
        self.obey(first, &questions);
        let outbound = UnboundedReceiverStream::new(outbound);
        let opened = self.client.open(method::WATCH, outbound).await;
        let Ok((connection, mut answers)): Result<(_, Streaming<WatchResponse>), _> = opened else {
            return;
        };
        let mut left = pin!(self.client.left(&connection));
        loop {
            tokio::select! {
                () = &mut left => return,
                answer = answers.message() => match answer {
                    // It does not say which one it refuses. The user is known by what opened the
                    // stream, which may have ended.
                    Ok(Some(answer)) if answer.created && answer.canceled => {
                        let refused = Status::unauthenticated("a watcher was refused");
                        return self.client.broke(&connection, Some(&refused));
                    }
                    Ok(Some(answer)) => self.hear(&answer, &questions),
                    Ok(None) => return self.client.broke(&connection, None),
                    Err(status) => return self.client.broke(&connection, Some(&status)),
                },
                order = orders.recv() => match order {
                    Some(order) => self.obey(order, &questions),
                    None => return,
                },
            }
        }
    }

    fn obey(&mut self, order: Order, questions: &UnboundedSender<WatchRequest>) {
        let verb = match order {
            Order::Watch(watch_id, watcher) => {
                let create = WatchCreateRequest {
                    key: watcher.ahead.clone(),
                    // From now on: a server serves one that begins in the past ten times a second.
                    start_revision: 0,
                    filters: vec![NO_PUTS],
                    watch_id,
                };
                self.watchers.insert(watch_id, watcher);
                WatchVerb::Create(create)
            }
            Order::Forget(watch_id) => {
                if self.watchers.remove(&watch_id).is_none() {
                    return;
                }
                cancel(watch_id)
            }
        };
        say(questions, verb);
    }

    fn hear(&mut self, answer: &WatchResponse, questions: &UnboundedSender<WatchRequest>) {
        let pause = if answer.canceled {
            PAUSE
        } else if answer.events.is_empty() {
            return self.begins(answer);
        } else {
            Duration::ZERO
        };
        let Some(watcher) = self.watchers.remove(&answer.watch_id) else {
            return;
        };
        if !answer.canceled {
            // The key will not be there again, but the server would watch it as long as the stream
            // lives.
            say(questions, cancel(answer.watch_id));
        }
        let now = Instant::now();
        self.book.change(watcher.owner.as_str(), |entry| {
            entry.forget_watcher(answer.watch_id);
            if !answer.canceled {
                entry.comes_to_its_turn(now);
            }
        });
        let at = (now + pause).into();
        self.sinks.ask_at(&watcher.key, &watcher.owner, at);
    }
}

impl Stream {
    /// A watcher listens from now on. Where something was written since the claim in front was
    /// seen, that may have gone meanwhile, which is not heard: so it is looked at once more.
    fn begins(&self, answer: &WatchResponse) {
        let present = answer.header.map_or(i64::MAX, |header| header.revision);
        let watcher = self.watchers.get(&answer.watch_id);
        let Some(watcher) = watcher.filter(|it| answer.created && it.seen < present) else {
            return;
        };
        let (client, book) = (Arc::clone(&self.client), Arc::clone(&self.book));
        let (sinks, watcher) = (Arc::clone(&self.sinks), watcher.clone());
        let (orders, id) = (self.orders.clone(), answer.watch_id);
        tokio::spawn(async move {
            let question = RangeRequest {
                key: watcher.ahead.clone(),
                ..RangeRequest::default()
            };
            let read: Result<RangeResponse, Fault> = client.ask(method::RANGE, question).await;
            // If that is not known, the waiter asks by itself, as all do now and then.
            let is_gone = |read: RangeResponse| {
                let mut found = read.kvs.into_iter();
                found.all(|it| it.create_revision > watcher.seen)
            };
            if read.is_ok_and(is_gone) {
                // The server would watch a key that will not be there again.
                if let Some(orders) = orders.upgrade() {
                    let _ = orders.send(Order::Forget(id));
                }
                let now = Instant::now();
                book.change(watcher.owner.as_str(), |entry| {
                    entry.forget_watcher(id);
                    entry.comes_to_its_turn(now);
                });
                sinks.ask_at(&watcher.key, &watcher.owner, now.into());
            }
        });
    }
}

fn cancel(watch_id: i64) -> WatchVerb {
    WatchVerb::Cancel(WatchCancelRequest { watch_id })
}

fn say(questions: &UnboundedSender<WatchRequest>, verb: WatchVerb) {
    // It fails where the stream has ended, which is noticed by its answers.
    let _ = questions.send(WatchRequest {
        request: Some(verb),
    });
}
