//! An allocator that counts, in the processes that ask for it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering};

/// The system's allocator, which counts once [`count`](Counting::count) has been called and costs next to nothing before.
pub struct Counting {
    on: AtomicBool,
    live: AtomicIsize,
    made: AtomicUsize,
}

impl Counting {
    pub const fn new() -> Counting {
        Counting {
            on: AtomicBool::new(false),
            live: AtomicIsize::new(0),
            made: AtomicUsize::new(0),
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

    /// How many allocations there were since the counting began; what grows counts again.
    #[allow(dead_code, reason = "a test of another binary counts them")]
    pub fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }

    fn changed(&self, by: isize) {
        if self.on.load(Ordering::Relaxed) {
            self.live.fetch_add(by, Ordering::Relaxed);
        }
    }

    fn counted(&self) {
        if self.on.load(Ordering::Relaxed) {
            self.made.fetch_add(1, Ordering::Relaxed);
        }
    }
}

// SAFETY: everything is done by the system's allocator.
#[expect(unsafe_code, reason = "an allocator cannot be had without it")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.changed(layout.size() as isize);
        self.counted();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.changed(-(layout.size() as isize));
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.changed(size as isize - layout.size() as isize);
        self.counted();
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
