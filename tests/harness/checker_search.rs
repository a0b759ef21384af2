//! The checker against a search: on small histories C1, C2 and C5 find a violation exactly when no
//! order of grants and endings explains the history as a mutex with growing fencing tokens.
//!
//! The search is that of Wing and Gong (1993) with Lowe's memory of what was tried (2017), as in
//! Porcupine.

use std::collections::HashSet;

use lock_tests::checker::{Check, Event, Limits, Outcome, What, check};
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
        });
    prop::collection::vec(attempt, 1..6)
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
}

/// The control of the property above: its histories are of both kinds.
#[test]
fn the_generated_histories_are_right_and_wrong_ones() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut right, mut wrong) = (0, 0);
    for _ in 0..500 {
        let attempts = attempts().new_tree(&mut runner).unwrap().current();
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
