//! What a task does with a lock, once: one of the ways in which callers use one, well or badly.

mod shapes;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;
use lock_runtime::{
    FencingToken, Lock, LockError, LockGuard, LockHandle, LockRuntime, distributed_lock,
};
use lock_tests::checker::{Company, Nanos, Outcome, What, now};
use lock_tests::ms;
use tokio::time::{sleep, timeout};

use crate::plan::{KEYS, Kind, share};
use crate::shared::Worker;

pub(crate) use self::shapes::Shape;

/// What a body that panics on purpose says.
pub(crate) const PLANNED_PANIC: &str = "planned";

/// One claim, and what is done under it.
#[derive(Clone)]
pub(crate) struct Turn {
    worker: Arc<Worker>,
    place: usize,
    key: String,
    claim: String,
    ttl: Duration,
    wait: Duration,
    hold: Duration,
    /// What it wants of the key; `None`: all of it. Which shard is known when it has one.
    company: Option<Company>,
    /// Whether a body began: a lock may be lost before.
    began: Arc<AtomicBool>,
    /// What decides the rest.
    rng: Rng,
}

impl Turn {
    /// A turn with any lock; some are wanted more than others.
    pub(crate) fn any(worker: &Arc<Worker>, rng: &mut Rng) -> Turn {
        let number = rng.usize(..KEYS).min(rng.usize(..KEYS));
        Turn::with(worker, rng.usize(..worker.locks.len()), number, rng)
    }

    /// A turn with this lock.
    pub(crate) fn with(worker: &Arc<Worker>, place: usize, number: usize, rng: &mut Rng) -> Turn {
        let longest = worker.store.longest_ttl();
        let ttl = if rng.u8(..5) == 0 {
            longest * 3 / 5
        } else {
            longest
        };
        let hold = match rng.u32(..1_000) {
            0..800 => ms(rng.u64(..4)),
            800..980 => ms(rng.u64(5..40)),
            980..998 => ms(rng.u64(100..400)),
            // As long as needs renewals.
            _ => ttl.mul_f64(1.0 + rng.f64()),
        };
        Turn {
            worker: worker.clone(),
            place,
            key: worker.store.lock_places()[place].key(number),
            claim: worker.name_claim(),
            ttl,
            wait: ms(rng.u64(200..3_000)),
            hold,
            company: None,
            began: Arc::default(),
            rng: rng.fork(),
        }
    }

    /// Takes the lock in one of the ways.
    pub(crate) async fn take(mut self) {
        match self.rng.u8(..100) {
            0..25 => self.with_a_guard().await,
            25..33 => self.if_it_is_free().await,
            33..38 => self.run().await,
            38..55 => self.call().await,
            55..63 => self.give_up_early().await,
            63..67 => self.abandon_the_body().await,
            67..69 => self.panic().await,
            69..71 => self.reenter().await,
            _ => self.shaped().await,
        }
    }

    /// Takes the lock however long it is in other hands, as nobody fails to when nothing fails any
    /// more.
    pub(crate) async fn insist(mut self) {
        self.wait = Duration::from_secs(10).max(self.worker.store.longest_ttl() * 10);
        self.hold = Duration::ZERO;
        self.with_a_guard().await;
    }

    /// Holds a guard, and writes without a look at whether it still holds the lock: what the
    /// resource has to be safe from.
    async fn with_a_guard(mut self) {
        if self.rng.u8(..25) == 0 {
            // Long enough to lose it now and then.
            self.hold = ms(self.rng.u64(100..400));
        }
        let asked = self.ask(self.wait);
        match self.lock().acquire().await {
            Ok(guard) => self.use_guard(guard, asked).await,
            Err(error) => self.refused(asked, outcome_of(&error)),
        }
    }

    async fn if_it_is_free(mut self) {
        // Who does not wait for the lock still waits for the answer.
        let asked = self.ask(Duration::from_secs(1));
        match self.lock().try_acquire().await {
            Ok(Some(guard)) => self.use_guard(guard, asked).await,
            Ok(None) => self.refused(asked, Outcome::Fail),
            Err(error) => self.refused(asked, outcome_of(&error)),
        }
    }

    async fn use_guard(&mut self, guard: LockGuard, asked: Nanos) {
        let view = guard.handle();
        let mut held = Held::begin(self, asked, &view);
        held.work(self.hold, &view).await;
        let ended = held.end(&view);
        if self.rng.u8(..4) == 0 {
            return drop(guard);
        }
        self.ended(ended, guard.release().await.as_ref().err());
    }

    /// Runs a body, which ends with the lock.
    async fn run(self) {
        let asked = self.ask(self.wait);
        let mut ended = None;
        let body = async |view| self.body(asked, &view, &mut ended).await;
        let outcome = self.lock().run(body).await;
        self.ran(asked, ended, outcome.err().as_ref());
    }

    /// Calls a function that the attribute puts the lock around.
    async fn call(self) {
        let asked = self.ask(self.wait);
        let mut ended = None;
        let outcome = self.annotated(asked, &mut ended).await;
        self.ran(asked, ended, outcome.err().as_ref());
    }

    #[distributed_lock(
        key = self.key.as_str(),
        ttl = self.ttl,
        wait = self.wait,
        runtime = self.worker.locks[self.place],
        guard = view,
    )]
    async fn annotated(&self, asked: Nanos, ended: &mut Option<Nanos>) -> Result<(), LockError> {
        self.body(asked, &view, ended).await;
        Ok(())
    }

    /// What is done under a lock; notes in `ended` when it was done.
    async fn body(&self, asked: Nanos, view: &LockHandle, ended: &mut Option<Nanos>) {
        let mut held = Held::begin(self, asked, view);
        held.work(self.hold, view).await;
        *ended = Some(held.end(view));
    }

    /// Drops an acquire at a time of chance.
    async fn give_up_early(mut self) {
        let asked = self.ask(self.wait);
        let patience = Duration::from_micros(self.rng.u64(..20_000));
        match timeout(patience, self.lock().acquire()).await {
            Ok(Ok(guard)) => self.use_guard(guard, asked).await,
            Ok(Err(error)) => self.refused(asked, outcome_of(&error)),
            Err(_) => {
                self.worker.effects.note(Kind::AcquireCancelled, &self.key);
                self.refused(asked, Outcome::Unknown);
            }
        }
    }

    /// Drops a call, body and all, while the body runs.
    async fn abandon_the_body(self) {
        let asked = self.ask(self.wait);
        let (began, begun) = tokio::sync::oneshot::channel();
        let mut ended = None;
        let call = self.lock().run(async |view| {
            let mut held = Held::begin(&self, asked, &view);
            let _ = began.send(());
            held.work(self.hold.max(ms(5)), &view).await;
            ended = Some(held.end(&view));
        });
        let patience = ms(1 + self.claim.len() as u64 % 4);
        let abandoned = async {
            if begun.await.is_err() {
                // It ends without a body.
                std::future::pending::<()>().await;
            }
            sleep(patience).await;
        };
        let outcome = tokio::select! {
            outcome = call => Some(outcome),
            () = abandoned => None,
        };
        match outcome {
            Some(outcome) => self.ran(asked, ended, outcome.err().as_ref()),
            None => self.worker.effects.note(Kind::BodyDropped, &self.key),
        }
    }

    /// Runs a body that panics.
    async fn panic(self) {
        let asked = self.ask(self.wait);
        let turn = self.clone();
        let call = tokio::spawn(async move {
            let body = async |view: LockHandle| {
                let mut held = Held::begin(&turn, asked, &view);
                held.work(turn.hold, &view).await;
                std::panic::panic_any(PLANNED_PANIC);
            };
            turn.lock().run(body).await
        });
        match call.await {
            Err(failed) if failed.is_panic() => {
                self.worker.effects.note(Kind::BodyPanicked, &self.key);
            }
            Ok(outcome) => self.ran(asked, None, outcome.err().as_ref()),
            Err(_) => {}
        }
    }

    /// Runs a body that calls another of the same key.
    async fn reenter(self) {
        let asked = self.ask(self.wait);
        let mut ended = None;
        let outcome = self
            .lock()
            .run(async |view| {
                let mut held = Held::begin(&self, asked, &view);
                let since = now();
                let token = self.lock().run(async |inner| inner.fencing_token()).await;
                if let Ok(token) = token {
                    let what = What::Reenter {
                        claim: self.claim.clone(),
                        token: token.as_u64(),
                    };
                    self.worker.record(&self.key, since, what);
                }
                held.work(self.hold, &view).await;
                ended = Some(held.end(&view));
            })
            .await;
        self.ran(asked, ended, outcome.err().as_ref());
    }

    /// Blocks its thread for twice the ttl.
    pub(crate) async fn block(self) {
        let asked = self.ask(self.wait);
        let mut ended = None;
        let outcome = self
            .lock()
            .run(async |view| {
                let mut held = Held::begin(&self, asked, &view);
                std::thread::sleep(self.ttl * 2);
                self.worker.effects.note(Kind::ExecutorBlocked, &self.key);
                held.work(Duration::ZERO, &view).await;
                ended = Some(held.end(&view));
            })
            .await;
        self.ran(asked, ended, outcome.err().as_ref());
    }

    fn lock(&self) -> Lock {
        let locks: &LockRuntime = &self.worker.locks[self.place];
        locks.lock(self.key.as_str()).ttl(self.ttl).wait(self.wait)
    }

    /// Notes that the claim is made; it will wait for so long at most.
    fn ask(&self, wait: Duration) -> Nanos {
        let asked = now();
        let what = What::Ask {
            claim: self.claim.clone(),
            wait: nanos(wait),
        };
        self.worker.record(&self.key, asked, what);
        asked
    }

    /// Notes that the lock was not acquired.
    fn refused(&self, asked: Nanos, outcome: Outcome) {
        let what = What::Acquire {
            claim: self.claim.clone(),
            outcome,
            token: None,
            deadline: None,
        };
        self.worker.record(&self.key, asked, what);
    }

    /// Notes what the caller of a body was told.
    fn ran(&self, asked: Nanos, ended: Option<Nanos>, error: Option<&LockError>) {
        if self.began.load(Ordering::Relaxed) {
            self.ended(ended.unwrap_or_else(now), error);
        } else if let Some(error) = error {
            self.refused(asked, outcome_of(error));
        }
    }

    fn ended(&self, ended: Nanos, error: Option<&LockError>) {
        let what = What::Body {
            claim: self.claim.clone(),
            // A release that was not confirmed is no failure of the body.
            ok: error.is_none_or(LockError::is_unavailable),
            lost: error.is_some_and(LockError::is_lost),
        };
        self.worker.record(&self.key, ended, what);
    }
}

fn nanos(duration: Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(Nanos::MAX)
}

/// A lease, as far as the log has to know. Dropped, it notes that from now on its holder does not
/// rely on it.
struct Held<'a> {
    turn: &'a Turn,
    token: FencingToken,
    /// The deadline that the log knows.
    until: Nanos,
    company: Option<Company>,
}

impl<'a> Held<'a> {
    fn begin(turn: &'a Turn, asked: Nanos, view: &LockHandle) -> Held<'a> {
        let token = view.fencing_token();
        let ttl = nanos(turn.ttl);
        // The store confirmed the lease at most one ttl before its end, and it had not ended when
        // the claim was made. That may have been before the claim itself, where the lease was
        // passed on within the process.
        let (confirmed, until) = match deadline(view) {
            // A lease that outlives a minimum hold ends later than a ttl after it.
            Some(until) => (until.saturating_sub(ttl).min(now()), until),
            None => (asked.saturating_sub(ttl), asked.saturating_sub(ttl)),
        };
        let what = What::Acquire {
            claim: turn.claim.clone(),
            outcome: Outcome::Ok,
            token: Some(token.as_u64()),
            deadline: Some(until),
        };
        turn.worker.record(&turn.key, confirmed, what);
        let company = company_of(turn, view);
        if let Some(company) = company {
            let what = What::Together {
                claim: turn.claim.clone(),
                company,
            };
            turn.worker.record(&turn.key, confirmed, what);
        }
        turn.began.store(true, Ordering::Relaxed);
        Held {
            turn,
            token,
            until,
            company,
        }
    }

    /// Holds the lock for a while, looks after it, and writes.
    async fn work(&mut self, hold: Duration, view: &LockHandle) {
        let slice = self.turn.ttl / 4;
        let mut left = hold;
        while !left.is_zero() {
            let pause = left.min(slice);
            sleep(pause).await;
            left -= pause;
            self.look(view);
        }
        let key = &self.turn.key;
        match self.company {
            None => self.write(key.clone()).await,
            // Each has its share of what the key protects.
            Some(Company::Shard(shard)) => self.write(share(key, shard)).await,
            // Readers and those with permits do not keep their like from writing.
            Some(_) => {}
        }
    }

    /// Writes to what is protected by the name of `what`.
    async fn write(&self, what: String) {
        let turn = self.turn;
        let mut write = Write {
            held: self,
            key: &what,
            since: now(),
            outcome: Outcome::Unknown,
            seq: None,
        };
        let answer = turn.worker.resource.write(&what, self.token, &turn.claim);
        match answer.await {
            Ok(seq) => {
                write.outcome = if seq.is_some() {
                    Outcome::Ok
                } else {
                    Outcome::Fail
                };
                write.seq = seq;
            }
            Err(error) => eprintln!("the resource did not answer: {error}"),
        }
    }

    /// Notes that the lease has been extended, where the log would else think it over soon.
    fn look(&mut self, view: &LockHandle) {
        let soon = now() + nanos(self.turn.ttl / 2) > self.until;
        let Some(until) = deadline(view).filter(|until| soon && *until > self.until) else {
            return;
        };
        self.until = until;
        let what = What::Renew {
            claim: self.turn.claim.clone(),
            outcome: Outcome::Ok,
            deadline: Some(until),
        };
        self.turn.worker.record(&self.turn.key, now(), what);
    }

    /// When the body ended.
    fn end(mut self, view: &LockHandle) -> Nanos {
        let ended = now();
        self.look(view);
        ended
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let what = What::Release {
            claim: self.turn.claim.clone(),
            outcome: Outcome::Unknown,
        };
        self.turn.worker.record(&self.turn.key, now(), what);
    }
}

/// A write, noted when it ends or is dropped.
struct Write<'a> {
    held: &'a Held<'a>,
    key: &'a str,
    since: Nanos,
    outcome: Outcome,
    seq: Option<u64>,
}

impl Drop for Write<'_> {
    fn drop(&mut self) {
        let turn = self.held.turn;
        let what = What::Write {
            claim: turn.claim.clone(),
            token: self.held.token.as_u64(),
            outcome: self.outcome,
            seq: self.seq,
        };
        turn.worker.record(self.key, self.since, what);
    }
}

/// What the lease is, now that it is known which.
fn company_of(turn: &Turn, view: &LockHandle) -> Option<Company> {
    Some(match turn.company? {
        Company::Shard(_) => Company::Shard(u8::try_from(view.shard()).unwrap_or(u8::MAX)),
        company => company,
    })
}

/// Until when the holder may rely on its lease, rather too early than too late; `None` if it is
/// lost.
fn deadline(view: &LockHandle) -> Option<Nanos> {
    let now = now();
    let remaining = view.remaining();
    (!remaining.is_zero()).then(|| now + nanos(remaining))
}

/// What the log says of an acquire that ended with `error`.
fn outcome_of(error: &LockError) -> Outcome {
    match error {
        LockError::Taken { .. } | LockError::Timeout { .. } => Outcome::Fail,
        _ => Outcome::Unknown,
    }
}
