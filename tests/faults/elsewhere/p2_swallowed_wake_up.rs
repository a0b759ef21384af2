//! P2: a cancelled waiter swallows the wake-up of the next.

use super::*;

/// Whether it is an acquire of which nobody knows what came.
fn is_unknown(event: &Event) -> bool {
    let What::Acquire { outcome, .. } = &event.what else {
        return false;
    };
    *outcome == Outcome::Unknown
}

#[tokio::test]
async fn cancelled_waiters_swallow_no_wake_up_meant_for_others() {
    let server = Server::start();
    let mut contest = Contest::new(LONGEST);
    contest.order.cancel = true;
    let stayed = contend(&server, &mut contest, async || ()).await;
    let events = contest.events();
    let left = events.iter().filter(|event| is_unknown(event)).count();
    assert!(left > 0, "no waiter was cancelled");
    assert_eq!(stayed.len(), PROCESSES * TASKS / 2);
    assert!(stayed.iter().all(|served| *served > 0), "{stayed:?}");
}
