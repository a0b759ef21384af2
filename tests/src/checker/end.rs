//! C8: nothing is left behind.

use super::{Check, Event, Limits, Report, Violation, What};

pub(super) fn check(events: &[Event], limits: &Limits, report: &mut Report) {
    for event in events {
        let What::End(left) = &event.what else {
            continue;
        };
        let mut found = |what: String| {
            report.add(Violation::new(Check::CleanEnd, what, &[event]), None);
        };
        for (key, ttl) in &left.keys {
            match ttl {
                None => found(format!("the key {key} never expires")),
                Some(ttl) if *ttl > limits.max_ttl_ms => {
                    found(format!("the key {key} lives for another {ttl} ms"));
                }
                Some(_) => {}
            }
        }
        for (number, of_what) in [
            (left.queued, "queue entries"),
            (left.tasks, "tasks"),
            (left.subscriptions, "subscriptions"),
            (left.fds, "file descriptors"),
        ] {
            if number > 0 {
                found(format!("{number} {of_what} are left"));
            }
        }
    }
}
