//! Promises about a network that fails: rows N1 to N8 of the fault catalogue.
//!
//! For all of them: no guard without a confirmed lease that is still valid, and no call beyond its
//! deadline.

mod n0_no_fault;
mod n1_partition;
mod n2_one_direction;
mod n3_half_open;
mod n4_cut_frames;
mod n5_slow;
mod n6_acquire_of_a_ttl;
mod n7_flapping;
mod n8_no_address;

use std::sync::Arc;
use std::time::Duration;

use lock_runtime::LockRuntime;
use lock_tests::faults::proxy::{Fault, Proxy, Way};
use lock_tests::faults::{
    DEADLINE, SLACK, builder, by_the_direct_link, can_be_had, eventually, free, locks,
    nothing_left, owner, queued, remaining, start, start_patient,
};
use lock_tests::server::Server;
use lock_tests::{ms, secs};
use tokio::time::{Instant, sleep, timeout};
