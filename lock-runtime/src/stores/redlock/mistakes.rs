//! Mistakes that can be made in the votes, one at a time, to see that the simulation finds them.
//! They are compiled for tests alone.

use std::cell::Cell;

/// A mistake that can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mistake {
    /// A round counts votes of an earlier one, which may have been given back since.
    CountsGivenUpVotes,
    /// A claim gives its votes back although somebody relies on its lock.
    GivesWayWithQuorum,
    /// A node gives its vote to another while it lasts.
    NodeReassigns,
    /// A vote counts whose node has not stored the fencing token that was proposed.
    TokenNotStored,
    /// A lease is counted from the last answer, and not from the question.
    LeaseFromAnswer,
    /// A claim that cannot have a majority keeps its votes.
    SitsOnVotes,
    /// A node that may have lost its data votes at once.
    VotesInDelay,
}

thread_local! {
    static MADE: Cell<Option<Mistake>> = const { Cell::new(None) };
}

/// From now on this mistake is made on this thread, and no other.
pub(super) fn make(mistake: Option<Mistake>) {
    MADE.set(mistake);
}

/// Whether the mistake is made.
pub(super) fn made(mistake: Mistake) -> bool {
    MADE.get() == Some(mistake)
}
