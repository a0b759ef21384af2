//! The protocol of a distributed lock, without I/O, tasks, clock or randomness.
//!
//! - [`LockKey`], [`OwnerToken`], [`FencingToken`]: what names a lock, a claim and a grant.
//! - [`Backend`]: the seam to a store, with its [contract](Backend#the-contract). A store is a
//!   crate that depends on this one alone.
//! - [`machine::Key`]: what one process does about one key, as a state machine. Events come in
//!   with the time, actions come out.
//! - [`store::Store`]: a store as plain data.
//! - [`Numbers`], [`Sinks`]: what every backend needs to keep the order of questions, and to tell
//!   its news.
//!
//! Services use `lock-runtime`, which performs the actions and re-exports what they need.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `std` | no | [`OwnerToken::unique`], [`Sinks`], and [`Instant`] from the clock of the standard library |

#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(not(any(feature = "std", test, lock_mistakes)), no_std)]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

mod backend;
mod backend_error;
mod claim;
mod inspection;
mod limits;
pub mod machine;
#[cfg(lock_mistakes)]
pub mod mistakes;
#[cfg(not(lock_mistakes))]
mod mistakes;
mod mode;
mod name;
mod numbers;
#[cfg(feature = "std")]
mod sinks;
pub mod store;
mod terms;
mod text;
mod time;
mod token;

pub use crate::backend::{Backend, Executor, News, Note};
pub use crate::backend_error::{BackendError, BoxError};
pub use crate::claim::{
    Acquired, AskNumber, Claim, Contended, Extension, Grant, Holder, LostReason, Release, Released,
    Renewal, Renewed,
};
pub use crate::inspection::{Card, Condition, Inspected, Member, Waiting};
pub use crate::limits::{GraceBy, Limits, Order};
pub use crate::mode::{Kind, Mode};
pub use crate::name::{InvalidKey, LockKey};
pub use crate::numbers::{Numbers, Overtaken};
#[cfg(feature = "std")]
pub use crate::sinks::{Sinks, Told};
pub use crate::terms::{MAX_TTL, MIN_RENEWAL, MIN_TTL, Rules, Terms, checked_ttl, valid_until};
pub use crate::time::Instant;
pub use crate::token::{FenceBlock, FencingToken, OwnerToken, Process};
