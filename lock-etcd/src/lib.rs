#![doc = include_str!("../README.md")]

mod backend;
mod book;
mod client;
mod core;
mod fault;
mod housekeeping;
mod inspection;
mod keep_alive;
mod layout;
mod leases;
mod messages;
mod mistake;
mod renewing;
mod settings;
mod txns;
mod verbs;
mod watching;

pub use crate::backend::{ConnectError, EtcdBackend};
#[cfg(lock_mistakes)]
#[doc(hidden)]
pub use crate::mistake::Mistake;
pub use crate::settings::{EtcdSettings, EtcdTls, InvalidSetting};
