//! What the tests share.

pub mod checker;
