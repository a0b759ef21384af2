//! What must hold.

use std::fmt;

use stateright::Property;

use crate::explore::Bound;

macro_rules! promises {
    ($($name:ident: $text:literal,)*) => {
        /// A promise of the lock.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Promise {
            $(#[doc = $text] $name,)*
        }

        impl Promise {
            /// Every promise.
            pub const ALL: &[Promise] = &[$(Promise::$name,)*];

            /// What is promised.
            pub fn text(self) -> &'static str {
                match self {
                    $(Promise::$name => $text,)*
                }
            }
        }

        /// What is to hold in every state that is explored.
        pub(crate) fn properties() -> Vec<Property<Bound>> {
            vec![
                $(Property::<Bound>::always($text, |_, state| state.keeps(Promise::$name)),)*
            ]
        }
    };
}

promises! {
    MutualExclusion: "two that do not go together never may rely on leases of one key at once",
    ValidLeaseIsTheStores: "whoever may rely on a lease has it in the store",
    LostStaysLost: "a lease that could not be relied on never can be again",
    LossIsTold: "who ends a hold that it had lost is told so",
    NoStaleWrite: "the resource accepts no write of an earlier holder after one of a later",
    TokensGrow: "every holder has a larger fencing token than all before that it excludes",
    PhasesHaveOneToken: "all who share a key at once have the same fencing token",
    OwnerHasLease: "the owner in the store has a lease that ends",
    NoEviction: "nobody but the owner ends a lease that has not run out",
    OthersAreLeftAlone: "a question changes the end of no lease but the asker's",
    RenewalTellsTruth: "a renewal is told whether the lease is held",
    LostTogether: "where a lock is lost, all its leases are",
    ClaimStandsOnce: "a claim is the owner or stands in the queue, once",
    NobodyOvertaken: "claims are granted in the order in which the store first heard of them",
    PromptHandOver: "no claim stands first though there is room for it and the store looks at it",
    WithdrawnIsGone: "a claim that was withdrawn is neither the owner nor in the queue, ever again",
    KeptByNobody: "no lock is held in the store by a claim that nobody knows any more",
    WithdrawnAtOnce: "no claim is pursued for nobody",
    HandOverIsTaken: "a hand-over that is told in time is taken, confirmed or given back at once",
    AskedInTime: "who waits is asked for in time, whatever has become of the question before",
    LooksWhenTold: "a claim looks when it was told to",
    InQueue: "a claim that waits stands in the queue, or asks within a heartbeat",
    EveryoneIsTold: "who waits is told by its deadline what became of it",
    ReleaseIsTold: "who ends a hold is told when the store answers, or in time if it does not",
    NoOldNews: "nobody is told what was known before it came, if nobody kept it up to date",
    UntakenIsTakenBack: "a lock that nobody takes by the deadline is taken back",
    PassesAreBounded: "a process passes a lease on within its budget",
    JoinsAreBounded: "a reader joins a lease for a second at the most after nobody waited for it",
    LostNewsAreMadeUp: "who was handed a lock and did not hear of it asks within a heartbeat",
    PassedOnWhole: "who is passed a lease gets what it asked for",
    KeptForItsMinimum: "a key stays taken for its minimum hold, whatever becomes of its holder",
    FewQuestions: "questions have pauses between them",
    ShutDownEnds: "a process that shuts down ends in the time of a few questions",
    NothingLeft: "in the end nothing is left, in the store and in the processes",
}

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which.
    pub promise: Promise,
    /// How.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} ({}): {}",
            self.promise,
            self.promise.text(),
            self.text
        )
    }
}
