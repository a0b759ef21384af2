//! A majority of five Redis servers.

// A test that meets an error has failed.
#![allow(clippy::unwrap_used)]

mod annotated;
mod conformance;
mod interop;
mod locking;
mod outages;
mod security;
mod splits;
mod startup;
