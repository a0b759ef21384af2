//! One key, with a group for each kind of leases that a process holds or wants of it.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use super::{Actions, End, Event, Group, Holding, LeaseId, Look, Waiter};
use crate::claim::Renewal;
use crate::mode::Kind;
use crate::name::LockKey;
use crate::terms::Rules;
use crate::time::Instant;
use crate::token::{FencingToken, OwnerToken};

/// What one process does about one key: see the [module](super).
#[derive(Clone, Debug, Hash)]
pub struct Key {
    exclusive: Group,
    /// Those of other kinds.
    #[expect(
        clippy::box_collection,
        reason = "most keys never have one, and are smaller so"
    )]
    company: Option<Box<Vec<Group>>>,
    /// The largest number given to a question or a lease of any group.
    last_number: u64,
    last_shard: Option<u8>,
    is_closing: bool,
}

impl Key {
    /// A key about which nothing has been done yet, or nothing of which anybody waits for the end.
    ///
    /// Numbers go on after `last_number`, which is that of the machine that this process had for
    /// the key before, or larger.
    pub fn new(key: LockKey, last_number: u64) -> Key {
        Key {
            exclusive: Group::new(key, Kind::Exclusive, last_number),
            company: None,
            last_number,
            last_shard: None,
            is_closing: false,
        }
    }

    /// Which key it is.
    pub fn key(&self) -> &LockKey {
        &self.exclusive.key
    }

    /// The part of the key that this process had last, and likes best; `None` if it has had none,
    /// and likes none.
    pub fn last_shard(&self) -> Option<u8> {
        self.last_shard
    }

    /// Says which part of the key is liked best, until the process has had one.
    pub fn prefer_shard(&mut self, shard: u8) {
        self.last_shard = Some(shard);
    }

    /// Whether `event` may make a claim for which there is no owner token: of which kind. The
    /// machine wants one for each kind.
    pub fn wants_owner(&self, event: &Event<'_>) -> Option<Kind> {
        let joins = match event {
            Event::Joined(Waiter {
                owner: None, terms, ..
            }) => Some(terms.mode.kind()),
            _ => None,
        };
        if let Some(kind) = joins
            && self.group(kind).is_none()
        {
            return Some(kind).filter(|_| self.spare_for(kind).is_none());
        }
        let wants = |group: &&Group| group.wants_owner(joins == Some(group.kind));
        self.groups().find(wants).map(|group| group.kind)
    }

    /// Provides the owner token that the machine [wants](Key::wants_owner) for claims of this kind.
    pub fn provide_owner(&mut self, kind: Kind, owner: OwnerToken) {
        self.group_for(kind).spare_owner = Some(owner);
    }

    fn spare_for(&self, kind: Kind) -> Option<&OwnerToken> {
        self.group(kind)?.spare_owner.as_ref()
    }

    /// Takes in what happened `now`, and says what to do about it.
    pub fn on(&mut self, rules: &Rules, now: Instant, event: Event<'_>) -> Actions {
        let mut actions = Actions::new();
        self.take_in(rules, now, event, &mut actions);
        actions
    }

    /// As [`on`](Key::on), but puts the actions behind those that are in a buffer of the caller's.
    pub fn take_in(
        &mut self,
        rules: &Rules,
        now: Instant,
        event: Event<'_>,
        actions: &mut Actions,
    ) {
        let kind = match (&event, &self.company) {
            (Event::Joined(waiter), _) => Some(waiter.terms.mode.kind()),
            (Event::Answered { ask, .. }, _) => Some(ask.verb.kind()),
            (_, None) => Some(Kind::Exclusive),
            (
                Event::Ended(lease, _)
                | Event::Began(lease, _)
                | Event::Keep { lease, .. }
                | Event::Renewed { lease, .. },
                _,
            ) => Some(self.group_of(*lease).kind),
            // Each knows its own waiters and claims.
            _ => None,
        };
        self.is_closing |= matches!(event, Event::ShutDown);
        match kind {
            Some(kind) => self.tell(kind, rules, now, event, actions),
            None => {
                for kind in [Kind::Exclusive, Kind::Shared, Kind::Permits, Kind::Shard] {
                    if self.group(kind).is_some() {
                        self.tell(kind, rules, now, event.clone(), actions);
                    }
                }
            }
        }
        if let Some(company) = &mut self.company {
            company.retain(|group| !group.is_gone());
        }
        self.company.take_if(|company| company.is_empty());
    }

    /// Gives an event to the group of this kind.
    #[inline]
    fn tell(
        &mut self,
        kind: Kind,
        rules: &Rules,
        now: Instant,
        event: Event<'_>,
        actions: &mut Actions,
    ) {
        // No two questions of a key have the same number, and no two leases.
        let (last_number, last_shard) = (self.last_number, self.last_shard);
        // Whoever joins a lease that is shared has to know.
        let waits = |group: &Group| group.kind != kind && group.line.waits();
        let is_awaited = kind == Kind::Shared && self.groups().any(waits);
        let group = self.group_for(kind);
        group.is_awaited = is_awaited;
        group.last_number = last_number;
        group.last_shard = last_shard;
        group.take_in(rules, now, event, actions);
        (self.last_number, self.last_shard) = (group.last_number, group.last_shard);
    }

    /// When the machine wants to be told the time, if nothing else happens.
    pub fn wants_time_at(&self, rules: &Rules) -> Option<Instant> {
        let groups = self.groups();
        groups.filter_map(|group| group.wants_time_at(rules)).min()
    }

    /// Whether the machine can be dropped: nobody holds, waits or asks.
    pub fn is_gone(&self) -> bool {
        self.groups().all(Group::is_gone)
    }

    /// Whether nobody waits or asks, and no lease is held: all there may be are holders who have
    /// not noticed that they lost their lease.
    pub fn is_quiet(&self) -> bool {
        self.groups().all(Group::is_quiet)
    }

    /// Whether a lease is held, as far as its holder is concerned.
    pub fn is_held(&self) -> bool {
        self.groups().any(Group::is_held)
    }

    /// How many hold a lease, as far as they are concerned: one, but for leases that go together
    /// and holders that share one.
    pub fn holders(&self) -> usize {
        self.groups().map(Group::holders).sum()
    }

    /// The largest number that was given to a question.
    pub fn last_number(&self) -> u64 {
        self.last_number
    }

    /// Whether the claim `owner` may be handed the lock, or has it.
    pub fn expects(&self, owner: &str) -> bool {
        self.groups().any(|group| group.expects(owner))
    }

    /// How long the holder with `token` may still rely on the lease; zero if it may not.
    pub fn remaining(&self, lease: LeaseId, token: FencingToken, now: Instant) -> Duration {
        self.group_of(lease).remaining(lease, token, now)
    }

    /// Whether the lease of the holder with `token` is as long as it wants to keep the key from
    /// `now` on, so that the store keeps it if this process dies.
    pub fn covers(
        &self,
        lease: LeaseId,
        token: FencingToken,
        least: Duration,
        now: Instant,
    ) -> bool {
        self.group_of(lease).covers(lease, token, least, now)
    }

    /// Why the holder with `token` may not rely on the lease, and for how long it had been held;
    /// `None` if it may. Of a lease that is not here any more, its holder has given it up.
    pub fn fault(
        &self,
        lease: LeaseId,
        token: FencingToken,
        now: Instant,
    ) -> Option<(End, Duration)> {
        self.group_of(lease).fault(lease, token, now)
    }

    /// Whether the holder with `token` may rely on the lease.
    pub fn is_held_by(&self, lease: LeaseId, token: FencingToken, now: Instant) -> bool {
        self.fault(lease, token, now).is_none()
    }

    /// The renewal of a lease ahead of its time, because its holder asks for it, and how long to
    /// wait for the answer.
    pub fn renewal(
        &self,
        rules: &Rules,
        lease: LeaseId,
        now: Instant,
    ) -> Option<(Renewal, Duration)> {
        self.group_of(lease).renewal(rules, lease, now)
    }

    /// The holds of the leases that are held, one for each who holds it: one, but where leases go
    /// together.
    pub fn held(&self, now: Instant) -> impl Iterator<Item = Holding> {
        self.groups().flat_map(move |group| group.held(now))
    }

    /// The hold of this lease, which may have ended against the will of its holder.
    pub fn holding(&self, lease: LeaseId, now: Instant) -> Option<Holding> {
        self.group_of(lease).holding(lease, now)
    }

    /// What the machine is at.
    pub fn look(&self) -> Look {
        let looks = self.groups().map(Group::look);
        looks.fold(Look::default(), Look::and)
    }

    /// What it is at for those who want leases of this kind; nothing, if nobody has wanted one.
    pub fn look_at(&self, kind: Kind) -> Look {
        self.group(kind).map(Group::look).unwrap_or_default()
    }

    /// The owner tokens by which the store may know this machine: of the claim that is pursued, of
    /// leases, and of claims that are being withdrawn.
    pub fn owners(&self) -> impl Iterator<Item = &OwnerToken> {
        self.groups().flat_map(Group::owners)
    }

    /// The owner tokens of the claims that are pursued, at most one of each kind.
    pub fn pursued(&self) -> impl Iterator<Item = &OwnerToken> {
        self.groups().filter_map(Group::pursued)
    }

    /// Of which kind the claim `owner` is, if it is one that is pursued.
    pub fn pursues(&self, owner: &str) -> Option<Kind> {
        let is_pursued = |group: &&Group| group.pursued().is_some_and(|it| it.as_str() == owner);
        self.groups().find(is_pursued).map(|group| group.kind)
    }

    /// Whether there is a claim of this kind.
    pub fn is_pursued(&self, kind: Kind) -> bool {
        self.group(kind)
            .is_some_and(|group| group.pursued().is_some())
    }

    fn groups(&self) -> impl Iterator<Item = &Group> {
        let company = self.company.as_deref().map_or(&[][..], Vec::as_slice);
        core::iter::once(&self.exclusive).chain(company)
    }

    fn group(&self, kind: Kind) -> Option<&Group> {
        self.groups().find(|group| group.kind == kind)
    }

    /// The group of this kind, which is made if it is not there.
    fn group_for(&mut self, kind: Kind) -> &mut Group {
        if kind == Kind::Exclusive {
            return &mut self.exclusive;
        }
        let company = self.company.get_or_insert_default();
        let index = company.iter().position(|group| group.kind == kind);
        let index = index.unwrap_or_else(|| {
            let mut group = Group::new(self.exclusive.key.clone(), kind, self.last_number);
            group.is_closing = self.is_closing;
            company.push(group);
            company.len() - 1
        });
        &mut company[index]
    }

    /// The group that has the lease; the exclusive one, if none has it.
    fn group_of(&self, lease: LeaseId) -> &Group {
        let mut groups = self.groups();
        let group = groups.find(|group| group.lease(lease).is_some());
        group.unwrap_or(&self.exclusive)
    }
}
