//! A distributed lock as an attribute on an async function.
//!
//! ```
//! use lock_runtime::{LockError, LockRuntime, distributed_lock};
//!
//! #[distributed_lock(key = "coupon:<id>", ttl = "5s", wait = "2s")]
//! async fn claim(id: u64, user: &str) -> Result<String, LockError> {
//!     // For each `id`, one task of all processes is here at a time.
//!     Ok(format!("coupon {id} goes to {user}"))
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), LockError> {
//!     // Once, at startup. In production: `LockRuntime::redis("redis://127.0.0.1/")`.
//!     LockRuntime::in_memory().build().await?.install()?;
//!     println!("{}", claim(42, "alice").await?);
//!     LockRuntime::global()?.shutdown().await
//! }
//! ```
//!
//! ```toml
//! [dependencies]
//! lock-runtime = "0.1"
//! tokio = { version = "1", features = ["macros", "rt-multi-thread"] }
//! ```
//!
//! The README shows a whole service: errors, HTTP, a worker, SIGTERM, tests.
//!
//! - [`distributed_lock`] is the attribute, with its arguments.
//! - [`LockRuntime`] provides the locks. A [`LockRuntimeBuilder`] configures it once.
//! - [`Lock`] and [`LockGuard`] are the same without the attribute, for code that is not a
//!   function. [`key!`] makes the same keys.
//! - [`LockError`] says why a lock was not acquired, or not kept.
//! - [`FencingToken`] protects a resource from holders that lost the lock without noticing.
//!   [`fencing`] has helpers for SQL, Redis and HTTP.
//! - [`observe`] reports what happens: log lines, spans, and an [`Observer`] of your own.
//! - [`memory`] has a store for unit tests. [`backend`] has the trait for a store of your own, and
//!   its types.
//!
//! # What this promises
//!
//! - At any time at most one holder of a key has a valid lease, as long as the store keeps its data
//!   and its clock does not jump.
//! - Each grant of a key has a larger [`FencingToken`] than every grant before it, even after Redis
//!   lost its data. Readers between two writers share one. There are exceptions: Redis loses its
//!   data while its clock is behind; it comes back with older data, in which readers hold the key;
//!   several Redis servers lose data or their clocks jump during a grant; etcd or Consul is set up
//!   anew or restored from an older snapshot.
//!   [`fence_floor`](LockRuntimeBuilder::fence_floor) raises the tokens then.
//! - A function that lost its lock does not return `Ok`: its body is dropped at its current
//!   `.await`, and the caller gets [`LockError::Lost`] (`on_lost = continue` leaves this to you).
//! - Every wait ends by its deadline, and "held by another" is never the same error as "the store
//!   is down".
//! - A dropped future leaves no lock and no place in a queue behind.
//!
//! # What this does not promise
//!
//! - That two bodies *never* run at once. No lock with leases can promise that: a process may be
//!   stopped for longer than its lease, and a write that was already sent cannot be stopped. If
//!   that matters, let the resource compare fencing tokens.
//! - That something is done once. Several callers do it one after another. What must happen once a
//!   day needs a note that it is done, read first under the lock and written last.
//! - Order among waiters if the store loses its data, if a process dies, or on several Redis
//!   servers.
//! - That time passes while the whole machine is suspended: local clocks stop, and the loss is
//!   noticed at the next renewal.
//! - Anything about code that blocks its thread after the lock was lost: it ends as lost when it
//!   next awaits or returns.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `macros` | yes | the attribute |
//! | `redis` | yes | locks on Redis 6.2 or newer, or Valkey |
//! | `tracing` | yes | spans and log lines, by the crate `tracing`: see [`observe`] |
//! | `metrics` | no | metrics, by the facade `metrics`: see [`observe`] |
//! | `etcd` | no | locks on etcd 3.4 or newer, also over TLS |
//! | `consul` | no | locks on Consul 1.12 or newer, also over TLS |
//! | `tls` | no | `rediss://` URLs, by rustls |
//! | `axum` | no | for axum 0.8: [`LockError`] as a response, the headers of [`fencing::http`] as an extractor |
//! | `uuid` | no | `uuid::Uuid` as a part of keys |
//! | `time`, `chrono`, `jiff` | no | the dates and times of that crate as parts of keys |

#![cfg_attr(docsrs, feature(doc_cfg))]

// So that the attribute can be used within this crate: generated code names `::lock_runtime`.
#[allow(unused_extern_crates)]
extern crate self as lock_runtime;

#[doc(hidden)]
#[path = "api/private.rs"]
pub mod __private;
mod api;
pub mod backend;
pub mod backoff;
mod clock;
mod engine;
mod error;
mod executor;
pub mod fencing;
pub mod observe;
mod settings;
mod stores;
mod sync;

#[cfg(feature = "macros")]
pub use lock_macros::{KeyPart, distributed_lock, key};
pub use lock_protocol::{FencingToken, LostReason, Process};

#[doc(inline)]
pub use crate::api::attribute;
pub use crate::api::builder::LockRuntimeBuilder;
pub use crate::api::guard::{LockGuard, LockHandle};
pub use crate::api::key_part::{KeyBuilder, KeyPart};
pub use crate::api::lock::Lock;
pub use crate::api::lock_all::{LockAll, LockAllGuard};
pub use crate::api::lock_done::LockDone;
pub use crate::api::lock_return::LockReturn;
pub use crate::api::lock_skip::LockSkip;
pub use crate::api::options::Renew;
pub use crate::api::runtime::LockRuntime;
pub use crate::error::{Holding, LockError};
pub use crate::observe::{LocalLock, LockEvent, Observer};
#[cfg(feature = "consul")]
#[doc(inline)]
pub use crate::stores::consul;
#[cfg(feature = "etcd")]
#[doc(inline)]
pub use crate::stores::etcd;
#[doc(inline)]
pub use crate::stores::memory;
#[cfg(feature = "redis")]
#[doc(inline)]
pub use crate::stores::redis;
#[cfg(feature = "redis")]
#[doc(inline)]
pub use crate::stores::redlock;
