//! Consul.

// A test that meets an error has failed.
#![allow(clippy::unwrap_used)]

mod conformance;
mod main_job;
