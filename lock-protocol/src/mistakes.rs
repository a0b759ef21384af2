//! Mistakes that can be put into the machine and the store, one at a time, to see that the
//! simulation finds them.
//!
//! They are compiled in with `--cfg lock_mistakes` only; without it [`made`] is always false, and
//! nothing of them is left.

#![cfg_attr(not(lock_mistakes), allow(unreachable_pub))]

macro_rules! mistakes {
    ($($(#[$attribute:meta])* $name:ident,)*) => {
        /// A mistake that can be made.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mistake {
            $($(#[$attribute])* $name,)*
        }

        #[cfg(lock_mistakes)]
        impl Mistake {
            /// Every mistake.
            pub const ALL: &[Mistake] = &[$(Mistake::$name,)*];
        }
    };
}

mistakes! {
    // Of the store.

    /// A hand-over sets the new owner without a ttl.
    HandOverWithoutLease,
    /// A release does not compare the owner.
    ReleaseWithoutCompare,
    /// A renewal does not compare the owner.
    RenewWithoutCompare,
    /// A release gives the lock back without a look at the queue.
    ReleaseForgetsQueue,
    /// A withdrawal of the owner frees the lock without a look at the queue.
    AbandonForgetsQueue,
    /// Whoever finds the lock free takes it, though others wait.
    FreeForAnyone,
    /// The fencing counter is a counter and nothing else.
    TokensWithoutTime,
    /// Every grant reserves a full block, however far the counter runs ahead of the time.
    BlocksOutrunTime,
    /// A hand-over does not make new fencing tokens.
    HandOverKeepsToken,
    /// A repeated acquire queues the claim again.
    RepeatQueuesAgain,
    /// An acquire does not recognise its own claim as the owner, and queues it.
    OwnerNotRecognised,
    /// A withdrawal only leaves the queue, although the claim may have been granted already.
    AbandonOnlyLeavesQueue,
    /// A withdrawal of a claim that is in doubt, or not known, is not remembered.
    ForgetsWithdrawals,
    /// An acquire that comes late gives the owner the ttl that it asks for, though it has more.
    LateAcquireShortens,
    /// A repeated acquire gives the last token of the counter instead of new ones.
    RepeatGivesLastToken,

    // Of the engine.

    /// A waiter waits for its message, and never asks.
    WaiterNeverAsks,
    /// A waiter asks whether it is the owner, and not to be queued again.
    WaiterAsksOnlyForOwner,
    /// A process passes the lease on with tokens that it has not reserved.
    PassesBeyondBlock,
    /// A process asks again for a claim of which a withdrawal is on its way.
    AsksForWithdrawnClaim,
    /// A lease that was handed over is counted from the arrival of the message.
    LeaseCountedFromArrival,
    /// A lease that was handed over is believed for the whole ttl, though it has only the grace.
    GraceTakenForTtl,
    /// A process passes a lease on without a look at what is left of it.
    PassesSpentLease,
    /// A process passes the lease on as long as it has callers of its own.
    PassesWithoutEnd,

    // Of the engine, as the track record tells.

    /// A claim is withdrawn only after the question that is under way was answered.
    WithdrawalWaitsForAnswer,
    /// A hand-over that is told between two questions is not taken.
    PauseIgnoresHandOver,
    /// A refusal for good is told again to who comes after it.
    RefusalIsKept,
    /// A renewal follows the last without a pause.
    RenewsWithoutPause,
    /// Who comes only to try is told what a waiter heard that has left since.
    KnownIsKept,
    /// A waiter that is told when to look after a new owner does not.
    ForgetsWhenToLook,
    /// The message of a hand-over that the holder has heard of otherwise is given back.
    HeldIsNotExpected,
    /// The end of a lease is noticed only when the machine is told the time.
    LossNoticedLate,
    /// News of the next claim do not end the release that it went with.
    NewsDoNotEndRelease,

    // Of the engine, as users found them.

    /// A question whose asker is stuck is not asked again for those who wait behind it.
    NoSecondQuestion,
    /// A lock that its waiter does not take is kept for it for ever.
    UntakenIsKept,
    /// A shutdown asks a store that is away for as long as a lease may live.
    ShutDownWaitsForStore,

    // Of the engine, as the simulation and the tests of the table found them.

    /// The next in line is taken out of it before there is a token for it.
    LosesNextInLine,
    /// A claim that is answered "taken" is over, though an earlier question is on its way.
    TakenEndsDoubt,
    /// A lease that is released is over, though a question of its claim is on its way.
    ReleaseEndsDoubt,
    /// A waiter that is told when to look while it asks does not.
    ForgetsWhenToLookWhileAsking,
    /// A lease that was lost before its waiter took it is kept for it for ever.
    UntakenLossIsKept,
    /// Only the answers to the latest questions about a release count.
    OldAnswersAreIgnored,
    /// A withdrawal that is cut off during a shutdown is not repeated.
    ShutDownForgetsCutOff,

    // Of leases that go together.

    /// The leases of a key have one ttl, that of the last of them.
    WholeSetTtl,
    /// A renewal extends all leases of the key, whoever renews.
    RenewsOthers,
    /// A reader takes its share though others wait.
    ReaderPassesWriter,
    /// Of those who could be served together, one is.
    BatchOfOne,
    /// Of those who could be served together, two are, and nobody tells the rest.
    BatchTailForgotten,
    /// A release of one of several leases is no reason to look at the queue.
    LastReaderForgetsQueue,
    /// A permit that has run out comes back by its renewal.
    ExpiredPermitRevived,
    /// Whoever gives back a permit gives back one of somebody else's.
    PermitsNotOwned,
    /// Where a lock is lost, its leases that go together are not.
    MarkerLostHoldersKept,
    /// The first of those who share gets the token that was given last.
    PhaseTokenReused,
    /// A shard is given to whoever likes it.
    ShardTwice,
    /// One permit more is given than there are.
    OnePermitMore,
    /// Readers of a process share its lease as long as there are any.
    JoinsWithoutEnd,
    /// The first of the readers that share a lease ends it.
    FirstReaderEndsAll,

    // Of keys that are kept.

    /// A release that keeps the key hands it over, as any other.
    KeepHandsOver,
    /// A lease is no longer than its ttl, though its holder keeps the key for longer.
    CrashBreaksMinHold,
    /// A claim whose key stays taken after its release was refused is not known any more.
    RefusedKeepIsForgotten,

    // Of what the lock protects.

    /// The resource does not look at the fencing token.
    #[cfg(lock_mistakes)]
    ResourceIgnoresToken,
}

/// Whether this mistake is made.
#[cfg(not(lock_mistakes))]
pub(crate) const fn made(mistake: Mistake) -> bool {
    let _ = mistake;
    false
}

#[cfg(lock_mistakes)]
pub use self::of_this_thread::{made, make};

#[cfg(lock_mistakes)]
mod of_this_thread {
    use core::cell::Cell;
    use std::thread_local;

    use super::Mistake;

    thread_local! {
        static MADE: Cell<Option<Mistake>> = const { Cell::new(None) };
    }

    /// Makes a mistake, or none, from now on in this thread.
    pub fn make(mistake: Option<Mistake>) {
        MADE.set(mistake);
    }

    /// Whether this mistake is made in this thread.
    pub fn made(mistake: Mistake) -> bool {
        MADE.get() == Some(mistake)
    }
}
