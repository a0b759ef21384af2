//! The in-memory store.

// A test that meets an error has failed.
#![allow(clippy::unwrap_used)]

mod conformance;
mod documented;
mod limits;
mod store;
mod watchdog;
