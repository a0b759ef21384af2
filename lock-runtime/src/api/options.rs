//! The options of a lock.

use std::time::Duration;

use lock_protocol::{LockKey, Mode, Terms};

use crate::api::once_per::OncePer;
use crate::error::LockError;
use crate::observe::NAMELESS;
use crate::settings::{self, Settings};

/// How often the watchdog renews a lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Renew {
    /// As the runtime is configured: every tenth of the ttl, unless `renew_every` is set.
    #[default]
    Auto,
    /// With this period, at most half of the ttl.
    Every(Duration),
    /// Never: the lease ends after its ttl.
    Never,
}

impl From<Duration> for Renew {
    fn from(period: Duration) -> Renew {
        Renew::Every(period)
    }
}

/// `false` is [`Renew::Never`], `true` is [`Renew::Auto`].
impl From<bool> for Renew {
    fn from(renew: bool) -> Renew {
        if renew { Renew::Auto } else { Renew::Never }
    }
}

/// What a caller asked for, unchecked.
#[derive(Clone, Debug, Default)]
pub(crate) struct LockOptions {
    pub(crate) ttl: Option<Duration>,
    pub(crate) wait: Option<Duration>,
    pub(crate) renew: Renew,
    pub(crate) max_hold: Option<Duration>,
    pub(crate) min_hold: Option<Duration>,
    pub(crate) shared: bool,
    pub(crate) permits: Option<u32>,
    pub(crate) weight: Option<u32>,
    pub(crate) shards: Option<u32>,
    /// The shards that will not do, one bit each.
    pub(crate) except: u64,
    pub(crate) once_per: Option<OncePer>,
    pub(crate) names: Names,
}

/// What becomes of a body that has lost its lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OnLost {
    /// It is dropped at its current `.await`.
    #[default]
    Cancel,
    /// It goes on without the lock.
    Continue,
}

/// What locks are called in logs and metrics.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Names {
    #[default]
    None,
    /// All by the same name.
    One(&'static str),
    /// As the attribute has it.
    Attribute(&'static Named),
}

/// An annotated function, and what its locks are called.
#[derive(Debug)]
pub struct Named {
    /// The path of the function.
    pub function: &'static str,
    /// The name of each lock, or one for all.
    pub locks: &'static [&'static str],
}

impl LockOptions {
    /// The function whose locks they are, `-` if it is not known.
    pub(crate) fn function(&self) -> &'static str {
        match self.names {
            Names::Attribute(named) => named.function,
            _ => NAMELESS,
        }
    }

    /// What the lock of one of the `keys` of a call is called.
    pub(crate) fn name_of(&self, key: &LockKey, keys: &[LockKey]) -> &'static str {
        let Named { locks, .. } = match self.names {
            Names::None => return NAMELESS,
            Names::One(name) => return name,
            Names::Attribute(named) => named,
        };
        let at = match locks {
            [_] => 0,
            _ => keys.iter().position(|other| other == key).unwrap_or(0),
        };
        locks.get(at).copied().unwrap_or(NAMELESS)
    }

    /// The terms and the wait, with the defaults of the runtime, or what is wrong with them.
    pub(crate) fn resolve(&self, settings: &Settings) -> Result<(Terms, Duration), LockError> {
        let ttl = self
            .ttl
            .map_or(Ok(settings.default_ttl), |ttl| settings::ttl("ttl", ttl))?;
        settings.kept("ttl", ttl)?;
        let renew = match self.renew {
            Renew::Auto => Some(settings.renewal_period(ttl)),
            Renew::Every(period) => Some(settings::renewal("renew", period, ttl)?),
            Renew::Never => None,
        };
        if self.max_hold.is_some_and(|limit| limit.is_zero()) {
            return Err(LockError::Config(
                "`max_hold` is zero; leave it out for no limit".to_owned(),
            ));
        }
        if let Some(least) = self.min_hold {
            settings::min_hold(least, self.max_hold)?;
        }
        if let Some(OncePer { period, .. }) = &self.once_per {
            settings::once_per(*period, self.min_hold)?;
        }
        let mut terms = Terms::new(ttl);
        terms.min_hold = self.min_hold;
        terms.renew = renew;
        terms.max_hold = self.max_hold;
        terms.mode = self.mode()?;
        let kept = [
            ("min_hold", self.min_hold.is_some()),
            ("once_per", self.once_per.is_some()),
        ];
        if let Some((name, _)) = kept.iter().find(|(_, is_given)| *is_given)
            && terms.mode == Mode::Shared
        {
            return Err(LockError::Config(format!(
                "`{name}` is not for readers, who do not keep each other out"
            )));
        }
        Ok((terms, self.wait.unwrap_or(settings.default_wait)))
    }

    /// What is asked of the key.
    fn mode(&self) -> Result<Mode, LockError> {
        let wrong = |text: String| Err(LockError::Config(text));
        match (self.shared, self.permits, self.shards) {
            (false, None, None) if self.weight.is_some() => wrong(
                "`weight` is how many of the `permits` are taken, and there are none".to_owned(),
            ),
            (false, None, None) => Ok(Mode::Exclusive),
            (true, None, None) if self.weight.is_none() => Ok(Mode::Shared),
            (false, Some(of), None) => {
                let take = self.weight.unwrap_or(1);
                if !(1..=Mode::MOST_PERMITS).contains(&of) {
                    return wrong(format!(
                        "`permits` is {of}, but must be from 1 to {}",
                        Mode::MOST_PERMITS
                    ));
                }
                match u8::try_from(take) {
                    Ok(take)
                        if (1..=Mode::MOST_AT_ONCE).contains(&take) && u32::from(take) <= of =>
                    {
                        Ok(Mode::Permits { take, of })
                    }
                    _ => wrong(format!(
                        "`weight` is {take}, but must be from 1 to {}, and not above `permits` ({of})",
                        Mode::MOST_AT_ONCE
                    )),
                }
            }
            (false, None, Some(of)) if self.weight.is_none() => match u8::try_from(of) {
                Ok(of) if (1..=Mode::MOST_SHARDS).contains(&of) => Ok(Mode::Shard {
                    of,
                    prefer: 0,
                    except: self.except,
                }),
                _ => wrong(format!(
                    "`shards` is {of}, but must be from 1 to {}",
                    Mode::MOST_SHARDS
                )),
            },
            _ => wrong("choose one of `shared`, `permits` and `shards`".to_owned()),
        }
    }
}
