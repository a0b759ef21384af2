//! What those on call are told.

// A test that meets an error has failed.
#![allow(clippy::unwrap_used)]

mod health;
mod inspection;
mod log;
mod losses;
mod metrics;
mod observing;
mod one_story;
mod ops;
mod orders;
mod recorded;
