//! The examples, as a user runs them.

// A test that meets an error has failed.
#![allow(clippy::unwrap_used)]

mod coupon;
mod cron;
mod example;
mod fencing;
mod flash_sale;
mod handlers;
mod leader;
mod lost;
mod observability;
mod throttle;
mod transfer;
mod workers;
