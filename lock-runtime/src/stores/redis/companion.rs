//! The keys of Redis that belong to a lock.

use std::fmt;

use lock_protocol::LockKey;

/// What ends the name of the queue of a lock.
const QUEUE: &str = LockKey::COMPANIONS[0];
/// What ends the name of the largest fencing token of a lock.
const FENCE: &str = LockKey::COMPANIONS[4];
/// What ends the name of the leases of a lock that go together.
const HOLDERS: &str = LockKey::COMPANIONS[2];
/// What ends the names of the cards of processes, which tell what these hold.
const CARD: &str = LockKey::COMPANIONS[2];
/// What ends the name of a counter.
const COUNTER: &str = LockKey::COMPANIONS[1];
/// The counters that the locks of a prefix share, two digits each: few, since each is a key that
/// stays, and so many that locks which are passed on within processes need not share one token a
/// microsecond.
const COUNTERS: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\
                        202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";

/// The name of a key that belongs to a lock.
pub(super) struct Companion<'a> {
    parts: [&'a str; 5],
}

impl<'a> Companion<'a> {
    /// The queue of `key`, in the same Redis Cluster slot as the lock itself.
    pub(super) fn queue(key: &'a LockKey) -> Companion<'a> {
        Companion::in_slot(key, QUEUE)
    }

    /// The leases of `key` that go together, likewise. The scripts make the name by themselves, of
    /// that of the queue.
    pub(super) fn holders(key: &'a LockKey) -> Companion<'a> {
        Companion::in_slot(key, HOLDERS)
    }

    /// The counter from which `key` has its fencing tokens and tickets: the only place that knows
    /// which it is. Every process and every version has to choose the same, since the tokens of two
    /// counters do not compare.
    pub(super) fn counter(key: &'a LockKey) -> Companion<'a> {
        let at = 2 * (hash(key.stored()) as usize % (COUNTERS.len() / 2));
        // `LockKey` refuses whatever could be called like this.
        Companion {
            parts: ["{", key.prefix(), "}:", &COUNTERS[at..at + 2], COUNTER],
        }
    }

    /// The largest fencing token that a server has stored for `key`, where it is one of several
    /// that vote.
    pub(super) fn fence(key: &'a LockKey) -> Companion<'a> {
        Companion::in_slot(key, FENCE)
    }

    /// Since when a server is known to vote for the locks of the prefix of `key`.
    pub(super) fn marker(key: &'a LockKey) -> Companion<'a> {
        // It ends like a counter, so no lock is called like this.
        Companion {
            parts: ["{", key.prefix(), "}:", "votes", COUNTER],
        }
    }

    /// The card of a process, by which it says what it is, for the prefix of `key`.
    pub(super) fn card(key: &'a LockKey, process: &'a str) -> Companion<'a> {
        // No lock is called like this: it has a hash tag, and ends like a companion.
        Companion {
            parts: ["{", key.prefix(), "}:", process, CARD],
        }
    }

    /// The processes that leave cards for the prefix of `key`.
    pub(super) fn processes(key: &'a LockKey) -> Companion<'a> {
        Companion {
            parts: ["{", key.prefix(), "}:", "processes", CARD],
        }
    }

    /// A name like that of a counter that no lock has.
    pub(super) fn no_counter(key: &'a LockKey) -> Companion<'a> {
        Companion::in_slot(key, COUNTER)
    }

    fn in_slot(key: &'a LockKey, suffix: &'static str) -> Companion<'a> {
        // Unambiguous, because `LockKey` refuses the keys for which the two forms could meet.
        let (open, close) = if key.has_hash_tag() {
            ("", "")
        } else {
            ("{", "}")
        };
        Companion {
            parts: [open, key.stored(), close, suffix, ""],
        }
    }

    /// What the name is made of, in order.
    pub(super) fn parts(&self) -> [&'a str; 5] {
        self.parts
    }
}

impl fmt::Display for Companion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts()
            .into_iter()
            .try_for_each(|part| f.write_str(part))
    }
}

/// FNV-1a, folded: the same on every machine, for ever.
fn hash(text: &str) -> u32 {
    let hash = fnv1a(text.as_bytes());
    (hash ^ (hash >> 32)) as u32
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn key(prefix: &str, key: &str) -> LockKey {
        LockKey::new(prefix, key).expect("a valid key")
    }

    #[test]
    fn companions_share_the_hash_tag() {
        let queue = |text: &str| Companion::queue(&key("lock:", text)).to_string();
        assert_eq!(queue("a"), "{lock:a}:waiters");
        assert_eq!(queue("a:{t}:b"), "lock:a:{t}:b:waiters");
        assert_eq!(queue("a{b"), "{lock:a{b}:waiters");
        // Without a hash tag, the companions begin with a brace, which the key does not.
        assert_eq!(queue("k:waiters"), "{lock:k:waiters}:waiters");
    }

    #[test]
    fn the_endings_are_those_that_keys_must_not_have() {
        let ours = [QUEUE, COUNTER, FENCE, HOLDERS, CARD];
        let known = [":waiters", ":counter", ":fence", ":holders", ":holders"];
        assert_eq!(ours, known);
    }

    #[test]
    fn a_lock_has_the_same_counter_in_every_process_and_version() {
        let counter = |prefix: &str, text: &str| Companion::counter(&key(prefix, text)).to_string();
        assert_eq!(counter("lock:", "k"), "{lock:}:26:counter");
        assert_eq!(counter("shop:lock:", "k"), "{shop:lock:}:35:counter");
        assert_eq!(counter("", "k"), "{}:06:counter");
        // As published with the algorithm.
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn no_key_is_called_like_a_counter_or_a_card() {
        for prefix in ["lock:", "", "a", "a{b}", "{", "}", "a}", "{}", "{t}"] {
            let counters = ["00", "3f", "votes"].map(|number| (number, COUNTER));
            let cards = ["0123456789abcdef-2a", "processes"].map(|process| (process, CARD));
            for (number, end) in counters.into_iter().chain(cards) {
                let name = format!("{{{prefix}}}:{number}{end}");
                for (at, _) in name.char_indices() {
                    let (prefix, key) = name.split_at(at);
                    assert!(LockKey::new(prefix, key).is_err(), "{name}");
                }
            }
        }
        assert!(LockKey::new("lock:", "lock:}:00:counters").is_err());
        assert!(LockKey::new("lock:", "a:00:counter").is_ok());
    }

    #[test]
    fn the_locks_of_a_prefix_share_all_its_counters() {
        for text in ["job:", "coupon:42:", "a-rather-long-name-of-a-lock/", ""] {
            let mut locks = HashMap::new();
            for number in 0..6400 {
                let key = key("lock:", &format!("{text}{number}"));
                *locks
                    .entry(Companion::counter(&key).to_string())
                    .or_default() += 1;
            }
            assert_eq!(locks.len(), 64);
            assert!(
                locks.values().all(|count| (50..200).contains(count)),
                "{locks:?}"
            );
        }
    }
}
