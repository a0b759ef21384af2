//! The examples, as a user runs them.

// A test that meets an error has failed.
#![allow(clippy::unwrap_used)]

mod coupon;
mod cron;
mod example;
mod flash_sale;
mod handlers;
mod leader;
mod observability;
mod throttle;
mod transfer;
mod workers;
