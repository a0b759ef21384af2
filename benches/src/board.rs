//! Memory that all processes of a run share: when to start and to stop, and who is in the critical
//! section.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use memmap2::MmapMut;
use rustix::time::{ClockId, clock_gettime};

/// More than there are tasks.
pub const ALONE: u64 = 1 << 32;

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Processes start and connect.
    Setup,
    /// The load runs, but nothing counts yet.
    WarmUp,
    /// What happens counts.
    Measure,
    /// Everybody ends.
    Stop,
}

/// What the processes of a run share. All zero at first.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Board {
    phase: AtomicU32,
    /// How many processes are ready.
    pub ready: AtomicU32,
    /// How many tasks are in the critical section, and [`ALONE`] for each who has to be alone
    /// there.
    holders: AtomicU64,
    /// The number of the task that was in the section last.
    owner: AtomicU64,
    /// The largest fencing token seen in the section.
    fence: AtomicU64,
    /// When the last holder called its release, on the clock of [`now`].
    pub released_at: AtomicU64,
    /// How often the section was entered.
    pub sections: AtomicU64,
    /// How often it was entered by another task than the time before.
    pub handoffs: AtomicU64,
    /// How often more were in it than may be, or a fencing token did not grow.
    pub violations: AtomicU64,
}

impl Board {
    /// Sees what was written before it.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Setup,
            1 => Phase::WarmUp,
            2 => Phase::Measure,
            _ => Phase::Stop,
        }
    }

    /// Lets all processes go on to `phase`.
    pub fn enter_phase(&self, phase: Phase) {
        self.phase.store(phase as u32, Ordering::Release);
    }

    /// Enters the critical section as the task `me`, alone, or as one of so many for whom there is
    /// room. Tells whether the lock came from another task.
    pub fn enter(&self, me: u64, fence: Option<u64>, room: Option<u64>) -> bool {
        let weight = room.map_or(ALONE, |_| 1);
        let others = self.holders.fetch_add(weight, Ordering::SeqCst);
        let is_room = others < room.unwrap_or(1);
        let fence = fence.filter(|_| room.is_none());
        let grown = fence.is_none_or(|fence| self.fence.swap(fence, Ordering::SeqCst) < fence);
        if !is_room || !grown {
            self.violations.fetch_add(1, Ordering::Relaxed);
        }
        self.sections.fetch_add(1, Ordering::Relaxed);
        let handed_over = self.owner.swap(me, Ordering::SeqCst) != me;
        if handed_over {
            self.handoffs.fetch_add(1, Ordering::Relaxed);
        }
        handed_over
    }

    /// Leaves the critical section, which it entered with so much `room`.
    pub fn leave(&self, room: Option<u64>) {
        self.holders
            .fetch_sub(room.map_or(ALONE, |_| 1), Ordering::SeqCst);
    }
}

/// A [`Board`] in a file that the processes of a run map.
pub struct Shared(MmapMut);

impl Shared {
    /// Maps the file at `path`, which is made if there is none.
    pub fn map(path: &Path) -> std::io::Result<Shared> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        file.set_len(size_of::<Board>() as u64)?;
        // SAFETY: nobody truncates the file, which lies in a directory of the run; what is in it is
        // read and written as atomics only.
        #[expect(unsafe_code, reason = "memory shared by processes")]
        let map = unsafe { MmapMut::map_mut(&file)? };
        Ok(Shared(map))
    }
}

impl std::ops::Deref for Shared {
    type Target = Board;

    fn deref(&self) -> &Board {
        // SAFETY: a map starts at a page and is as large as a board, which consists of atomics, for
        // which every content is valid.
        #[expect(unsafe_code, reason = "memory shared by processes")]
        unsafe {
            &*self.0.as_ptr().cast::<Board>()
        }
    }
}

/// Nanoseconds on a clock that all processes share.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
