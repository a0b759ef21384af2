//! The names and values of the keys in etcd.
//!
//! | key | what it is |
//! |---|---|
//! | `<lock>/<owner token>` | a claim: the oldest of a lock holds it, the others wait in order |
//! | `<lock>%gone/<owner token>` | a claim that was withdrawn and may still be asked for |
//!
//! It is the layout of etcd's own locks, whose contenders are `<lock>/<lease in hex>`, so that the
//! two exclude each other. In the name of a lock `%` and `/` are escaped: otherwise the lock `a`
//! would contain the contenders of the lock `a/b`, and nothing but an escape has a `%` in it.

use std::time::Duration;

use lock_protocol::LockKey;

/// What the value of a claim of this project starts with; whatever starts otherwise is foreign.
const MARK: &str = "lock-etcd 1";

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

    /// What the names of all claims of the lock start with.
    pub(crate) fn contenders(&self) -> Vec<u8> {
        format!("{}/", self.escaped).into_bytes()
    }

    /// The end of the range of the claims.
    pub(crate) fn contenders_end(&self) -> Vec<u8> {
        // The character after the slash.
        format!("{}0", self.escaped).into_bytes()
    }

    pub(crate) fn claim(&self, owner: &str) -> Vec<u8> {
        format!("{}/{owner}", self.escaped).into_bytes()
    }

    pub(crate) fn gone(&self, owner: &str) -> Vec<u8> {
        format!("{}%gone/{owner}", self.escaped).into_bytes()
    }
}

/// The name of a lock, or a part of one, as the names of its keys start.
pub(crate) fn escaped(name: &str) -> String {
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

/// The value of a claim whose lease lives for `ttl` seconds.
pub(crate) fn value(ttl: i64) -> Vec<u8> {
    format!("{MARK} {ttl}").into_bytes()
}

/// The seconds for which the lease of a claim lives, by its value; `None` if it is foreign.
pub(crate) fn ttl_of(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    text.strip_prefix(MARK)?.trim_start().parse().ok()
}

/// The whole seconds that a lease of `ttl` is granted for.
pub(crate) fn seconds(ttl: Duration) -> i64 {
    let up = u64::from(ttl.subsec_nanos() > 0);
    i64::try_from(ttl.as_secs() + up).unwrap_or(i64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(name: &str) -> Layout {
        Layout::of(&LockKey::new("", name).expect("a valid key"))
    }

    #[test]
    fn no_lock_contains_what_belongs_to_another() {
        let names = ["a", "a/b", "a%2Fb", "a%gone", "a%25gone", "a%"];
        for one in names {
            let (start, end) = (layout(one).contenders(), layout(one).contenders_end());
            for other in names {
                for key in [layout(other).claim("o"), layout(other).gone("o")] {
                    let is_within = start <= key && key < end;
                    let is_own = one == other && key == layout(one).claim("o");
                    assert_eq!(is_within, is_own, "{one} and {other}");
                }
            }
        }
    }

    #[test]
    fn a_claim_is_told_from_what_others_write() {
        assert_eq!(ttl_of(&value(7)), Some(7));
        for foreign in [
            &b""[..],
            b"lock-etcd",
            b"lock-etcd 1",
            b"lock-etcd 1 x",
            b"\xff",
        ] {
            assert_eq!(ttl_of(foreign), None);
        }
    }

    #[test]
    fn a_ttl_is_rounded_up() {
        let ms = Duration::from_millis;
        for (ttl, kept) in [(10, 1), (999, 1), (1000, 1), (1001, 2), (60_000, 60)] {
            assert_eq!(seconds(ms(ttl)), kept);
        }
    }
}
