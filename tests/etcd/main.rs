//! etcd.

// A test that meets an error has failed.
#![allow(clippy::unwrap_used)]

mod conformance;
mod conformance_control;
mod leases;
mod main_job;
mod renewals;
mod watchers;
