#![doc = include_str!("../README.md")]

mod lanes;
mod thread;

pub use crate::lanes::{Lanes, Unanswered};
pub use crate::thread::Thread;
