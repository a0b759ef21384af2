//! The names and values of the keys in Consul.
//!
//! | key | what it is |
//! |---|---|
//! | `<lock>/.lock` | the lock: it is held by the session that has locked it |
//! | `<lock>/.queue` | there if somebody may wait |
//! | `<lock>/.queue/<owner token>/<session>` | a claim that waits, locked by its session |
//! | `<lock>%gone/<owner token>` | a claim that was withdrawn and may still be asked for |
//!
//! The first is where `consul lock` and Go's `api.Lock` have their locks, so that they and ours
//! exclude each other. In names `%` and `/` are escaped: otherwise the lock `a` would contain the
//! keys of the lock `a/b`, and nothing but an escape has a `%` in it.
//!
//! The key of a waiter names its session, since Consul keeps a key from everybody for a while after
//! the session ended that had locked it: a claim that lost its session waits by another key.

use std::fmt::Write;
use std::time::Duration;

use lock_protocol::LockKey;

/// What the value of a claim of this project starts with; whatever starts otherwise is foreign.
const MARK: &str = "lock-consul 1";

/// By which `api.Lock` of Go knows the key of a lock; it refuses keys with other flags.
pub(crate) const LOCK_FLAGS: u64 = 0x2ddc_cbc0_58a5_0c18;

/// The keys of one lock.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    escaped: String,
}

impl Layout {
    pub(crate) fn of(key: &LockKey) -> Layout {
        Layout {
            escaped: escaped(key.stored()),
        }
    }

    /// What the names of all keys of the lock start with, those of withdrawn claims apart.
    pub(crate) fn all(&self) -> String {
        format!("{}/", self.escaped)
    }

    pub(crate) fn lock(&self) -> String {
        format!("{}/.lock", self.escaped)
    }

    pub(crate) fn queue(&self) -> String {
        format!("{}/.queue", self.escaped)
    }

    /// What the names of all claims that wait start with.
    pub(crate) fn waiters(&self) -> String {
        format!("{}/.queue/", self.escaped)
    }

    pub(crate) fn waiter(&self, owner: &str, session: &str) -> String {
        format!("{}/.queue/{}/{session}", self.escaped, escaped(owner))
    }

    pub(crate) fn gone(&self, owner: &str) -> String {
        format!("{}%gone/{}", self.escaped, escaped(owner))
    }
}

/// A name, or a part of one, as it stands in the names of keys.
pub(crate) fn escaped(name: &str) -> String {
    // Servers take these two in a path for something else than a name.
    if name == "." || name == ".." {
        return name.replace('.', "%2E");
    }
    let mut escaped = String::with_capacity(name.len() + 8);
    for character in name.chars() {
        match character {
            '%' => escaped.push_str("%25"),
            '/' => escaped.push_str("%2F"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// What the value of a claim says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) owner: String,
    /// The ttl that was asked for.
    pub(crate) ttl: Duration,
    /// How often further fencing tokens were asked for.
    pub(crate) raised: u64,
}

impl Said {
    pub(crate) fn new(owner: &str, ttl: Duration) -> Said {
        Said {
            owner: owner.to_owned(),
            ttl,
            raised: 0,
        }
    }

    /// The value that says this.
    pub(crate) fn value(&self) -> String {
        let mut value = String::with_capacity(MARK.len() + self.owner.len() + 24);
        let (ttl, raised) = (self.ttl.as_millis(), self.raised);
        let _ = write!(value, "{MARK} {ttl} {raised} {}", self.owner);
        value
    }

    /// What a value says; `None` if it is foreign.
    pub(crate) fn read(value: &str) -> Option<Said> {
        let rest = value.strip_prefix(MARK)?.strip_prefix(' ')?;
        let (ttl, rest) = rest.split_once(' ')?;
        let (raised, owner) = rest.split_once(' ')?;
        Some(Said {
            owner: owner.to_owned(),
            ttl: Duration::from_millis(ttl.parse().ok()?),
            raised: raised.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(name: &str) -> Layout {
        Layout::of(&LockKey::new("", name).expect("a valid key"))
    }

    #[test]
    fn no_lock_contains_what_belongs_to_another() {
        let names = [
            "a", "a/b", "a%2Fb", "a%gone", "a%25gone", "a%", "a/.queue", ".", "..",
        ];
        for one in names {
            let all = layout(one).all();
            for other in names {
                let other_keys = layout(other);
                for key in [
                    other_keys.lock(),
                    other_keys.queue(),
                    other_keys.waiter("o", "s"),
                ] {
                    assert_eq!(key.starts_with(&all), one == other, "{one} and {other}");
                }
                assert!(!other_keys.gone("o").starts_with(&all), "{one} and {other}");
            }
        }
    }

    #[test]
    fn no_part_of_a_name_is_taken_for_a_place() {
        for name in [".", "..", "a//b", "/./"] {
            let key = layout(name).waiter("../x", "s");
            let mut parts = key.split('/');
            assert!(
                parts.all(|part| !part.is_empty() && part != "." && part != ".."),
                "{key}"
            );
        }
    }

    #[test]
    fn a_claim_is_told_from_what_others_write() {
        let mut said = Said::new("me and you/lr-1", Duration::from_millis(1_500));
        said.raised = 3;
        assert_eq!(Said::read(&said.value()), Some(said));
        for foreign in [
            "",
            "lock-consul",
            "lock-consul 1",
            "lock-consul 1 x 0 o",
            "lock-consul 1 1 0",
        ] {
            assert_eq!(Said::read(foreign), None, "{foreign}");
        }
    }
}
