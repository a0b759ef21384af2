//! Resources that compare fencing tokens refuse writers who lost their lock; without the comparison
//! they accept them.

mod http;
mod redis;
mod sql;

use lock_runtime::fencing::Writer;
use lock_runtime::memory::MemoryBackend;
use lock_runtime::{FencingToken, LockRuntime};

/// What a resource does with the token of a writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fence {
    Checked,
    /// The control.
    Ignored,
}

/// Two holders of one lock: the lease of the first ended without its knowledge, and the second got
/// the lock.
async fn stale_and_later() -> (Writer, Writer) {
    let store = MemoryBackend::new();
    let locks = LockRuntime::backend(store.clone()).build().await.unwrap();
    let first = locks.lock("account:7").acquire().await.unwrap();
    store.expire("account:7");
    let other = LockRuntime::backend(store).build().await.unwrap();
    let second = other.lock("account:7").acquire().await.unwrap();
    (Writer::from(&first), Writer::from(&second.handle()))
}

/// Who had one lock, one phase after the other, without noticing the end of it.
struct Phases {
    earlier: Writer,
    /// Of two processes.
    readers: [Writer; 2],
    later: Writer,
}

impl Phases {
    async fn new() -> Phases {
        let store = MemoryBackend::new();
        let process = || LockRuntime::backend(store.clone()).build();
        let (one, other) = (process().await.unwrap(), process().await.unwrap());
        let earlier = one.lock("account:7").acquire().await.unwrap();
        store.expire("account:7");
        let here = one.lock("account:7").shared().acquire().await.unwrap();
        let there = other.lock("account:7").shared().acquire().await.unwrap();
        assert_ne!(here.owner_token(), there.owner_token());
        store.expire("account:7");
        let later = other.lock("account:7").acquire().await.unwrap();
        Phases {
            earlier: Writer::from(&earlier),
            readers: [Writer::from(&here), Writer::from(&there)],
            later: Writer::from(&later),
        }
    }
}

/// A writer with the same fencing token, as an old and a new master of a store may both grant it.
fn twin(writer: &Writer) -> Writer {
    Writer::new(writer.token(), "another owner")
}

fn writer(token: u64) -> Writer {
    Writer::new(FencingToken::new(token), "owner")
}
