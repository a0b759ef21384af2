//! How much a locked function adds to the futures that call it, and whether they can be spawned.

#![allow(clippy::large_types_passed_by_value)]

use std::cell::Cell;
use std::mem::size_of_val;

use lock_runtime::{LockError, distributed_lock};

async fn plain(data: [u8; 1024]) -> Result<u8, LockError> {
    tokio::task::yield_now().await;
    Ok(data[0])
}

#[distributed_lock(key = "size", ttl = "5s", wait = "1s", renew = "1s", max_hold = "1m")]
async fn annotated(data: [u8; 1024]) -> Result<u8, LockError> {
    tokio::task::yield_now().await;
    Ok(data[0])
}

#[distributed_lock(key = "size", guard = lock)]
async fn guarded(data: [u8; 1024]) -> Result<u8, LockError> {
    tokio::task::yield_now().await;
    assert!(lock.is_held());
    Ok(data[0])
}

#[test]
fn a_lock_adds_at_most_112_bytes_to_a_future() {
    let bare = size_of_val(&plain([0; 1024]));
    let locked = size_of_val(&annotated([0; 1024]));
    assert!(locked <= bare + 112, "{} bytes instead of {}", locked, bare);
    // The handle, and the way by which it comes.
    let guarded = size_of_val(&guarded([0; 1024]));
    assert!(
        guarded <= bare + 112 + 3 * size_of::<usize>(),
        "{} bytes instead of {}",
        guarded,
        bare
    );
}

#[distributed_lock(key = "cell:<id>")]
async fn with_a_cell(id: u8, cell: Cell<u8>) -> Result<u8, LockError> {
    tokio::task::yield_now().await;
    Ok(cell.get() + id)
}

fn spawnable<T: Send + 'static>(_: &T) {}

#[test]
fn a_body_that_can_be_sent_can_be_spawned() {
    spawnable(&annotated([0; 1024]));
    // `!Sync`, but never shared.
    spawnable(&with_a_cell(1, Cell::new(2)));
}
