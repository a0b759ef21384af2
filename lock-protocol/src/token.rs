//! Owner tokens, which name claims, and fencing tokens, which number grants.

use alloc::sync::Arc;
use core::borrow::Borrow;
use core::fmt;
use core::num::NonZeroU32;

use crate::text::Text;

/// The random value that names one claim, and the only proof of ownership in the store.
///
/// The text is what the generator of the runtime returned (a UUID v4 unless `owner_tokens` says
/// otherwise), followed by a suffix that is unique to the claim, so that a generator which repeats
/// itself cannot make two claims one. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnerToken(Arc<str>);

impl OwnerToken {
    /// The token with this text, of which the caller makes sure that no other claim has it.
    pub fn new(text: impl Into<Arc<str>>) -> OwnerToken {
        OwnerToken(text.into())
    }

    /// Makes a token of `text` and a suffix no other claim has.
    #[cfg(feature = "std")]
    pub fn unique(text: &str) -> OwnerToken {
        use core::fmt::Write;
        use std::sync::atomic::{AtomicU64, Ordering};

        use once_cell::sync::Lazy;
        use uuid::Uuid;

        // 64 random bits for the process, the pid because a fork copies them, and a counter for
        // the claim.
        static PROCESS: Lazy<std::string::String> =
            Lazy::new(|| std::format!("/lr-{:016x}-", Uuid::new_v4().as_u64_pair().0));
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let claim = NEXT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let mut token = Text::default();
        token.push(text);
        token.push(&PROCESS);
        let _ = write!(token, "{pid:x}-{claim:x}");
        OwnerToken(token.share())
    }

    /// What stands in its place while the key is kept after its lease: the token of no claim, with
    /// the same ending, by which it is told from those of other libraries.
    #[must_use]
    pub fn kept(&self) -> OwnerToken {
        let mut token = Text::default();
        token.push("kept:");
        token.push(&self.0);
        OwnerToken(token.share())
    }

    /// The process that made the claim, if it is one of this project.
    pub fn process(&self) -> Option<Process> {
        Process::of(&self.0)
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

/// A process that makes claims, as their owner tokens name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Process {
    id: u64,
    pid: NonZeroU32,
}

impl Process {
    /// The process that made the claim whose owner token `text` ends with, if it is one of this
    /// project.
    pub fn of(text: &str) -> Option<Process> {
        let (_, suffix) = text.rsplit_once("/lr-")?;
        let (process, claim) = suffix.rsplit_once('-')?;
        is_hexadecimal(claim).then_some(())?;
        Process::parse(process)
    }

    /// A random number, drawn when the process made its first claim.
    pub fn id(self) -> u64 {
        self.id
    }

    /// Its number on its host.
    pub fn pid(self) -> u32 {
        self.pid.get()
    }

    /// Reads what [`Display`](fmt::Display) writes.
    pub fn parse(text: &str) -> Option<Process> {
        let (id, pid) = text.split_once('-')?;
        (id.len() == 16 && is_hexadecimal(id) && is_hexadecimal(pid)).then_some(())?;
        Some(Process {
            id: u64::from_str_radix(id, 16).ok()?,
            pid: NonZeroU32::new(u32::from_str_radix(pid, 16).ok()?)?,
        })
    }

    /// This process.
    #[cfg(feature = "std")]
    pub fn current() -> Process {
        static ID: once_cell::sync::Lazy<u64> = once_cell::sync::Lazy::new(|| {
            let own = OwnerToken::unique("").process();
            own.map_or(0, Process::id)
        });
        // Not kept, because a fork copies what is.
        let pid = NonZeroU32::new(std::process::id()).unwrap_or(NonZeroU32::MIN);
        Process { id: *ID, pid }
    }
}

fn is_hexadecimal(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:x}", self.id, self.pid)
    }
}

/// A number that grows with every grant of a key.
///
/// Give it to whatever the lock protects: a resource that remembers the largest token it has seen
/// and refuses smaller ones is safe from holders that lost their lease without noticing, which no
/// lock can be by itself (Kleppmann, *How to do distributed locking*, 2016).
///
/// Below 2^53, so that it survives JSON numbers, and a `BIGINT` holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FencingToken(u64);

impl FencingToken {
    /// The token with this number.
    pub const fn new(number: u64) -> FencingToken {
        FencingToken(number)
    }

    /// The number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The token after this one.
    pub(crate) const fn next(self) -> FencingToken {
        FencingToken(self.0 + 1)
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<FencingToken> for u64 {
    fn from(token: FencingToken) -> u64 {
        token.0
    }
}

/// The fencing tokens that a grant reserved: `first` for its holder, the rest for those to whom
/// the holder's process passes the lease on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FenceBlock {
    /// The token of the claim that was granted.
    pub first: FencingToken,
    /// The last reserved token; not smaller than `first`.
    pub last: FencingToken,
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    #[test]
    fn a_generator_that_repeats_itself_still_gives_unique_tokens() {
        let (one, two) = (OwnerToken::unique("same"), OwnerToken::unique("same"));
        assert_ne!(one, two);
        assert!(one.as_str().starts_with("same/lr-"));
    }

    #[test]
    fn a_token_names_its_process() {
        let own = OwnerToken::unique("web-1/lr-");
        assert_eq!(own.process(), Some(Process::current()));
        assert_eq!(own.kept().process(), Some(Process::current()));
        assert_eq!(Process::current().pid(), std::process::id());
        let shown = Process::current().to_string();
        assert_eq!(Process::parse(&shown), Some(Process::current()));
        for foreign in [
            "",
            "6a9f",
            "/lr-0123456789abcdef-12",
            "/lr-123-12-1",
            "/lr-0123456789abcdef-12-x",
            "/lr-0123456789abcdef-1234567890-1",
        ] {
            assert_eq!(OwnerToken::new(foreign).process(), None, "{foreign}");
        }
    }
}
