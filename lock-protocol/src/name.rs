//! The name of a lock, checked once.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;
use core::hash::{Hash, Hasher};

use foldhash::SharedSeed;
use foldhash::fast::FoldHasher;

use crate::text::Text;

/// The name of a lock: what the caller asked for, behind the prefix of the runtime.
///
/// A `LockKey` exists only if every backend can hold it: it is not empty, not longer than
/// [`LockKey::MAX_LEN`] bytes, and its companions (the queue and the fencing counter) can be named
/// so that Redis Cluster keeps them in one slot and no two locks share one. Two keys are equal if
/// they name the same lock in the store. Cloning is cheap.
#[derive(Clone)]
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

    /// What the names of companions end with, which a key with a hash tag must not: on Redis the
    /// queue, the counters and the holders, and what earlier versions called queue and counter.
    pub const COMPANIONS: [&'static str; 5] =
        [":waiters", ":counter", ":holders", ":queue", ":fence"];

    /// Checks `key` and puts `prefix` in front of it.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`] says which rule the key breaks.
    ///
    /// # Examples
    ///
    /// ```
    /// use lock_protocol::LockKey;
    ///
    /// let key = LockKey::new("lock:", "coupon:42")?;
    /// assert_eq!(key.as_str(), "coupon:42");
    /// assert_eq!(key.stored(), "lock:coupon:42");
    /// assert!(LockKey::new("lock:", "").is_err());
    /// # Ok::<(), lock_protocol::InvalidKey>(())
    /// ```
    pub fn new(prefix: &str, key: &str) -> Result<LockKey, InvalidKey> {
        let mut text = Text::default();
        text.push(prefix);
        text.push(key);
        let text = text.share();
        let tag = hash_tag(&text);
        match fault(&text, key, tag) {
            Some(reason) => Err(InvalidKey::new(key, reason)),
            None => Ok(LockKey {
                // It is at most `MAX_LEN`.
                prefix_len: prefix.len() as u16,
                is_tagged: tag.is_some(),
                hash: hash(&text),
                text,
            }),
        }
    }

    /// The key as the caller gave it.
    pub fn as_str(&self) -> &str {
        &self.text[self.prefix_len as usize..]
    }

    /// What stands before the key as the caller gave it.
    pub fn prefix(&self) -> &str {
        &self.text[..self.prefix_len as usize]
    }

    /// The name in the store: prefix and key.
    pub fn stored(&self) -> &str {
        &self.text
    }

    /// A number that is the same for all equal keys of this process, and another in the next one.
    pub fn hash_value(&self) -> u32 {
        self.hash
    }

    /// Whether Redis Cluster hashes a part of the name in the store, between braces, instead of
    /// the whole.
    pub fn has_hash_tag(&self) -> bool {
        self.is_tagged
    }
}

impl PartialEq for LockKey {
    fn eq(&self, other: &LockKey) -> bool {
        self.hash == other.hash && self.text == other.text
    }
}

impl Eq for LockKey {}

impl PartialOrd for LockKey {
    fn partial_cmp(&self, other: &LockKey) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for LockKey {
    fn cmp(&self, other: &LockKey) -> core::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for LockKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u32(self.hash);
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
    /// The error that says of `key` for which `reason` it is refused; a long key is shortened.
    fn new(key: &str, reason: &'static str) -> InvalidKey {
        InvalidKey {
            key: shortened(key),
            reason,
        }
    }
}

/// The rule that a key breaks, if any; `tag` is the hash tag of `text`.
fn fault(text: &str, key: &str, tag: Option<&str>) -> Option<&'static str> {
    let ends_like_companion = || LockKey::COMPANIONS.iter().any(|end| text.ends_with(end));
    if key.is_empty() {
        Some("it is empty")
    } else if text.len() > LockKey::MAX_LEN {
        Some("it is longer than 1024 bytes, prefix included")
    } else if tag.is_some() && ends_like_companion() {
        Some(
            "it has a hash tag and ends like the companion of another lock; choose an ending other \
             than `:waiters`, `:counter`, `:holders`, `:queue` and `:fence`",
        )
    } else if tag.is_some_and(|tag| tag.len() + 2 == text.len()) {
        Some("it is nothing but a hash tag; put something before or after the braces")
    } else if tag.is_none() && text.contains('}') {
        Some(
            "its braces form no hash tag, so its companions would land in another Redis Cluster \
             slot",
        )
    } else {
        None
    }
}

/// The part that Redis Cluster hashes, if it is not the whole: between the first `{` and the first
/// `}` after it, if not empty.
fn hash_tag(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('{')?;
    let (tag, _) = rest.split_once('}')?;
    (!tag.is_empty()).then_some(tag)
}

/// Seeded anew in each process, so that nobody who chooses keys can make them collide.
fn hash(text: &str) -> u32 {
    let mut hasher = FoldHasher::with_seed(0, SharedSeed::global_random());
    hasher.write(text.as_bytes());
    hasher.finish() as u32
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

    #[test]
    fn keys_whose_companions_would_meet_or_stray_are_refused() {
        let refused = |prefix: &str, key: &str| LockKey::new(prefix, key).is_err();
        for key in ["a{}b", "a}b", "{t}:queue", "{t}k:fence", "", "}{"] {
            assert!(refused("lock:", key), "{key}");
        }
        for ending in LockKey::COMPANIONS {
            assert!(refused("lock:", &format!("{{t}}{ending}")), "{ending}");
        }
        assert!(refused("", "{t}"));
        assert!(!refused("lock:", "{t}"));
        assert!(!refused("lock:", "k:queue"));
    }

    #[test]
    fn length_is_bounded_in_bytes_with_the_prefix() {
        let longest = "x".repeat(LockKey::MAX_LEN - 5);
        assert!(LockKey::new("lock:", &longest).is_ok());
        assert!(LockKey::new("lock:", &(longest + "x")).is_err());
    }

    #[test]
    fn keys_of_one_name_in_the_store_are_equal() {
        let (one, two) = (LockKey::new("lock:", "k"), LockKey::new("", "lock:k"));
        assert_eq!(one, two);
        let value = |key: Result<LockKey, InvalidKey>| key.map(|key| key.hash_value());
        assert_eq!(value(one), value(two));
    }
}
