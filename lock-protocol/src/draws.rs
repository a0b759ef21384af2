//! Whether a fencing token may be believed that was drawn without a look at the clock of the store.
//!
//! A store that counts tokens in a counter of its own, as Redis does, may lose the counter, or get
//! back an older one: when its data is flushed, or a replica becomes the master. A script notices,
//! because it compares the counter with the server's clock. A plain increment does not, though it
//! costs the server a third. So an increment is believed for a moment after a script has looked, on
//! the same connection.
//!
//! The store of the simulation is acquired from like this. No backend of this project is yet:
//! DESIGN.md says why, under what was rejected.
//!
//! Why tokens still grow: no counter is ahead of the clock by more than what one script reserves, so
//! every token that was handed out before a script looked is below what that script left in the
//! counter. An increment that is larger, and whose answer came within [`BELIEVED_FOR`] of the sending
//! of the script, is larger than they are. A token that was handed out after the look could be larger
//! than the increment only if the store had lost data in between, and no store loses its data and
//! answers again on the same connection in so short a time.

use alloc::collections::BTreeMap;
use core::time::Duration;

use crate::mistakes::{Mistake, made};
use crate::time::Instant;
use crate::token::FencingToken;

/// How long after a script was sent that looked at a counter an increment may be answered that is
/// believed: a master that fails over takes far longer until its successor answers.
pub const BELIEVED_FOR: Duration = Duration::from_millis(100);

/// What one connection knows of the counters of its server.
#[derive(Clone, Debug, Default)]
pub struct Draws {
    /// By the number of a counter: when a script was sent that looked at it, and what it left there.
    looks: BTreeMap<u32, Look>,
}

#[derive(Clone, Copy, Debug)]
struct Look {
    sent_at: Instant,
    left: FencingToken,
}

impl Draws {
    /// Takes in that a script which was sent at `sent_at` looked at the clock and left the counter
    /// at `left`.
    pub fn looked(&mut self, counter: u32, sent_at: Instant, left: FencingToken) {
        let look = Look { sent_at, left };
        let known = self.looks.entry(counter).or_insert(look);
        // An older answer that comes later says less.
        if known.sent_at <= sent_at {
            *known = look;
        }
    }

    /// Takes in that something was seen on the connection which may mean that the server is another
    /// than before, or has other data: an error, a redirect, a new role.
    pub fn doubt(&mut self) {
        if !made(Mistake::BelievesAfterError) {
            self.looks.clear();
        }
    }

    /// Whether an increment that is sent `now` is likely to be believed when it is answered within
    /// `patience`.
    pub fn is_worth_it(&self, counter: u32, now: Instant, patience: Duration) -> bool {
        self.looks
            .get(&counter)
            .is_some_and(|look| now + patience < look.sent_at + BELIEVED_FOR)
    }

    /// Whether `token` may be believed, which an increment answered at `answered_at` gave.
    pub fn believes(&self, counter: u32, answered_at: Instant, token: FencingToken) -> bool {
        if made(Mistake::BelievesEveryCounter) {
            return true;
        }
        self.looks.get(&counter).is_some_and(|look| {
            let is_in_time =
                answered_at < look.sent_at + BELIEVED_FOR || made(Mistake::BelievesForEver);
            is_in_time && (token > look.left || made(Mistake::BelievesLowerToken))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTER: u32 = 7;

    fn ms(ms: u64) -> Instant {
        Instant::from_nanos(1_000_000 * ms)
    }

    fn looked() -> Draws {
        let mut draws = Draws::default();
        draws.looked(COUNTER, ms(1_000), FencingToken::new(500));
        draws
    }

    fn believes(draws: &Draws, at: u64, token: u64) -> bool {
        draws.believes(COUNTER, ms(at), FencingToken::new(token))
    }

    #[test]
    fn an_increment_is_believed_for_a_moment_after_a_look() {
        let draws = looked();
        assert!(believes(&draws, 1_000, 501));
        assert!(believes(&draws, 1_099, 501));
        assert!(!believes(&draws, 1_100, 501));
        assert!(!draws.believes(COUNTER + 1, ms(1_000), FencingToken::new(501)));
        assert!(!believes(&Draws::default(), 1_000, 501));
    }

    #[test]
    fn an_increment_of_a_counter_that_was_lost_is_not_believed() {
        assert!(!believes(&looked(), 1_001, 500));
        assert!(!believes(&looked(), 1_001, 1));
    }

    #[test]
    fn after_an_error_only_a_new_look_counts() {
        let mut draws = looked();
        draws.doubt();
        assert!(!believes(&draws, 1_001, 501));
        draws.looked(COUNTER, ms(1_002), FencingToken::new(600));
        assert!(believes(&draws, 1_003, 601));
    }

    #[test]
    fn the_youngest_look_counts_whichever_is_answered_first() {
        let mut draws = looked();
        draws.looked(COUNTER, ms(900), FencingToken::new(400));
        assert!(!believes(&draws, 1_001, 450));
        assert!(believes(&draws, 1_099, 501));
        draws.looked(COUNTER, ms(1_050), FencingToken::new(550));
        assert!(believes(&draws, 1_149, 551));
        assert!(!believes(&draws, 1_149, 501));
    }

    #[test]
    fn it_is_not_tried_when_the_answer_would_come_too_late() {
        let draws = looked();
        let patience = Duration::from_millis(10);
        assert!(draws.is_worth_it(COUNTER, ms(1_089), patience));
        assert!(!draws.is_worth_it(COUNTER, ms(1_090), patience));
        assert!(!draws.is_worth_it(COUNTER + 1, ms(1_000), patience));
    }
}
