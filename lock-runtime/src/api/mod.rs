//! The public interface: the runtime and its builder, locks and guards, and the parts of keys.

pub mod attribute;
pub(crate) mod body;
pub(crate) mod builder;
mod current;
pub(crate) mod entered;
mod environment;
mod frame;
pub(crate) mod guard;
mod inspection;
pub(crate) mod key_part;
mod key_types;
mod local;
pub(crate) mod lock;
pub(crate) mod lock_all;
pub(crate) mod lock_done;
pub(crate) mod lock_return;
pub(crate) mod lock_skip;
pub(crate) mod min_hold;
pub(crate) mod once_per;
pub(crate) mod options;
pub(crate) mod runtime;
mod within;
