//! Who knows the true time and everything else, and looks whether the promises hold.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use lock_protocol::machine::{
    Action, Actions, Answer, Ask, Event, Granted, LeaseId, Look, Outcome, Pursued, ReleaseOutcome,
    Verb, WaiterId,
};
use lock_protocol::{FenceBlock, FencingToken, Instant, OwnerToken, Renewed, Terms};

use crate::clock::{MS, Time, nanos};
use crate::process::{Condition, Doing, Process};
use crate::promise::{Promise, Violation};
use crate::rows::Step;
use crate::server::THIEF;
use crate::sum::Sum;
use crate::world::World;

/// A hold that was told to somebody, until its process knows nothing of the lease any more.
#[derive(Clone, Hash)]
pub(crate) struct Hold {
    process: usize,
    key: usize,
    lease: LeaseId,
    token: FencingToken,
    owner: OwnerToken,
    terms: Terms,
    place: u64,
    /// Until when it may be untaken.
    untaken: Option<Instant>,
    was_lost: bool,
    /// How often the lease was passed on before.
    passes: u32,
    /// How often it may be, by those who waited when it was passed on first.
    budget: u32,
    /// No earlier than when it is renewed again.
    renew_after: Option<Instant>,
}

#[derive(Clone)]
pub(crate) struct Onlooker {
    pub(crate) violation: Option<Violation>,
    /// The claims that want to be queued.
    pub(crate) queues: HashSet<OwnerToken>,
    /// Whose claims they are.
    pub(crate) owners: HashMap<OwnerToken, (usize, u32)>,
    /// How many messages under way are about a claim.
    mentions: HashMap<OwnerToken, u32>,
    /// The claims of which the process was told that the store will not do it, or that have ended
    /// by themselves: what is left of them lives for its ttl.
    excused: HashSet<OwnerToken>,
    /// The claims that there were when the store lost its data.
    flushed: HashSet<OwnerToken>,
    /// What the store granted to such claims since.
    given: HashMap<OwnerToken, Vec<FenceBlock>>,
    holds: Vec<Hold>,
    last_token: Vec<u64>,
    resource: Vec<(u64, u64)>,
    /// By whom each key is to be kept, and until when.
    minima: Vec<Option<(OwnerToken, Time)>>,
    pub(crate) grants: u64,
    pub(crate) stale_writes: u64,
    /// How often a minimum hold began, and a process crashed in one.
    pub(crate) kept: u64,
    pub(crate) kept_by_dead: u64,
}

impl Onlooker {
    pub(crate) fn new(keys: usize) -> Onlooker {
        Onlooker {
            violation: None,
            queues: HashSet::new(),
            owners: HashMap::new(),
            mentions: HashMap::new(),
            excused: HashSet::new(),
            flushed: HashSet::new(),
            given: HashMap::new(),
            holds: Vec::new(),
            last_token: vec![0; keys],
            resource: vec![(0, 0); keys],
            minima: vec![None; keys],
            grants: 0,
            stale_writes: 0,
            kept: 0,
            kept_by_dead: 0,
        }
    }

    pub(crate) fn mention<'a>(&mut self, owners: impl IntoIterator<Item = &'a OwnerToken>) {
        for owner in owners {
            *self.mentions.entry(owner.clone()).or_default() += 1;
        }
    }

    pub(crate) fn forget<'a>(&mut self, owners: impl IntoIterator<Item = &'a OwnerToken>) {
        for owner in owners {
            if let Some(count) = self.mentions.get_mut(owner) {
                *count -= 1;
                if *count == 0 {
                    self.mentions.remove(owner);
                }
            }
        }
    }

    pub(crate) fn excuse<'a>(&mut self, owners: impl IntoIterator<Item = &'a OwnerToken>) {
        self.excused.extend(owners.into_iter().cloned());
    }

    pub(crate) fn lose_data(&mut self, processes: &[Process]) {
        let machines = processes.iter().flat_map(|it| it.machines.values());
        let known = machines.flat_map(|machine| machine.key.owners());
        self.flushed.extend(known.cloned());
        self.flushed.extend(self.mentions.keys().cloned());
        self.given.clear();
        self.minima.fill(None);
    }

    /// These claims were about when the data was copied that the store has got back.
    pub(crate) fn comes_back(&mut self, owners: impl IntoIterator<Item = OwnerToken>) {
        self.flushed.extend(owners);
    }

    /// The store gave these tokens to a claim.
    pub(crate) fn gave(&mut self, owner: &OwnerToken, tokens: FenceBlock) {
        if self.is_flushed(owner) {
            self.given.entry(owner.clone()).or_default().push(tokens);
        }
    }

    /// Whether the store gave this token to a claim before it lost its data.
    fn is_old(&self, owner: &OwnerToken, token: FencingToken) -> bool {
        let given = self.given.get(owner).into_iter().flatten();
        let is_one = |block: &FenceBlock| (block.first..=block.last).contains(&token);
        self.is_flushed(owner) && !given.into_iter().any(is_one)
    }

    /// Whether the store lost its data while the claim was about.
    pub(crate) fn is_flushed(&self, owner: &OwnerToken) -> bool {
        self.flushed.contains(owner)
    }

    pub(crate) fn add_to(&self, sum: &mut Sum<'_>) {
        sum.add_unordered(&self.queues);
        sum.add_unordered(&self.mentions);
        sum.add_unordered(&self.excused);
        sum.add_unordered(&self.flushed);
        sum.add_unordered(&self.holds);
        self.last_token.iter().for_each(|token| token.hash(sum));
        for (token, place) in &self.resource {
            (token, place).hash(sum);
        }
        self.minima.iter().for_each(|minimum| minimum.hash(sum));
        (self.grants, self.stale_writes > 0).hash(sum);
        let broken = self.violation.as_ref().map(|violation| violation.promise);
        broken.hash(sum);
    }

    pub(crate) fn die(&mut self, process: usize, now: Time) {
        for (owner, until) in self.minima.iter().flatten() {
            let of = self.owners.get(owner);
            let is_of_it = of.is_some_and(|(of, _)| *of == process);
            self.kept_by_dead += u64::from(is_of_it && now < *until);
        }
        self.holds.retain(|hold| hold.process != process);
    }

    pub(crate) fn took(&mut self, process: usize, key: usize, lease: LeaseId) {
        let mut holds = self.holds.iter_mut();
        let hold = holds.find(|it| (it.process, it.key, it.lease) == (process, key, lease));
        if let Some(hold) = hold {
            hold.untaken = None;
        }
    }

    pub(crate) fn place_of(
        &self,
        process: usize,
        key: usize,
        lease: LeaseId,
        token: FencingToken,
    ) -> u64 {
        let mut holds = self.holds.iter();
        let hold = holds
            .find(|it| (it.process, it.key, it.lease, it.token) == (process, key, lease, token));
        hold.map_or(0, |hold| hold.place)
    }
}

impl World {
    /// A waiter is told that it was granted the lock.
    pub(crate) fn granted(&mut self, process: usize, key: usize, id: WaiterId, granted: &Granted) {
        let Granted {
            lease,
            owner,
            token,
            ..
        } = granted;
        let now = self.now;
        self.onlooker.grants += 1;
        let mut place = self.onlooker.grants;
        let it = &self.processes[process];
        let local = it.clock.read(now);
        let waits = it.callers.iter().find_map(|caller| match caller.doing {
            Doing::Waits {
                id: its,
                terms,
                deadline,
                ..
            } if its == id => Some((terms, deadline)),
            _ => None,
        });
        let Some((terms, deadline)) = waits else {
            let text = format!("{id:?} of p{process} k{key} is nobody");
            return self.broken(Promise::EveryoneIsTold, || text);
        };
        let last = self.onlooker.last_token[key];
        if token.as_u64() > last {
            self.onlooker.last_token[key] = token.as_u64();
        } else if self.onlooker.is_old(owner, *token) {
            // The store granted it before it lost its data, and others have been told since: the
            // resource sees that by the token.
            place = 0;
        } else {
            self.broken(Promise::TokensGrow, || format!("{token} after {last}"));
        }
        let is_here = |hold: &Hold| (hold.process, hold.key) == (process, key);
        let holds = &mut self.onlooker.holds;
        let before = holds
            .iter()
            .position(|hold| is_here(hold) && hold.lease == *lease);
        let before = before.map(|before| holds.swap_remove(before));
        let machine = self.processes[process].machines.get(&key);
        let waiting = machine.map_or(0, |it| it.key.look().waiting);
        let left = machine.map(|it| it.key.remaining(*lease, *token, local));
        let left = left.unwrap_or_default();
        let (passes, budget) = match before {
            None => (0, 0),
            // Whoever it was passed on to waited as well.
            Some(Hold { passes: 0, .. }) => (1, self.rules.passes(waiting + 1)),
            Some(before) => (before.passes + 1, before.budget),
        };
        if passes > budget {
            let text = || format!("{passes} times, {budget} allowed");
            self.broken(Promise::PassesAreBounded, text);
        }
        let least = match terms.renew {
            Some(_) => self.rules.grace.min(terms.ttl) / 2,
            None => terms.ttl / 10 * 9,
        };
        if passes > 0 && left < least {
            self.broken(Promise::PassedOnWhole, || format!("{left:?} of {terms:?}"));
        }
        self.onlooker.holds.push(Hold {
            process,
            key,
            lease: *lease,
            token: *token,
            owner: owner.clone(),
            terms,
            place,
            untaken: Some(deadline),
            was_lost: false,
            passes,
            budget,
            renew_after: None,
        });
        self.check_exclusion(key);
    }

    fn is_valid(&self, hold: &Hold) -> bool {
        let it = &self.processes[hold.process];
        let local = it.clock.read(self.now);
        let machine = it.machines.get(&hold.key);
        machine.is_some_and(|it| it.key.is_held_by(hold.lease, hold.token, local))
    }

    fn check_exclusion(&mut self, key: usize) {
        let holds = self.onlooker.holds.iter();
        let valid: Vec<String> = holds
            .filter(|hold| hold.key == key && !self.onlooker.flushed.contains(&hold.owner))
            .filter(|hold| self.is_valid(hold))
            .map(|hold| format!("p{} {} {}", hold.process, hold.owner, hold.token))
            .collect();
        if valid.len() > 1 {
            self.broken(Promise::MutualExclusion, || valid.join(", "));
        }
    }

    /// Looks at the holds of a key.
    pub(crate) fn check_holds(&mut self, key: usize) {
        let mut broken = None;
        let mut lost = Vec::new();
        for (index, hold) in self.onlooker.holds.iter().enumerate() {
            if hold.key != key {
                continue;
            }
            if !self.is_valid(hold) {
                lost.push(index);
                continue;
            }
            if hold.was_lost {
                broken = Some((Promise::LostStaysLost, hold.owner.clone()));
            }
            let owner = self.server.owner(key, self.now);
            if owner != Some(&hold.owner) && !self.onlooker.flushed.contains(&hold.owner) {
                broken = Some((Promise::ValidLeaseIsTheStores, hold.owner.clone()));
            }
        }
        for index in lost {
            self.onlooker.holds[index].was_lost = true;
        }
        if let Some((promise, claim)) = broken {
            let owner = self.server.owner(key, self.now);
            let text = format!("{claim} is valid, and {owner:?} is the owner");
            self.broken(promise, || text);
        }
    }

    /// A holder writes to what the lock protects.
    pub(crate) fn write(&mut self, key: usize, token: u64, place: u64) {
        let (highest, latest) = &mut self.onlooker.resource[key];
        if token < *highest && !crate::mistakes::resource_ignores_token() {
            self.onlooker.stale_writes += 1;
            return;
        }
        *highest = token.max(*highest);
        let before = *latest;
        *latest = place.max(before);
        if place > 0 && place < before {
            let text = format!("of grant {place} after that of {before} of k{key}");
            self.broken(Promise::NoStaleWrite, || text);
        }
    }

    /// Looks at what a machine did about an event.
    pub(crate) fn check_step(
        &mut self,
        process: usize,
        key: usize,
        step: &Step,
        event: &Event<'_>,
        actions: &Actions,
        after: &Look,
    ) {
        let before = &step.before;
        let asks = actions
            .iter()
            .any(|action| matches!(action, Action::Ask(_)));
        match event {
            Event::Joined(waiter) if waiter.once && before.waiting == 0 && before.held == 0 => {
                let told = actions.iter().any(|action| {
                    matches!(action, Action::Tell(id, outcome)
                        if *id == waiter.id && !matches!(outcome, Outcome::ShutDown))
                });
                if told {
                    self.broken(Promise::NoOldNews, || format!("{actions:?}"));
                }
            }
            Event::Ended(lease, _) if step.was_lost => {
                let told = actions.iter().any(|action| {
                    matches!(action, Action::Released(id, ReleaseOutcome::Ended(..)) if id == lease)
                });
                if !told {
                    self.broken(Promise::LossIsTold, || format!("{lease:?}: {actions:?}"));
                }
            }
            Event::HandedOver { owner, .. } if step.is_fresh_hand_over => {
                let holds = |hold: &OwnerToken| hold.as_str() == *owner;
                let machine = self.processes[process].machines.get(&key);
                let is_held = machine.is_some_and(|it| it.key.owners().any(holds));
                if after.held == 0 && !asks || !is_held {
                    self.broken(Promise::HandOverIsTaken, || format!("{owner}: {after:?}"));
                }
            }
            Event::Answered {
                ask:
                    Ask {
                        verb: Verb::Release(release),
                        ..
                    },
                answer: Answer::Released(_),
                ..
            } if before.releasing == 1 && after.releasing == 1 && after.withdrawing == 0 => {
                let machine = self.processes[process].machines.get(&key);
                let mut owners = machine.iter().flat_map(|it| it.key.owners());
                let is_there = owners.any(|owner| *owner == release.owner);
                drop(owners);
                if is_there {
                    let text = format!("{} has ended: {after:?}", release.owner);
                    self.broken(Promise::ReleaseIsTold, || text);
                }
            }
            Event::AskAt(owner, at) => {
                if let Some(machine) = self.processes[process].machines.get_mut(&key)
                    && machine
                        .key
                        .pursued()
                        .any(|it| it.as_str() == owner.as_str())
                    && before.pursuit != Some(Pursued::Pausing)
                {
                    let (_, by) = machine
                        .look_by
                        .get_or_insert_with(|| ((*owner).clone(), *at));
                    *by = (*by).min(*at);
                }
            }
            Event::Renewed {
                lease,
                sent_at,
                answer: Some(Renewed::Held(_)),
                ..
            } => {
                let mut holds = self.onlooker.holds.iter_mut();
                let hold =
                    holds.find(|it| (it.process, it.key, it.lease) == (process, key, *lease));
                if let Some(hold) = hold {
                    hold.renew_after = hold.terms.renew.map(|period| *sent_at + period / 2);
                }
            }
            Event::Renewed { lease, .. } => {
                let mut holds = self.onlooker.holds.iter_mut();
                let hold =
                    holds.find(|it| (it.process, it.key, it.lease) == (process, key, *lease));
                if let Some(hold) = hold {
                    hold.renew_after = None;
                }
            }
            _ => {}
        }
        for owner in &step.owners {
            let machine = self.processes[process].machines.get(&key);
            if !machine.is_some_and(|it| it.key.owners().any(|known| known == owner)) {
                // It is given up after its ttl, or in a shutdown.
                self.onlooker.excuse([owner]);
            }
        }
        for action in actions {
            let Action::Released(lease, outcome) = action else {
                continue;
            };
            let mut holds = self.onlooker.holds.iter_mut();
            let hold = holds.find(|it| (it.process, it.key, it.lease) == (process, key, *lease));
            if let Some(hold) = hold {
                hold.untaken = None;
                if let ReleaseOutcome::Ended(..) = outcome {
                    let owner = hold.owner.clone();
                    self.onlooker.excuse([&owner]);
                }
            }
        }
        if after.waiting == 0 && after.pursuit.is_some_and(|it| it != Pursued::WithRelease)
            || after.pursuit == Some(Pursued::WithRelease) && after.releasing == 0
        {
            self.broken(Promise::WithdrawnAtOnce, || format!("{after:?}"));
        }
        self.check_holds(key);
    }

    /// A renewal is sent.
    pub(crate) fn check_renewal(&mut self, process: usize, key: usize, lease: LeaseId) {
        let local = self.processes[process].clock.read(self.now);
        let mut holds = self.onlooker.holds.iter();
        let hold = holds.find(|it| (it.process, it.key, it.lease) == (process, key, lease));
        if hold.is_some_and(|hold| hold.renew_after.is_some_and(|after| local < after)) {
            self.broken(Promise::FewQuestions, || {
                format!("{lease:?} is renewed again")
            });
        }
    }

    /// Looks at a machine after what it did has been done.
    pub(crate) fn check_machine(&mut self, process: usize, key: usize) {
        let (now, rules) = (self.now, self.rules);
        let it = &mut self.processes[process];
        let runs_since = it.runs_since;
        let Some(machine) = it.machines.get_mut(&key) else {
            return;
        };
        let after = machine.key.look();
        let wants = machine.key.wants_time_at(&rules);
        let mut broken = None;
        // A claim that is queued looks when it was told to.
        if let Some((owner, at)) = &machine.look_by {
            if !machine.key.pursued().any(|it| *it == *owner) {
                machine.look_by = None;
            } else if after.pursuit == Some(Pursued::Queued) && wants.is_none_or(|it| it > *at) {
                broken = Some((
                    Promise::LooksWhenTold,
                    format!("{owner} at {at:?}: {wants:?}"),
                ));
            }
        }
        let holds = self.onlooker.holds.iter();
        for hold in holds.filter(|hold| (hold.process, hold.key) == (process, key)) {
            if let Some(deadline) = hold.untaken
                && wants.is_none_or(|it| it > deadline)
                && after.held + after.ended > 0
                && after.releasing == 0
            {
                broken = Some((
                    Promise::UntakenIsTakenBack,
                    format!("{}: {wants:?}", hold.owner),
                ));
            }
        }
        // Who waits is asked for, unless the lock is held here.
        let others_wait = after.waiting > 1
            || after.waiting == 1 && !matches!(after.pursuit, Some(Pursued::Asking));
        if !others_wait || after.held > 0 {
            machine.waited_since = None;
        } else {
            let since = *machine.waited_since.get_or_insert(now);
            let since = since.max(machine.asked_at).max(runs_since);
            let question = nanos(rules.command_timeout);
            let bound = match after.pursuit {
                // It is counted from the answer.
                Some(Pursued::Queued) => nanos(rules.heartbeat) + question + 100 * MS,
                _ => 2 * question + 250 * MS,
            };
            if now > since + bound {
                broken = Some((
                    Promise::AskedInTime,
                    format!("{after:?} for {}", (now - since) / MS),
                ));
            }
        }
        self.onlooker.holds.retain(|hold| {
            (hold.process, hold.key) != (process, key)
                || machine.key.owners().any(|owner| *owner == hold.owner)
        });
        if let Some((promise, text)) = broken {
            self.broken(promise, || format!("p{process} k{key}: {text}"));
        }
    }

    /// A holder begins, and its key is to stay taken until then.
    pub(crate) fn keeps(&mut self, lease: (usize, usize, LeaseId), until: Time) {
        let (_, key, _) = lease;
        let mut holds = self.onlooker.holds.iter();
        let hold = holds.find(|it| (it.process, it.key, it.lease) == lease);
        if let Some(hold) = hold
            && !self.onlooker.is_flushed(&hold.owner)
        {
            self.onlooker.minima[key] = Some((hold.owner.clone(), until));
            self.onlooker.kept += 1;
        }
    }

    /// Looks whether a key that is to be kept is taken by nobody else.
    fn check_minimum(&mut self, key: usize) {
        let now = self.now;
        self.onlooker.minima[key].take_if(|(_, until)| now >= *until);
        if let Some((by, until)) = &self.onlooker.minima[key] {
            let owner = self.server.owner(key, now);
            if owner != Some(by) && owner != Some(&by.kept()) {
                let text = format!("{owner:?} has k{key}, {by} keeps it for {}", until - now);
                self.broken(Promise::KeptForItsMinimum, || text);
            }
        }
    }

    /// Looks whether the owner in the store is known to anybody.
    pub(crate) fn check_owners(&mut self) {
        for key in 0..self.plan.keys {
            self.check_minimum(key);
            let Some(owner) = self.server.owner(key, self.now) else {
                continue;
            };
            if owner.as_str() == THIEF
                || self.onlooker.mentions.contains_key(owner)
                || self.onlooker.excused.contains(owner)
                || self.onlooker.flushed.contains(owner)
            {
                continue;
            }
            let Some((process, life)) = self.onlooker.owners.get(owner).copied() else {
                continue;
            };
            let it = &self.processes[process];
            if it.life != life || it.condition == Condition::IsDead {
                continue;
            }
            let machine = it.machines.get(&key);
            let is_known = machine.is_some_and(|it| it.key.owners().any(|known| known == owner));
            if !is_known {
                let text = format!("{owner} of k{key}");
                self.broken(Promise::KeptByNobody, || text);
            }
        }
    }
}
