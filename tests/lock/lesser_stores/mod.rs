//! Stores that can do less keep the promises that are made then, and breaches of them are found.

mod coarse;
mod crowd;

use std::sync::{Mutex, MutexGuard};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}
