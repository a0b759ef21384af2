//! A majority of five Redis servers.

// A test that meets an error has failed.
#![allow(clippy::unwrap_used)]

mod conformance;
mod interop;
mod main_job;
mod outages;
mod security;
mod splits;
