//! The body of an `unsafe fn` is no safer with the lock around it.
#![deny(warnings)]
#![allow(unsafe_op_in_unsafe_fn)]

use lock_runtime::{LockError, distributed_lock};

#[distributed_lock(key = "buffer")]
async unsafe fn first(buffer: *const u8) -> Result<u8, LockError> {
    Ok(*buffer)
}

fn main() {
    let byte = 7_u8;
    // SAFETY: the pointer is to a live byte.
    drop(unsafe { first(&raw const byte) });
}
