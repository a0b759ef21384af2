//! What time it is at the nodes, for the fencing tokens that are proposed to them.

use std::sync::Mutex;

use lock_protocol::Instant;

use super::tally::majority;
use crate::sync::lock;

/// How far the clocks of the nodes are from the local one, which is monotonic, in microseconds.
///
/// The time of the nodes is that of their median, so neither a minority of wrong clocks nor the
/// wall clock of this machine moves it.
pub(super) struct Clock {
    state: Mutex<State>,
}

struct State {
    offsets: Vec<Option<i64>>,
    /// The largest time that was told.
    last: u64,
}

impl Clock {
    pub(super) fn new(nodes: usize) -> Clock {
        Clock {
            state: Mutex::new(State {
                offsets: vec![None; nodes],
                last: 0,
            }),
        }
    }

    /// Takes in that `node` told this `time` in an answer that has come `now`.
    pub(super) fn heard(&self, node: usize, time: u64, now: Instant) {
        let (Ok(time), now) = (i64::try_from(time), micros(now)) else {
            return;
        };
        let offset = time - now;
        let mut state = lock(&self.state);
        let known = &mut state.offsets[node];
        // The quickest answer tells most, and one that seems to be in the past may be late, or the
        // clock have been set back.
        *known = Some(match *known {
            Some(known) if known > offset => known - (known - offset) / 8,
            _ => offset,
        });
    }

    /// Whether enough nodes have told their time.
    pub(super) fn is_known(&self) -> bool {
        let state = lock(&self.state);
        let known = state.offsets.iter().flatten().count();
        known >= majority(state.offsets.len())
    }

    /// The time of the nodes `now`, larger each time; `None` if too few are known.
    pub(super) fn next(&self, now: Instant) -> Option<u64> {
        let mut state = lock(&self.state);
        let mut known: Vec<i64> = state.offsets.iter().flatten().copied().collect();
        if known.len() < majority(state.offsets.len()) {
            return None;
        }
        known.sort_unstable();
        // The median, once all are known. Before, one that so many others are not behind that one
        // of them must be right.
        let offset = known[known.len() - majority(state.offsets.len())];
        let time = u64::try_from(micros(now) + offset).ok()?;
        state.last = time.max(state.last + 1);
        Some(state.last)
    }
}

fn micros(now: Instant) -> i64 {
    // It is less than 2^63 / 1000.
    (now.as_nanos() / 1000) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000_000;

    fn at(micros: u64) -> Instant {
        Instant::from_nanos(1000 * micros)
    }

    #[test]
    fn a_minority_of_wrong_clocks_moves_nothing() {
        let clock = Clock::new(5);
        assert_eq!(clock.next(at(0)), None);
        for (node, time) in [(0, 5 * HOUR), (1, 7 * HOUR + 10)] {
            clock.heard(node, time, at(100));
        }
        assert_eq!(clock.next(at(100)), None, "two of five are no majority");
        clock.heard(2, 7 * HOUR, at(100));
        assert_eq!(
            clock.next(at(100)),
            Some(5 * HOUR),
            "not ahead of a right one"
        );
        clock.heard(3, 9 * HOUR, at(100));
        clock.heard(4, 7 * HOUR + 20, at(100));
        assert_eq!(clock.next(at(300)), Some(7 * HOUR + 210));
    }

    #[test]
    fn no_time_is_told_twice_and_a_slow_answer_moves_little() {
        let clock = Clock::new(1);
        clock.heard(0, 1_000, at(0));
        assert_eq!(clock.next(at(5)), Some(1_005));
        assert_eq!(clock.next(at(5)), Some(1_006));
        clock.heard(0, 1_010, at(90));
        assert_eq!(clock.next(at(90)), Some(1_080));
        clock.heard(0, 1_100, at(100));
        assert_eq!(clock.next(at(100)), Some(1_100));
    }
}
