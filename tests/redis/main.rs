//! One Redis server.

// A test that meets an error has failed.
#![allow(clippy::unwrap_used)]

mod batches;
mod claims_in_doubt;
mod company;
mod company_queue;
mod conformance;
mod conformance_shared;
mod connection;
mod foreign_gap;
mod locking;
mod main_job;
mod places;
mod queueing;
mod scripts;
