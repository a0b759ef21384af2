//! The name of a lock, checked once.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;

use once_cell::sync::Lazy;

/// The name of a lock: what the caller asked for, behind the prefix of the runtime.
///
/// A `LockKey` exists only if every backend can hold it: it is not empty, not longer than [`LockKey::MAX_LEN`] bytes, and its
/// companions (the queue and the fencing counter) can be named so that Redis Cluster keeps them in one slot and no two locks share one.
/// Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LockKey {
    /// The prefix followed by the caller's key.
    text: Arc<str>,
    /// Where the caller's key starts in `text`; a character boundary.
    prefix_len: u16,
    /// Whether Redis Cluster hashes a part of `text` instead of the whole.
    is_tagged: bool,
    /// Of `text`, and different in each process: a key is looked up a dozen times on its way.
    hash: u32,
}

impl LockKey {
    /// The longest key in bytes, prefix included.
    pub const MAX_LEN: usize = 1024;

    /// Checks `key` and puts `prefix` in front of it.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`] says which rule the key breaks.
    ///
    /// # Examples
    ///
    /// ```
    /// use lock_runtime::LockKey;
    ///
    /// let key = LockKey::new("lock:", "coupon:42")?;
    /// assert_eq!(key.as_str(), "coupon:42");
    /// assert_eq!(key.stored(), "lock:coupon:42");
    /// assert!(LockKey::new("lock:", "").is_err());
    /// # Ok::<(), lock_runtime::InvalidKey>(())
    /// ```
    pub fn new(prefix: &str, key: &str) -> Result<LockKey, InvalidKey> {
        static HASHER: Lazy<RandomState> = Lazy::new(RandomState::new);
        let text: Arc<str> = [prefix, key].concat().into();
        let tag = hash_tag(&text);
        match fault(&text, key, tag) {
            Some(reason) => Err(InvalidKey {
                key: shortened(key),
                reason,
            }),
            None => Ok(LockKey {
                // It is at most `MAX_LEN`.
                prefix_len: prefix.len() as u16,
                is_tagged: tag.is_some(),
                hash: HASHER.hash_one(&text) as u32,
                text,
            }),
        }
    }

    /// The key as the caller gave it.
    pub fn as_str(&self) -> &str {
        &self.text[self.prefix_len as usize..]
    }

    /// The name in the store: prefix and key.
    pub fn stored(&self) -> &str {
        &self.text
    }

    /// A number that is the same for all equal keys of this process.
    pub(crate) fn hash_value(&self) -> u32 {
        self.hash
    }

    /// The name in the store of a companion, in the same Redis Cluster slot as the lock itself.
    #[cfg_attr(not(feature = "redis"), allow(dead_code))]
    pub(crate) fn companion(&self, suffix: &'static str) -> Companion<'_> {
        Companion { key: self, suffix }
    }
}

impl Hash for LockKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u32(self.hash);
    }
}

/// The name of a key that belongs to a lock.
#[cfg_attr(not(feature = "redis"), allow(dead_code))]
pub(crate) struct Companion<'a> {
    key: &'a LockKey,
    suffix: &'static str,
}

impl<'a> Companion<'a> {
    /// What the name is made of, in order.
    pub(crate) fn parts(&self) -> [&'a str; 4] {
        let Companion { key, suffix } = self;
        // Unambiguous, because `fault` refuses the keys for which the two forms could meet.
        let (open, close) = if key.is_tagged { ("", "") } else { ("{", "}") };
        [open, &key.text, close, suffix]
    }
}

impl fmt::Display for Companion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts()
            .into_iter()
            .try_for_each(|part| f.write_str(part))
    }
}

impl fmt::Display for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// A key that cannot name a lock.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key:?} cannot be a lock key: {reason}")]
pub struct InvalidKey {
    key: String,
    reason: &'static str,
}

impl InvalidKey {
    /// A fault found while the key was being put together.
    pub(crate) fn new(key: &str, reason: &'static str) -> InvalidKey {
        InvalidKey {
            key: shortened(key),
            reason,
        }
    }
}

/// What ends the name of the queue of a lock.
pub(crate) const QUEUE: &str = ":queue";
/// What ends the name of the fencing counter of a lock.
pub(crate) const FENCE: &str = ":fence";

/// The rule that a key breaks, if any; `tag` is the hash tag of `text`.
fn fault(text: &str, key: &str, tag: Option<&str>) -> Option<&'static str> {
    if key.is_empty() {
        Some("it is empty")
    } else if text.len() > LockKey::MAX_LEN {
        Some("it is longer than 1024 bytes, prefix included")
    } else if tag.is_some() && (text.ends_with(QUEUE) || text.ends_with(FENCE)) {
        Some(
            "it has a hash tag and ends like the companion of another lock; choose an ending other than `:queue` and `:fence`",
        )
    } else if tag.is_some_and(|tag| tag.len() + 2 == text.len()) {
        Some("it is nothing but a hash tag; put something before or after the braces")
    } else if tag.is_none() && text.contains('}') {
        Some(
            "its braces form no hash tag, so its companions would land in another Redis Cluster slot",
        )
    } else {
        None
    }
}

/// The part that Redis Cluster hashes, if it is not the whole: between the first `{` and the first `}` after it, if not empty.
fn hash_tag(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('{')?;
    let (tag, _) = rest.split_once('}')?;
    (!tag.is_empty()).then_some(tag)
}

/// Enough of a key to recognise it in a message.
fn shortened(key: &str) -> String {
    const SHOWN: usize = 80;
    match key.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &key[..end]),
        None => key.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn companion(prefix: &str, key: &str) -> Result<String, InvalidKey> {
        LockKey::new(prefix, key).map(|key| key.companion(QUEUE).to_string())
    }

    #[test]
    fn companions_share_the_hash_tag() {
        assert_eq!(companion("lock:", "a").as_deref(), Ok("{lock:a}:queue"));
        assert_eq!(
            companion("lock:", "a:{t}:b").as_deref(),
            Ok("lock:a:{t}:b:queue")
        );
        assert_eq!(companion("lock:", "a{b").as_deref(), Ok("{lock:a{b}:queue"));
    }

    #[test]
    fn keys_whose_companions_would_meet_or_stray_are_refused() {
        for key in ["a{}b", "a}b", "{t}:queue", "{t}k:fence", "", "}{"] {
            assert!(companion("lock:", key).is_err(), "{key}");
        }
        assert!(companion("", "{t}").is_err());
        assert!(companion("lock:", "{t}").is_ok());
        // Without a hash tag, the companions begin with a brace, which the key does not.
        assert_eq!(
            companion("lock:", "k:queue").as_deref(),
            Ok("{lock:k:queue}:queue")
        );
    }

    #[test]
    fn length_is_bounded_in_bytes_with_the_prefix() {
        let longest = "x".repeat(LockKey::MAX_LEN - 5);
        assert!(LockKey::new("lock:", &longest).is_ok());
        assert!(LockKey::new("lock:", &(longest + "x")).is_err());
    }
}
