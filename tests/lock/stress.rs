//! Random histories of three processes on one store that loses answers, hangs, forgets and is
//! robbed, on a paused clock.
//!
//! Whatever happens, no two guards of a key believe in their lock at once, tokens grow with every
//! grant, everybody gets an answer in time, of which what the store did is a cause, and in the end
//! nothing is left.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use lock_conformance::{Decorated, Decorator};
use lock_runtime::backend::{
    Acquired, Backend, BackendError, Claim, FenceBlock, Grant, LockKey, Release, Released,
};
use lock_runtime::memory::{Fault, MemoryBackend};
use lock_runtime::{FencingToken, LockError, LockGuard, LockHandle, LockRuntime};
use lock_tests::{ms, secs};
use tokio::time::{Instant, sleep, timeout};

const KEYS: [&str; 2] = ["a", "b"];
/// For how long a question that had no answer is the last word: it is asked again after a second at
/// the latest.
const PAUSE: Duration = ms(1_100);

/// What was observed of each key.
#[derive(Default)]
struct Observed {
    last_token: u64,
    holders: Vec<LockHandle>,
    acquired: u32,
    lost: u32,
    violations: Vec<String>,
}

type Log = Arc<Mutex<HashMap<&'static str, Observed>>>;

/// So many milliseconds of these as chance wants.
fn some_ms(range: std::ops::Range<u64>, rng: &mut Rng) -> Duration {
    ms(rng.u64(range))
}

/// What became of what a process asked about one key.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    /// How many questions were refused for good.
    denied: u32,
    /// When the last one ended without an answer.
    failed_at: Option<Instant>,
    /// How many are under way.
    open: u32,
}

impl Asked {
    /// Whether what happened since the caller came is a cause for what it is told now. It was
    /// `before` by then, at `came`.
    fn is_cause_of(self, error: &LockError, before: Asked, came: Instant) -> bool {
        if error.is_denied() {
            self.denied > before.denied
        } else if error.is_unavailable() {
            let is_recent = |failed_at| failed_at + PAUSE >= came;
            self.open > 0 || self.failed_at.is_some_and(is_recent)
        } else {
            // Another had the lock.
            error.is_timeout() || error.is_taken()
        }
    }
}

/// What became of the questions of a process, by their keys.
#[derive(Clone, Default)]
struct Questions(Arc<Mutex<HashMap<String, Asked>>>);

impl Questions {
    fn about(&self, key: &str) -> Asked {
        self.0.lock().unwrap().get(key).copied().unwrap_or_default()
    }

    /// Asks, and notes what becomes of it; one that is dropped has no answer.
    async fn note<T>(
        &self,
        key: &LockKey,
        question: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        let key = key.as_str();
        self.0
            .lock()
            .unwrap()
            .entry(key.to_owned())
            .or_default()
            .open += 1;
        let mut asking = Asking {
            questions: self,
            key,
            is_answered: false,
            is_denied: false,
        };
        let answer = question.await;
        asking.is_answered = answer.is_ok();
        asking.is_denied = answer.as_ref().is_err_and(BackendError::is_denied);
        answer
    }
}

/// A question under way.
struct Asking<'a> {
    questions: &'a Questions,
    key: &'a str,
    is_answered: bool,
    is_denied: bool,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut all = self.questions.0.lock().unwrap();
        let asked = all.entry(self.key.to_owned()).or_default();
        asked.open -= 1;
        asked.denied += u32::from(self.is_denied);
        if !self.is_answered {
            asked.failed_at = Some(Instant::now());
        }
    }
}

async fn client(locks: LockRuntime, questions: Questions, log: Log, mut rng: Rng) {
    for _ in 0..30 {
        let key = rng.choice(KEYS).unwrap();
        let wait = some_ms(0..3_000, &mut rng);
        let mut lock = locks.lock(key).wait(wait);
        lock = lock.ttl(
            rng.choice([Duration::from_millis(200), Duration::from_secs(2)])
                .unwrap(),
        );
        if rng.u8(..4) == 0 {
            lock = lock.renew(false);
        }
        let (patience, hold) = (some_ms(0..5_000, &mut rng), some_ms(0..100, &mut rng));
        let (started, before) = (Instant::now(), questions.about(key));
        match timeout(patience, lock.acquire()).await {
            Ok(Ok(guard)) => held(&log, key, guard, hold, &mut rng).await,
            Ok(Err(error)) => {
                let (took, now) = (started.elapsed(), questions.about(key));
                assert!(took <= secs(5), "{took:?}");
                let is_early = error.is_timeout() && took < wait;
                if is_early || !now.is_cause_of(&error, before, started) {
                    let mut log = log.lock().unwrap();
                    let violations = &mut log.entry(key).or_default().violations;
                    violations.push(format!("without a cause: {error:?}, {before:?}, {now:?}"));
                }
            }
            // Dropped at an await.
            Err(_) => {}
        }
    }
}

async fn held(log: &Log, key: &'static str, guard: LockGuard, hold: Duration, rng: &mut Rng) {
    {
        let mut log = log.lock().unwrap();
        let observed = log.entry(key).or_default();
        let token = guard.fencing_token().as_u64();
        if guard.is_held() {
            if token <= observed.last_token {
                observed
                    .violations
                    .push(format!("token {token} after {}", observed.last_token));
            }
            observed.holders.retain(LockHandle::is_held);
            for other in &observed.holders {
                observed
                    .violations
                    .push(format!("{token} and {other:?} hold at once"));
            }
            observed.last_token = token;
            observed.acquired += 1;
        }
        observed.holders.push(guard.handle());
    }
    sleep(hold).await;
    let was_held = guard.is_held();
    match rng.u8(..3) {
        0 => drop(guard),
        1 => {
            let _ = timeout(some_ms(0..10, rng), guard.release()).await;
        }
        _ => {
            let outcome = guard.release().await;
            if outcome.is_err() || !was_held {
                log.lock().unwrap().entry(key).or_default().lost += 1;
            }
        }
    }
}

/// What goes wrong meanwhile. Data loss and robbery let leases overlap, so they come in runs that
/// do not check for it.
async fn trouble(store: MemoryBackend, mut rng: Rng) {
    loop {
        sleep(some_ms(0..400, &mut rng)).await;
        let pause = some_ms(1..1_500, &mut rng);
        let fault = match rng.u8(..6) {
            0 => Fault::Unavailable,
            1 | 2 => Fault::AnswerLost,
            3 => Fault::Slow(pause),
            4 => Fault::Hang(pause),
            _ => Fault::Denied,
        };
        store.fail_next(rng.usize(1..5), fault);
    }
}

/// A defect of the store, for the controls.
#[derive(Clone, Copy, PartialEq)]
enum Defect {
    None,
    /// A waiter is told that it owns the lock.
    GrantsTwice,
    /// A waiter is told that it may not have the lock.
    Denies,
}

/// The way of a process to the store, by which is noted what becomes of questions.
struct Way {
    store: MemoryBackend,
    questions: Questions,
    defect: Defect,
}

impl Decorator for Way {
    type Inner = MemoryBackend;

    fn inner(&self) -> &MemoryBackend {
        &self.store
    }

    async fn acquire(&self, claim: &Claim) -> Result<Acquired, BackendError> {
        let asking = self.store.acquire(claim);
        match (self.questions.note(&claim.key, asking).await?, self.defect) {
            (Acquired::Queued(_), Defect::GrantsTwice) => {
                let token = FencingToken::new(u64::MAX >> 12);
                let tokens = FenceBlock {
                    first: token,
                    last: token,
                };
                Ok(Acquired::Granted(Grant::new(tokens, claim.ttl)))
            }
            (Acquired::Queued(_), Defect::Denies) => Err(BackendError::denied("not today")),
            (answer, _) => Ok(answer),
        }
    }

    async fn release(&self, release: &Release) -> Result<Released, BackendError> {
        let asking = self.store.release(release);
        self.questions.note(&release.key, asking).await
    }

    async fn abandon(&self, claim: &Claim) -> Result<(), BackendError> {
        let asking = self.store.abandon(claim);
        self.questions.note(&claim.key, asking).await
    }
}

fn history(seed: u64, defect: Defect) -> (u32, u32, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut rng = Rng::with_seed(seed);
        let store = MemoryBackend::new();
        let log = Log::default();
        let mut clients = Vec::new();
        for process in 0..3 {
            let passes = if process == 0 { 0 } else { 4 };
            let questions = Questions::default();
            let way = Way {
                store: store.clone(),
                questions: questions.clone(),
                defect,
            };
            let builder = LockRuntime::backend(Decorated(way));
            let builder = builder.local_passes(passes).local_share(0.5);
            let locks = builder.build().await.unwrap();
            for _ in 0..6 {
                let client = client(locks.clone(), questions.clone(), log.clone(), rng.fork());
                clients.push(tokio::spawn(client));
            }
        }
        let trouble = tokio::spawn(trouble(store.clone(), rng.fork()));
        for client in clients {
            timeout(Duration::from_secs(1_000), client)
                .await
                .expect("nobody is stuck")
                .unwrap();
        }
        trouble.abort();
        store.heal();
        // What was left to its ttl ends with it.
        timeout(Duration::from_secs(60), async {
            while !store.is_idle() {
                sleep(Duration::from_millis(100)).await;
            }
        })
        .await
        .expect("nothing is left behind");
        let log = log.lock().unwrap();
        let sum = |of: fn(&Observed) -> u32| log.values().map(of).sum::<u32>();
        let violations = log
            .values()
            .flat_map(|observed| observed.violations.clone());
        (
            sum(|observed| observed.acquired),
            sum(|observed| observed.lost),
            violations.collect(),
        )
    })
}

#[test]
fn no_two_guards_believe_in_one_lock_whatever_the_store_does() {
    let seeds = std::env::var("SEEDS").map_or(60, |seeds| seeds.parse().unwrap());
    let (mut acquired, mut lost) = (0, 0);
    for seed in 0..seeds {
        let outcome = std::panic::catch_unwind(|| history(seed, Defect::None));
        let (more, losses, violations) = outcome.unwrap_or_else(|_| panic!("seed {seed}"));
        assert!(violations.is_empty(), "seed {seed}: {violations:#?}");
        acquired += more;
        lost += losses;
    }
    println!("{acquired} acquired, {lost} lost, {seeds} histories");
    assert!(
        acquired > 0 && lost > 0,
        "{acquired} acquired, {lost} lost: the trouble had no effect"
    );
}

/// Whether what is wrong with such a store is found, in one of some histories: pauses are drawn by
/// chance in each.
fn is_found_out(defect: Defect, violation: &str) -> bool {
    (1..=20).any(|seed| {
        let (_, _, violations) = history(seed, defect);
        violations.iter().any(|found| found.contains(violation))
    })
}

#[test]
fn a_store_that_grants_twice_is_found_out() {
    assert!(is_found_out(Defect::GrantsTwice, "hold at once"));
}

#[test]
fn a_refusal_without_a_cause_is_found_out() {
    assert!(is_found_out(Defect::Denies, "without a cause"));
}
