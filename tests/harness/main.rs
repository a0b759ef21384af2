//! What the other tests rely on: servers, the checker, the conformance suite.

// A test that meets an error has failed.
#![allow(clippy::unwrap_used)]

mod catalogue;
mod checker;
mod checker_clean;
mod checker_search;
mod conformance_control;
mod links;
mod msrv;
mod outside_conformance;
mod server;
