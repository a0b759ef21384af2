//! The shapes that a lock may have beside one key and one body, on the same keys as plain turns.
//!
//! A further shape is a variant of [`Shape`] and an arm of [`Turn::shaped`]. What it acquires is
//! noted as a plain turn notes it, and counted by its name.

use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Mutex;

use super::*;
use crate::plan::{PERMITS, SHARDS, Sabotage};

/// A shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Does nothing if another holds the lock.
    Skip,
    /// Leaves the key taken for a while.
    MinHold,
    /// Leaves the key taken for a while, if it ended well.
    OncePer,
    /// Leads, and stands again when it has lost the lock.
    Lead,
    /// Takes several keys.
    Keys,
    /// Shares the key, as a reader.
    Shared,
    /// Takes a permit or two of the key.
    Permits,
    /// Takes a part of the key, or one after the other.
    Shards,
}

impl Shape {
    pub(crate) const ALL: [Shape; 8] = [
        Shape::Skip,
        Shape::MinHold,
        Shape::OncePer,
        Shape::Lead,
        Shape::Keys,
        Shape::Shared,
        Shape::Permits,
        Shape::Shards,
    ];

    /// Those that `worker` may take on its store.
    fn on(worker: &Worker) -> Vec<Shape> {
        if let Some(shape) = worker.sabotage.and_then(Shape::concerned_by) {
            return vec![shape];
        }
        let mut shapes = Shape::ALL.to_vec();
        shapes.retain(|shape| match shape {
            Shape::MinHold | Shape::OncePer => worker.store.keeps(),
            Shape::Shared | Shape::Permits | Shape::Shards => !worker.alone,
            _ => true,
        });
        shapes
    }

    /// The shape that `sabotage` is about alone: others would be in its way.
    fn concerned_by(sabotage: Sabotage) -> Option<Shape> {
        match sabotage {
            Sabotage::PermitTooMany => Some(Shape::Permits),
            Sabotage::ReaderBesideWriter => Some(Shape::Shared),
            Sabotage::ShardTwice => Some(Shape::Shards),
            _ => None,
        }
    }

    /// The end of the names of its claims.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Shape::Skip => "skip",
            Shape::MinHold => "min_hold",
            Shape::OncePer => "once_per",
            Shape::Lead => "lead",
            Shape::Keys => "keys",
            Shape::Shared => "shared",
            Shape::Permits => "permits",
            Shape::Shards => "shards",
        }
    }

    /// The shape of the claim with this name; `None` for a plain one.
    pub(crate) fn of_claim(claim: &str) -> Option<Shape> {
        let (_, name) = claim.rsplit_once('-')?;
        Shape::ALL.into_iter().find(|shape| shape.name() == name)
    }
}

/// Whoever does not wait for a lock waits for the answer.
const ANSWER: Duration = Duration::from_secs(1);

impl Turn {
    /// A turn of a shape of chance.
    pub(super) async fn shaped(mut self) {
        let shapes = Shape::on(&self.worker);
        let shape = shapes[self.rng.usize(..shapes.len())];
        self.claim = named(&self.claim, shape);
        // Each is large, and seldom.
        let turn: Pin<Box<dyn Future<Output = ()> + Send>> = match shape {
            Shape::Skip => Box::pin(self.skip()),
            Shape::MinHold => Box::pin(self.min_hold()),
            Shape::OncePer => Box::pin(self.once_per()),
            Shape::Lead => Box::pin(self.lead()),
            Shape::Keys => Box::pin(self.keys()),
            Shape::Shared => Box::pin(self.shared()),
            Shape::Permits => Box::pin(self.permits()),
            Shape::Shards => Box::pin(self.shards()),
        };
        turn.await;
    }

    /// How long a key is to stay taken: shorter than a lease, so that this is as long as any.
    fn kept(&mut self) -> Duration {
        ms(self.rng.u64(50..350))
    }

    /// Notes that nobody else is to have the key until `least` after `since`.
    fn keeps(&self, since: Nanos, least: Duration) {
        let what = What::Keep {
            claim: self.claim.clone(),
            until: since + nanos(least),
        };
        self.worker.record(&self.key, since, what);
    }

    /// Notes what became of a call that skips its body where the lock is taken.
    fn skipped_or_ran(
        &self,
        asked: Nanos,
        ended: Option<Nanos>,
        outcome: Result<Option<()>, LockError>,
    ) {
        match outcome {
            Ok(None) => self.refused(asked, Outcome::Fail),
            Ok(Some(())) => self.ran(asked, ended, None),
            Err(error) => self.ran(asked, ended, Some(&error)),
        }
    }

    async fn skip(self) {
        let asked = self.ask(ANSWER);
        let mut ended = None;
        let outcome = self.skipping(asked, &mut ended).await;
        self.skipped_or_ran(asked, ended, outcome);
    }

    #[distributed_lock(
        key = self.key.as_str(),
        ttl = self.ttl,
        on_taken = skip,
        runtime = self.worker.locks[self.place],
        guard = view,
    )]
    async fn skipping(
        &self,
        asked: Nanos,
        ended: &mut Option<Nanos>,
    ) -> Result<Option<()>, LockError> {
        self.body(asked, &view, ended).await;
        Ok(Some(()))
    }

    async fn min_hold(mut self) {
        let least = self.kept();
        if self.rng.bool() {
            // Whether it is kept is seen where nobody had to wait: nothing tells when it began.
            let asked = self.ask(self.wait);
            return match self.lock().min_hold(least).acquire().await {
                Ok(guard) => self.use_guard(guard, asked).await,
                Err(error) => self.refused(asked, outcome_of(&error)),
            };
        }
        let asked = self.ask(ANSWER);
        let mut ended = None;
        let outcome = self.keeping(asked, least, &mut ended).await;
        self.skipped_or_ran(asked, ended, outcome);
    }

    #[distributed_lock(
        key = self.key.as_str(),
        ttl = self.ttl,
        on_taken = skip,
        min_hold = least,
        runtime = self.worker.locks[self.place],
        guard = view,
    )]
    async fn keeping(
        &self,
        asked: Nanos,
        least: Duration,
        ended: &mut Option<Nanos>,
    ) -> Result<Option<()>, LockError> {
        self.keeps(asked, least);
        self.body(asked, &view, ended).await;
        Ok(Some(()))
    }

    async fn once_per(mut self) {
        let (period, fails) = (self.kept(), self.rng.u8(..3) == 0);
        let asked = self.ask(ANSWER);
        let mut ended = None;
        let job = async |view: LockHandle| {
            self.body(asked, &view, &mut ended).await;
            if fails { Err(()) } else { Ok(()) }
        };
        match self.lock().run_once_per(period, job).await {
            Ok(None) => self.refused(asked, Outcome::Fail),
            Ok(Some(done)) => {
                if done.is_ok() {
                    self.keeps(asked, period);
                }
                self.ran(asked, ended, None);
            }
            Err(error) => self.ran(asked, ended, Some(&error)),
        }
    }

    async fn lead(mut self) {
        let patience = self.wait;
        self.hold = self.hold.max(ms(self.rng.u64(..50)));
        let asked = self.ask(patience);
        let terms = Arc::new(Mutex::new(Terms {
            since: asked,
            ended: None,
            last: None,
        }));
        let (turn, of_body) = (self.clone(), Arc::clone(&terms));
        let leads = self.lock().lead(async move |view| {
            // Each term is a claim of its own.
            let mut turn = turn.clone();
            let since = {
                let mut terms = of_body.lock().expect("nobody panics with it");
                if terms.last.is_some() {
                    turn.claim = named(&turn.worker.name_claim(), Shape::Lead);
                    turn.began = Arc::default();
                }
                terms.last = Some(turn.clone());
                std::mem::replace(&mut terms.since, now())
            };
            let mut ended = None;
            turn.body(since, &view, &mut ended).await;
            of_body.lock().expect("nobody panics with it").ended = ended;
        });
        let outcome = timeout(patience, leads).await;
        let mut terms = terms.lock().expect("nobody panics with it");
        match (outcome, terms.last.take()) {
            (Ok(Ok(())), Some(last)) => last.ran(asked, terms.ended, None),
            // That a term was lost and another never came is no answer to that term.
            (_, Some(_)) => {}
            (Ok(Err(error)), None) => self.refused(asked, outcome_of(&error)),
            (_, None) => self.refused(asked, Outcome::Unknown),
        }
    }

    async fn shared(mut self) {
        self.company = Some(Company::Shared);
        let asked = self.ask(self.wait);
        if self.rng.bool() {
            let mut ended = None;
            let outcome = self.reading(asked, &mut ended).await;
            return self.ran(asked, ended, outcome.err().as_ref());
        }
        let lock = self.lock().shared();
        self.hold_together(lock, asked).await;
    }

    #[distributed_lock(
        key = self.key.as_str(),
        ttl = self.ttl,
        wait = self.wait,
        mode = shared,
        runtime = self.worker.locks[self.place],
        guard = view,
    )]
    async fn reading(&self, asked: Nanos, ended: &mut Option<Nanos>) -> Result<(), LockError> {
        self.body(asked, &view, ended).await;
        Ok(())
    }

    async fn permits(mut self) {
        let take = self.rng.u32(1..=2);
        self.company = Some(Company::Permits { take, of: PERMITS });
        let asked = self.ask(self.wait);
        let lock = self.lock().permits(PERMITS).weight(take);
        self.hold_together(lock, asked).await;
    }

    async fn shards(mut self) {
        self.company = Some(Company::Shard(0));
        if self.rng.bool() {
            return self.visit().await;
        }
        let asked = self.ask(self.wait);
        let lock = self.lock().shards(SHARDS.into());
        self.hold_together(lock, asked).await;
    }

    /// Goes through the parts of the key until one is the right one.
    async fn visit(mut self) {
        let right = self.rng.usize(1..=SHARDS.into());
        let asked = self.ask(self.wait * u32::from(SHARDS));
        let last = Arc::new(Mutex::new(None));
        let mut visited = 0;
        let mut turn = self.clone();
        let outcome = self
            .lock()
            .shards(SHARDS.into())
            .visit(|view| {
                // Each part is taken by a claim of its own.
                if visited > 0 {
                    turn.claim = named(&turn.worker.name_claim(), Shape::Shards);
                    turn.began = Arc::default();
                }
                visited += 1;
                let (turn, last, is_right) = (turn.clone(), last.clone(), visited == right);
                async move {
                    let mut ended = None;
                    turn.body(asked, &view, &mut ended).await;
                    *last.lock().expect("nobody panics with it") = Some((turn, ended));
                    if is_right {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                }
            })
            .await;
        let last = last.lock().expect("nobody panics with it").take();
        match (outcome, last) {
            (Ok(_), Some((last, ended))) => last.ran(asked, ended, None),
            (Err(error), None) => self.ran(asked, None, Some(&error)),
            // That a part was lost or another never came is no answer to that claim.
            _ => {}
        }
    }

    /// Has a lease that goes together with others, and gives up early now and then.
    async fn hold_together(mut self, lock: Lock, asked: Nanos) {
        let patience = match self.rng.u8(..8) {
            0 => Duration::from_micros(self.rng.u64(..20_000)),
            _ => Duration::MAX,
        };
        match timeout(patience, lock.acquire()).await {
            Ok(Ok(guard)) => self.use_guard(guard, asked).await,
            Ok(Err(error)) => self.refused(asked, outcome_of(&error)),
            Err(_) => {
                self.worker.effects.note(Kind::AcquireCancelled, &self.key);
                self.refused(asked, Outcome::Unknown);
            }
        }
    }

    async fn keys(mut self) {
        let count = 2 + self.rng.usize(..2);
        let mut turns = vec![self.clone()];
        while turns.len() < count {
            let mut turn = Turn::with(
                &self.worker,
                self.place,
                self.rng.usize(..KEYS),
                &mut self.rng,
            );
            if turns.iter().all(|other| other.key != turn.key) {
                turn.claim = named(&turn.claim, Shape::Keys);
                (turn.ttl, turn.hold) = (self.ttl, Duration::ZERO);
                turns.push(turn);
            }
        }
        // Whatever the order in which they are given, and also if one is given twice.
        self.rng.shuffle(&mut turns);
        let mut names: Vec<&str> = turns.iter().map(|turn| turn.key.as_str()).collect();
        if self.rng.u8(..5) == 0 {
            names.push(&turns[0].key);
        }
        let wait = if self.rng.u8(..4) == 0 {
            Duration::ZERO
        } else {
            self.wait
        };
        let locks: &LockRuntime = &self.worker.locks[self.place];
        let all = locks.lock_all(names).ttl(self.ttl).wait(wait);
        let asked: Vec<Nanos> = turns
            .iter()
            .map(|turn| turn.ask(wait.max(ANSWER)))
            .collect();
        let patience = match self.rng.u8(..8) {
            0 => Duration::from_micros(self.rng.u64(..20_000)),
            _ => Duration::MAX,
        };
        let guard = match timeout(patience, all.acquire()).await {
            Ok(Ok(guard)) => guard,
            Ok(Err(error)) => return refuse(&turns, &asked, outcome_of(&error)),
            Err(_) => {
                self.worker.effects.note(Kind::AcquireCancelled, &self.key);
                return refuse(&turns, &asked, Outcome::Unknown);
            }
        };
        let views = guard.handles().to_vec();
        let mut held = Vec::new();
        for (place, turn) in turns.iter().enumerate() {
            held.push(Held::begin(turn, asked[place], &views[place]));
        }
        for place in 0..held.len() {
            held[place].work(turns[place].hold, &views[place]).await;
        }
        let mut ended = Vec::new();
        for (place, held) in held.into_iter().enumerate() {
            ended.push(held.end(&views[place]));
        }
        if self.rng.u8(..4) == 0 {
            return drop(guard);
        }
        let released = guard.release().await;
        for (turn, ended) in turns.iter().zip(ended) {
            turn.ended(ended, released.as_ref().err());
        }
    }
}

/// The terms of one who leads.
struct Terms {
    /// When the last one began, or the first was asked for.
    since: Nanos,
    /// When the last one ended.
    ended: Option<Nanos>,
    last: Option<Turn>,
}

/// Notes that none of the locks was acquired.
fn refuse(turns: &[Turn], asked: &[Nanos], outcome: Outcome) {
    for (turn, asked) in turns.iter().zip(asked) {
        turn.refused(*asked, outcome);
    }
}

fn named(claim: &str, shape: Shape) -> String {
    format!("{claim}-{}", shape.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_tells_its_shape() {
        for shape in Shape::ALL {
            assert_eq!(Shape::of_claim(&named("7/123", shape)), Some(shape));
        }
        assert_eq!(Shape::of_claim("7/123"), None);
    }
}
