//! The model against the code: random paths of the model are walked by the Redis backend on a real server, and after every step the owner,
//! the queue and the fencing counter are what the model says.
//!
//! The control: with a mistake in the model, of those that concern the store, the two part.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use lock_conformance::inbox::{Inbox, Told};
use lock_model::{Action, Bug, Claim, Fate, Lost, Protocol, Stage, State};
use lock_runtime::backend;
use lock_runtime::backend::{
    Acquired, Backend, FenceBlock, LockKey, OwnerToken, Release, Released, Renewal, Renewed,
};
use lock_runtime::redis::RedisBackend;
use lock_tests::redis_store::connect;
use lock_tests::server::Server;
use stateright::Model;
use tokio::time::timeout;

/// No lease and no queue of a path ends by itself: what ends is said by the model.
const LONG: Duration = Duration::from_secs(600);
/// By when a message has come, or a connection is seen to be closed.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn the_redis_backend_walks_the_paths_of_the_model() {
    let mut walked = Walked::default();
    let mut replay = Replay::start(3).await;
    for path in 0..1_000u64 {
        // Paths without a fault, too, and such with many.
        let protocol = Protocol {
            callers: vec![3, 2, 1],
            ..Protocol::new(3, u8::try_from(path % 5).unwrap())
        };
        match replay.walk(&protocol, path).await {
            Ok(path) => walked += path,
            Err(parted) => panic!("path {path} parts:\n{parted}"),
        }
    }
    println!("{walked:?}");
    // The paths are worth walking: they are long, and every kind of step that the store takes part in is in them.
    assert!(walked.steps > 15_000, "{walked:?}");
    for kind in [
        "Ask Answered",
        "Ask AnswerLost",
        "Wake",
        "Renew",
        "PassOn",
        "Release Answered",
        "Release AnswerLost",
        "Release RequestLost",
        "Expire",
        "Cancel Answered",
        "Cancel RequestLost",
        "Cancel Late",
        "Arrive",
        "Crash",
        "Pause",
        "LoseMessage",
        "Lapse",
        "Lose Everything",
        "Lose Lock",
        "Lose Queue",
        "Lose Fence",
    ] {
        let times = walked.kinds.get(kind).copied().unwrap_or(0);
        assert!(times >= 10, "{kind} only {times} times: {walked:?}");
    }
}

/// The path of a model with this mistake on which the code, which does not have it, parts from it.
async fn parts_from(bug: Bug) -> Parted {
    let mut replay = Replay::start(3).await;
    for seed in 0..2_000 {
        let protocol = Protocol {
            callers: vec![3, 2, 1],
            ..Protocol::new(3, 3).with(bug)
        };
        if let Err(parted) = replay.walk(&protocol, seed).await {
            return parted;
        }
    }
    panic!("the replay does not notice {bug:?}");
}

macro_rules! the_replay_notices {
    ($($test:ident: $bug:ident, $sign:literal;)*) => {
        $(
            #[tokio::test]
            async fn $test() {
                let parted = parts_from(Bug::$bug).await;
                assert!(parted.what.contains($sign), "{parted}");
            }
        )*
    };
}

the_replay_notices! {
    a_hand_over_without_a_lease_is_noticed: HandOffWithoutLease, "lease";
    a_release_that_does_not_compare_is_noticed: ReleaseWithoutCompare, "owner";
    a_renewal_that_does_not_compare_is_noticed: RenewWithoutCompare, "owner";
    a_release_that_forgets_the_queue_is_noticed: ReleaseForgetsQueue, "owner";
    a_free_lock_that_anyone_takes_is_noticed: FreeForAnyone, "answer is Queued";
    tokens_without_time_are_noticed: TokensWithoutTime, "after the token";
    a_hand_over_with_the_old_token_is_noticed: HandOffKeepsToken, "after the token";
    a_repeated_acquire_that_queues_again_is_noticed: RepeatQueuesAgain, "queue";
    an_acquire_that_does_not_know_its_own_claim_is_noticed: OwnerNotRecognised, "answer is Granted";
    an_abandon_that_only_leaves_the_queue_is_noticed: AbandonOnlyLeavesQueue, "owner";
    an_abandon_that_forgets_the_queue_is_noticed: AbandonForgetsQueue, "owner";
}

/// A server, and the processes of the model as backends of it.
struct Replay {
    server: Server,
    admin: redis::Connection,
    /// `None` where a process has crashed.
    backends: Vec<Option<Process>>,
}

/// A backend, and who hears its news.
struct Process {
    backend: RedisBackend,
    inbox: Arc<Inbox>,
}

/// What was walked.
#[derive(Debug, Default)]
struct Walked {
    steps: usize,
    kinds: BTreeMap<String, usize>,
}

impl Walked {
    fn note(&mut self, action: Action) {
        self.steps += 1;
        *self.kinds.entry(kind(action)).or_default() += 1;
    }
}

impl AddAssign for Walked {
    fn add_assign(&mut self, other: Walked) {
        self.steps += other.steps;
        for (kind, number) in other.kinds {
            *self.kinds.entry(kind).or_default() += number;
        }
    }
}

/// The model and the code have parted.
#[derive(Debug)]
struct Parted {
    what: String,
    path: Vec<Action>,
    model: State,
}

impl fmt::Display for Parted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.what)?;
        self.path
            .iter()
            .try_for_each(|step| writeln!(f, "  {step:?}"))?;
        write!(f, "{:#?}", self.model)
    }
}

impl Replay {
    async fn start(processes: usize) -> Replay {
        let server = Server::start();
        let admin = server.client();
        let mut replay = Replay {
            server,
            admin,
            backends: Vec::new(),
        };
        replay.backends.resize_with(processes, || None);
        replay
    }

    /// Walks one random path to its end, with a key of its own.
    async fn walk(&mut self, protocol: &Protocol, seed: u64) -> Result<Walked, Parted> {
        for backend in &mut self.backends {
            if backend.is_none() {
                let connected = connect(&self.server).await;
                *backend = Some(Process {
                    inbox: Inbox::of_claims(&connected, []),
                    backend: connected,
                });
            }
        }
        let bug = protocol.bug.map_or(String::new(), |bug| format!("{bug:?}"));
        let key = LockKey::new("lock:", &format!("path:{bug}:{seed}")).unwrap();
        let mut walk = Walk {
            replay: self,
            protocol,
            key,
            claims: HashMap::new(),
            awaited: HashSet::new(),
            fences: HashMap::new(),
            highest: Highest::default(),
        };
        let mut rng = Rng::with_seed(seed);
        let mut walked = Walked::default();
        let mut path = Vec::new();
        let mut state = protocol.init_states().remove(0);
        while let Some((action, next)) = walk.choose(&mut rng, &state) {
            path.push(action);
            let step = walk.step(&state, action, &next).await;
            if let Err(what) = step {
                return Err(Parted {
                    what,
                    path,
                    model: next,
                });
            }
            walked.note(action);
            state = next;
        }
        Ok(walked)
    }

    fn run<T: redis::FromRedisValue>(&mut self, command: &[&str]) -> T {
        let mut cmd = redis::cmd(command[0]);
        cmd.arg(&command[1..]).query(&mut self.admin).unwrap()
    }

    /// How many backends the server has a subscription of.
    fn listening(&mut self) -> usize {
        self.run::<Vec<String>>(&["PUBSUB", "CHANNELS"]).len()
    }
}

/// One path.
struct Walk<'a> {
    replay: &'a mut Replay,
    protocol: &'a Protocol,
    key: LockKey,
    claims: HashMap<Claim, backend::Claim>,
    /// The claims that a backend keeps news for: all that were sent and have not been told that they own the lock.
    awaited: HashSet<Claim>,
    /// For each grant of the model its last token, as it really is.
    fences: HashMap<u8, u64>,
    /// The highest fencing counter there was.
    highest: Highest,
}

#[derive(Default)]
struct Highest {
    model: u8,
    real: u64,
}

impl Walk<'_> {
    /// The next step, and where it leads.
    fn choose(&self, rng: &mut Rng, state: &State) -> Option<(Action, State)> {
        let mut steps: Vec<(Action, State)> = self
            .protocol
            .next_steps(state)
            .into_iter()
            .filter(|(action, _)| !is_left_out(*action, state))
            .collect();
        if let Some(urgent) = self.urgent(state) {
            return steps.into_iter().find(|(action, _)| *action == urgent);
        }
        // Faults come up by themselves more often than not; a path of nothing but faults is short.
        if rng.u8(..) > 64 && steps.iter().any(|(_, next)| next.faults == state.faults) {
            steps.retain(|(_, next)| next.faults == state.faults);
        }
        // First the kind, so that the rare ones are not drowned by the common.
        let kinds: BTreeSet<String> = steps.iter().map(|(action, _)| kind(*action)).collect();
        let chosen = rng.choice(kinds)?;
        steps.retain(|(action, _)| kind(*action) == chosen);
        rng.choice(steps)
    }

    /// What the code does at once, where the model says "at some time": the backend gives back what it does not await, and who knows nothing
    /// of its next claim asks.
    fn urgent(&self, state: &State) -> Option<Action> {
        state.processes.iter().enumerate().find_map(|(p, process)| {
            let claim = |number| Claim { process: p, number };
            let awaits = |number| self.awaited.contains(&claim(number));
            let present = claim(process.claim);
            let asks = process.stage == Stage::Waiting
                && !awaits(process.claim)
                && state.store.queue.contains(&present);
            if asks {
                return Some(Action::Ask(p, Fate::Answered));
            }
            let unread = &process.inbox;
            let unawaited = unread.iter().any(|hint| !awaits(hint.number));
            unawaited.then_some(Action::Wake(p))
        })
    }

    /// Does on the server what the model did, and compares.
    async fn step(&mut self, from: &State, action: Action, to: &State) -> Result<(), String> {
        let heard = self.act(from, action, to).await?;
        if self
            .urgent(to)
            .is_some_and(|next| matches!(next, Action::Wake(_)))
        {
            // The backend is about to give it back, or has already: the model does so in the next step.
            return Ok(());
        }
        let deadline = Instant::now() + if heard { Duration::ZERO } else { SOON };
        loop {
            match self.compare(to) {
                Err(_) if Instant::now() < deadline => tokio::task::yield_now().await,
                compared => break compared?,
            }
        }
        self.compare_fence(to)
    }

    /// Whether the code is done with it at the end; if not, it goes on in the background.
    async fn act(&mut self, from: &State, action: Action, to: &State) -> Result<bool, String> {
        let holds = |p: usize| matches!(to.processes[p].stage, Stage::Holding(_));
        match action {
            Action::Ask(_, Fate::RequestLost | Fate::Late)
            | Action::Release(_, Fate::RequestLost)
            | Action::Cancel(_, Fate::RequestLost | Fate::Late)
            | Action::Write(_)
            | Action::PassOn(_)
            | Action::Pause(_)
            | Action::Resume(_)
            | Action::Lapse(_) => {}
            Action::Ask(p, fate) => {
                let claim = present(to, p);
                let acquired = self.acquire(claim).await?;
                if fate == Fate::Answered && matches!(acquired, Acquired::Granted(_)) != holds(p) {
                    return Err(format!("the answer is {acquired:?}"));
                }
            }
            Action::Wake(p) => return self.wake(from, p, to).await,
            Action::Renew(p) => {
                let claim = self.claim(present(from, p));
                let mut renewal = Renewal::new(claim.key.clone(), claim.owner, claim.ttl);
                renewal.tokens = u32::from(to.store.fence != from.store.fence) * claim.tokens;
                let renewed = self.backend(p).renew(&[renewal]).await.remove(0);
                let renewed = renewed.map_err(|error| format!("renew: {error:?}"))?;
                if matches!(renewed, Renewed::Held(_)) != holds(p) {
                    return Err(format!("the answer is {renewed:?}, whoever the owner is"));
                }
            }
            Action::Release(p, fate) => {
                let released = self.release(from, p).await?;
                let next = matches!(released, Released::Released(Some(Acquired::Granted(_))));
                if fate == Fate::Answered && next != holds(p) {
                    return Err(format!("the answer is {released:?}, whoever the owner is"));
                }
            }
            Action::Cancel(p, _) => {
                // With other callers behind it, the claim stays.
                if !to.processes[p].has_ended() {
                    return Ok(true);
                }
                self.abandon(present(from, p)).await?;
            }
            Action::Arrive(p) => {
                let number = from.processes[p].withdrawal.expect("it is on its way");
                self.abandon(Claim { process: p, number }).await?;
            }
            Action::Expire => self.delete(&[Part::Lock]),
            Action::Lose(Lost::Lock) => self.delete(&[Part::Lock]),
            Action::Lose(Lost::Queue) => self.delete(&[Part::Queue]),
            Action::Lose(Lost::Fence) => self.delete(&[Part::Fence]),
            Action::Lose(Lost::Everything) => {
                self.delete(&[Part::Lock, Part::Queue, Part::Fence]);
            }
            Action::Crash(p) => {
                let listening = self.replay.listening();
                self.replay.backends[p] = None;
                let deadline = Instant::now() + SOON;
                while self.replay.listening() == listening {
                    assert!(Instant::now() < deadline, "the connection stays");
                    tokio::task::yield_now().await;
                }
            }
            Action::LoseMessage(p) => {
                let number = from.processes[p].inbox[0].number;
                self.news(Claim { process: p, number }).await?;
            }
            Action::PowerOff(_)
            | Action::Disconnect(_)
            | Action::Reconnect(_)
            | Action::Stray(_) => {
                unreachable!("left out")
            }
        }
        Ok(true)
    }

    async fn acquire(&mut self, claim: Claim) -> Result<Acquired, String> {
        let real = self.claim(claim);
        let is_new = self.inbox(claim.process).expect(&real.owner);
        let acquired = self.backend(claim.process).acquire(&real).await;
        let acquired = acquired.map_err(|error| format!("acquire: {error:?}"))?;
        // One that was queued before may still be told of the same grant.
        if is_new && !matches!(acquired, Acquired::Queued(_)) {
            self.inbox(claim.process).forget(&real.owner);
        }
        self.note_awaited(claim, &acquired);
        Ok(acquired)
    }

    async fn wake(&mut self, from: &State, p: usize, to: &State) -> Result<bool, String> {
        let hint = from.processes[p].inbox[0];
        let claim = Claim {
            process: p,
            number: hint.number,
        };
        if !self.awaited.contains(&claim) {
            return Ok(false);
        }
        let tokens = self.news(claim).await?;
        if Some(&tokens.last.as_u64()) != self.fences.get(&hint.grant) {
            return Err(format!("the message tells the tokens {tokens:?}"));
        }
        let gone = from.processes[p].claim != hint.number
            || !matches!(to.processes[p].stage, Stage::Holding(_) | Stage::Waiting);
        if gone {
            self.abandon(claim).await?;
        }
        Ok(true)
    }

    /// The tokens in the message to `claim`.
    async fn news(&mut self, claim: Claim) -> Result<FenceBlock, String> {
        let real = self.claim(claim);
        let inbox = Arc::clone(self.inbox(claim.process));
        loop {
            match timeout(SOON, inbox.changed(&real)).await {
                Ok(Told::Granted { grant, .. }) => {
                    inbox.forget(&real.owner);
                    self.awaited.remove(&claim);
                    return Ok(grant.tokens);
                }
                Ok(Told::Ask) => tokio::task::yield_now().await,
                Err(_) => return Err("no message comes, though it is the owner".into()),
            }
        }
    }

    async fn release(&mut self, from: &State, p: usize) -> Result<Released, String> {
        let process = &from.processes[p];
        let claim = present(from, p);
        let next = match process.stage {
            Stage::Releasing { next } => next,
            _ => process.callers > 1,
        };
        let next = next.then_some(Claim {
            number: claim.number + 1,
            ..claim
        });
        let (real, real_next) = (self.claim(claim), next.map(|next| self.claim(next)));
        let inbox = Arc::clone(self.inbox(p));
        if let Some(next) = &real_next {
            inbox.expect(&next.owner);
        }
        let release = Release::new(real.key, real.owner.clone()).then(real_next);
        let released = self
            .backend(p)
            .release(&release)
            .await
            .map_err(|error| format!("release: {error:?}"))?;
        // A release in vain may have been one of a claim that still waits.
        if released != Released::NotHeld || !self.awaited.contains(&claim) {
            inbox.forget(&real.owner);
        }
        match (&released, next) {
            (Released::Released(Some(acquired)), Some(next)) => self.note_awaited(next, acquired),
            (_, Some(next)) => drop(self.awaited.remove(&next)),
            (_, None) => {}
        }
        Ok(released)
    }

    async fn abandon(&mut self, claim: Claim) -> Result<(), String> {
        let real = self.claim(claim);
        self.awaited.remove(&claim);
        self.inbox(claim.process).forget(&real.owner);
        let abandoned = self.backend(claim.process).abandon(&real).await;
        abandoned.map_err(|error| format!("abandon: {error:?}"))
    }

    fn note_awaited(&mut self, claim: Claim, acquired: &Acquired) {
        match acquired {
            Acquired::Queued(_) => drop(self.awaited.insert(claim)),
            _ => drop(self.awaited.remove(&claim)),
        }
    }

    fn process(&self, p: usize) -> &Process {
        self.replay.backends[p].as_ref().expect("the process lives")
    }

    fn backend(&self, p: usize) -> &RedisBackend {
        &self.process(p).backend
    }

    fn inbox(&self, p: usize) -> &Arc<Inbox> {
        &self.process(p).inbox
    }

    fn claim(&mut self, claim: Claim) -> backend::Claim {
        let key = self.key.clone();
        let of_model = || {
            let owner = OwnerToken::unique(&format!("{}-{}", claim.process, claim.number));
            let mut real = backend::Claim::new(key, owner, LONG).queued();
            real.tokens = u32::from(lock_model::BLOCK);
            real
        };
        self.claims.entry(claim).or_insert_with(of_model).clone()
    }

    fn stored(&self, part: Part) -> String {
        let lock = self.key.stored();
        match part {
            Part::Lock => lock.to_owned(),
            Part::Queue => format!("{{{lock}}}:queue"),
            Part::Fence => format!("{{{lock}}}:fence"),
        }
    }

    fn delete(&mut self, parts: &[Part]) {
        for part in parts {
            let key = self.stored(*part);
            let _: i64 = self.replay.run(&["DEL", &key]);
        }
    }

    /// The owner and the queue.
    fn compare(&mut self, model: &State) -> Result<(), String> {
        let lock = self.stored(Part::Lock);
        let owner: Option<String> = self.replay.run(&["GET", &lock]);
        let expected = model.store.owner.map(|owner| self.owner_token(owner.claim));
        if owner != expected {
            return Err(format!("the owner is {owner:?}, not {expected:?}"));
        }
        let ttl: i64 = self.replay.run(&["PTTL", &lock]);
        if model
            .store
            .owner
            .is_some_and(|owner| owner.leased != (ttl >= 0))
        {
            return Err(format!("the lease has a ttl of {ttl} ms"));
        }
        let queue = self.stored(Part::Queue);
        let members: Vec<String> = self.replay.run(&["ZRANGE", &queue, "0", "-1"]);
        let owner_of = |member: &String| member.splitn(4, '/').last().unwrap_or("").to_owned();
        let queued: Vec<String> = members.iter().map(owner_of).collect();
        let waiters = model.store.queue.iter();
        let expected: Vec<String> = waiters.map(|waiter| self.owner_token(*waiter)).collect();
        if queued != expected {
            return Err(format!("the queue is {queued:?}, not {expected:?}"));
        }
        Ok(())
    }

    /// The fencing counter: it is there, and has grown beyond all before, exactly when it is and has in the model.
    fn compare_fence(&mut self, model: &State) -> Result<(), String> {
        let key = self.stored(Part::Fence);
        let fence: Option<u64> = self.replay.run(&["GET", &key]);
        if fence.is_some() != (model.store.fence > 0) {
            return Err(format!("the fence is {fence:?}"));
        }
        let grew = model.store.fence > self.highest.model;
        let grows = fence.is_some_and(|fence| fence > self.highest.real);
        if grew != grows {
            let highest = self.highest.real;
            return Err(format!("the fence is {fence:?}, after the token {highest}"));
        }
        self.highest.model = self.highest.model.max(model.store.fence);
        self.highest.real = self.highest.real.max(fence.unwrap_or(0));
        if grew {
            self.fences.insert(model.store.grants, self.highest.real);
        }
        Ok(())
    }

    fn owner_token(&mut self, claim: Claim) -> String {
        self.claim(claim).owner.to_string()
    }
}

/// A key of the lock.
#[derive(Clone, Copy)]
enum Part {
    Lock,
    Queue,
    Fence,
}

/// The claim that a process had open last.
fn present(state: &State, process: usize) -> Claim {
    Claim {
        process,
        number: state.processes[process].claim,
    }
}

/// What an action is, whichever process it concerns: `Ask AnswerLost`.
fn kind(action: Action) -> String {
    let text = format!("{action:?}");
    let words = text.split(|c: char| !c.is_alphabetic());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

/// A machine without power and a connection that is cut are not played here: when the server or the backend notices is up to them. A late
/// withdrawal is sent by its backend when it arrives, and so by none that has crashed. A question
/// that is late would have to be lost on a connection that is given up (see `faults_waiter.rs`).
fn is_left_out(action: Action, state: &State) -> bool {
    match action {
        Action::PowerOff(_) | Action::Disconnect(_) | Action::Reconnect(_) => true,
        Action::Ask(_, Fate::Late) => true,
        Action::Arrive(p) => !state.processes[p].lives(),
        _ => false,
    }
}
