//! C1, C2, C3, C5, C7 and C11: what was granted, in which order and for how long.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Check, Company, Event, Faults, Nanos, Outcome, Report, Violation, What};

pub(super) fn check(events: &[&Event], faults: &Faults<'_>, report: &mut Report) {
    let leases = Leases::of(events);
    report.acquisitions += leases.all.len();
    check_unique(&leases.all, report);
    check_order(&leases.all, report);
    check_disjoint(&leases.all, faults, report);
    check_reentry(events, &leases, report);
    check_bodies(events, &leases, report);
    check_minima(events, &leases, faults, report);
}

struct Leases<'a> {
    all: Vec<Lease<'a>>,
    of_claim: HashMap<&'a str, usize>,
    /// For each claim the deadlines it was told and when, in the order of the log.
    deadlines: HashMap<&'a str, Vec<(Nanos, Nanos)>>,
}

impl<'a> Leases<'a> {
    fn of(events: &[&'a Event]) -> Leases<'a> {
        let mut deadlines: HashMap<&str, Vec<(Nanos, Nanos)>> = HashMap::new();
        let mut released: HashMap<&str, Nanos> = HashMap::new();
        let mut companies: HashMap<&str, Company> = HashMap::new();
        for event in events {
            match &event.what {
                What::Acquire {
                    claim,
                    deadline: Some(deadline),
                    ..
                }
                | What::Renew {
                    claim,
                    outcome: Outcome::Ok,
                    deadline: Some(deadline),
                } => deadlines
                    .entry(claim)
                    .or_default()
                    .push((event.returned, *deadline)),
                What::Together { claim, company } => {
                    companies.insert(claim, *company);
                }
                // Whatever came of it: from the moment it was sent the holder relies on nothing.
                What::Release { claim, .. } => {
                    let first = released.entry(claim).or_insert(event.invoke);
                    *first = event.invoke.min(*first);
                }
                _ => {}
            }
        }
        let mut leases = Leases {
            all: Vec::new(),
            of_claim: HashMap::new(),
            deadlines,
        };
        for event in events {
            if let What::Acquire {
                claim,
                outcome: Outcome::Ok,
                token: Some(token),
                ..
            } = &event.what
            {
                let deadline = leases.deadline(claim, Nanos::MAX).unwrap_or(event.returned);
                let release = released.get(claim.as_str()).copied();
                leases.of_claim.insert(claim, leases.all.len());
                leases.all.push(Lease {
                    event,
                    token: *token,
                    company: companies.get(claim.as_str()).copied(),
                    end: deadline.min(release.unwrap_or(Nanos::MAX)),
                });
            }
        }
        leases
    }

    /// The latest deadline that `claim` had been told by `at`.
    fn deadline(&self, claim: &str, at: Nanos) -> Option<Nanos> {
        self.deadlines
            .get(claim)?
            .iter()
            .filter(|(told, _)| *told <= at)
            .map(|(_, deadline)| *deadline)
            .max()
    }
}

/// A granted claim.
#[derive(Clone, Copy)]
struct Lease<'a> {
    event: &'a Event,
    token: u64,
    /// `None` if it is all of the key.
    company: Option<Company>,
    /// The instant until which its holder could rely on it and had not begun to give it back.
    end: Nanos,
}

impl Lease<'_> {
    fn kind(&self) -> Kind {
        match self.company {
            None => Kind::Alone,
            Some(Company::Shared) => Kind::Shared,
            Some(Company::Permits { .. }) => Kind::Permits,
            Some(Company::Shard(shard)) => Kind::Shard(shard),
        }
    }
}

/// Which leases can go together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Alone,
    Shared,
    Permits,
    Shard(u8),
}

impl Kind {
    /// Whether two leases of these kinds can never be valid at once.
    fn excludes(self, other: Kind) -> bool {
        match (self, other) {
            (Kind::Shared, Kind::Shared) | (Kind::Permits, Kind::Permits) => false,
            (Kind::Shard(one), Kind::Shard(another)) => one == another,
            _ => true,
        }
    }
}

/// C1.
fn check_unique(leases: &[Lease<'_>], report: &mut Report) {
    let mut sorted = leases.to_vec();
    sorted.sort_by_key(|lease| lease.token);
    for pair in sorted.windows(2) {
        let shared = pair.iter().all(|lease| lease.kind() == Kind::Shared);
        if pair[0].token == pair[1].token && !shared {
            let what = format!("the token {} was given to two claims", pair[0].token);
            report.add(
                Violation::new(Check::UniqueTokens, what, &[pair[0].event, pair[1].event]),
                None,
            );
        }
    }
}

/// C2: sweeps the claims in the order in which they were made, beside the highest token that had
/// been granted by then, of each kind.
fn check_order(leases: &[Lease<'_>], report: &mut Report) {
    let (mut made, mut granted) = (leases.to_vec(), leases.to_vec());
    made.sort_by_key(|lease| lease.event.invoke);
    granted.sort_by_key(|lease| lease.event.returned);
    let mut granted = granted.into_iter().peekable();
    let mut highest: BTreeMap<Kind, Lease<'_>> = BTreeMap::new();
    for lease in made {
        while let Some(earlier) = granted.next_if(|l| l.event.returned < lease.event.invoke) {
            let high = highest.entry(earlier.kind()).or_insert(earlier);
            if earlier.token > high.token {
                *high = earlier;
            }
        }
        let excluded = highest
            .iter()
            .filter(|(kind, _)| kind.excludes(lease.kind()));
        let high = excluded.map(|(_, high)| high).max_by_key(|high| high.token);
        if let Some(high) = high.filter(|high| high.token > lease.token) {
            report.add(
                Violation::new(
                    Check::RealTimeOrder,
                    "a later claim got a smaller token",
                    &[high.event, lease.event],
                ),
                None,
            );
        }
    }
}

/// C5: when a grant is answered, every lease with a smaller token has ended that it does not go
/// together with, and of permits no more are taken than there are.
///
/// That covers leases which are known to be valid at once, and one case more: the answer to the
/// *earlier* grant was still on its way when the later claim was granted, and its lease still valid
/// after that. No order of the two explains it either.
fn check_disjoint(leases: &[Lease<'_>], faults: &Faults<'_>, report: &mut Report) {
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    enum Step {
        // First, since a lease that ends in the very instant of another's answer is no overlap.
        Ended,
        Sent,
        Answered,
    }
    let mut steps: Vec<(Nanos, Step, usize)> = Vec::with_capacity(leases.len() * 3);
    for (i, lease) in leases.iter().enumerate() {
        if lease.end > lease.event.invoke {
            steps.push((lease.event.invoke, Step::Sent, i));
            steps.push((lease.end, Step::Ended, i));
        }
        steps.push((lease.event.returned, Step::Answered, i));
    }
    steps.sort_unstable();

    let mut open: BTreeMap<Kind, BTreeSet<(u64, usize)>> = BTreeMap::new();
    // The permits that are certainly taken.
    let mut taken: BTreeSet<usize> = BTreeSet::new();
    for (at, step, i) in steps {
        let lease = leases[i];
        match step {
            Step::Sent => drop(
                open.entry(lease.kind())
                    .or_default()
                    .insert((lease.token, i)),
            ),
            Step::Ended => {
                taken.remove(&i);
                if let Some(open) = open.get_mut(&lease.kind()) {
                    open.remove(&(lease.token, i));
                }
            }
            Step::Answered => {
                if lease.kind() == Kind::Permits && lease.end > at {
                    taken.insert(i);
                    check_limit(leases, &taken, &lease, faults, report);
                }
                let excluded = open.iter().filter(|(kind, _)| kind.excludes(lease.kind()));
                let first = excluded.filter_map(|(_, open)| open.first()).min();
                let Some((_, earlier)) = first.filter(|(token, _)| *token < lease.token) else {
                    continue;
                };
                let earlier = leases[*earlier].event;
                report.add(
                    Violation::new(
                        Check::DisjointLeases,
                        "two leases were valid at once",
                        &[earlier, lease.event],
                    ),
                    faults.of_store(&lease.event.key, earlier.invoke, at),
                );
            }
        }
    }
}

/// Of the permits that are `taken`, the last of them by `lease`, there are no more than the largest
/// of their limits.
fn check_limit(
    leases: &[Lease<'_>],
    taken: &BTreeSet<usize>,
    lease: &Lease<'_>,
    faults: &Faults<'_>,
    report: &mut Report,
) {
    let permits = taken.iter().filter_map(|i| match leases[*i].company {
        Some(Company::Permits { take, of }) => Some((take, of)),
        _ => None,
    });
    let (sum, limit) = permits.fold((0, 0), |(sum, limit), (take, of)| {
        (sum + take, of.max(limit))
    });
    if sum <= limit {
        return;
    }
    let events: Vec<&Event> = taken.iter().map(|i| leases[*i].event).collect();
    let since = events.iter().map(|event| event.invoke).min().unwrap_or(0);
    report.add(
        Violation::new(
            Check::DisjointLeases,
            format!("{sum} of {limit} permits were taken at once"),
            &events,
        ),
        faults.of_store(&lease.event.key, since, lease.event.returned),
    );
}

/// C3.
fn check_reentry(events: &[&Event], leases: &Leases<'_>, report: &mut Report) {
    for &event in events {
        if let What::Reenter { claim, token } = &event.what {
            let outer = leases.of_claim.get(claim.as_str()).map(|i| leases.all[*i]);
            // A holder whose grant is not in the log was cut off before it could record it.
            if let Some(outer) = outer.filter(|outer| outer.token != *token) {
                report.add(
                    Violation::new(
                        Check::ReentryKeepsToken,
                        "a re-entry got another token",
                        &[outer.event, event],
                    ),
                    None,
                );
            }
        }
    }
}

/// C7.
fn check_bodies(events: &[&Event], leases: &Leases<'_>, report: &mut Report) {
    for &event in events {
        if let What::Body {
            claim,
            ok: true,
            lost: false,
        } = &event.what
        {
            let deadline = leases.deadline(claim, event.returned);
            if deadline.is_some_and(|deadline| event.invoke > deadline) {
                report.add(
                    Violation::new(
                        Check::NoOkAfterLoss,
                        "a body ended well after its lease",
                        &[event],
                    ),
                    None,
                );
            }
        }
    }
}

/// C11: the next grant after that of a claim whose key is to stay taken is answered later.
fn check_minima(events: &[&Event], leases: &Leases<'_>, faults: &Faults<'_>, report: &mut Report) {
    let mut sorted = leases.all.clone();
    sorted.sort_by_key(|lease| lease.token);
    // The first to be answered of each lease and those after it, which need not be the next.
    let mut firsts = sorted.clone();
    for at in (1..firsts.len()).rev() {
        if firsts[at].event.returned < firsts[at - 1].event.returned {
            firsts[at - 1] = firsts[at];
        }
    }
    for &event in events {
        let What::Keep { claim, until } = &event.what else {
            continue;
        };
        let Some(kept) = leases.of_claim.get(claim.as_str()) else {
            continue;
        };
        let kept = leases.all[*kept];
        let later = sorted.partition_point(|lease| lease.token <= kept.token);
        let Some(next) = firsts.get(later) else {
            continue;
        };
        report.minimum_holds += 1;
        if next.event.returned < *until {
            report.add(
                Violation::new(
                    Check::MinimumHold,
                    "a key was granted that was to stay taken",
                    &[kept.event, event, next.event],
                ),
                faults.of_store(&event.key, kept.event.invoke, *until),
            );
        }
    }
}
