//! The checker against a search: on small histories C1, C2 and C5 find a violation exactly when no
//! order of grants and endings explains the history as a mutex with growing fencing tokens, or as a
//! lock of all modes.
//!
//! The search is that of Wing and Gong (1993) with Lowe's memory of what was tried (2017), as in
//! Porcupine.

use std::collections::HashSet;

use lock_tests::checker::{Check, Company, Event, Limits, Outcome, What, check};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

/// What a client knows of one claim. Times are small and often equal, so that ties are met too.
#[derive(Clone, Debug)]
struct Attempt {
    invoke: u64,
    returned: u64,
    /// `None`: the answer was lost.
    token: Option<u64>,
    deadline: u64,
    /// When its release was sent, if it was.
    release: Option<u64>,
    /// `None` if it is all of the key.
    company: Option<Company>,
}

impl Attempt {
    fn end(&self) -> u64 {
        self.deadline.min(self.release.unwrap_or(u64::MAX))
    }

    fn events(&self, claim: usize) -> Vec<Event> {
        let claim = claim.to_string();
        let event = |invoke, returned, what| Event {
            process: 1,
            key: "k".into(),
            invoke,
            returned,
            what,
        };
        let known = self.token.is_some();
        let mut events = vec![event(
            self.invoke,
            self.returned,
            What::Acquire {
                claim: claim.clone(),
                outcome: if known { Outcome::Ok } else { Outcome::Unknown },
                token: self.token,
                deadline: known.then_some(self.deadline),
            },
        )];
        if let Some(company) = self.company {
            let claim = claim.clone();
            let what = What::Together { claim, company };
            events.push(event(self.invoke, self.returned, what));
        }
        if let Some(at) = self.release {
            let outcome = Outcome::Unknown;
            events.push(event(at, at, What::Release { claim, outcome }));
        }
        events
    }
}

fn attempts() -> impl Strategy<Value = Vec<Attempt>> {
    let attempt = (
        0..40u64,
        0..15u64,
        prop::option::weighted(0.85, 1..12u64),
        0..20u64,
        prop::option::of(0..12u64),
    )
        .prop_map(|(invoke, took, token, lives, held)| Attempt {
            invoke,
            returned: invoke + took,
            token,
            deadline: invoke + lives,
            release: held.map(|held| invoke + took + held),
            company: None,
        });
    prop::collection::vec(attempt, 1..6)
}

/// How many permits there are.
const PERMITS: u32 = 3;

/// Attempts of all modes, whose leases end after they were told of: of others, those that go
/// together say too little of the order of those between which they stand.
fn attempts_of_all_modes() -> impl Strategy<Value = Vec<Attempt>> {
    let company = prop_oneof![
        2 => Just(None),
        3 => Just(Some(Company::Shared)),
        3 => (1..=2u32).prop_map(|take| Some(Company::Permits { take, of: PERMITS })),
        2 => (0..2u8).prop_map(|shard| Some(Company::Shard(shard))),
    ];
    let attempt = (0..40u64, 0..15u64, 1..8u64, 1..20u64, company).prop_map(
        |(invoke, took, ahead, held, company)| Attempt {
            invoke,
            returned: invoke + took,
            // Most are larger than those before.
            token: Some(invoke / 4 + ahead),
            deadline: invoke + took + held,
            release: None,
            company,
        },
    );
    prop::collection::vec(attempt, 1..6)
}

/// Whether two leases exclude each other.
fn exclude(one: Option<Company>, other: Option<Company>) -> bool {
    match (one, other) {
        (Some(Company::Shared), Some(Company::Shared))
        | (Some(Company::Permits { .. }), Some(Company::Permits { .. })) => false,
        (Some(Company::Shard(one)), Some(Company::Shard(other))) => one == other,
        _ => true,
    }
}

/// Whether some order of the grants and endings, each within its window, is one of a lock that
/// grants what goes together, with tokens that grow among those that do not. No two but those who
/// share have the same.
fn explained_together(attempts: &[Attempt]) -> bool {
    let token = |of: usize| attempts[of].token.unwrap();
    let company = |of: usize| attempts[of].company;
    let all = 0..attempts.len();
    let are_shared = |one, other| {
        company(one) == Some(Company::Shared) && company(other) == Some(Company::Shared)
    };
    for one in all.clone() {
        for other in 0..one {
            if token(one) == token(other) && !are_shared(one, other) {
                return false;
            }
        }
    }
    let permits = |of: usize| match company(of) {
        Some(Company::Permits { take, .. }) => take,
        _ => 0,
    };
    let mut tried = HashSet::new();
    // Which were granted, and which have ended.
    let mut open = vec![(0u32, 0u32)];
    while let Some((granted, ended)) = open.pop() {
        if ended.count_ones() as usize == attempts.len() {
            return true;
        }
        if !tried.insert((granted, ended)) {
            continue;
        }
        let was = |mask: u32, of: usize| mask & (1 << of) != 0;
        // Nothing may be put before what had ended when it began.
        let can_begin_at = |from: u64, but: usize| {
            all.clone()
                .all(|it| it == but || was(granted, it) || attempts[it].returned >= from)
        };
        for of in all.clone() {
            if was(granted, of) {
                let can_end = !was(ended, of) && can_begin_at(attempts[of].end(), of);
                open.extend(can_end.then_some((granted, ended | 1 << of)));
                continue;
            }
            let mut held = all
                .clone()
                .filter(|it| was(granted, *it) && !was(ended, *it));
            let taken: u32 = held.clone().map(permits).sum();
            let fits =
                held.all(|it| !exclude(company(it), company(of))) && taken + permits(of) <= PERMITS;
            let mut before = all.clone().filter(|it| was(granted, *it));
            let grows =
                before.all(|it| !exclude(company(it), company(of)) || token(it) < token(of));
            if fits && grows && can_begin_at(attempts[of].invoke, of) {
                open.push((granted | 1 << of, ended));
            }
        }
    }
    false
}

/// Whether some order of the grants and endings, each within its window, is one of a mutex whose
/// tokens grow.
fn explained(attempts: &[Attempt]) -> bool {
    /// A step of the sequential lock, and when it can have happened.
    struct Step {
        of: usize,
        grants: bool,
        from: u64,
        to: u64,
    }
    // What an attempt with a lost answer did is open, and "nothing" is always possible: it explains
    // neither more nor less.
    let known: Vec<&Attempt> = attempts.iter().filter(|a| a.token.is_some()).collect();
    let mut steps = Vec::new();
    for (of, attempt) in known.iter().enumerate() {
        steps.push(Step {
            of,
            grants: true,
            from: attempt.invoke,
            to: attempt.returned,
        });
        // A release may take effect, and a lease expire, at any time from then on.
        steps.push(Step {
            of,
            grants: false,
            from: attempt.end(),
            to: u64::MAX,
        });
    }

    let mut tried = HashSet::new();
    let mut open = vec![(0u32, None::<usize>, 0u64)];
    while let Some((done, holder, last)) = open.pop() {
        if done.count_ones() as usize == steps.len() {
            return true;
        }
        if !tried.insert((done, holder, last)) {
            continue;
        }
        let left = || (0..steps.len()).filter(|i| done & (1 << i) == 0);
        for i in left() {
            let step = &steps[i];
            // Nothing may be put before what had ended when it began.
            if left().any(|other| other != i && steps[other].to < step.from) {
                continue;
            }
            let done = done | 1 << i;
            match (step.grants, holder) {
                (true, None) if known[step.of].token.unwrap() > last => {
                    open.push((done, Some(step.of), known[step.of].token.unwrap()));
                }
                (false, Some(of)) if of == step.of => open.push((done, None, last)),
                _ => {}
            }
        }
    }
    false
}

fn accepted(attempts: &[Attempt]) -> bool {
    let events: Vec<Event> = attempts
        .iter()
        .enumerate()
        .flat_map(|(claim, attempt)| attempt.events(claim))
        .collect();
    let report = check(&events, &Limits::default());
    let about_the_mutex = [
        Check::UniqueTokens,
        Check::RealTimeOrder,
        Check::DisjointLeases,
    ];
    assert!(
        report.broken().iter().all(|c| about_the_mutex.contains(c)),
        "{report}"
    );
    report.violations.is_empty()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_checker_accepts_exactly_the_histories_that_a_search_explains(attempts in attempts()) {
        prop_assert_eq!(accepted(&attempts), explained(&attempts));
    }

    #[test]
    fn the_checker_accepts_exactly_the_histories_of_all_modes_that_a_search_explains(
        attempts in attempts_of_all_modes(),
    ) {
        prop_assert_eq!(accepted(&attempts), explained_together(&attempts));
    }
}

/// A lock that nobody shares is one in which all leases are the whole of it.
#[test]
fn both_searches_explain_the_same_of_the_plain_lock() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..2_000 {
        let mut attempts = attempts_of_all_modes()
            .new_tree(&mut runner)
            .unwrap()
            .current();
        for attempt in &mut attempts {
            attempt.company = None;
        }
        assert_eq!(
            explained_together(&attempts),
            explained(&attempts),
            "{attempts:?}"
        );
    }
}

/// The control of the property above: its histories are of both kinds.
#[test]
fn the_generated_histories_are_right_and_wrong_ones() {
    both_kinds(&attempts(), explained);
    both_kinds(&attempts_of_all_modes(), explained_together);
}

fn both_kinds(
    histories: &impl Strategy<Value = Vec<Attempt>>,
    explained: impl Fn(&[Attempt]) -> bool,
) {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut right, mut wrong) = (0, 0);
    for _ in 0..500 {
        let attempts = histories.new_tree(&mut runner).unwrap().current();
        if attempts.len() < 2 {
            continue;
        }
        if explained(&attempts) {
            right += 1;
        } else {
            wrong += 1;
        }
    }
    assert!(right > 50 && wrong > 50, "{right} right, {wrong} wrong");
}
