//! Settings, their bounds, and lease arithmetic.

use core::time::Duration;

use crate::mistakes::{Mistake, made};
use crate::mode::Mode;
use crate::time::{Instant, Span};

/// The shortest ttl: below it, an ordinary pause of the scheduler ends the lease.
pub const MIN_TTL: Duration = Duration::from_millis(10);

/// The longest ttl: what a crashed holder can cost everyone else.
pub const MAX_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest lease that a store is asked for: that of the longest minimum hold, with what clocks
/// may drift apart meanwhile.
const MAX_LEASE: Duration = Duration::from_secs(25 * 60 * 60);

/// The shortest period of the watchdog: timers are no finer, and below it the watchdog would do
/// nothing else.
pub const MIN_RENEWAL: Duration = Duration::from_millis(1);

/// How a lease is kept: what a caller asked for, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Terms {
    /// How long the lease lives unless it is renewed.
    pub ttl: Duration,
    /// The period of the watchdog; `None` leaves the lease to end after its ttl.
    pub renew: Option<Duration>,
    /// How long one holder may keep it, renewals included.
    pub max_hold: Option<Duration>,
    /// For how long from its beginning the key stays taken, whenever the holder ends or dies.
    pub min_hold: Option<Duration>,
    /// What is wanted of the key.
    pub mode: Mode,
}

impl Terms {
    /// A lease of `ttl` that is not renewed.
    pub const fn new(ttl: Duration) -> Terms {
        Terms {
            ttl,
            renew: None,
            max_hold: None,
            min_hold: None,
            mode: Mode::Exclusive,
        }
    }

    /// How long the first lease lives: long enough for the minimum hold of a holder that begins
    /// when it hears of the lease, and dies.
    pub fn lease(&self, rules: &Rules) -> Duration {
        match self.min_hold {
            Some(least) if !made(Mistake::CrashBreaksMinHold) => {
                self.ttl.max(covering(least + rules.latency(least)))
            }
            _ => self.ttl,
        }
    }
}

/// [`Terms`] in half the room: each held lease has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PackedTerms {
    ttl: Span,
    renew: Option<Span>,
    max_hold: Option<Span>,
    min_hold: Option<Span>,
    mode: Mode,
}

impl PackedTerms {
    pub(crate) fn get(self) -> Terms {
        Terms {
            ttl: self.ttl.get(),
            renew: self.renew.map(Span::get),
            max_hold: self.max_hold.map(Span::get),
            min_hold: self.min_hold.map(Span::get),
            mode: self.mode,
        }
    }
}

impl From<Terms> for PackedTerms {
    fn from(terms: Terms) -> PackedTerms {
        PackedTerms {
            ttl: terms.ttl.into(),
            renew: terms.renew.map(Span::from),
            max_hold: terms.max_hold.map(Span::from),
            min_hold: terms.min_hold.map(Span::from),
            mode: terms.mode,
        }
    }
}

/// The rules that all keys of a process have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Rules {
    /// No single question to the store takes longer.
    pub command_timeout: Duration,
    /// How long a handed-over lease lives until its first renewal.
    pub grace: Duration,
    /// A waiter asks at least this often.
    pub heartbeat: Duration,
    /// How often a lease is passed on inside the process at the most.
    pub local_passes: u32,
    /// For which share of its ttl a lease is passed on inside the process, from 0 to 1.
    pub local_share: f64,
    /// Whether the store grants other modes than the exclusive one as what they are.
    pub modes: bool,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            command_timeout: Duration::from_secs(1),
            grace: Duration::from_secs(1),
            heartbeat: Duration::from_secs(10),
            local_passes: 1_000,
            local_share: 0.1,
            modes: true,
        }
    }
}

impl Rules {
    /// How late the answer may come that gives a lease for a minimum hold; else the lease is
    /// extended before the hold begins. It is added to what a crash costs, and so in proportion.
    pub(crate) fn latency(&self, least: Duration) -> Duration {
        const AT_LEAST: Duration = Duration::from_millis(100);
        (least / 10).max(AT_LEAST).min(self.command_timeout)
    }

    /// How often a lease may be passed on before processes that wait in the store get their turn,
    /// where so many wait in this one: in proportion to those, so that each task gets its share
    /// whatever its process, and twice each, which halves the turns that go through the store.
    pub fn passes(&self, waiting: usize) -> u32 {
        let passes = u32::try_from(waiting).unwrap_or(u32::MAX).saturating_mul(2);
        passes.min(self.local_passes)
    }

    /// For how long after its grant a shared lease of this `ttl` is open to further readers of the
    /// process, if nobody waited for the key then: it bounds how long a writer elsewhere may wait
    /// for them.
    pub fn open_for(&self, ttl: Duration) -> Duration {
        const AT_MOST: Duration = Duration::from_secs(1);
        ttl.mul_f64(self.local_share).min(AT_MOST)
    }

    /// How many fencing tokens a claim for so many waiters reserves: one for its first holder, and
    /// one for each to whom the lease may be passed on, with some for those who come meanwhile.
    pub fn tokens(&self, waiting: usize) -> u32 {
        const AT_LEAST: u32 = 7;
        self.passes(waiting).max(AT_LEAST.min(self.local_passes)) + 1
    }
}

/// `ttl` in whole milliseconds, if it is one that a lease can have.
///
/// A fraction of a millisecond is rounded up, since stores count in milliseconds and the caller
/// must not get less than was asked for.
pub fn checked_ttl(ttl: Duration) -> Option<Duration> {
    let rounded = Duration::from_millis(u64::try_from(ttl.as_nanos().div_ceil(1_000_000)).ok()?);
    (MIN_TTL..=MAX_TTL).contains(&rounded).then_some(rounded)
}

/// Until when a lease may be relied on that the store gave for `valid_for` in answer to a request
/// sent at `sent_at`.
///
/// Counted from before the request left, since the store's clock may have started at any time after
/// it, and shortened by what the two clocks may drift apart meanwhile: 1 % and 2 ms, as in the
/// Redlock algorithm (antirez, *Distributed locks with Redis*).
pub fn valid_until(sent_at: Instant, valid_for: Duration) -> Instant {
    // Nobody asked for more; a store that says so must not make the sum overflow.
    let valid_for = valid_for.min(MAX_LEASE);
    let drift = valid_for / 100 + Duration::from_millis(2);
    sent_at + valid_for.saturating_sub(drift)
}

/// The lease that may be relied on for `least`, in whole milliseconds: the other way round.
pub(crate) fn covering(least: Duration) -> Duration {
    let nanos = (least + Duration::from_millis(2)).as_nanos() * 100;
    let millis = u64::try_from(nanos.div_ceil(99 * 1_000_000)).unwrap_or(u64::MAX);
    // One more for what the hundredth part leaves out.
    Duration::from_millis(millis.saturating_add(1)).min(MAX_LEASE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_rounded_up_and_bounded() {
        let ms = Duration::from_millis;
        assert_eq!(checked_ttl(Duration::from_nanos(10_000_001)), Some(ms(11)));
        assert_eq!(checked_ttl(ms(9)), None);
        assert_eq!(checked_ttl(MAX_TTL), Some(MAX_TTL));
        assert_eq!(checked_ttl(MAX_TTL + Duration::from_nanos(1)), None);
        assert_eq!(checked_ttl(Duration::MAX), None);
        assert_eq!(checked_ttl(Duration::ZERO), None);
    }

    #[test]
    fn a_lease_covers_what_it_was_asked_for() {
        let now = Instant::from_nanos(1_000);
        for least in [1, 999, 1_000_000, 54_999_999_999, 86_400_000_000_000] {
            let least = Duration::from_nanos(least);
            let until = valid_until(now, covering(least));
            assert!(until >= now + least, "{least:?}");
            assert!(until <= now + least + Duration::from_millis(3), "{least:?}");
        }
    }

    #[test]
    fn a_lease_never_outlives_what_the_store_gave() {
        let now = Instant::from_nanos(1_000);
        let until = |valid_for| valid_until(now, valid_for);
        assert_eq!(
            until(Duration::from_secs(5)),
            now + Duration::from_millis(4948)
        );
        assert_eq!(until(Duration::from_millis(1)), now);
    }
}
