//! The model of the protocol against the real thing.

// A test that meets an error has failed.
#![allow(clippy::unwrap_used)]

mod replay;
