#![doc = include_str!("../README.md")]

mod key_order;
mod thread;

pub use crate::key_order::{KeyOrder, Unanswered};
pub use crate::thread::Thread;
