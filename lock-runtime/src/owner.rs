//! Owner tokens: which claim a lock belongs to.

use std::borrow::Borrow;
use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use once_cell::sync::Lazy;
use uuid::Uuid;

use crate::key::LockKey;

/// The random value that names one claim, and the only proof of ownership in the store.
///
/// The text is what the generator of the runtime returned (a UUID v4 unless `owner_tokens` says otherwise), followed by a suffix that is
/// unique to the claim, so that a generator which repeats itself cannot make two claims one. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnerToken(Arc<str>);

impl OwnerToken {
    /// Makes a token of `text` and a suffix no other claim has.
    pub fn unique(text: &str) -> OwnerToken {
        // 64 random bits for the process, the pid because a fork copies them, and a counter for the claim.
        static PROCESS: Lazy<String> =
            Lazy::new(|| format!("/lr-{:016x}-", Uuid::new_v4().as_u64_pair().0));
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let claim = NEXT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        // Room for the longest, since to grow costs more than the rest.
        let mut token = String::with_capacity(text.len() + 46);
        token.push_str(text);
        token.push_str(&PROCESS);
        let _ = write!(token, "{pid:x}-{claim:x}");
        OwnerToken(token.into())
    }

    /// The token as the store holds it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Equal, hashed and ordered as its text is.
impl Borrow<str> for OwnerToken {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OwnerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for OwnerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// What makes the first part of owner tokens.
pub(crate) type OwnerTokens = Arc<dyn Fn(&LockKey) -> String + Send + Sync>;

/// The default generator: a UUID v4.
pub(crate) fn uuid_v4() -> OwnerTokens {
    Arc::new(|_| Uuid::new_v4().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generator_that_repeats_itself_still_gives_unique_tokens() {
        let (one, two) = (OwnerToken::unique("same"), OwnerToken::unique("same"));
        assert_ne!(one, two);
        assert!(one.as_str().starts_with("same/lr-"));
    }
}
