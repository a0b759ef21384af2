//! Which rows of the table of the machine were taken, seen from outside.

use lock_protocol::machine::{
    Action, Actions, Answer, Ask, End, Event, Key, Look, Outcome, Pursued, ReleaseOutcome, Verb,
};
use lock_protocol::{
    Acquired, Instant, LostReason, OwnerToken, Released, Renewed, Rules, valid_until,
};

/// What was known of a machine before an event.
pub(crate) struct Step {
    pub(crate) before: Look,
    /// Whether the hold that the event ends had been lost.
    pub(crate) was_lost: bool,
    /// Whether the event is a hand-over of which enough is left, to the claim that is pursued.
    pub(crate) is_fresh_hand_over: bool,
    /// Whether the claim that the event is about is pursued.
    is_pursued: bool,
    /// The claims that may be given up by the event.
    pub(crate) owners: Vec<OwnerToken>,
}

impl Step {
    pub(crate) fn before(key: &Key, event: &Event<'_>, rules: &Rules, now: Instant) -> Step {
        let _ = rules;
        let is_pursued = |owner: &str| key.pursued().any(|it| it.as_str() == owner);
        let may_give_up = matches!(
            event,
            Event::Time
                | Event::Answered {
                    answer: Answer::NotKnown(..),
                    ..
                }
        );
        let before = key.look();
        let is_ending = before.releasing + before.withdrawing > 0;
        Step {
            before,
            owners: if may_give_up && is_ending {
                key.owners().cloned().collect()
            } else {
                Vec::new()
            },
            was_lost: matches!(event, Event::Ended(lease, token)
            if key.fault(*lease, *token, now).is_some_and(|(end, _)| {
                end != End::Lost(LostReason::NotHeld)
            })),
            is_fresh_hand_over: matches!(event, Event::HandedOver { owner, grant, since }
                if is_pursued(owner)
                    && valid_until(*since, grant.valid_for) > now + grant.valid_for / 2),
            is_pursued: match event {
                Event::HandedOver { owner, .. } => is_pursued(owner),
                Event::AskAt(owner, _) => is_pursued(owner.as_str()),
                Event::AskAll => key.pursued().next().is_some(),
                Event::Answered { ask, .. } => {
                    claim_of(ask).is_some_and(|it| is_pursued(it.as_str()))
                }
                _ => false,
            },
        }
    }
}

fn claim_of(ask: &Ask) -> Option<&OwnerToken> {
    match &ask.verb {
        Verb::Acquire(claim) | Verb::Abandon(claim) => Some(&claim.owner),
        Verb::Release(release) => release.next.as_ref().map(|next| &next.owner),
    }
}

fn release(verb: &Verb) -> bool {
    matches!(verb, Verb::Release(_))
}

type IsRow = fn(&Seen<'_>) -> bool;

/// An event, and what became of it.
struct Seen<'a> {
    b: &'a Look,
    a: &'a Look,
    step: &'a Step,
    event: &'a Event<'a>,
    actions: &'a Actions,
}

impl Seen<'_> {
    fn asks(&self, verb: impl Fn(&Verb) -> bool) -> bool {
        let mut actions = self.actions.iter();
        actions.any(|action| matches!(action, Action::Ask(ask) if verb(&ask.verb)))
    }

    fn acquires(&self) -> bool {
        self.asks(|verb| matches!(verb, Verb::Acquire(_)))
    }

    fn releases(&self) -> bool {
        self.asks(|verb| matches!(verb, Verb::Release(_)))
    }

    fn abandons(&self) -> bool {
        self.asks(|verb| matches!(verb, Verb::Abandon(_)))
    }

    fn tells(&self, what: impl Fn(&Outcome) -> bool) -> bool {
        let mut actions = self.actions.iter();
        actions.any(|action| matches!(action, Action::Tell(_, outcome) if what(outcome)))
    }

    fn grants(&self) -> bool {
        self.tells(|outcome| matches!(outcome, Outcome::Granted(_)))
    }

    fn takes_back(&self) -> bool {
        let mut actions = self.actions.iter();
        actions.any(|action| matches!(action, Action::TakeBack(..)))
    }

    fn told_released(&self, what: impl Fn(&ReleaseOutcome) -> bool) -> bool {
        let mut actions = self.actions.iter();
        actions.any(|action| matches!(action, Action::Released(_, outcome) if what(outcome)))
    }

    fn was(&self, pursued: Pursued) -> bool {
        self.b.pursuit == Some(pursued)
    }

    fn is(&self, pursued: Pursued) -> bool {
        self.a.pursuit == Some(pursued)
    }

    fn is_time(&self) -> bool {
        matches!(self.event, Event::Time)
    }

    fn is_hand_over(&self) -> bool {
        matches!(self.event, Event::HandedOver { .. }) && self.step.is_pursued
    }

    fn is_leaving(&self) -> bool {
        matches!(self.event, Event::Left(_) | Event::GaveUp(_))
    }

    /// What was answered to an acquire.
    fn acquired(&self) -> Option<&Acquired> {
        match self.event {
            Event::Answered {
                answer: Answer::Acquired(acquired),
                ..
            } if self.step.is_pursued => Some(acquired),
            _ => None,
        }
    }

    /// What was answered to a release of a lease that is being released.
    fn released(&self) -> Option<&Released> {
        match self.event {
            Event::Answered {
                answer: Answer::Released(released),
                ..
            } if self.a.releasing < self.b.releasing => Some(released),
            _ => None,
        }
    }

    /// The question that was answered so, and whether it was about `verb`.
    fn fails(&self, verb: impl Fn(&Verb) -> bool, what: impl Fn(&Answer) -> bool) -> bool {
        matches!(self.event, Event::Answered { ask, answer, .. } if verb(&ask.verb) && what(answer))
    }
}

/// The rows of the table in `lock_protocol::machine`: state, event, and how to know them.
const ROWS: &[(&str, &str, IsRow)] = &[
    ("nothing", "a waiter joins", |s| {
        matches!(s.event, Event::Joined(_)) && s.b.pursuit.is_none() && s.acquires()
    }),
    ("asking", "granted", |s| {
        s.was(Pursued::Asking) && matches!(s.acquired(), Some(Acquired::Granted(_))) && s.grants()
    }),
    (
        "asking",
        "granted, of another ttl than the head wants",
        |s| {
            s.was(Pursued::Asking)
                && matches!(s.acquired(), Some(Acquired::Granted(_)))
                && s.acquires()
        },
    ),
    ("asking", "queued", |s| {
        matches!(s.acquired(), Some(Acquired::Queued(_))) && s.is(Pursued::Queued)
    }),
    ("asking", "taken", |s| {
        matches!(s.acquired(), Some(Acquired::Taken(_))) && s.a.pursuit.is_none() && !s.abandons()
    }),
    ("asking", "taken, others wait", |s| {
        matches!(s.acquired(), Some(Acquired::Taken(_))) && s.acquires()
    }),
    ("asking", "taken, an earlier question is in doubt", |s| {
        matches!(s.acquired(), Some(Acquired::Taken(_))) && s.abandons()
    }),
    ("asking", "taken, though it waits", |s| {
        matches!(s.acquired(), Some(Acquired::Taken(_))) && s.is(Pursued::Queued)
    }),
    ("asking", "not known", |s| {
        s.was(Pursued::Asking) && s.fails(acquire, not_known) && s.is(Pursued::Pausing)
    }),
    ("asking", "refused for good", |s| {
        s.was(Pursued::Asking) && s.fails(acquire, refused) && s.abandons()
    }),
    ("asking", "cut off", |s| {
        s.was(Pursued::Asking) && s.fails(acquire, cut_off) && s.acquires()
    }),
    ("asking", "half a grace passes, others wait", |s| {
        s.was(Pursued::Asking) && s.is_time() && s.is(Pursued::Asking) && s.acquires()
    }),
    ("asking", "no answer, others wait", |s| {
        s.was(Pursued::Asking) && s.is_time() && s.is(Pursued::Pausing)
    }),
    ("asking", "handed over", |s| {
        s.was(Pursued::Asking) && s.is_hand_over() && s.grants()
    }),
    ("asking", "`AskAt`, `AskAll`", |s| {
        s.was(Pursued::Asking)
            && s.step.is_pursued
            && matches!(s.event, Event::AskAt(..) | Event::AskAll)
    }),
    ("queued", "handed over", |s| {
        s.was(Pursued::Queued) && s.is_hand_over() && s.grants()
    }),
    ("queued", "handed over, little is left of it", |s| {
        s.was(Pursued::Queued) && s.is_hand_over() && s.acquires()
    }),
    (
        "queued",
        "handed over, for nobody whose wait is not over",
        |s| s.is_hand_over() && s.abandons(),
    ),
    (
        "queued",
        "`AskAt`, `AskAll`, heartbeat, end of the lease before",
        |s| s.was(Pursued::Queued) && s.is_time() && s.acquires(),
    ),
    ("pausing", "the pause ends", |s| {
        s.was(Pursued::Pausing) && s.is_time() && s.acquires()
    }),
    ("pausing", "handed over", |s| {
        s.was(Pursued::Pausing) && s.is_hand_over() && s.grants()
    }),
    ("asking, queued, pausing", "the last waiter leaves", |s| {
        s.is_leaving() && s.b.waiting == 1 && s.a.waiting == 0 && s.abandons()
    }),
    ("withdrawing", "answered", |s| {
        s.a.withdrawing < s.b.withdrawing && s.fails(abandon, |it| matches!(it, Answer::Abandoned))
    }),
    ("withdrawing", "not known", |s| {
        s.fails(abandon, not_known) && s.a.withdrawing == s.b.withdrawing && !s.abandons()
    }),
    ("withdrawing", "cut off", |s| {
        s.fails(abandon, cut_off) && s.abandons()
    }),
    ("withdrawing", "refused for good, or its ttl is over", |s| {
        s.a.withdrawing < s.b.withdrawing
            && (s.fails(abandon, refused) || s.fails(abandon, not_known))
    }),
    ("withdrawing", "a waiter joins", |s| {
        matches!(s.event, Event::Joined(_))
            && s.b.withdrawing > 0
            && s.b.pursuit.is_none()
            && s.b.held == 0
            && s.a.waiting > s.b.waiting
            && s.actions.is_empty()
    }),
    ("withdrawing", "not known, others wait", |s| {
        s.fails(abandon, not_known) && s.acquires()
    }),
    ("withdrawing", "half a grace passes, others wait", |s| {
        s.b.withdrawing > 0 && s.is_time() && s.abandons() && s.a.withdrawing == s.b.withdrawing
    }),
    (
        "any",
        "one joins who does not wait, and it is known who has the lock",
        |s| {
            matches!(s.event, Event::Joined(_))
                && s.tells(|outcome| matches!(outcome, Outcome::Taken(_)))
        },
    ),
    ("any", "the wait of a waiter is used up", |s| {
        matches!(s.event, Event::GaveUp(_)) && s.a.waiting < s.b.waiting
    }),
    (
        "held",
        "the holder ends it, the next in line may have it",
        |s| matches!(s.event, Event::Ended(..)) && s.grants() && s.a.held == s.b.held,
    ),
    ("held", "the holder ends it", |s| {
        matches!(s.event, Event::Ended(..)) && s.a.releasing > s.b.releasing && s.releases()
    }),
    ("held", "a renewal is due", |s| {
        let mut actions = s.actions.iter();
        actions.any(|action| matches!(action, Action::Renew(..)))
    }),
    ("held", "renewed", |s| {
        s.b.held > 0
            && matches!(
                s.event,
                Event::Renewed {
                    answer: Some(Renewed::Held(_)),
                    ..
                }
            )
    }),
    ("held", "a renewal is not known", |s| {
        s.a.held > 0 && matches!(s.event, Event::Renewed { answer: None, .. })
    }),
    ("held", "the store says that it is lost", |s| {
        s.a.ended > s.b.ended
            && matches!(
                s.event,
                Event::Renewed {
                    answer: Some(Renewed::Lost(_)),
                    ..
                }
            )
    }),
    ("held", "its time, or `max_hold`, is over", |s| {
        s.a.ended > s.b.ended && !matches!(s.event, Event::Renewed { .. })
    }),
    (
        "held",
        "whoever was told does not take it by its deadline",
        |s| s.takes_back() && s.b.held > 0,
    ),
    ("held", "whoever was told leaves", |s| {
        matches!(s.event, Event::Left(_)) && s.b.held > 0 && s.told_released(|_| true)
            || matches!(s.event, Event::Left(_)) && s.a.releasing > s.b.releasing
    }),
    ("ended", "the holder ends it", |s| {
        matches!(s.event, Event::Ended(..)) && s.releases() && s.a.releasing == s.b.releasing
    }),
    ("ended", "the holder ends it, its claim in doubt", |s| {
        matches!(s.event, Event::Ended(..)) && s.b.ended > s.a.ended && s.abandons()
    }),
    (
        "ended",
        "whoever was told does not take it by its deadline",
        |s| s.takes_back() && s.a.ended < s.b.ended,
    ),
    ("ended", "waiters are there", |s| {
        s.a.ended > s.b.ended && s.acquires()
    }),
    ("releasing", "released", |s| {
        matches!(s.released(), Some(Released::Released(None)))
            && s.told_released(|it| matches!(it, ReleaseOutcome::Released))
    }),
    ("releasing", "released, the next claim granted", |s| {
        matches!(s.released(), Some(Released::Released(Some(_)))) && s.grants()
    }),
    ("releasing", "released, the next claim queued", |s| {
        matches!(
            s.released(),
            Some(Released::Released(Some(Acquired::Queued(_))))
        ) && s.is(Pursued::Queued)
    }),
    ("releasing", "released, its claim in doubt", |s| {
        matches!(s.released(), Some(Released::Released(_)))
            && s.abandons()
            && s.a.withdrawing > s.b.withdrawing
    }),
    ("releasing", "not held", |s| {
        matches!(s.released(), Some(Released::NotHeld))
            && s.told_released(|it| matches!(it, ReleaseOutcome::Ended(..)))
    }),
    ("releasing", "not held, asked before", |s| {
        matches!(s.released(), Some(Released::NotHeld))
            && s.told_released(|it| matches!(it, ReleaseOutcome::Released))
    }),
    ("releasing", "the next claim is handed the lock", |s| {
        s.was(Pursued::WithRelease) && s.is_hand_over() && s.a.releasing < s.b.releasing
    }),
    ("releasing", "not known", |s| {
        s.fails(release, not_known) && s.b.releasing > 0 && s.a.releasing == s.b.releasing
    }),
    (
        "releasing",
        "not known for longer than a question takes",
        |s| {
            s.told_released(|it| matches!(it, ReleaseOutcome::Failed(_)))
                && s.a.releasing == s.b.releasing
        },
    ),
    ("releasing", "cut off", |s| {
        s.fails(release, cut_off) && s.releases()
    }),
    ("releasing", "refused for good, or its ttl is over", |s| {
        s.a.releasing < s.b.releasing && (s.fails(release, refused) || s.fails(release, not_known))
    }),
    ("releasing", "the next claim has no waiter left", |s| {
        s.was(Pursued::WithRelease) && s.a.pursuit.is_none() && s.a.waiting == 0 && s.abandons()
    }),
    ("releasing", "half a grace passes, others wait", |s| {
        s.is_time() && s.b.releasing > 0 && s.a.releasing == s.b.releasing && s.releases()
    }),
    ("any", "an answer to a question that is over", |s| {
        matches!(
            s.event,
            Event::Answered {
                answer: Answer::Acquired(_) | Answer::Released(_),
                ..
            }
        ) && !s.step.is_pursued
            && s.abandons()
    }),
    (
        "any",
        "a hold that has been passed on or ended is ended",
        |s| matches!(s.event, Event::Ended(..)) && s.a == s.b && !s.grants() && !s.releases(),
    ),
    ("any", "shut down", |s| matches!(s.event, Event::ShutDown)),
];

fn cut_off(answer: &Answer) -> bool {
    matches!(answer, Answer::CutOff)
}

fn refused(answer: &Answer) -> bool {
    matches!(answer, Answer::NotKnown(error, _) if error.is_denied())
}

fn not_known(answer: &Answer) -> bool {
    matches!(answer, Answer::NotKnown(error, _) if !error.is_denied())
}

fn abandon(verb: &Verb) -> bool {
    matches!(verb, Verb::Abandon(_))
}

fn acquire(verb: &Verb) -> bool {
    matches!(verb, Verb::Acquire(_))
}

/// How often each row was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows(Vec<u64>);

impl Default for Rows {
    fn default() -> Rows {
        Rows(vec![0; ROWS.len()])
    }
}

impl Rows {
    pub(crate) fn count(
        &mut self,
        step: &Step,
        event: &Event<'_>,
        actions: &Actions,
        after: &Look,
    ) {
        let seen = Seen {
            b: &step.before,
            a: after,
            step,
            event,
            actions,
        };
        for ((_, _, is_row), count) in ROWS.iter().zip(&mut self.0) {
            if is_row(&seen) {
                *count += 1;
            }
        }
    }

    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: &Rows) {
        for (count, more) in self.0.iter_mut().zip(&other.0) {
            *count += more;
        }
    }

    /// State and event of each row, and how often it was taken.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let rows = ROWS.iter().zip(&self.0);
        rows.map(|((state, event, _), count)| (*state, *event, *count))
    }
}
