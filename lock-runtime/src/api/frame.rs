//! The bodies around a call, and the locks that they hold.

use std::sync::{Arc, OnceLock};

use lock_protocol::LockKey;
use tokio::sync::Semaphore;

use crate::api::guard::LockHandle;
use crate::api::runtime::LockRuntime;
use crate::engine::Engine;
use crate::observe::Taking;

tokio::task_local! {
    /// The innermost body that is being polled.
    static CURRENT: Arc<Frame>;
}

/// A body that runs while holding a lock, and those around it. One that holds several has a frame
/// for each.
#[derive(Debug)]
pub(crate) struct Frame {
    handle: LockHandle,
    /// The function whose body it is, `-` if it is not known.
    function: &'static str,
    outer: Option<Arc<Frame>>,
    /// Lets one nested call of the same key run at a time; made when the first comes.
    turn: OnceLock<Arc<Semaphore>>,
}

impl Frame {
    /// The frame of a body that holds the lock of `handle`, within that of `outer`.
    pub(crate) fn new(
        handle: LockHandle,
        function: &'static str,
        outer: Option<Arc<Frame>>,
    ) -> Arc<Frame> {
        Arc::new(Frame {
            handle,
            function,
            outer,
            turn: OnceLock::new(),
        })
    }

    /// The lock that the body holds.
    pub(crate) fn handle(&self) -> &LockHandle {
        &self.handle
    }

    /// The lock, and the function that took it.
    pub(crate) fn taking(&self) -> Taking {
        Taking {
            name: self.handle.name(),
            function: self.function,
        }
    }

    /// The body around this one.
    pub(crate) fn outer(&self) -> Option<&Arc<Frame>> {
        self.outer.as_ref()
    }

    /// Runs `poll` as a part of this body.
    pub(crate) fn within<T>(frame: Arc<Frame>, poll: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(frame, poll)
    }

    /// The innermost body around this call.
    pub(crate) fn current() -> Option<Arc<Frame>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// The runtime whose lock it holds.
    pub(crate) fn runtime(&self) -> LockRuntime {
        self.handle.runtime()
    }

    /// The innermost body around this call that holds `key`.
    pub(crate) fn holding(engine: &Arc<Engine>, key: &LockKey) -> Option<Arc<Frame>> {
        let mut frame = Frame::current();
        while let Some(inner) = frame {
            if inner.handle.is_of(engine) && inner.handle.key() == key {
                return Some(inner);
            }
            frame = inner.outer.clone();
        }
        None
    }

    /// The keys of the locks that the bodies around this call hold, each once.
    pub(crate) fn held() -> Vec<LockKey> {
        let mut held = Vec::new();
        let mut frame = Frame::current();
        while let Some(inner) = frame {
            // A nested body has the lock of another around it.
            if !held.contains(inner.handle.key()) {
                held.push(inner.handle.key().clone());
            }
            frame = inner.outer.clone();
        }
        held
    }

    /// Lets one nested call of the same key run at a time.
    pub(crate) fn turn(&self) -> Arc<Semaphore> {
        self.turn
            .get_or_init(|| Arc::new(Semaphore::new(1)))
            .clone()
    }
}
