//! A distributed lock as an attribute on an async function.

// So that the attribute can be used within this crate: generated code names `::lock_runtime`.
#[allow(unused_extern_crates)]
extern crate self as lock_runtime;

#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;
pub mod backend;
mod backoff;
mod builder;
mod claim;
mod error;
mod executor;
mod fence;
mod front;
mod guard;
mod hold;
mod key;
mod key_part;
mod lease;
mod lock;
mod lock_return;
mod memory;
mod owner;
mod queue;
mod run;
mod runtime;
mod settings;
mod watchdog;

#[cfg(feature = "macros")]
pub use lock_macros::distributed_lock;

pub use crate::backend::Backend;
pub use crate::backoff::{Backoff, Retry};
pub use crate::builder::LockRuntimeBuilder;
pub use crate::error::{BoxError, LockError, LostReason};
pub use crate::fence::{FenceBlock, FencingToken};
pub use crate::guard::{LockGuard, LockHandle};
pub use crate::key::{InvalidKey, LockKey};
pub use crate::key_part::{KeyBuilder, KeyPart};
pub use crate::lease::{MAX_TTL, MIN_TTL};
pub use crate::lock::{Lock, Renew};
pub use crate::lock_return::LockReturn;
pub use crate::memory::{Fault, MemoryBackend};
pub use crate::owner::OwnerToken;
pub use crate::runtime::LockRuntime;
