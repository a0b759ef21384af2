//! The pure store against the Redis backend: what the machines of simulated histories ask a store,
//! in the order in which it took that, is asked of a real server, and every answer, every message
//! of a hand-over, the owner, its ttl and the queue are what the pure store has. Of leases that go
//! together so are the marker, its time to live, and each holder, its end and its shard.
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
    Acquired, Backend, Claim, Contended, FenceBlock, Grant, Holder, LockKey, Mode, OwnerToken,
    Released, Renewed,
};
use lock_runtime::redis::RedisBackend;
use lock_simulation::transcript::{Asked, Entry, Event, Kept, Leased};
use lock_simulation::{Body, Plan, Reply, THIEF, Way, transcribe};
use lock_tests::redis_store::connect;
use lock_tests::server::Server;
use tokio::time::timeout;

/// By how much longer than in the history everything lives.
const SLOWER: u32 = 1_000;
/// By when a message has come.
const SOON: Duration = Duration::from_secs(10);

/// The holders of a lock as they are at one instant: the time, the lock and the times to live of it
/// and of the holders, which are followed by their ends.
const LOOK: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return {now, redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1]), redis.call('PTTL', KEYS[2]),
        redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')}";
/// By how many milliseconds times to live may differ: a busy machine stops a script between the
/// instant from which they count and that at which it reads the time. Mistakes make it seconds.
const ROUNDING: u64 = 500;

#[tokio::test]
async fn the_redis_backend_answers_as_the_simulated_store_does() {
    let mut replayed = BTreeMap::new();
    for seed in 1..=12 {
        if let Err(parted) = replay(&Plan::new(seed), &mut replayed).await {
            panic!("seed {seed}: {parted}");
        }
    }
    // The histories are worth it: every question, with every answer to it.
    assert_replayed(
        &replayed,
        &[
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
        ],
    );
}

#[tokio::test]
async fn the_redis_backend_grants_together_what_the_simulated_store_does() {
    let mut replayed = BTreeMap::new();
    for seed in 1..=8 {
        if let Err(parted) = replay(&Plan::company(seed), &mut replayed).await {
            panic!("seed {seed}: {parted}");
        }
    }
    assert_replayed(
        &replayed,
        &[
            "Exclusive granted",
            "Shared granted",
            "Permits granted",
            "Shard granted",
            "Exclusive queued",
            "Shared queued",
            "Permits queued",
            "Shard queued",
            "Shared handed over",
            "Permits handed over",
            "Shard handed over",
            "several served at once",
            "release released",
            "release not held",
            "kept",
            "abandon",
            "give back",
            "renew held",
            "renew lost",
            "run out",
            "evicted",
            "data lost",
        ],
    );
}

fn assert_replayed(replayed: &BTreeMap<String, u32>, kinds: &[&str]) {
    println!("{replayed:?}");
    for kind in kinds {
        let times = replayed.get(*kind).copied().unwrap_or(0);
        assert!(times >= 10, "{kind} only {times} times: {replayed:?}");
    }
}

/// What is noticed of a mistake in the pure store, which the server does not make.
#[cfg(lock_mistakes)]
async fn parts_with(mistake: lock_protocol::mistakes::Mistake, plan: fn(u64) -> Plan) -> Parted {
    for seed in 1..=20 {
        lock_protocol::mistakes::make(Some(mistake));
        let replayed = replay(&plan(seed), &mut BTreeMap::new()).await;
        lock_protocol::mistakes::make(None);
        if let Err(parted) = replayed {
            return parted;
        }
    }
    panic!("the replay does not notice {mistake:?}");
}

macro_rules! the_replay_notices {
    ($plan:path; $($test:ident: $mistake:ident, $sign:literal;)*) => {
        $(
            #[cfg(lock_mistakes)]
            #[tokio::test]
            async fn $test() {
                let mistake = lock_protocol::mistakes::Mistake::$mistake;
                let parted = parts_with(mistake, $plan).await;
                assert!(parted.what.contains($sign), "{parted}");
            }
        )*
    };
}

the_replay_notices! {
    Plan::new;
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

the_replay_notices! {
    Plan::company;
    a_ttl_for_all_holders_is_noticed: WholeSetTtl, "ends";
    a_renewal_of_others_is_noticed: RenewsOthers, "ends";
    a_batch_of_one_is_noticed: BatchOfOne, "holders";
    a_tail_of_a_batch_that_is_forgotten_is_noticed: BatchTailForgotten, "holders";
    a_reader_that_passes_a_writer_is_noticed: ReaderPassesWriter, "answer is Queued";
    holders_that_outlive_their_marker_are_noticed: MarkerLostHoldersKept, "not a marker";
    a_shard_that_two_have_is_noticed: ShardTwice, "shard";
}

/// Replays a history, and counts what was in it.
async fn replay(plan: &Plan, counts: &mut BTreeMap<String, u32>) -> Result<(), Parted> {
    let plan = Plan {
        steps: 4_000,
        ..plan.clone()
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
        ends: HashMap::new(),
        touched: Vec::new(),
        since: 0,
        told: Vec::new(),
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
    /// When the leases end there that go together, in milliseconds of the server's time.
    ends: HashMap<(usize, OwnerToken), u64>,
    /// What has been done to leases since they were compared last, and since when.
    touched: Vec<(OwnerToken, Touch)>,
    since: u64,
    /// What is to be told that has not been looked for.
    told: Vec<(Way, OwnerToken, Grant)>,
    counts: &'a mut BTreeMap<String, u32>,
}

/// What is done to the end of a lease.
#[derive(Clone, Copy, Debug)]
enum Touch {
    /// It lives for so long at least.
    Granted(Duration),
    /// It lives for so long.
    Renewed(Duration),
    /// It lives for so long at the most.
    Kept(Duration),
}

/// The tokens of a key, which each store makes of its own time.
#[derive(Default)]
struct Tokens {
    /// The first of each grant, as it is in the history and as it really is.
    first: HashMap<OwnerToken, (u64, u64)>,
    /// The highest there was.
    simulated: u64,
    real: u64,
    /// The highest before what happens now. Of several permits or shards that are granted at once,
    /// which exclude nobody, any may have the larger token.
    before: (u64, u64),
    /// That of those who share the key, or shared it last.
    phase: (u64, u64),
}

impl Tokens {
    /// Above which tokens those of a grant in this mode are, in both.
    fn highest(&self, mode: Mode) -> (u64, u64) {
        match mode {
            Mode::Permits { .. } | Mode::Shard { .. } => self.before,
            _ => (self.simulated, self.real),
        }
    }

    /// In both, a grant has larger tokens than all before, and one that is repeated no smaller ones
    /// than at first.
    fn compare(
        &mut self,
        owner: &OwnerToken,
        mode: Mode,
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
        let (simulated_before, real_before) = self.highest(mode);
        grows(first, known.map(|it| it.0), simulated_before)?;
        grows(there, known.map(|it| it.1), real_before)?;
        self.first.entry(owner.clone()).or_insert((first, there));
        self.simulated = self.simulated.max(simulated.last.as_u64());
        self.real = self.real.max(real.last.as_u64());
        Ok(())
    }

    /// In both, who shares the key has the token of those who do, or a larger one than all before.
    fn compare_shared(&mut self, simulated: FenceBlock, real: FenceBlock) -> Result<(), String> {
        let (first, there) = (simulated.first.as_u64(), real.first.as_u64());
        let is_new = first > self.simulated && there > self.real;
        if !is_new && self.phase != (first, there) {
            let (simulated, real) = (self.simulated, self.real);
            return Err(format!(
                "the token is {there}, after the token {real}, and {first}, after {simulated}"
            ));
        }
        self.phase = (first, there);
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
        if self.touched.is_empty() && self.told.is_empty() {
            self.since = self.micros() / 1_000;
            for tokens in self.tokens.values_mut() {
                tokens.before = (tokens.simulated, tokens.real);
            }
        }
        match what {
            Event::Asked(asked) => {
                // Nothing is done for a claim that was withdrawn before.
                let is_withdrawn = matches!(&asked.answer,
                    Reply::Acquired(Acquired::Taken(holder)) if holder.remaining == Some(Duration::ZERO));
                let looks = matches!(asked.question, Body::Acquire(_) | Body::Skip(_));
                let looks = looks && !is_withdrawn;
                if let Some(mode) = before.unserved.filter(|_| !looks) {
                    // In the pure store every question notices that a lease has run out.
                    self.look(&name, mode).await;
                }
                self.ask(*key, &name, asked).await?;
                if let Body::Skip(owner) = &asked.question {
                    self.told.retain(|(_, told, _)| told != owner);
                }
                let served = asked.told.iter().cloned();
                self.told.extend(served);
                if asked.told.len() > 1 {
                    self.count("several served at once");
                }
                if !goes_on {
                    for (way, owner, grant) in std::mem::take(&mut self.told) {
                        self.hear(way, *key, &owner, grant).await?;
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
            Event::Evicted => {
                self.count("evicted");
                self.run::<()>(&["DEL", name.stored()]);
            }
            Event::DataLost => {
                self.count("data lost");
                self.run::<()>(&["FLUSHALL"]);
                self.kept.clear();
                self.ends.clear();
                // It takes longer than a block has microseconds.
                let highest = self.tokens.values().map(|it| it.real).max();
                while highest.is_some_and(|highest| self.micros() <= highest) {}
            }
        }
        self.kept.insert(*key, after.clone());
        if goes_on {
            return Ok(());
        }
        let touched = std::mem::take(&mut self.touched);
        if let Event::Asked(_) = what {
            compare_untouched(before, after, &touched)?;
        }
        self.compare(*key, &name, after, &touched)
    }

    /// Deletes what has run out since the last time. Of leases that go together it stays, as one
    /// whose end is past.
    fn let_time_pass(&mut self, key: usize, name: &LockKey, before: &Kept) {
        let last = self.kept.remove(&key).unwrap_or_default();
        let is_there = |lease: &Leased| before.leases.iter().any(|it| it.owner == lease.owner);
        let mut has_run_out = false;
        for lease in last.leases.iter().filter(|lease| !is_there(lease)) {
            self.count("run out");
            has_run_out = true;
            self.ends.remove(&(key, lease.owner.clone()));
            for member in self.members(lease) {
                self.run::<()>(&["ZADD", &holders_of(name), "XX", "1", &member]);
            }
        }
        if has_run_out && before.leases.is_empty() {
            self.run::<()>(&["DEL", name.stored(), &holders_of(name)]);
        } else if has_run_out && !self.ends.is_empty() {
            let ends = self.ends.iter().filter(|((of, _), _)| *of == key);
            let last = ends.map(|(_, ends)| *ends).max().unwrap_or(0).to_string();
            self.run::<()>(&["PEXPIREAT", name.stored(), &last]);
            self.run::<()>(&["PEXPIREAT", &holders_of(name), &last]);
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

    /// Somebody comes by who wants what the first wants, and does not wait.
    async fn look(&mut self, name: &LockKey, mode: Mode) {
        let mut passer_by = Claim::new(name.clone(), OwnerToken::new("passer-by"), SOON);
        passer_by.mode = mode;
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
                self.count(&format!("{:?} {}", claim.mode.kind(), word(&real)));
                if let (false, Acquired::Queued(_), Acquired::Taken(_)) =
                    (claim.queue, simulated, &real)
                {
                    // A late question from before the claim waited. Nobody hears the answer.
                    return Ok(());
                }
                self.touches_granted(question, simulated);
                self.compare_acquired(key, &claim, simulated, &real)
            }
            (Body::Release(release), Reply::Released(simulated)) => {
                let next = release.next.as_ref().map(|next| self.claim(next));
                if let Released::Released(Some(simulated)) = simulated {
                    self.touches_granted(question, simulated);
                }
                if let (Some(keep), Released::Released(_)) = (release.keep, simulated) {
                    self.count("kept");
                    let kept = release.owner.kept();
                    let ends = self.ends.remove(&(key, release.owner.clone()));
                    self.ends
                        .extend(ends.map(|ends| ((key, kept.clone()), ends)));
                    self.touched.push((kept, Touch::Kept(keep)));
                }
                let owner = self.owner(&release.owner);
                let mut release = release.clone();
                (release.key, release.owner, release.number) = (name.clone(), owner, 0);
                release.keep = release.keep.map(|keep| keep * SLOWER);
                let release = release.then(next.clone());
                let backend = &self.process(way).await.backend;
                let real = backend.release(&release).await.map_err(failed)?;
                match (simulated, &real, next) {
                    (
                        Released::Released(Some(simulated)),
                        Released::Released(Some(real)),
                        Some(next),
                    ) => {
                        self.count(&format!("release released, {}", word(real)));
                        self.compare_acquired(key, &next, simulated, real)
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
                if let Renewed::Held(_) = simulated {
                    let touch = Touch::Renewed(renewal.ttl);
                    self.touched.push((renewal.owner.clone(), touch));
                }
                renewal.ttl *= SLOWER;
                renewal.owner = self.owner(&renewal.owner);
                let (owner, mode) = (renewal.owner.clone(), renewal.mode);
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
                                .compare(&owner, mode, simulated, real),
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

    /// Notes what the claim of a question was granted.
    fn touches_granted(&mut self, question: &Body, simulated: &Acquired) {
        let claim = match question {
            Body::Acquire(claim) => Some(claim),
            Body::Release(release) => release.next.as_ref(),
            _ => None,
        };
        if let (Some(claim), Acquired::Granted(grant)) = (claim, simulated) {
            let touch = Touch::Granted(grant.valid_for);
            self.touched.push((claim.owner.clone(), touch));
        }
    }

    fn compare_acquired(
        &mut self,
        key: usize,
        claim: &Claim,
        simulated: &Acquired,
        real: &Acquired,
    ) -> Result<(), String> {
        let is_same = |one: &Holder, other: &Holder| {
            (one.foreign, one.silent, one.remaining.is_some())
                == (other.foreign, other.silent, other.remaining.is_some())
        };
        match (simulated, real) {
            (Acquired::Granted(simulated), Acquired::Granted(real)) => {
                self.compare_grants(key, claim, simulated, real)
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
        claim: &Claim,
        simulated: &Grant,
        real: &Grant,
    ) -> Result<(), String> {
        let is_told = |grant: &Grant| grant.contended != Contended::NotTold;
        let are_told = is_told(simulated) && is_told(real);
        if real.valid_for != simulated.valid_for * SLOWER
            || real.shard != simulated.shard
            || are_told && real.contended != simulated.contended
        {
            return Err(format!("the lease is {real:?}, not {simulated:?}"));
        }
        let tokens = self.tokens.entry(key).or_default();
        match claim.mode {
            Mode::Shared => tokens.compare_shared(simulated.tokens, real.tokens),
            _ => tokens.compare(&claim.owner, claim.mode, simulated.tokens, real.tokens),
        }
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
        let touch = Touch::Granted(simulated.valid_for);
        self.touched.push((owner.clone(), touch));
        let claim = self.claims[owner].clone();
        self.count(&format!("{:?} handed over", claim.mode.kind()));
        let inbox = Arc::clone(&self.process(way).await.inbox);
        let tokens = self.tokens.entry(key).or_default();
        let ((_, highest), phase) = (tokens.highest(claim.mode), tokens.phase.1);
        let is_shared = claim.mode == Mode::Shared;
        let listen = async {
            loop {
                match inbox.changed(&claim).await {
                    Told::Granted { grant, .. } => {
                        let first = grant.tokens.first.as_u64();
                        // One that was skipped before may lie there still.
                        if first > highest || is_shared && first == phase {
                            return grant;
                        }
                    }
                    Told::Ask => {}
                }
            }
        };
        let told = timeout(SOON, listen).await;
        let real = told.map_err(|_| format!("{owner} is not told that it is the owner"))?;
        self.compare_grants(key, &claim, &simulated, &real)
    }

    /// The owner and its ttl, or all who have the lock together, and the queue.
    fn compare(
        &mut self,
        key: usize,
        name: &LockKey,
        kept: &Kept,
        touched: &[(OwnerToken, Touch)],
    ) -> Result<(), String> {
        match kept.leases.first() {
            Some(lease) if lease.mode != Mode::Exclusive => {
                self.compare_holders(key, name, &kept.leases, touched)?;
            }
            lease => {
                self.ends.retain(|(of, _), _| *of != key);
                let owner: Option<String> = self.run(&["GET", name.stored()]);
                let simulated = lease.map(|lease| self.owner(&lease.owner));
                if owner.as_deref() != simulated.as_ref().map(OwnerToken::as_str) {
                    return Err(format!("the owner is {owner:?}, not {simulated:?}"));
                }
                let ttl: i64 = self.run(&["PTTL", name.stored()]);
                if (ttl >= 0) != lease.is_some_and(|lease| lease.left.is_some()) {
                    return Err(format!("the lease has a ttl of {ttl} ms"));
                }
            }
        }
        let members: Vec<String> = self.run(&["ZRANGE", &queue_of(name), "0", "-1"]);
        let real: Vec<&str> = members.iter().map(|it| owner_of(it)).collect();
        let simulated = self.owners(&kept.queue);
        if real != simulated.iter().map(OwnerToken::as_str).collect::<Vec<_>>() {
            return Err(format!("the queue is {real:?}, not {simulated:?}"));
        }
        Ok(())
    }

    /// Who has the lock together, each until when, and for how long the marker says so.
    fn compare_holders(
        &mut self,
        key: usize,
        name: &LockKey,
        leases: &[Leased],
        touched: &[(OwnerToken, Touch)],
    ) -> Result<(), String> {
        type Look = (u64, Option<String>, i64, i64, Vec<String>);
        let holders = holders_of(name);
        let (now, marker, ttl, holders_ttl, members): Look =
            self.run(&["EVAL", LOOK, "2", name.stored(), &holders]);
        let pairs = members.chunks(2);
        let mut real: BTreeMap<String, u64> = pairs
            .map(|pair| (pair[0].clone(), pair[1].parse().unwrap_or(0)))
            .filter(|(_, ends)| *ends > now)
            .collect();
        let kind = match leases[0].mode {
            Mode::Shared => "s:",
            Mode::Permits { .. } => "p:",
            _ => "h:",
        };
        let marker = marker.unwrap_or_default();
        if !marker.starts_with(kind) || !marker.ends_with("/lr-0000000000000000-0-0") {
            return Err(format!("the owner is {marker:?}, not a marker of {kind}"));
        }
        let last = real.values().max().copied().unwrap_or(0);
        let mut ends_there = HashMap::new();
        for lease in leases {
            for member in self.members(lease) {
                let Some(ends) = real.remove(&member) else {
                    return Err(format!("{member} is not among the holders {members:?}"));
                };
                let before = self.ends.get(&(key, lease.owner.clone())).copied();
                let touches = touched.iter().filter(|(owner, _)| *owner == lease.owner);
                let must = touches.fold(before.map(|ends| (ends, ends)), |must, (_, touch)| {
                    Some(touch.done_to(must, self.since, now))
                });
                let Some((from, to)) = must else {
                    return Err(format!("{member} is new among the holders"));
                };
                if !(from..=to).contains(&ends) {
                    return Err(format!(
                        "the lease of {member} ends at {ends}, not from {from} to {to}"
                    ));
                }
                ends_there.insert((key, lease.owner.clone()), ends);
            }
        }
        if !real.is_empty() {
            return Err(format!("{real:?} are among the holders, beside {leases:?}"));
        }
        self.ends.retain(|(of, _), _| *of != key);
        self.ends.extend(ends_there);
        let left = last - now;
        let is_that = |ttl: i64| u64::try_from(ttl).is_ok_and(|ttl| ttl.abs_diff(left) <= ROUNDING);
        let outlive = u64::try_from(holders_ttl).is_ok_and(|ttl| ttl + ROUNDING >= left);
        if !is_that(ttl) || !outlive {
            return Err(format!(
                "the marker lives for {ttl} ms and the holders for {holders_ttl}, and the last of \
                 them ends in {left}"
            ));
        }
        Ok(())
    }

    /// What a lease is among the holders.
    fn members(&mut self, lease: &Leased) -> Vec<String> {
        let owner = self.owner(&lease.owner);
        match lease.mode {
            Mode::Shared => vec![owner.to_string()],
            Mode::Permits { take, .. } => (0..take).map(|at| format!("{at}/{owner}")).collect(),
            Mode::Shard { .. } => vec![format!("{}/{owner}", lease.shard)],
            _ => Vec::new(),
        }
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
        if let Some(keeper) = simulated.as_str().strip_prefix("kept:") {
            return self.owner(&OwnerToken::new(keeper)).kept();
        }
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

/// In the pure store, a question leaves the ends of leases alone that it is not about.
fn compare_untouched(
    before: &Kept,
    after: &Kept,
    touched: &[(OwnerToken, Touch)],
) -> Result<(), String> {
    for lease in &after.leases {
        let mut leases = before.leases.iter();
        let was = leases.find(|it| it.owner == lease.owner);
        let is_touched = touched.iter().any(|(owner, _)| *owner == lease.owner);
        if let Some(was) = was.filter(|was| !is_touched && was.left != lease.left) {
            return Err(format!(
                "a lease ends at another time: {lease:?}, not {was:?}"
            ));
        }
    }
    Ok(())
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

fn holders_of(name: &LockKey) -> String {
    format!("{{{}}}:holders", name.stored())
}

/// The owner token in a member of the queue; behind that of a claim that goes together with others
/// stands what it wants.
fn owner_of(member: &str) -> &str {
    let owner = member.rsplitn(9, '/').last().unwrap_or("");
    match owner.rsplit_once('/') {
        Some((owner, _)) if member.ends_with('c') => owner,
        _ => owner,
    }
}

impl Touch {
    /// The earliest and the latest end of a lease of which these were the ones before, if it is
    /// touched between two instants.
    fn done_to(self, before: Option<(u64, u64)>, since: u64, until: u64) -> (u64, u64) {
        let after = |ttl: Duration| {
            let millis = u64::try_from((ttl * SLOWER).as_millis()).unwrap_or(u64::MAX);
            (since + millis, until + millis)
        };
        match (self, before) {
            (Touch::Granted(ttl), Some((from, to))) => {
                let (first, last) = after(ttl);
                (first.max(from), last.max(to))
            }
            (Touch::Kept(keep), Some((from, to))) => {
                let (first, last) = after(keep);
                (first.min(from), last.min(to))
            }
            (Touch::Granted(ttl) | Touch::Renewed(ttl) | Touch::Kept(ttl), _) => after(ttl),
        }
    }
}
