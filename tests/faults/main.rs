//! The fault catalogue, which RELIABILITY.md lists.

// A test that meets an error has failed.
#![allow(clippy::unwrap_used)]

mod consul;
mod elsewhere;
mod etcd;
mod holder;
mod input;
mod network;
mod redlock;
mod server;
mod shapes;
mod waiter;
