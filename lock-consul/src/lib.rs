#![doc = include_str!("../README.md")]

mod backend;
mod book;
mod client;
mod connections;
mod core;
mod ending;
mod entering;
mod fault;
mod housekeeping;
mod inspection;
mod layout;
mod messages;
mod renewing;
mod sessions;
mod settings;
mod tls;
mod tree;
mod txn;
mod watching;

pub use crate::backend::{ConnectError, ConsulBackend};
pub use crate::settings::{ConsulSettings, ConsulTls, InvalidSetting};
