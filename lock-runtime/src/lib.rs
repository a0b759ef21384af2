//! A distributed lock as an attribute on an async function.

// So that the attribute can be used within this crate: generated code names `::lock_runtime`.
extern crate self as lock_runtime;

pub mod backend;
mod error;
mod fence;
mod key;
mod key_part;
mod lease;
mod lock_return;
mod memory;
mod owner;

#[cfg(feature = "macros")]
pub use lock_macros::distributed_lock;

pub use crate::backend::Backend;
pub use crate::error::{BoxError, LockError, LostReason};
pub use crate::fence::{FenceBlock, FencingToken};
pub use crate::key::{InvalidKey, LockKey};
#[doc(hidden)]
pub use crate::key_part::KeyTemplate;
pub use crate::key_part::{KeyBuilder, KeyPart};
pub use crate::lease::{MAX_TTL, MIN_TTL};
pub use crate::lock_return::LockReturn;
pub use crate::memory::{Fault, MemoryBackend};
pub use crate::owner::OwnerToken;
