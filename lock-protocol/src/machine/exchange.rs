//! Questions under way.

use alloc::sync::Arc;
use core::hash::{Hash, Hasher};
use core::mem::discriminant;
use core::num::NonZeroU64;
use core::time::Duration;

use crate::backend_error::BackendError;
use crate::claim::AskNumber;
use crate::claim::Claim;
use crate::mistakes::{Mistake, made};
use crate::terms::Rules;
use crate::time::Instant;

/// How much later than the asker the machine itself takes a question for unanswered.
const OVERDUE: Duration = Duration::from_millis(100);

/// A question that was asked once, or twice: the second time because the first asker may never get
/// to hear the answer, with its thread blocked or its future kept without being polled.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Exchange {
    /// The latest question.
    pub(super) number: AskNumber,
    /// The one before, which may be answered as well.
    pub(super) earlier: Option<NonZeroU64>,
    pub(super) asked_at: Instant,
}

impl Exchange {
    pub(super) fn new(number: AskNumber, now: Instant) -> Exchange {
        Exchange {
            number,
            earlier: None,
            asked_at: now,
        }
    }

    /// The same question, asked again as `number`.
    pub(super) fn again(self, number: AskNumber, now: Instant) -> Exchange {
        Exchange {
            number,
            earlier: NonZeroU64::new(self.number),
            asked_at: now,
        }
    }

    pub(super) fn is_asked_by(&self, number: AskNumber) -> bool {
        self.number == number || self.earlier.is_some_and(|earlier| earlier.get() == number)
    }

    /// When to ask once more.
    pub(super) fn again_at(&self, rules: &Rules) -> Option<Instant> {
        if made(Mistake::NoSecondQuestion) {
            return None;
        }
        let late = rules.grace.min(rules.command_timeout) / 2;
        self.earlier.is_none().then(|| self.asked_at + late)
    }

    /// From when on no answer is expected any more.
    pub(super) fn overdue_at(&self, rules: &Rules) -> Instant {
        if made(Mistake::NoSecondQuestion) {
            return self.asked_at + Duration::MAX;
        }
        self.asked_at + rules.command_timeout + OVERDUE
    }

    /// When the machine has to do something about it while others wait.
    pub(super) fn attention_at(&self, rules: &Rules) -> Instant {
        self.again_at(rules)
            .unwrap_or_else(|| self.overdue_at(rules))
    }
}

/// What is done to get the lock for those who wait: one claim, until it is granted or withdrawn.
#[derive(Clone, Debug, Hash)]
pub(super) struct Pursuit {
    pub(super) claim: Claim,
    pub(super) stage: Stage,
    /// When the store may first have heard of the claim.
    pub(super) since: Instant,
    /// How many questions in a row failed.
    pub(super) failures: u32,
    /// How many answers in a row named a holder that frees its lock without a word.
    pub(super) silent: u32,
    /// When the backend said that it is time to ask, while a question was under way whose answer
    /// may be older than that.
    pub(super) look_by: Option<Instant>,
}

impl Pursuit {
    /// The pursuit of a claim that goes with a release, or is about to be asked for.
    pub(super) fn new(claim: Claim, now: Instant) -> Pursuit {
        Pursuit {
            claim,
            stage: Stage::WithRelease,
            since: now,
            failures: 0,
            silent: 0,
            look_by: None,
        }
    }
}

#[derive(Clone, Debug, Hash)]
pub(super) enum Stage {
    /// The store is asked.
    Asking(Exchange),
    /// The claim goes with a release.
    WithRelease,
    /// The store has queued it, as far as is known. It is asked again at this instant.
    Queued(Instant),
    /// The store could not be asked. It is asked again at this instant.
    Pausing(Instant),
}

/// A lease that its holder has given up.
#[derive(Clone, Debug, Hash)]
pub(super) struct Releasing {
    pub(super) stage: Ending,
    pub(super) started: Instant,
    pub(super) failures: u32,
    /// Whether more than one question was asked: then an earlier one may have ended the lease.
    pub(super) repeated: bool,
    /// Whether the holder has been told what became of it.
    pub(super) told: bool,
}

/// A claim on its way out of the store, for which nobody waits.
#[derive(Clone, Debug, Hash)]
pub(super) struct Withdrawal {
    pub(super) claim: Claim,
    pub(super) stage: Ending,
    pub(super) started: Instant,
    pub(super) failures: u32,
}

/// The error of a question that failed, and how long to pause before it is asked again; `None` if
/// the question was only cut off.
pub(super) type Failure = Option<(Arc<BackendError>, Option<Duration>)>;

/// How far the end of something in the store is.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) enum Ending {
    /// The store is asked.
    Asking(Exchange),
    /// It could not be asked. It is asked again at this instant.
    Pausing(Instant),
    /// It is asked at this instant, until which the key is to stay taken.
    Kept(Instant),
}

impl Ending {
    pub(super) fn is_kept(&self) -> bool {
        matches!(self, Ending::Kept(_))
    }

    pub(super) fn is_asked_by(&self, number: AskNumber) -> bool {
        matches!(self, Ending::Asking(exchange) if exchange.is_asked_by(number))
    }
}

/// What the store last said of the lock.
#[derive(Clone, Debug)]
pub(super) enum Known {
    /// Nothing yet.
    Nothing,
    /// Another holds it, until then unless it renews.
    Held(Option<Instant>),
    /// It could not be asked.
    Failed(Arc<BackendError>),
}

/// Of an error it counts only what the machine looks at.
impl Hash for Known {
    fn hash<H: Hasher>(&self, state: &mut H) {
        discriminant(self).hash(state);
        match self {
            Known::Nothing => {}
            Known::Held(until) => until.hash(state),
            Known::Failed(error) => error.is_denied().hash(state),
        }
    }
}
