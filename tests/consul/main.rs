//! Consul.

// A test that meets an error has failed.
#![allow(clippy::unwrap_used)]

mod beside_go;
mod conformance;
mod main_job;
