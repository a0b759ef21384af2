//! C4 and C6: what the protected resource saw.

use super::{Check, Event, Outcome, Report, Violation, What};

pub(super) fn check(events: &[&Event], report: &mut Report) {
    check_fencing(events, report);
    check_counter(events, report);
}

/// C4: in the order of the resource, tokens never fall, and equal tokens belong to one claim.
fn check_fencing(events: &[&Event], report: &mut Report) {
    let mut accepted: Vec<(u64, u64, &str, &Event)> = events
        .iter()
        .filter_map(|event| match &event.what {
            What::Write {
                claim,
                token,
                outcome: Outcome::Ok,
                seq: Some(seq),
            } => Some((*seq, *token, claim.as_str(), *event)),
            _ => None,
        })
        .collect();
    accepted.sort_by_key(|(seq, ..)| *seq);

    let mut highest: Option<(u64, &str, &Event)> = None;
    for (_, token, claim, event) in accepted {
        if let Some((seen, by, earlier)) = highest {
            let what = if token < seen {
                Some("a write of an earlier holder was accepted after a later one's")
            } else if token == seen && claim != by {
                Some("writes of two claims were accepted with one token")
            } else {
                None
            };
            if let Some(what) = what {
                report.add(
                    Violation::new(Check::FencedResource, what, &[earlier, event]),
                    None,
                );
            }
        }
        if highest.is_none_or(|(seen, ..)| token >= seen) {
            highest = Some((token, claim, event));
        }
    }
}

/// C6: the counter is the number of accepted writes, give or take those whose answers were lost,
/// and no two writes made the same of it.
fn check_counter(events: &[&Event], report: &mut Report) {
    let (mut accepted, mut unknown) = (0, 0);
    let mut places: Vec<(u64, &Event)> = Vec::new();
    for &event in events {
        if let What::Write { outcome, seq, .. } = &event.what {
            match outcome {
                Outcome::Ok => accepted += 1,
                Outcome::Unknown => unknown += 1,
                Outcome::Fail => {}
            }
            if let (Outcome::Ok, Some(seq)) = (outcome, seq) {
                places.push((*seq, event));
            }
        }
    }
    places.sort_by_key(|(seq, _)| *seq);
    for pair in places.windows(2) {
        if pair[0].0 == pair[1].0 {
            report.add(
                Violation::new(
                    Check::CounterSum,
                    "one of two increments is lost",
                    &[pair[0].1, pair[1].1],
                ),
                None,
            );
        }
    }
    for &event in events {
        if let What::Counter { value } = event.what
            && !(accepted..=accepted + unknown).contains(&value)
        {
            let what = format!(
                "the counter is {value} after {accepted} accepted and {unknown} unknown increments"
            );
            report.add(Violation::new(Check::CounterSum, what, &[event]), None);
        }
    }
}
