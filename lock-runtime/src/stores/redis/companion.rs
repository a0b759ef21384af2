//! The keys of Redis that belong to a lock.

use std::fmt;

use lock_protocol::LockKey;

/// What ends the name of the queue of a lock.
pub(super) const QUEUE: &str = LockKey::COMPANIONS[0];
/// What ends the name of the fencing counter of a lock.
pub(super) const FENCE: &str = LockKey::COMPANIONS[1];

/// The name of a key that belongs to a lock, in the same Redis Cluster slot as the lock itself.
pub(super) struct Companion<'a> {
    key: &'a LockKey,
    suffix: &'static str,
}

impl<'a> Companion<'a> {
    /// The companion of `key` whose name ends with `suffix`.
    pub(super) fn new(key: &'a LockKey, suffix: &'static str) -> Companion<'a> {
        Companion { key, suffix }
    }

    /// What the name is made of, in order.
    pub(super) fn parts(&self) -> [&'a str; 4] {
        let Companion { key, suffix } = self;
        // Unambiguous, because `LockKey` refuses the keys for which the two forms could meet.
        let (open, close) = if key.has_hash_tag() {
            ("", "")
        } else {
            ("{", "}")
        };
        [open, key.stored(), close, suffix]
    }
}

impl fmt::Display for Companion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts()
            .into_iter()
            .try_for_each(|part| f.write_str(part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn companions_share_the_hash_tag() {
        let queue = |key: &str| {
            let key = LockKey::new("lock:", key).expect("a valid key");
            Companion::new(&key, QUEUE).to_string()
        };
        assert_eq!(queue("a"), "{lock:a}:queue");
        assert_eq!(queue("a:{t}:b"), "lock:a:{t}:b:queue");
        assert_eq!(queue("a{b"), "{lock:a{b}:queue");
        // Without a hash tag, the companions begin with a brace, which the key does not.
        assert_eq!(queue("k:queue"), "{lock:k:queue}:queue");
    }

    #[test]
    fn the_endings_are_those_that_keys_must_not_have() {
        assert_eq!([QUEUE, FENCE], [":queue", ":fence"]);
    }
}
