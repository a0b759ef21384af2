//! Who knows the true time and everything else, and looks whether the promises hold.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;

use lock_protocol::machine::{
    Action, Actions, Answer, Ask, Event, Granted, LeaseId, Look, Outcome, Pursued, ReleaseOutcome,
    Verb, WaiterId,
};
use lock_protocol::{
    Contended, FenceBlock, FencingToken, Grant, Instant, Kind, Mode, OwnerToken, Renewed, Terms,
};

use crate::clock::{MS, Time, nanos};
use crate::process::{Condition, Doing, Process};
use crate::promise::{Promise, Violation};
use crate::rows::Step;
use crate::server::THIEF;
use crate::sum::Sum;
use crate::together::{KINDS, fit, index, name};
use crate::world::World;

/// How many parts of a key the resource tells apart.
const PARTS: usize = 3;

/// A hold that was told to somebody, until its process knows nothing of the lease any more.
#[derive(Clone, Hash)]
pub(crate) struct Hold {
    process: usize,
    key: usize,
    waiter: WaiterId,
    lease: LeaseId,
    token: FencingToken,
    owner: OwnerToken,
    terms: Terms,
    shard: u8,
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
    /// The tokens of those who shared a key when the data was copied that the store has got back:
    /// who joins them has the same, whatever was given since.
    old_phases: HashSet<FencingToken>,
    holds: Vec<Hold>,
    /// The largest token of each key that was told, of each kind and shard.
    last_token: Vec<BTreeMap<(Kind, u8), u64>>,
    /// Of each part of what a key protects the highest token, and the latest hold that wrote.
    resource: Vec<[(u64, u64); PARTS]>,
    /// By whom each key is to be kept, and until when.
    minima: Vec<Vec<(OwnerToken, Time)>>,
    /// When the store last told a claim that shares a key that nobody waited for that.
    quiet: HashMap<OwnerToken, Time>,
    /// The shared lease that came by the present event: all who wait for one have it.
    pub(crate) is_new: Option<LeaseId>,
    /// When the news were lost by which these claims were handed a lock.
    unheard: HashMap<OwnerToken, Time>,
    pub(crate) grants: u64,
    /// How many of them were of each kind.
    pub(crate) granted: BTreeMap<&'static str, u64>,
    /// How often a reader joined those of its process, and the store served several at once.
    pub(crate) joined: u64,
    pub(crate) batches: u64,
    /// How many claims did not hear that they were handed a lock, and got it by asking.
    pub(crate) made_up: u64,
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
            old_phases: HashSet::new(),
            holds: Vec::new(),
            last_token: vec![BTreeMap::new(); keys],
            resource: vec![[(0, 0); PARTS]; keys],
            minima: vec![Vec::new(); keys],
            quiet: HashMap::new(),
            is_new: None,
            unheard: HashMap::new(),
            grants: 0,
            granted: BTreeMap::new(),
            joined: 0,
            batches: 0,
            made_up: 0,
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
        self.minima.fill(Vec::new());
        self.unheard.clear();
    }

    /// These claims were about when the data was copied that the store has got back.
    pub(crate) fn comes_back(
        &mut self,
        owners: impl IntoIterator<Item = OwnerToken>,
        phases: impl IntoIterator<Item = FencingToken>,
    ) {
        self.flushed.extend(owners);
        self.old_phases.extend(phases);
    }

    /// The store gave these tokens to a claim.
    pub(crate) fn gave(&mut self, owner: &OwnerToken, tokens: FenceBlock) {
        if self.is_flushed(owner) {
            self.given.entry(owner.clone()).or_default().push(tokens);
        }
    }

    /// The store granted this to a claim.
    pub(crate) fn granted(&mut self, owner: &OwnerToken, mode: Mode, grant: &Grant, now: Time) {
        self.gave(owner, grant.tokens);
        if mode == Mode::Shared && grant.contended == Contended::No {
            self.quiet.insert(owner.clone(), now);
        }
    }

    /// The news of a hand-over are lost.
    pub(crate) fn is_unheard(&mut self, owner: &OwnerToken, now: Time) {
        self.unheard.insert(owner.clone(), now);
    }

    /// A claim asks, or is withdrawn.
    pub(crate) fn asks(&mut self, owner: &OwnerToken, is_granted: bool) {
        if self.unheard.remove(owner).is_some() {
            self.made_up += u64::from(is_granted);
        }
    }

    /// A claim that was handed a lock that long ago, and has not heard of it.
    pub(crate) fn unheard_since(&self, before: Time) -> Option<&OwnerToken> {
        let mut unheard = self.unheard.iter();
        let long = unheard.find(|(_, since)| **since < before);
        long.map(|(owner, _)| owner)
    }

    /// Whether the store gave this token to a claim before it lost its data.
    fn is_old(&self, owner: &OwnerToken, token: FencingToken) -> bool {
        let given = self.given.get(owner).into_iter().flatten();
        let is_one = |block: &FenceBlock| (block.first..=block.last).contains(&token);
        self.is_flushed(owner) && !given.into_iter().any(is_one) || self.old_phases.contains(&token)
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
        self.last_token.hash(sum);
        self.resource.hash(sum);
        self.minima.hash(sum);
        sum.add_unordered(&self.quiet);
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

    pub(crate) fn took(&mut self, process: usize, key: usize, waiter: WaiterId) {
        let mut holds = self.holds.iter_mut();
        let hold = holds.find(|it| (it.process, it.key, it.waiter) == (process, key, waiter));
        if let Some(hold) = hold {
            hold.untaken = None;
        }
    }

    fn holds_of(
        &mut self,
        process: usize,
        key: usize,
        lease: LeaseId,
    ) -> impl Iterator<Item = &mut Hold> {
        let holds = self.holds.iter_mut();
        holds.filter(move |it| (it.process, it.key, it.lease) == (process, key, lease))
    }

    /// One of those who share a lease has ended its share, or a waiter has not taken it.
    fn share_ends(&mut self, is_it: impl Fn(&Hold) -> bool) {
        let is_share = |hold: &Hold| hold.terms.mode == Mode::Shared && is_it(hold);
        if let Some(ended) = self.holds.iter().position(is_share) {
            self.holds.remove(ended);
        }
    }

    /// The largest token that was told of what a holder excludes.
    fn last_token(&self, key: usize, kind: Kind, shard: u8) -> u64 {
        let excluded = self.last_token[key]
            .iter()
            .filter(|((of, its), _)| match kind {
                Kind::Exclusive => true,
                Kind::Shard => *of != kind || *its == shard,
                _ => *of != kind,
            });
        excluded.map(|(_, token)| *token).max().unwrap_or(0)
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
            shard,
            ..
        } = granted;
        let (now, shard) = (self.now, *shard);
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
        let kind = terms.mode.kind();
        *self.onlooker.granted.entry(name(kind)).or_default() += 1;
        let last = self.onlooker.last_token(key, kind, shard);
        if token.as_u64() > last {
            let newest = self.onlooker.last_token[key].entry((kind, shard));
            let newest = newest.or_default();
            *newest = token.as_u64().max(*newest);
        } else if self.onlooker.is_old(owner, *token) {
            // The store granted it before it lost its data, and others have been told since: the
            // resource sees that by the token.
            place = 0;
        } else {
            self.broken(Promise::TokensGrow, || format!("{token} after {last}"));
        }
        let is_same = |hold: &Hold| (hold.process, hold.key, hold.lease) == (process, key, *lease);
        if kind == Kind::Shared {
            self.check_phase(key, owner, *token);
            if self.onlooker.holds.iter().any(is_same) {
                self.onlooker.joined += 1;
                if self.onlooker.is_new != Some(*lease) {
                    self.check_join(owner, &terms);
                }
            } else {
                self.onlooker.is_new = Some(*lease);
            }
        }
        let holds = &mut self.onlooker.holds;
        let before = holds
            .iter()
            .position(|hold| is_same(hold) && kind != Kind::Shared);
        let before = before.map(|before| holds.swap_remove(before));
        let machine = self.processes[process].machines.get(&key);
        let waiting = machine.map_or(0, |it| it.key.look_at(kind).waiting);
        let left = machine.map(|it| it.key.remaining(*lease, *token, local));
        let left = left.unwrap_or_default();
        let (passes, budget) = match before {
            None => (0, 0),
            // Whoever it was passed on to waited as well.
            Some(Hold { passes: 0, .. }) => (1, self.rules.passes(waiting + 1)),
            Some(before) => (before.passes + 1, before.budget),
        };
        // What the store tells of others may allow for more.
        let budget = match kind {
            Kind::Exclusive => budget,
            _ => budget.max(self.rules.local_passes),
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
            waiter: id,
            lease: *lease,
            token: *token,
            owner: owner.clone(),
            terms,
            shard,
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
        let mut valid: Vec<&Hold> = Vec::new();
        for hold in holds {
            let is_known = |other: &&Hold| {
                hold.terms.mode == Mode::Shared
                    && (other.process, other.lease) == (hold.process, hold.lease)
            };
            if hold.key == key
                && !self.onlooker.flushed.contains(&hold.owner)
                && self.is_valid(hold)
                && !valid.iter().any(is_known)
            {
                valid.push(hold);
            }
        }
        if !fit(valid.iter().map(|hold| (hold.terms.mode, hold.shard))) {
            let valid = valid.iter().map(|hold| {
                let Hold {
                    owner,
                    token,
                    terms,
                    ..
                } = hold;
                format!("p{} {owner} {token} {:?}", hold.process, terms.mode)
            });
            let valid: Vec<String> = valid.collect();
            self.broken(Promise::MutualExclusion, || valid.join(", "));
        }
    }

    /// A reader has the token of those who share the key with it.
    fn check_phase(&mut self, key: usize, owner: &OwnerToken, token: FencingToken) {
        let is_flushed = |owner| self.onlooker.flushed.contains(owner);
        let mut holds = self.onlooker.holds.iter();
        let other = holds.find(|hold| {
            hold.key == key
                && hold.terms.mode == Mode::Shared
                && hold.token != token
                && !is_flushed(&hold.owner)
                && self.is_valid(hold)
        });
        if let Some(other) = other
            && !is_flushed(owner)
        {
            let text = format!("{owner} has {token}, {} {}", other.owner, other.token);
            self.broken(Promise::PhasesHaveOneToken, || text);
        }
    }

    /// A reader joins those of its process, whose claim has this owner token.
    fn check_join(&mut self, owner: &OwnerToken, terms: &Terms) {
        // Its clock may be slow.
        let bound = nanos(self.rules.open_for(terms.ttl));
        let bound = bound + bound / 100;
        let quiet = self.onlooker.quiet.get(owner).copied();
        if quiet.is_none_or(|quiet| self.now > quiet + bound) {
            let text = format!("{owner}: {quiet:?}");
            self.broken(Promise::JoinsAreBounded, || text);
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
            let mut leases = self.server.leases(key, self.now);
            let has_it = leases.any(|it| *it.owner == hold.owner && it.shard == hold.shard);
            if !has_it && !self.onlooker.flushed.contains(&hold.owner) {
                broken = Some((Promise::ValidLeaseIsTheStores, hold.owner.clone()));
            }
        }
        for index in lost {
            self.onlooker.holds[index].was_lost = true;
        }
        if let Some((promise, claim)) = broken {
            let leases: Vec<_> = self.server.leases(key, self.now).collect();
            let text = format!("{claim} is valid, and the store has {leases:?}");
            self.broken(promise, || text);
        }
    }

    /// A holder uses what the lock protects: who has all of it writes to all parts, who has a shard
    /// to that part, and who shares reads. Those with permits do not keep each other out.
    pub(crate) fn use_resource(
        &mut self,
        key: usize,
        mode: Mode,
        shard: u8,
        token: u64,
        place: u64,
    ) {
        let mut violation = None;
        let mut is_stale = false;
        for (part, (highest, latest)) in self.onlooker.resource[key].iter_mut().enumerate() {
            let is_used = match mode {
                Mode::Permits { .. } => false,
                Mode::Shard { .. } => part == usize::from(shard),
                _ => true,
            };
            if !is_used {
                continue;
            }
            if token < *highest && !crate::mistakes::resource_ignores_token() {
                is_stale = true;
                continue;
            }
            *highest = token.max(*highest);
            let before = *latest;
            if mode != Mode::Shared {
                *latest = place.max(before);
            }
            if place > 0 && place < before {
                violation = Some(format!("of grant {place} after that of {before} of k{key}"));
            }
        }
        self.onlooker.stale_writes += u64::from(is_stale);
        if let Some(text) = violation {
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
                    && let Some(kind) = machine.key.pursues(owner.as_str())
                    && machine.key.look_at(kind).pursuit != Some(Pursued::Pausing)
                {
                    let by = machine.look_by.entry((*owner).clone()).or_insert(*at);
                    *by = (*by).min(*at);
                }
            }
            Event::Renewed {
                lease,
                sent_at,
                answer: Some(Renewed::Held(_)),
                ..
            } => {
                for hold in self.onlooker.holds_of(process, key, *lease) {
                    hold.renew_after = hold.terms.renew.map(|period| *sent_at + period / 2);
                }
            }
            Event::Renewed { lease, .. } => {
                for hold in self.onlooker.holds_of(process, key, *lease) {
                    hold.renew_after = None;
                }
            }
            Event::Left(waiter) => self
                .onlooker
                .share_ends(|it| (it.process, it.key, it.waiter) == (process, key, *waiter)),
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
                if hold.terms.mode != Mode::Shared {
                    hold.untaken = None;
                }
                if let ReleaseOutcome::Ended(..) = outcome {
                    let owner = hold.owner.clone();
                    self.onlooker.excuse([&owner]);
                }
            }
        }
        // Behind what has ended, so that its lease is still known there.
        for action in actions {
            if let Action::TakeBack(waiter, _) = action {
                self.onlooker
                    .share_ends(|it| (it.process, it.key, it.waiter) == (process, key, *waiter));
            }
        }
        if let Event::Ended(lease, _) = event {
            let is_share = |it: &Hold| (it.process, it.key, it.lease) == (process, key, *lease);
            self.onlooker
                .share_ends(|it| is_share(it) && it.untaken.is_none());
            let mut holds = self.onlooker.holds.iter();
            let other = holds.find(|it| it.terms.mode == Mode::Shared && is_share(it));
            if let Some(other) = other.filter(|it| !step.was_lost && !self.is_valid(it)) {
                let text = format!("{} ends for others", other.owner);
                self.broken(Promise::NoEviction, || text);
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
        let known = &machine.key;
        let is_pursued = |owner: &OwnerToken| known.pursues(owner.as_str()).is_some();
        machine.look_by.retain(|owner, _| is_pursued(owner));
        for (owner, at) in &machine.look_by {
            let kind = machine.key.pursues(owner.as_str());
            let pursuit = kind.and_then(|kind| machine.key.look_at(kind).pursuit);
            if pursuit == Some(Pursued::Queued) && wants.is_none_or(|it| it > *at) {
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
        for kind in KINDS {
            let after = machine.key.look_at(kind);
            let asked = &mut machine.asked_of[index(kind)];
            let others_wait = after.waiting > 1
                || after.waiting == 1 && !matches!(after.pursuit, Some(Pursued::Asking));
            if !others_wait || after.held > 0 && kind == Kind::Exclusive {
                asked.waited_since = None;
                continue;
            }
            let since = *asked.waited_since.get_or_insert(now);
            let since = since.max(asked.at).max(runs_since);
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
            let minimum = (hold.owner.clone(), until);
            self.onlooker.minima[key].push(minimum);
            self.onlooker.kept += 1;
        }
    }

    /// Looks whether a key that is to be kept is taken by nobody else.
    fn check_minimum(&mut self, key: usize) {
        let now = self.now;
        self.onlooker.minima[key].retain(|(_, until)| now < *until);
        let is_kept = |by: &OwnerToken| {
            let mut leases = self.server.leases(key, now);
            leases.any(|lease| lease.owner == by || *lease.owner == by.kept())
        };
        let mut minima = self.onlooker.minima[key].iter();
        let text = minima.find(|(by, _)| !is_kept(by)).map(|(by, until)| {
            let leases: Vec<_> = self.server.leases(key, now).collect();
            format!("{leases:?} of k{key}, {by} keeps it for {}", until - now)
        });
        if let Some(text) = text {
            self.broken(Promise::KeptForItsMinimum, || text);
        }
    }

    /// Looks whether the owners in the store are known to anybody.
    pub(crate) fn check_owners(&mut self) {
        for key in 0..self.plan.keys {
            self.check_minimum(key);
            let mut leases = self.server.leases(key, self.now);
            let unknown = leases.find(|lease| !self.is_known(key, lease.owner));
            let text = unknown.map(|lease| format!("{} of k{key}", lease.owner));
            drop(leases);
            if let Some(text) = text {
                self.broken(Promise::KeptByNobody, || text);
            }
        }
    }

    /// Whether an owner in the store is known to its process, or to nobody for a good reason.
    fn is_known(&self, key: usize, owner: &OwnerToken) -> bool {
        if owner.as_str() == THIEF
            || self.onlooker.mentions.contains_key(owner)
            || self.onlooker.excused.contains(owner)
            || self.onlooker.flushed.contains(owner)
        {
            return true;
        }
        let Some((process, life)) = self.onlooker.owners.get(owner).copied() else {
            return true;
        };
        let it = &self.processes[process];
        if it.life != life || it.condition == Condition::IsDead {
            return true;
        }
        let machine = it.machines.get(&key);
        machine.is_some_and(|it| it.key.owners().any(|known| known == owner))
    }

    /// Looks for claims that were handed a lock and do not know, where nothing else goes wrong.
    pub(crate) fn check_unheard(&mut self) {
        let bound = nanos(self.rules.heartbeat) + 100 * MS;
        if let Some(owner) = self.onlooker.unheard_since(self.now.saturating_sub(bound)) {
            let text = format!("{owner} has not asked");
            self.broken(Promise::LostNewsAreMadeUp, || text);
        }
    }
}
