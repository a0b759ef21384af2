//! What those on call are told.

// A test that meets an error has failed.
#![allow(clippy::unwrap_used)]

mod losses;
mod metrics;
mod observing;
mod ops;
mod orders;
