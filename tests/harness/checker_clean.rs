//! The checker against random histories of a right lock: it finds nothing, whatever got lost, late,
//! stopped or killed.
//!
//! The histories come from a small simulation of the lock, in which everything takes some time on
//! its way.

use std::collections::{BTreeMap, VecDeque};

use fastrand::Rng;
use lock_tests::checker::{
    Check, Company, Event, Fault, Leftovers, Limits, Nanos, Outcome, Place, What, check,
};

const TTL: Nanos = 1_000;
const WAIT: Nanos = 20_000;

#[test]
fn right_histories_are_clean() {
    let (mut acquisitions, mut refused, mut expired) = (0, 0, 0);
    for seed in 0..500 {
        let simulated = simulate(seed, &[]);
        let report = check(&simulated.log, &limits());
        assert!(report.violations.is_empty(), "seed {seed}: {report}");
        assert!(
            report.excused.is_empty(),
            "seed {seed}: {:?}",
            report.excused
        );
        acquisitions += report.acquisitions;
        refused += simulated.refused;
        expired += simulated.expired;
    }
    // The histories are worth it: there is contention, leases run out, and their holders come too
    // late.
    assert!(acquisitions > 10_000, "{acquisitions}");
    assert!(refused > 100 && expired > 500, "{refused} {expired}");
}

#[test]
fn data_loss_is_excused_and_nothing_else_follows_from_it() {
    let mut excused = BTreeMap::new();
    for seed in 0..500 {
        let log = simulate(seed, &[7, 19]).log;
        let report = check(&log, &limits());
        assert!(report.violations.is_empty(), "seed {seed}: {report}");
        for (violation, fault) in report.excused {
            assert_eq!(fault, Fault::DataLoss);
            *excused.entry(violation.check).or_insert(0) += 1;
        }
        // The control: the same history without its excuse.
        let unexcused: Vec<Event> = log
            .into_iter()
            .filter(|event| !matches!(event.what, What::Fault { .. }))
            .collect();
        let report = check(&unexcused, &limits());
        let only = [Check::DisjointLeases, Check::QueueOrder];
        assert!(
            report.broken().iter().all(|check| only.contains(check)),
            "{report}"
        );
    }
    assert!(excused[&Check::DisjointLeases] > 100, "{excused:?}");
}

#[test]
fn a_large_log_is_checked_in_one_sweep() {
    let mut log = Vec::new();
    for seed in 0..1_000 {
        let mut events = simulate(seed, &[]).log;
        // One key after the other in time, so that all of it is one long history.
        let shift = seed * 10_000_000;
        for event in &mut events {
            event.invoke += shift;
            event.returned += shift;
            shift_tokens(&mut event.what, shift, seed);
        }
        events.retain(|event| !matches!(event.what, What::Write { .. } | What::Counter { .. }));
        log.extend(events);
    }
    assert!(log.len() > 100_000, "{}", log.len());
    let begun = std::time::Instant::now();
    let report = check(&log, &limits());
    assert!(report.violations.is_empty(), "{report}");
    // A check of all pairs would take minutes.
    assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
}

/// How a lock of all modes may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    PermitTooMany,
    ReaderBesideWriter,
    ShardTwice,
}

#[test]
fn right_histories_of_all_modes_are_clean() {
    let (mut acquisitions, mut orders) = (0, 0);
    for seed in 0..100 {
        let report = check(&simulate_company(seed, None), &limits());
        assert!(report.violations.is_empty(), "seed {seed}: {report}");
        acquisitions += report.acquisitions;
        orders += report.queue_orders;
    }
    // The histories are worth it: many hold and wait at once.
    assert!(acquisitions > 20_000, "{acquisitions}");
    assert!(orders > 1_000, "{orders}");
}

#[test]
fn what_must_not_go_together_is_found_in_each_history() {
    for wrong in [
        Wrong::PermitTooMany,
        Wrong::ReaderBesideWriter,
        Wrong::ShardTwice,
    ] {
        for seed in 0..30 {
            let report = check(&simulate_company(seed, Some(wrong)), &limits());
            assert_eq!(
                report.broken(),
                [Check::DisjointLeases],
                "{wrong:?}, seed {seed}: {report}"
            );
        }
    }
}

/// How many permits there are, and how many shards.
const PERMITS: u32 = 3;
const SHARDS: u8 = 3;

/// A lease of the store, from its grant to its end.
struct Together {
    company: Option<Company>,
    ends: Nanos,
}

/// A history of a lock that serves one claim after another, as soon as there is room beside the
/// leases that there are. Somewhere in the middle it is `wrong`.
fn simulate_company(seed: u64, wrong: Option<Wrong>) -> Vec<Event> {
    let mut rng = Rng::with_seed(seed);
    let mut log = Vec::new();
    let mut leases: Vec<Together> = Vec::new();
    let (mut now, mut token, mut phase) = (1_000, 0, 0);
    let (mut asked, mut kind) = (0, 0);
    let mut is_due = wrong.is_some();
    for number in 0..400_u32 {
        // It comes when the one before it has, and waits behind it.
        asked = (now - rng.u64(0..60)).max(asked + 2);
        now = now.max(asked);
        // Many come after their like.
        if rng.bool() {
            kind = rng.u8(0..10);
        }
        let mut company = match kind {
            0 => None,
            1..4 => Some(Company::Shared),
            4..7 => Some(Company::Permits {
                take: rng.u32(1..=2),
                of: PERMITS,
            }),
            _ => Some(Company::Shard(0)),
        };
        // It is served when there is room.
        let is_free = loop {
            leases.retain(|lease| lease.ends > now);
            if let Some(Company::Shard(shard)) = &mut company {
                let taken = |shard: u8| {
                    let mut leases = leases.iter();
                    leases.any(|it| it.company == Some(Company::Shard(shard)))
                };
                *shard = (0..SHARDS).find(|shard| !taken(*shard)).unwrap_or(0);
            }
            if number > 20
                && is_due
                && let Some(wrongly) = given_by(wrong, now, &leases, company)
            {
                company = wrongly;
                break false;
            }
            if has_room(&leases, company) {
                break true;
            }
            now = leases.iter().map(|it| it.ends).min().unwrap_or(now);
        };
        is_due &= is_free;
        now += 1;
        let is_new_phase = company != Some(Company::Shared) || leases.is_empty() || !is_free;
        if is_new_phase {
            token = now.max(token + 1);
            phase = token;
        }
        let (claim, process) = (number.to_string(), number % 4);
        let (told, held) = (now + rng.u64(1..10), rng.u64(10..300));
        // Long enough to be there with another for certain.
        let until = told + held + 10;
        let mut note = |invoke, returned, what| {
            log.push(Event {
                process,
                key: "k".into(),
                invoke,
                returned,
                what,
            });
        };
        let queued = asked + 1;
        if queued < now {
            let place = Place::Store;
            let claim = claim.clone();
            note(asked, queued, What::Queued { claim, place });
        }
        let token = if company == Some(Company::Shared) {
            phase
        } else {
            token
        };
        let served = claim.clone();
        note(
            asked,
            told,
            What::Served {
                claim: served,
                token,
            },
        );
        let acquire = What::Acquire {
            claim: claim.clone(),
            outcome: Outcome::Ok,
            token: Some(token),
            deadline: Some(now + TTL),
        };
        note(asked, told, acquire);
        if let Some(company) = company {
            let claim = claim.clone();
            note(asked, told, What::Together { claim, company });
        }
        let outcome = Outcome::Ok;
        note(until, until + 5, What::Release { claim, outcome });
        let ends = until + rng.u64(0..5);
        leases.push(Together { company, ends });
    }
    let end = log.iter().map(|event| event.returned).max().unwrap();
    log.push(Event {
        process: 0,
        key: "*".into(),
        invoke: end,
        returned: end,
        what: What::End(Leftovers::default()),
    });
    log
}

fn permits(company: Option<Company>) -> u32 {
    match company {
        Some(Company::Permits { take, .. }) => take,
        _ => 0,
    }
}

/// Whether a lease of this kind can be there beside those that there are.
fn has_room(leases: &[Together], company: Option<Company>) -> bool {
    let taken: u32 = leases.iter().map(|lease| permits(lease.company)).sum();
    let fits = |lease: &Together| match (lease.company, company) {
        (Some(Company::Shared), Some(Company::Shared)) => true,
        (Some(Company::Permits { .. }), Some(Company::Permits { .. })) => true,
        (Some(Company::Shard(one)), Some(Company::Shard(other))) => one != other,
        _ => false,
    };
    leases.iter().all(fits) && taken + permits(company) <= PERMITS
}

/// What a lock that is `wrong` gives to a claim, though it must not; `None`, if it has no occasion.
fn given_by(
    wrong: Option<Wrong>,
    now: Nanos,
    leases: &[Together],
    company: Option<Company>,
) -> Option<Option<Company>> {
    // They are there for certain when the claim is told of its lease.
    let lasting = leases.iter().filter(|lease| lease.ends > now + 20);
    let mut lasting = lasting.map(|lease| lease.company);
    match (wrong?, company) {
        (Wrong::PermitTooMany, Some(Company::Permits { take, .. })) => {
            let taken: u32 = lasting.map(permits).sum();
            (taken > 0 && taken + take > PERMITS).then_some(company)
        }
        (Wrong::ReaderBesideWriter, Some(Company::Shared)) => {
            lasting.any(|other| other.is_none()).then_some(company)
        }
        (Wrong::ShardTwice, Some(Company::Shard(_))) => {
            lasting.find(|other| matches!(other, Some(Company::Shard(_))))
        }
        _ => None,
    }
}

fn limits() -> Limits {
    Limits {
        wait_slack: 100,
        max_ttl_ms: 1_000,
    }
}

fn shift_tokens(what: &mut What, shift: u64, seed: u64) {
    let rename = |claim: &mut String| *claim = format!("{seed}:{claim}");
    match what {
        What::Acquire {
            claim,
            token,
            deadline,
            ..
        } => {
            rename(claim);
            *token = token.map(|token| token + shift);
            *deadline = deadline.map(|deadline| deadline + shift);
        }
        What::Served { claim, token } => {
            rename(claim);
            *token += shift;
        }
        What::Renew {
            claim, deadline, ..
        } => {
            rename(claim);
            *deadline = deadline.map(|deadline| deadline + shift);
        }
        What::Ask { claim, .. }
        | What::Queued { claim, .. }
        | What::Release { claim, .. }
        | What::Body { claim, .. } => rename(claim),
        _ => {}
    }
}

struct Simulated {
    log: Vec<Event>,
    /// How many stale writes the resource refused.
    refused: usize,
    /// How many leases ran out.
    expired: usize,
}

/// A claim in the queue of the simulated store.
struct Waiter {
    claim: String,
    process: u32,
    asked: Nanos,
}

/// A lock from the point of view of its store: whoever is granted, when it will end, and what its
/// holder does until then is settled at the grant. `losses` are the grants after which the store
/// forgets everything.
struct Simulation {
    rng: Rng,
    log: Vec<Event>,
    now: Nanos,
    token: u64,
    queue: VecDeque<Waiter>,
    resource: u64,
    counter: u64,
    /// The writes that have not arrived yet: by arrival, then claim and token.
    writes: BTreeMap<Nanos, (u32, String, u64)>,
    refused: usize,
    expired: usize,
}

fn simulate(seed: u64, losses: &[usize]) -> Simulated {
    let mut simulation = Simulation {
        rng: Rng::with_seed(seed),
        log: Vec::new(),
        now: 1_000,
        token: 0,
        queue: VecDeque::new(),
        resource: 0,
        counter: 0,
        writes: BTreeMap::new(),
        refused: 0,
        expired: 0,
    };
    for turn in 0..40 {
        simulation.arrivals(turn);
        simulation.turn(losses.contains(&turn));
    }
    simulation.finish()
}

impl Simulation {
    /// How long something is on its way.
    fn way(&mut self) -> Nanos {
        self.rng.u64(1..30)
    }

    fn push(&mut self, process: u32, invoke: Nanos, returned: Nanos, what: What) {
        self.log.push(Event {
            process,
            key: "k".into(),
            invoke,
            returned,
            what,
        });
    }

    /// Some claims queue up, one after the other.
    fn arrivals(&mut self, turn: usize) {
        let arrivals = if self.queue.is_empty() { 1..4 } else { 0..3 };
        for i in 0..self.rng.usize(arrivals) {
            let (claim, process) = (format!("{turn}-{i}"), self.rng.u32(1..4));
            self.now += self.way();
            let asked = self.now - self.rng.u64(0..20);
            let told = self.now + self.way();
            self.push(
                process,
                asked,
                asked,
                What::Ask {
                    claim: claim.clone(),
                    wait: WAIT,
                },
            );
            // Who gives up, or never hears what became of it, is not served: the lock was not free
            // before.
            match self.rng.u8(..) {
                0..16 => self.ask_in_vain(process, claim, asked, Outcome::Fail),
                16..32 => self.ask_in_vain(process, claim, asked, Outcome::Unknown),
                _ => {
                    let queued = What::Queued {
                        claim: claim.clone(),
                        place: Place::Store,
                    };
                    self.push(process, asked, told, queued);
                    self.queue.push_back(Waiter {
                        claim,
                        process,
                        asked,
                    });
                }
            }
        }
    }

    fn ask_in_vain(&mut self, process: u32, claim: String, asked: Nanos, outcome: Outcome) {
        let returned = self.now + WAIT / 2;
        let acquire = What::Acquire {
            claim,
            outcome,
            token: None,
            deadline: None,
        };
        self.push(process, asked, returned, acquire);
    }

    /// The head of the queue gets the lock and does something with it; `forgotten`: the store
    /// forgets it meanwhile.
    fn turn(&mut self, forgotten: bool) {
        let Some(Waiter {
            claim,
            process,
            asked,
        }) = self.queue.pop_front()
        else {
            return;
        };
        self.now += self.rng.u64(1..10);
        self.token = self.now.max(self.token + 1);
        let (granted, token) = (self.now, self.token);
        let told = granted + self.way();
        let mut deadline = granted + TTL - 30;
        let served = What::Served {
            claim: claim.clone(),
            token,
        };
        self.push(process, asked, told, served);
        let acquire = What::Acquire {
            claim: claim.clone(),
            outcome: Outcome::Ok,
            token: Some(token),
            deadline: Some(deadline),
        };
        self.push(process, asked, told, acquire);

        let mut store_ends = granted + TTL;
        let mut at = told + self.rng.u64(1..200);
        self.write(process, &claim, token, at);
        if self.rng.bool() {
            deadline = at + TTL - 30;
            store_ends = at + TTL;
            let renewed = at + self.way();
            let renew = What::Renew {
                claim: claim.clone(),
                outcome: Outcome::Ok,
                deadline: Some(deadline),
            };
            self.push(process, at, renewed, renew);
            at = renewed + self.rng.u64(1..200);
        }
        let ends_itself = self.rng.u8(..) > 50;
        if ends_itself {
            let body = What::Body {
                claim: claim.clone(),
                ok: true,
                lost: false,
            };
            self.push(process, at, at + 5, body);
            let executed = at + self.way();
            let outcome = if self.rng.u8(..) < 30 {
                Outcome::Unknown
            } else {
                Outcome::Ok
            };
            let told = executed + self.way();
            self.push(process, at, told, What::Release { claim, outcome });
            self.now = executed;
        } else {
            // It stands still, or is dead; a write of it may arrive however late.
            let late = store_ends + self.rng.u64(1..3_000);
            let body = What::Body {
                claim: claim.clone(),
                ok: false,
                lost: true,
            };
            self.push(process, deadline + 1, late, body);
            self.write(process, &claim, token, late);
            self.expired += 1;
            self.now = store_ends;
        }
        if forgotten {
            let lost = granted + (told - granted).min(20);
            let fault = What::Fault {
                fault: Fault::DataLoss,
            };
            self.push(0, lost, lost + 1, fault);
            self.now = lost + 1;
            // Everyone queues up again, in another order.
            self.rng.shuffle(self.queue.make_contiguous());
        }
    }

    fn write(&mut self, process: u32, claim: &str, token: u64, at: Nanos) {
        let mut arrives = at + self.rng.u64(1..10);
        while self.writes.contains_key(&arrives) {
            arrives += 1;
        }
        self.writes
            .insert(arrives, (process, claim.to_owned(), token));
    }

    /// The writes arrive at the resource, and the logs end.
    fn finish(mut self) -> Simulated {
        for (at, (process, claim, token)) in std::mem::take(&mut self.writes) {
            let accepted = token >= self.resource;
            let outcome = match (accepted, self.rng.u8(..)) {
                (_, 0..20) => Outcome::Unknown,
                (true, _) => Outcome::Ok,
                (false, _) => Outcome::Fail,
            };
            if accepted {
                self.resource = token;
                self.counter += 1;
            } else {
                self.refused += 1;
            }
            let seq = (outcome == Outcome::Ok).then_some(self.counter);
            let write = What::Write {
                claim,
                token,
                outcome,
                seq,
            };
            self.push(process, at, at + 5, write);
        }
        let end = self.log.iter().map(|event| event.returned).max().unwrap();
        // Those that are still queued give up.
        for waiter in std::mem::take(&mut self.queue) {
            let acquire = What::Acquire {
                claim: waiter.claim,
                outcome: Outcome::Fail,
                token: None,
                deadline: None,
            };
            self.push(waiter.process, waiter.asked, waiter.asked + WAIT, acquire);
        }
        let value = self.counter;
        self.push(0, end, end, What::Counter { value });
        self.push(0, end, end, What::End(Leftovers::default()));
        Simulated {
            log: self.log,
            refused: self.refused,
            expired: self.expired,
        }
    }
}
