//! What the lock promises on whatever store holds it.

// A test that meets an error has failed.
#![allow(clippy::unwrap_used)]

mod fencing;
mod keys_together;
mod leading;
mod lesser_stores;
mod locking;
mod lost_for_good;
mod minimum_hold;
mod on_every_store;
mod once_per;
mod passing_on;
mod places;
mod several_keys;
mod shapes;
mod shutdown;
mod stalled_futures;
mod strange_backends;
mod stress;
mod w05_dropped_futures;
