//! The pure store against the Redis backend: what the machines of simulated histories ask a store,
//! in the order in which it took that, is asked of a real server, and every answer, every message
//! of a hand-over, the owner, its ttl and the queue are what the pure store has.
//!
//! Time does not pass here: what is given for a second is asked for for a thousand, and what ran
//! out in the history is deleted. The control: with a mistake in the pure store, of those that
//! Redis could have, the two part.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lock_conformance::inbox::{Inbox, Told};
use lock_runtime::backend::{
    Acquired, Backend, Claim, FenceBlock, Grant, Holder, LockKey, OwnerToken, Release, Released,
    Renewed,
};
use lock_runtime::redis::RedisBackend;
use lock_simulation::transcript::{Asked, Entry, Event, Kept};
use lock_simulation::{Body, Plan, Reply, THIEF, Way, transcribe};
use lock_tests::redis_store::connect;
use lock_tests::server::Server;
use tokio::time::timeout;

/// By how much longer than in the history everything lives.
const SLOWER: u32 = 1_000;
/// By when a message has come.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn the_redis_backend_answers_as_the_simulated_store_does() {
    let mut replayed = BTreeMap::new();
    for seed in 1..=12 {
        if let Err(parted) = replay(seed, &mut replayed).await {
            panic!("seed {seed}: {parted}");
        }
    }
    println!("{replayed:?}");
    // The histories are worth it: every question, with every answer to it.
    for kind in [
        "acquire granted",
        "acquire queued",
        "acquire taken",
        "release released",
        "release released, granted",
        "release released, queued",
        "release not held",
        "abandon",
        "give back",
        "skip",
        "renew held",
        "renew lost",
        "hand-over",
        "run out",
        "stolen",
        "theft ends",
        "data lost",
    ] {
        let times = replayed.get(kind).copied().unwrap_or(0);
        assert!(times >= 10, "{kind} only {times} times: {replayed:?}");
    }
}

/// What is noticed of a mistake in the pure store, which the server does not make.
#[cfg(lock_mistakes)]
async fn parts_with(mistake: lock_protocol::mistakes::Mistake) -> Parted {
    for seed in 1..=20 {
        lock_protocol::mistakes::make(Some(mistake));
        let replayed = replay(seed, &mut BTreeMap::new()).await;
        lock_protocol::mistakes::make(None);
        if let Err(parted) = replayed {
            return parted;
        }
    }
    panic!("the replay does not notice {mistake:?}");
}

macro_rules! the_replay_notices {
    ($($test:ident: $mistake:ident, $sign:literal;)*) => {
        $(
            #[cfg(lock_mistakes)]
            #[tokio::test]
            async fn $test() {
                let parted = parts_with(lock_protocol::mistakes::Mistake::$mistake).await;
                assert!(parted.what.contains($sign), "{parted}");
            }
        )*
    };
}

the_replay_notices! {
    a_hand_over_without_a_lease_is_noticed: HandOverWithoutLease, "lease";
    a_release_that_does_not_compare_is_noticed: ReleaseWithoutCompare, "answer is NotHeld";
    a_renewal_that_does_not_compare_is_noticed: RenewWithoutCompare, "answer is Lost";
    a_release_that_forgets_the_queue_is_noticed: ReleaseForgetsQueue, "owner";
    a_free_lock_that_anyone_takes_is_noticed: FreeForAnyone, "answer is Queued";
    tokens_without_time_are_noticed: TokensWithoutTime, "after the token";
    a_hand_over_with_the_old_token_is_noticed: HandOverKeepsToken, "after the token";
    a_repeated_acquire_that_queues_again_is_noticed: RepeatQueuesAgain, "queue";
    an_acquire_that_does_not_know_its_own_claim_is_noticed: OwnerNotRecognised, "answer is Granted";
    an_abandon_that_only_leaves_the_queue_is_noticed: AbandonOnlyLeavesQueue, "owner";
    an_abandon_that_forgets_the_queue_is_noticed: AbandonForgetsQueue, "owner";
}

/// Replays the history of a seed, and counts what was in it.
async fn replay(seed: u64, counts: &mut BTreeMap<String, u32>) -> Result<(), Parted> {
    let plan = Plan {
        steps: 4_000,
        ..Plan::new(seed)
    };
    let (_, entries) = transcribe(&plan);
    let server = Server::start();
    let mut replay = Replay {
        admin: server.client(),
        server,
        processes: HashMap::new(),
        owners: HashMap::from([(OwnerToken::new(THIEF), OwnerToken::new(THIEF))]),
        claims: HashMap::new(),
        kept: HashMap::new(),
        tokens: HashMap::new(),
        counts,
    };
    for (place, entry) in entries.iter().enumerate() {
        // The script looks by itself for a process that is there.
        let goes_on = entries.get(place + 1).is_some_and(Replay::is_skip);
        if let Err(what) = replay.step(entry, goes_on).await {
            let entries = entries[..=place].iter().filter(|it| it.key == entry.key);
            let mut last: Vec<Entry> = entries.rev().take(8).cloned().collect();
            last.reverse();
            return Err(Parted { what, last });
        }
    }
    Ok(())
}

/// The pure store and the real one have parted.
#[derive(Debug)]
struct Parted {
    what: String,
    last: Vec<Entry>,
}

impl fmt::Display for Parted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, after", self.what)?;
        let mut last = self.last.iter();
        last.try_for_each(|Entry { what, after, .. }| writeln!(f, "  {what:?}\n    {after:?}"))
    }
}

/// A backend, and who hears its news.
struct Process {
    backend: RedisBackend,
    inbox: Arc<Inbox>,
}

struct Replay<'a> {
    server: Server,
    admin: redis::Connection,
    processes: HashMap<Way, Process>,
    /// What the claims are called there, since a server knows ours by their owner tokens.
    owners: HashMap<OwnerToken, OwnerToken>,
    /// The claims as they were first asked for.
    claims: HashMap<OwnerToken, Claim>,
    /// What was kept of each key after what happened last.
    kept: HashMap<usize, Kept>,
    tokens: HashMap<usize, Tokens>,
    counts: &'a mut BTreeMap<String, u32>,
}

/// The tokens of a key, which each store makes of its own time.
#[derive(Default)]
struct Tokens {
    /// The first of each grant, as it is in the history and as it really is.
    first: HashMap<OwnerToken, (u64, u64)>,
    /// The highest there was.
    simulated: u64,
    real: u64,
}

impl Tokens {
    /// In both, a grant has larger tokens than all before, and one that is repeated no smaller ones
    /// than at first.
    fn compare(
        &mut self,
        owner: &OwnerToken,
        simulated: FenceBlock,
        real: FenceBlock,
    ) -> Result<(), String> {
        let grows = |first: u64, before: Option<u64>, highest: u64| {
            let is_one = first > highest || before.is_some_and(|before| first >= before);
            let text = || format!("the token is {first}, after the token {highest}");
            is_one.then_some(()).ok_or_else(text)
        };
        let (first, there) = (simulated.first.as_u64(), real.first.as_u64());
        let known = self.first.get(owner).copied();
        grows(first, known.map(|it| it.0), self.simulated)?;
        grows(there, known.map(|it| it.1), self.real)?;
        self.first.entry(owner.clone()).or_insert((first, there));
        self.simulated = self.simulated.max(simulated.last.as_u64());
        self.real = self.real.max(real.last.as_u64());
        Ok(())
    }
}

impl Replay<'_> {
    fn is_skip(entry: &Entry) -> bool {
        matches!(&entry.what, Event::Asked(asked) if matches!(asked.question, Body::Skip(_)))
    }

    /// Lets happen on the server what happened in the history, and compares.
    async fn step(&mut self, entry: &Entry, goes_on: bool) -> Result<(), String> {
        let Entry {
            key,
            before,
            what,
            after,
        } = entry;
        let name = LockKey::new("", &format!("k{key}")).unwrap();
        if !Replay::is_skip(entry) {
            self.let_time_pass(*key, &name, before);
        }
        match what {
            Event::Asked(asked) => {
                let is_unseen = before.owner.is_none() && !before.queue.is_empty();
                let looks = matches!(asked.question, Body::Acquire(_) | Body::Skip(_));
                if is_unseen && !looks {
                    // In the pure store every question notices that a lease has run out.
                    self.look(&name).await;
                }
                self.ask(*key, &name, asked).await?;
                if !goes_on {
                    for (way, owner, grant) in &asked.told {
                        self.hear(*way, *key, owner, *grant).await?;
                    }
                }
            }
            Event::Stolen => {
                self.count("stolen");
                self.run::<()>(&["SET", name.stored(), THIEF]);
                self.server.forgive(name.stored());
            }
            Event::TheftEnds => {
                self.count("theft ends");
                self.run::<()>(&["DEL", name.stored()]);
            }
            Event::DataLost => {
                self.count("data lost");
                self.run::<()>(&["FLUSHALL"]);
                self.kept.clear();
                // It takes longer than a block has microseconds.
                let highest = self.tokens.values().map(|it| it.real).max();
                while highest.is_some_and(|highest| self.micros() <= highest) {}
            }
        }
        self.kept.insert(*key, after.clone());
        if goes_on {
            Ok(())
        } else {
            self.compare(&name, after)
        }
    }

    /// Deletes what has run out since the last time.
    fn let_time_pass(&mut self, key: usize, name: &LockKey, before: &Kept) {
        let last = self.kept.remove(&key).unwrap_or_default();
        if last.owner.is_some() && last.owner != before.owner {
            self.count("run out");
            self.run::<()>(&["DEL", name.stored()]);
        }
        let queue = queue_of(name);
        let waiting = self.owners(&before.queue);
        for member in self.run::<Vec<String>>(&["ZRANGE", &queue, "0", "-1"]) {
            if !waiting.iter().any(|it| it.as_str() == owner_of(&member)) {
                self.count("forgotten");
                self.run::<()>(&["ZREM", &queue, &member]);
            }
        }
    }

    /// Somebody comes by, who does not wait.
    async fn look(&mut self, name: &LockKey) {
        let passer_by = Claim::new(name.clone(), OwnerToken::new("passer-by"), SOON);
        let process = self.process((usize::MAX, 0)).await;
        let acquired = process.backend.acquire(&passer_by).await.unwrap();
        if let Acquired::Granted(_) = acquired {
            process.backend.abandon(&passer_by).await.unwrap();
        }
    }

    async fn ask(&mut self, key: usize, name: &LockKey, asked: &Asked) -> Result<(), String> {
        let Asked {
            way,
            question,
            answer,
            ..
        } = asked;
        let way = *way;
        let failed = |error| format!("{question:?}: {error:?}");
        match (question, answer) {
            (Body::Acquire(claim), Reply::Acquired(simulated)) => {
                let claim = self.claim(claim);
                let backend = &self.process(way).await.backend;
                let real = backend.acquire(&claim).await.map_err(failed)?;
                self.count(&format!("acquire {}", word(&real)));
                if let (false, Acquired::Queued(_), Acquired::Taken(_)) =
                    (claim.queue, simulated, &real)
                {
                    // A late question from before the claim waited. Nobody hears the answer.
                    return Ok(());
                }
                self.compare_acquired(key, &claim.owner, simulated, &real)
            }
            (Body::Release(release), Reply::Released(simulated)) => {
                let next = release.next.as_ref().map(|next| self.claim(next));
                let release =
                    Release::new(name.clone(), self.owner(&release.owner)).then(next.clone());
                let backend = &self.process(way).await.backend;
                let real = backend.release(&release).await.map_err(failed)?;
                match (simulated, &real, next) {
                    (
                        Released::Released(Some(simulated)),
                        Released::Released(Some(real)),
                        Some(next),
                    ) => {
                        self.count(&format!("release released, {}", word(real)));
                        self.compare_acquired(key, &next.owner, simulated, real)
                    }
                    (simulated, real, _) if simulated == real => {
                        let is_held = *real != Released::NotHeld;
                        self.count(if is_held {
                            "release released"
                        } else {
                            "release not held"
                        });
                        Ok(())
                    }
                    _ => Err(format!("the answer is {real:?}, not {simulated:?}")),
                }
            }
            (Body::Renew(renewal), Reply::Renewed(simulated)) => {
                let mut renewal = renewal.clone();
                renewal.ttl *= SLOWER;
                renewal.owner = self.owner(&renewal.owner);
                let owner = renewal.owner.clone();
                let backend = &self.process(way).await.backend;
                let real = backend.renew(&[renewal]).await.remove(0).map_err(failed)?;
                match (simulated, &real) {
                    (Renewed::Held(simulated), Renewed::Held(real)) => {
                        self.count("renew held");
                        match (simulated.tokens, real.tokens) {
                            (Some(simulated), Some(real)) => self
                                .tokens
                                .entry(key)
                                .or_default()
                                .compare(&owner, simulated, real),
                            (None, None) => Ok(()),
                            (_, real) => Err(format!("the answer has the tokens {real:?}")),
                        }
                    }
                    (Renewed::Lost(_), Renewed::Lost(_)) => {
                        self.count("renew lost");
                        Ok(())
                    }
                    _ => Err(format!("the answer is {real:?}, not {simulated:?}")),
                }
            }
            (Body::Abandon(owner, in_doubt), _) => {
                self.count("abandon");
                self.abandon(way, name, owner, *in_doubt)
                    .await
                    .map_err(failed)
            }
            (Body::GiveBack(owner), _) => {
                self.count("give back");
                self.abandon(way, name, owner, false).await.map_err(failed)
            }
            (Body::Skip(owner), _) => {
                self.count("skip");
                self.abandon(way, name, owner, false).await.map_err(failed)
            }
            _ => unreachable!("an answer to another question"),
        }
    }

    async fn abandon(
        &mut self,
        way: Way,
        name: &LockKey,
        owner: &OwnerToken,
        in_doubt: bool,
    ) -> Result<(), lock_runtime::backend::BackendError> {
        let known = self.claims.get(owner).cloned();
        let mut claim = known.unwrap_or_else(|| Claim::new(name.clone(), self.owner(owner), SOON));
        claim.in_doubt = in_doubt;
        self.process(way).await.backend.abandon(&claim).await
    }

    fn compare_acquired(
        &mut self,
        key: usize,
        owner: &OwnerToken,
        simulated: &Acquired,
        real: &Acquired,
    ) -> Result<(), String> {
        let is_same = |one: &Holder, other: &Holder| {
            (one.foreign, one.silent, one.remaining.is_some())
                == (other.foreign, other.silent, other.remaining.is_some())
        };
        match (simulated, real) {
            (Acquired::Granted(simulated), Acquired::Granted(real)) => {
                self.compare_grants(key, owner, simulated, real)
            }
            (Acquired::Queued(one), Acquired::Queued(other))
            | (Acquired::Taken(one), Acquired::Taken(other))
                if is_same(one, other) =>
            {
                Ok(())
            }
            _ => Err(format!("the answer is {real:?}, not {simulated:?}")),
        }
    }

    fn compare_grants(
        &mut self,
        key: usize,
        owner: &OwnerToken,
        simulated: &Grant,
        real: &Grant,
    ) -> Result<(), String> {
        if real.valid_for != simulated.valid_for * SLOWER {
            return Err(format!("the lease is {real:?}, not {simulated:?}"));
        }
        let tokens = self.tokens.entry(key).or_default();
        tokens.compare(owner, simulated.tokens, real.tokens)
    }

    /// The claim is told that it was handed the lock.
    async fn hear(
        &mut self,
        way: Way,
        key: usize,
        owner: &OwnerToken,
        simulated: Grant,
    ) -> Result<(), String> {
        self.count("hand-over");
        let claim = self.claims[owner].clone();
        let inbox = Arc::clone(&self.process(way).await.inbox);
        let highest = self.tokens.get(&key).map_or(0, |it| it.real);
        let listen = async {
            loop {
                match inbox.changed(&claim).await {
                    // One that was skipped before may lie there still.
                    Told::Granted { grant, .. } if grant.tokens.first.as_u64() > highest => {
                        return grant;
                    }
                    Told::Granted { .. } | Told::Ask => {}
                }
            }
        };
        let told = timeout(SOON, listen).await;
        let real = told.map_err(|_| format!("{owner} is not told that it is the owner"))?;
        self.compare_grants(key, &claim.owner, &simulated, &real)
    }

    /// The owner and its ttl, and the queue.
    fn compare(&mut self, name: &LockKey, kept: &Kept) -> Result<(), String> {
        let owner: Option<String> = self.run(&["GET", name.stored()]);
        let simulated = kept.owner.as_ref().map(|owner| self.owner(owner));
        if owner.as_deref() != simulated.as_ref().map(OwnerToken::as_str) {
            return Err(format!("the owner is {owner:?}, not {simulated:?}"));
        }
        let ttl: i64 = self.run(&["PTTL", name.stored()]);
        if (ttl >= 0) != kept.is_leased {
            return Err(format!("the lease has a ttl of {ttl} ms"));
        }
        let members: Vec<String> = self.run(&["ZRANGE", &queue_of(name), "0", "-1"]);
        let real: Vec<&str> = members.iter().map(|it| owner_of(it)).collect();
        let simulated = self.owners(&kept.queue);
        if real != simulated.iter().map(OwnerToken::as_str).collect::<Vec<_>>() {
            return Err(format!("the queue is {real:?}, not {simulated:?}"));
        }
        Ok(())
    }

    /// The claim as the server is to know it.
    fn claim(&mut self, claim: &Claim) -> Claim {
        let mut slow = claim.clone();
        slow.owner = self.owner(&claim.owner);
        slow.ttl *= SLOWER;
        slow.grace *= SLOWER;
        slow.heartbeat *= SLOWER;
        // They are asked in this order, by one connection.
        slow.number = 0;
        let known = self.claims.entry(claim.owner.clone());
        known.or_insert_with(|| slow.clone()).queue |= slow.queue;
        slow
    }

    fn owner(&mut self, simulated: &OwnerToken) -> OwnerToken {
        let owner = self.owners.entry(simulated.clone());
        owner
            .or_insert_with(|| OwnerToken::unique(simulated.as_str()))
            .clone()
    }

    fn owners(&mut self, simulated: &[OwnerToken]) -> Vec<OwnerToken> {
        simulated.iter().map(|owner| self.owner(owner)).collect()
    }

    async fn process(&mut self, way: Way) -> &Process {
        if !self.processes.contains_key(&way) {
            let backend = connect(&self.server).await;
            let inbox = Inbox::of(&backend);
            self.processes.insert(way, Process { backend, inbox });
        }
        &self.processes[&way]
    }

    fn run<T: redis::FromRedisValue>(&mut self, command: &[&str]) -> T {
        let mut cmd = redis::cmd(command[0]);
        cmd.arg(&command[1..]).query(&mut self.admin).unwrap()
    }

    /// The time as the server has it.
    fn micros(&mut self) -> u64 {
        let (seconds, micros): (u64, u64) = self.run(&["TIME"]);
        seconds * 1_000_000 + micros
    }

    fn count(&mut self, what: &str) {
        *self.counts.entry(what.to_owned()).or_default() += 1;
    }
}

fn word(acquired: &Acquired) -> &'static str {
    match acquired {
        Acquired::Granted(_) => "granted",
        Acquired::Queued(_) => "queued",
        _ => "taken",
    }
}

fn queue_of(name: &LockKey) -> String {
    format!("{{{}}}:waiters", name.stored())
}

/// The owner token in a member of the queue.
fn owner_of(member: &str) -> &str {
    member.rsplitn(9, '/').last().unwrap_or("")
}
