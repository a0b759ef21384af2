//! What happened, in words: one line of a history.

use lock_protocol::machine::{
    Action, Actions, Answer, Ask, Event, Look, Outcome, ReleaseOutcome, Verb,
};
use lock_protocol::{Acquired, Claim, Mode, OwnerToken, Released, Renewed};

use crate::server::{Body, Reply};

pub(crate) fn step(event: &Event<'_>, actions: &Actions, after: &Look) -> String {
    let actions: Vec<String> = actions.iter().map(action).collect();
    format!(
        "{} => {} [{}]",
        event_words(event),
        actions.join("; "),
        look(after)
    )
}

fn look(look: &Look) -> String {
    let pursuit = look
        .pursuit
        .map_or_else(|| "-".to_string(), |it| format!("{it:?}"));
    format!(
        "waiting {} pursuit {pursuit} held {} ended {} releasing {} withdrawing {}",
        look.waiting, look.held, look.ended, look.releasing, look.withdrawing
    )
}

fn event_words(event: &Event<'_>) -> String {
    match event {
        Event::Joined(waiter) => {
            let once = if waiter.once { " once" } else { "" };
            let ttl = waiter.terms.ttl.as_millis();
            let owner = waiter.owner.as_ref().map_or("any", |it| it.as_str());
            format!("{} joins{once} as {owner} for {ttl} ms", waiter.id.0)
        }
        Event::GaveUp(id) => format!("{} gives up", id.0),
        Event::Left(id) => format!("{} leaves", id.0),
        Event::Took(id) => format!("{} takes", id.0),
        Event::NotTaken(id, owner) => format!("{owner} is not taken for {}", id.0),
        Event::Began(lease, token) => format!("{token} of lease {} begins", lease.0),
        Event::Keep {
            lease,
            token,
            least,
            ..
        } => {
            format!(
                "{token} of lease {} keeps it for {} ms",
                lease.0,
                least.as_millis()
            )
        }
        Event::Ended(lease, token) => format!("{token} of lease {} ends", lease.0),
        Event::Answered { ask, answer, .. } => {
            format!("{} -> {}", ask_words(ask), answer_words(answer))
        }
        Event::Renewed { lease, answer, .. } => match answer {
            Some(Renewed::Held(_)) => format!("lease {} renewed", lease.0),
            Some(Renewed::Lost(_)) => format!("lease {} lost", lease.0),
            _ => format!("lease {}: renewal not known", lease.0),
        },
        Event::HandedOver { owner, grant, .. } => {
            format!("{owner} is handed the lock, {}", grant.tokens.first)
        }
        Event::AskAt(owner, at) => format!("{owner} is to ask at {}", at.as_nanos()),
        Event::AskAll => "all are to ask".to_string(),
        Event::Time => "time".to_string(),
        Event::ShutDown => "shut down".to_string(),
    }
}

fn action(action: &Action) -> String {
    match action {
        Action::Ask(ask) => ask_words(ask),
        Action::Renew(_, renewal, _) => format!("renew {}", renewal.owner),
        Action::Tell(id, outcome) => format!("tell {} {}", id.0, outcome_words(outcome)),
        Action::TakeBack(id, _) => format!("take back from {}", id.0),
        Action::Released(lease, outcome) => match outcome {
            ReleaseOutcome::Released => format!("lease {} is released", lease.0),
            ReleaseOutcome::Ended(end, _) => format!("lease {} had ended: {end:?}", lease.0),
            ReleaseOutcome::Failed(_) => format!("lease {}: the release failed", lease.0),
        },
        Action::Changed(lease) => format!("lease {} changed", lease.0),
    }
}

fn ask_words(ask: &Ask) -> String {
    let number = ask.number;
    match &ask.verb {
        Verb::Acquire(it) => format!("#{number} acquire {}", claim(it)),
        Verb::Abandon(it) => format!("#{number} abandon {}", it.owner),
        Verb::Release(it) => match &it.next {
            Some(next) => format!("#{number} release {} then {}", it.owner, claim(next)),
            None => format!("#{number} release {}", it.owner),
        },
    }
}

fn claim(claim: &Claim) -> String {
    let waits = if claim.queue { " waits" } else { "" };
    let mode = match claim.mode {
        Mode::Exclusive => String::new(),
        mode => format!(" {mode:?}"),
    };
    format!("{} {} ms{waits}{mode}", claim.owner, claim.ttl.as_millis())
}

fn answer_words(answer: &Answer) -> String {
    match answer {
        Answer::Acquired(it) => acquired(it),
        Answer::Released(it) => released(it),
        Answer::Abandoned => "abandoned".to_string(),
        Answer::NotKnown(error, _) if error.is_denied() => "refused".to_string(),
        Answer::NotKnown(..) => "not known".to_string(),
        Answer::CutOff => "cut off".to_string(),
    }
}

fn acquired(acquired: &Acquired) -> String {
    match acquired {
        Acquired::Granted(grant) => format!(
            "granted {} for {} ms",
            grant.tokens.first,
            grant.valid_for.as_millis()
        ),
        Acquired::Queued(holder) => format!("queued {:?}", holder.remaining),
        Acquired::Taken(holder) => format!("taken {:?}", holder.remaining),
        _ => "something".to_string(),
    }
}

fn released(released: &Released) -> String {
    match released {
        Released::Released(None) => "released".to_string(),
        Released::Released(Some(next)) => format!("released, {}", acquired(next)),
        Released::NotHeld => "not held".to_string(),
        _ => "something".to_string(),
    }
}

fn outcome_words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Granted(granted) => format!("granted {} lease {}", granted.token, granted.lease.0),
        Outcome::Taken(_) => "taken".to_string(),
        Outcome::TimedOut => "timed out".to_string(),
        Outcome::Failed(_) => "failed".to_string(),
        Outcome::NoAnswer => "no answer".to_string(),
        Outcome::ShutDown => "shut down".to_string(),
    }
}

pub(crate) fn body(body: &Body) -> String {
    match body {
        Body::Acquire(it) => format!("acquire {}", claim(it)),
        Body::Release(it) => match &it.next {
            Some(next) => format!("release {} then {}", it.owner, claim(next)),
            None => format!("release {}", it.owner),
        },
        Body::Abandon(owner, in_doubt) => {
            format!(
                "abandon {owner}{}",
                if *in_doubt { " in doubt" } else { "" }
            )
        }
        Body::GiveBack(owner) => format!("give back {owner}"),
        Body::Skip(owner) => format!("skip {owner}"),
        Body::Renew(it) => format!("renew {}", it.owner),
    }
}

pub(crate) fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Acquired(it) => acquired(it),
        Reply::Released(it) => released(it),
        Reply::Abandoned => "abandoned".to_string(),
        Reply::Renewed(Renewed::Held(_)) => "held".to_string(),
        Reply::Renewed(_) => "lost".to_string(),
    }
}

/// The claims that a question is about.
pub(crate) fn owners(ask: &Ask) -> Vec<OwnerToken> {
    match &ask.verb {
        Verb::Acquire(it) | Verb::Abandon(it) => vec![it.owner.clone()],
        Verb::Release(it) => vec![it.owner.clone()],
    }
}
