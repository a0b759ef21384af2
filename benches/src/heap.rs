//! An allocator that counts what is alive and how often it was asked, in the processes that want to
//! know.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU64, Ordering};

/// The system's allocator, which counts once [`count`](Counting::count) has been called and costs
/// next to nothing before.
pub struct Counting {
    on: AtomicBool,
    live: AtomicIsize,
    allocations: AtomicU64,
}

impl Counting {
    pub const fn new() -> Counting {
        Counting {
            on: AtomicBool::new(false),
            live: AtomicIsize::new(0),
            allocations: AtomicU64::new(0),
        }
    }

    /// Counts from now on.
    pub fn count(&self) {
        self.on.store(true, Ordering::Relaxed);
    }

    /// The bytes that are alive beyond those when the counting began.
    pub fn live(&self) -> isize {
        self.live.load(Ordering::Relaxed)
    }

    /// How often memory was asked for, or grown.
    pub fn allocations(&self) -> u64 {
        self.allocations.load(Ordering::Relaxed)
    }

    fn changed(&self, by: isize, allocations: u64) {
        if self.on.load(Ordering::Relaxed) {
            self.live.fetch_add(by, Ordering::Relaxed);
            self.allocations.fetch_add(allocations, Ordering::Relaxed);
        }
    }
}

// SAFETY: everything is done by the system's allocator.
#[expect(unsafe_code, reason = "an allocator cannot be had without it")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.changed(layout.size() as isize, 1);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.changed(-(layout.size() as isize), 0);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.changed(size as isize - layout.size() as isize, 1);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
