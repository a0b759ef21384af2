//! The Redis backend: one server, or whatever looks like one from here.
//!
//! A lock is the owner token as the value of a key with a time to live; waiters stand in a sorted
//! set, and a release hands the lock over to the first of them and tells its process by pub/sub, in
//! one script. What a script promises is said at its top (`scripts/*.lua`).
//!
//! ```text
//!                        ┌─ call: typed until it is written; judges the replies
//!                        ▼
//! verbs (here) ── scripts ──► node: which link ──► link: sends, gives up ──► connection ── pool
//!                                                   ▲        │ keeper: opens, repairs       │
//!                              wakeups ◄── pushes ──┴────────┴──────────────────────────────┘
//! ```
//!
//! There is one type of link. A lane is one on the thread of the backend; each tokio runtime of
//! callers has one as well. What a link leads to is a parameter, its target.

mod batch;
mod call;
mod companion;
mod config;
mod connection;
mod exchange;
mod fault;
mod inspection;
mod keeper;
mod link;
mod listening;
mod message;
mod node;
mod pushes;
pub(in crate::stores) mod scripts;
mod thread;
pub(in crate::stores) mod voter;
mod wakeups;

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use deadpool_redis::redis::Value;
use deadpool_redis::{Config, Pool};
use lock_protocol::{
    Acquired, Backend, BackendError, Card, Claim, Condition, Executor, Grant, Inspected, Limits,
    LockKey, Mode, News, Note, OwnerToken, Release, Released, Renewal, Renewed,
};
use tokio::runtime::Handle;
use uuid::Uuid;

use self::batch::Sharing;
use self::call::{Call, Reply};
pub use self::config::{ForeignGap, RedisSettings, SecretPem};
use self::connection::{Role, Target};
use self::fault::Fault;
use self::inspection::Cards;
use self::keeper::Keeper;
use self::message::{IfCallerGone, Replies};
use self::node::{DirectLinks, Node};
use self::pushes::Pushes;
use self::scripts::company;
use self::thread::{Running, Thread};
use self::wakeups::{Known, Listener, Place, Wakeups};
use crate::error::LockError;
use crate::executor::OnTokio;
/// The pool that a [`RedisBackend`] is configured by, and the Redis client below it.
pub use deadpool_redis;

/// However long commands may take, [`RedisBackend::connect`] fails by then.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Locks held by a Redis server (6.2 or newer) or Valkey.
///
/// Connections, commands and repairs run on a separate thread, so the verbs may be awaited on any
/// executor. Dropping the backend ends the thread, without waiting for it.
pub struct RedisBackend {
    node: Node,
    wakeups: Arc<Wakeups>,
    pool: Pool,
    acl_rule: String,
    operator_rule: String,
    key_prefix: String,
    command_timeout: Duration,
    left_cards: inspection::Left,
    foreign_gap: Option<ForeignGap>,
    executor: Arc<OnTokio>,
    _thread: Option<Running>,
}

impl RedisBackend {
    /// Connects, and checks that the server can hold locks.
    ///
    /// # Errors
    ///
    /// Within 5 s: [`is_unavailable`](LockError::is_unavailable) if there is no server,
    /// [`is_denied`](LockError::is_denied) if it cannot hold locks or refuses,
    /// [`LockError::Config`] if the configuration is wrong.
    pub async fn connect(
        config: Config,
        settings: RedisSettings,
    ) -> Result<RedisBackend, LockError> {
        let within = CONNECT_LIMIT.min(
            settings
                .command_timeout
                .saturating_add(settings.connect_timeout),
        );
        let backend = RedisBackend::connect_lazily(config, settings)?;
        let lanes = backend.node.lanes().iter();
        let pings: Vec<_> = lanes.map(|lane| lane.ping(within)).collect();
        for mut ping in pings {
            let pong = ping
                .reply()
                .await
                .and_then(|reply| reply.map_err(Fault::Refused));
            pong.map_err(|fault| backend.error(fault))?;
        }
        Ok(backend)
    }

    /// Starts without waiting for a server; it connects in the background.
    ///
    /// # Errors
    ///
    /// [`LockError::Config`] if the configuration is wrong.
    pub fn connect_lazily(
        config: Config,
        settings: RedisSettings,
    ) -> Result<RedisBackend, LockError> {
        let thread = Thread::start().map_err(BackendError::unavailable)?;
        let (mut backend, keepers) =
            RedisBackend::on(&config, &settings, thread.handle(), Role::Alone)?;
        backend._thread = Some(thread.run(keepers.into_iter().map(Keeper::run)));
        Ok(backend)
    }

    /// The backend whose connections live on `executor`, and what keeps them, which is still to be
    /// run there.
    fn on(
        config: &Config,
        settings: &RedisSettings,
        executor: &Handle,
        role: Role,
    ) -> Result<(RedisBackend, Vec<Keeper>), LockError> {
        let wakeups = Arc::new(Wakeups::default());
        let direct_links = DirectLinks::default();
        let pushes = Arc::new(Pushes::new(Arc::clone(&wakeups), Arc::clone(&direct_links)));
        let receiver = Arc::clone(&pushes);
        let (pool, address) = config::pool(config, settings, move |push| {
            receiver.receive(&push);
            Ok(())
        })?;

        let channel_prefix = settings.channel_prefix();
        let backend = Uuid::new_v4().simple();
        let target = Target {
            probe: LockKey::new(&settings.key_prefix, &format!("probe:{backend}")).ok(),
            pool: pool.clone(),
            address: address.into(),
            command_timeout: settings.command_timeout,
            role,
            sharing: match settings.always_shared {
                true => Sharing::ALWAYS,
                false => Sharing::ON_ONE_SERVER,
            },
            wakeups: Arc::clone(&wakeups),
        };
        let channel = format!("{channel_prefix}{backend}:");
        let lanes = settings.lanes;
        let (node, keepers) = Node::new(executor, target, lanes, channel, &wakeups, direct_links);
        pushes.connect(node.lanes());
        let left_cards = inspection::Left::default();
        let cards = Cards {
            lane: Arc::clone(&node.lanes()[0]),
            wakeups: Arc::clone(&wakeups),
            timeout: settings.command_timeout,
            left: Arc::clone(&left_cards),
        };
        executor.spawn(cards.run(settings.card_every, node.closing()));
        let backend = RedisBackend {
            node,
            wakeups,
            pool,
            acl_rule: scripts::acl_rule(&settings.key_prefix, &channel_prefix),
            operator_rule: scripts::operator_rule(&settings.key_prefix, &channel_prefix),
            key_prefix: settings.key_prefix.clone(),
            command_timeout: settings.command_timeout,
            left_cards,
            foreign_gap: settings.foreign_gap,
            executor: Arc::new(OnTokio(executor.clone())),
            _thread: None,
        };
        Ok((backend, keepers))
    }

    /// The pool of the connections: for its [status](Pool::status), and to resize it.
    ///
    /// Its connections are for the lock. A connection that somebody else checks out is not used
    /// again.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The tokio runtime on the thread of the backend: for its metrics, and to run tasks that must
    /// not stop when callers block their threads.
    pub fn handle(&self) -> &Handle {
        &self.executor.0
    }

    /// Takes in that the claim may be queued: news of it may come before the answer, by another
    /// connection. What was known of it, and by whom it is told: one that is new by `new`.
    fn asks(&self, claim: &Claim, new: impl FnOnce() -> Listener) -> (Known, Place) {
        let lane = || self.node.lane_listener(&claim.key);
        match claim.queue {
            true => self.wakeups.asks(claim, new, lane),
            // It names no channel.
            false => (Known::Same, Place::first(lane())),
        }
    }

    /// Takes in where the claim stands, which may have been queued.
    fn heard(&self, claim: &Claim, answer: &Acquired) {
        if claim.queue && !matches!(answer, Acquired::Queued(_)) {
            self.wakeups.left(claim.owner.as_str());
        }
    }

    /// Tells `news` of the connections that there are already.
    pub(in crate::stores) fn note_connections(&self, news: &dyn News) {
        for lane in self.node.lanes().iter().filter(|lane| lane.works()) {
            news.noted(&Note::Connected {
                address: self.node.address().into(),
                way: lane.way(),
            });
        }
    }

    fn error(&self, fault: Fault) -> BackendError {
        fault.explained(&self.acl_rule).into()
    }
}

impl Backend for RedisBackend {
    fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        limits.keep = true;
        limits.modes = true;
        limits
    }

    fn attach(&self, news: Weak<dyn News>) {
        self.wakeups.attach(Weak::clone(&news));
        if let Some(news) = news.upgrade() {
            self.note_connections(&*news);
        }
    }

    async fn acquire(&self, claim: &Claim) -> Result<Acquired, BackendError> {
        let (known, place) = self.asks(claim, || self.node.listener(&claim.key));
        let want = company::want(&claim.mode);
        let call = match &want {
            Some(want) => company::enter(claim, want, place.named()),
            None => scripts::acquire(claim, place.named()),
        };
        let asked = self
            .node
            .ask(&claim.key, claim.number, call, IfCallerGone::Drop);
        let answer = decode(asked.await, &claim.key, |reply| match &want {
            Some(_) => company::entered(reply, claim),
            None => scripts::acquired(reply, claim),
        });
        match answer {
            Ok(answer) => {
                self.heard(claim, &answer);
                if let Known::Moved { is_told } = known
                    && let Some(earlier) = &place.earlier
                {
                    match answer {
                        // The grace had passed when it was told.
                        Acquired::Queued(_) if is_told => earlier.was_late(),
                        // Nobody told of its turn, unless that came just now by itself.
                        Acquired::Granted(_) if !is_told => earlier.was_late(),
                        _ => {}
                    }
                }
                Ok(answer)
            }
            Err(fault) => {
                // Else it is asked again, by the same place in the queue, or withdrawn.
                if known == Known::Nothing && matches!(fault, Fault::Overtaken(_)) {
                    self.wakeups.left(claim.owner.as_str());
                }
                Err(self.error(fault))
            }
        }
    }

    async fn renew(&self, leases: &[Renewal]) -> Vec<Result<Renewed, BackendError>> {
        let lanes = self.node.lanes();
        let mut batches = vec![Vec::new(); lanes.len()];
        for (index, lease) in leases.iter().enumerate() {
            batches[self.node.lane_of(&lease.key)].push(index);
        }
        // All are on their way before the first answer is waited for.
        let sent: Vec<_> = batches
            .iter()
            .zip(lanes.iter())
            .map(|(batch, lane)| {
                lane.send(
                    batch
                        .iter()
                        .map(|index| renewing(&leases[*index]))
                        .collect(),
                    IfCallerGone::Drop,
                )
            })
            .collect();

        let mut answers = Vec::with_capacity(leases.len());
        for (batch, mut sent) in batches.iter().zip(sent) {
            let replies = sent.replies().await;
            let replies = every(replies, batch.len());
            answers.extend(batch.iter().zip(replies).map(|(index, reply)| {
                let lease = &leases[*index];
                let answer = decode(reply, &lease.key, |reply| match lease.mode {
                    Mode::Exclusive => scripts::renewed(reply, lease),
                    _ => company::extended(reply, lease),
                });
                (*index, answer.map_err(|fault| self.error(fault)))
            }));
        }
        answers.sort_unstable_by_key(|(index, _)| *index);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    async fn release(&self, release: &Release) -> Result<Released, BackendError> {
        let Release {
            key, owner, next, ..
        } = release;
        self.wakeups.left(owner.as_str());
        // Nobody is handed a lock that is kept, nor asks for it in the same message.
        let want = company::want(&release.mode);
        // Nor does the engine send a next claim with a lease that goes together with others.
        let next = next
            .as_ref()
            .filter(|_| release.keep.is_none() && want.is_none());
        // Those for whom the next claim is may be on any tokio runtime.
        let next_asks = |next| self.asks(next, || self.node.lane_listener(key));
        let (known, place) = next.map(next_asks).unzip();
        let named = next.zip(place.as_ref().map(Place::named));
        let call = match (release.keep, self.foreign_gap) {
            _ if want.is_some() => company::leave(release, want.as_deref().unwrap_or_default()),
            (Some(rest), _) => scripts::keep(key, owner, rest),
            (None, None) => scripts::release(key, owner, named),
            (None, Some(gap)) => scripts::release_with_gap(key, owner, named, gap),
        };
        let asked = self.node.ask(key, release.number, call, IfCallerGone::Send);
        let answer = decode(asked.await, key, |reply| scripts::released(reply, next));
        if let (
            Some(Known::Nothing),
            Err(Fault::Overtaken(_)) | Ok(Released::NotHeld),
            Some(next),
        ) = (known, &answer, next)
        {
            self.wakeups.left(next.owner.as_str());
        }
        let answer = answer.map_err(|fault| self.error(fault))?;
        if let (Some(next), Released::Released(Some(claimed))) = (next, &answer) {
            self.heard(next, claimed);
        }
        Ok(answer)
    }

    async fn abandon(&self, claim: &Claim) -> Result<(), BackendError> {
        let place = self.wakeups.leaves(claim);
        let place = place.unwrap_or_else(|| Place::first(self.node.lane_listener(&claim.key)));
        let call = scripts::abandon(claim, place.named());
        let asked = self
            .node
            .ask(&claim.key, claim.number, call, IfCallerGone::Send);
        decode(asked.await, &claim.key, scripts::abandoned).map_err(|fault| self.error(fault))?;
        // If there is no answer, it is withdrawn once more, from the same place.
        self.wakeups.left(claim.owner.as_str());
        Ok(())
    }

    async fn acquire_all(&self, claims: &[Claim]) -> Result<Option<Vec<Grant>>, BackendError> {
        let (Some(first), Some(call)) = (claims.first(), scripts::acquire_all(claims)) else {
            return Ok(None);
        };
        let asked = self
            .node
            .ask(&first.key, first.number, call, IfCallerGone::Drop);
        let answer = decode(asked.await, &first.key, |reply| {
            scripts::acquired_all(reply, claims)
        });
        answer.map_err(|fault| self.error(fault))
    }

    fn executor(&self) -> Option<Arc<dyn Executor>> {
        Some(Arc::clone(&self.executor) as Arc<dyn Executor>)
    }

    async fn inspect(&self, key: &LockKey) -> Result<Option<Inspected>, BackendError> {
        self.inspected(key).await
    }

    async fn cards(&self, prefix: &str) -> Result<Vec<Card>, BackendError> {
        self.told_cards(prefix).await
    }

    async fn break_lock(
        &self,
        key: &LockKey,
        owner: &OwnerToken,
    ) -> Result<Released, BackendError> {
        self.broken(key, owner).await
    }

    async fn condition(&self) -> Result<Condition, BackendError> {
        Ok(self.told_condition().await)
    }

    async fn close(&self) {
        self.take_cards_away().await;
        self.node.close().await;
    }
}

/// Extends a lease.
fn renewing(lease: &Renewal) -> Call {
    match company::want(&lease.mode) {
        Some(want) => company::extend(lease, &want),
        None => scripts::renew(lease),
    }
}

/// The answer in `reply` to a script for `key`.
fn decode<T>(
    reply: Result<Reply, Fault>,
    key: &LockKey,
    answer: impl FnOnce(&Value) -> Option<T>,
) -> Result<T, Fault> {
    let reply = reply?.map_err(|error| Fault::of_reply(error, key))?;
    answer(&reply).ok_or_else(|| Fault::bad_reply(&reply))
}

/// What each of `count` calls got, where they may all have got the same fault.
fn every(replies: Result<Replies, Fault>, count: usize) -> Vec<Result<Reply, Fault>> {
    match replies {
        Ok(replies) => replies.into_iter().map(Ok).collect(),
        Err(fault) => vec![Err(fault); count],
    }
}

impl fmt::Debug for RedisBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBackend")
            .field("lanes", &self.node.lanes().len())
            .field("queued", &self.wakeups.count())
            .field("pool", &self.pool.status())
            .finish_non_exhaustive()
    }
}
