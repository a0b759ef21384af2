//! The stores as a lock sees them, and a test of each promise on each of them.

use std::time::Duration;

use lock_conformance::Store;
use lock_runtime::memory::Fault;
use lock_runtime::{LockRuntime, LockRuntimeBuilder};
pub(crate) use lock_tests::consul_store::ConsulStore;
pub(crate) use lock_tests::etcd_store::EtcdStore;
pub(crate) use lock_tests::memory_store::MemoryStore;
pub(crate) use lock_tests::redis_store::RedisStore;
pub(crate) use lock_tests::redlock_store::RedlockStore;
use lock_tests::{ms, secs};

/// No test takes so long, so that nothing ends by it.
pub(crate) const LONG: Duration = secs(600);

/// How long a store has for an answer, however busy the machine is.
pub(crate) const ANSWER: Duration = ms(4000);

/// A store under test, as a lock sees it.
pub(crate) trait Place: Store {
    /// What things may take longer than promised: nothing where the clock is paused.
    const SLACK: Duration = secs(5);
    /// The ttl of what is to end by nothing but its release.
    const LONGEST: Duration = LONG;
    /// Whether it grants all modes as what they are; else each claim is granted alone.
    const MODES: bool = false;

    /// Has the next verb done at once and answered much later, where an answer would else be there
    /// at the first poll.
    fn answer_late(&self) {}
}

impl Place for MemoryStore {
    const SLACK: Duration = Duration::ZERO;
    const MODES: bool = true;

    fn answer_late(&self) {
        self.memory.fail_next(1, Fault::Slow(secs(60)));
    }
}
impl Place for RedisStore {
    const MODES: bool = true;
}
impl Place for RedlockStore {}
impl Place for EtcdStore {}
impl Place for ConsulStore {
    // No lease is longer there; it is renewed.
    const LONGEST: Duration = secs(60);
}

/// The settings of a runtime as one process would have it.
pub(crate) async fn builder<P: Place>(place: &P) -> LockRuntimeBuilder {
    let builder = LockRuntime::backend(place.connect().await);
    let builder = builder.default_ttl(P::LONGEST).default_wait(LONG);
    builder.command_timeout(ANSWER)
}

/// Makes a test of each promise on each store: in memory by a clock that is paused, unless the list
/// begins with `real_time`, and on servers by the real one.
macro_rules! on_each_store {
    (real_time $($promise:ident)+) => {
        $crate::places::on_each_store! { @by_the_clock memory MemoryStore default $($promise)+ }
        $crate::places::on_each_store! { @on_servers $($promise)+ }
    };
    (@on_servers $($promise:ident)+) => {
        $crate::places::on_each_store! { @by_the_clock redis RedisStore start $($promise)+ }
        $crate::places::on_each_store! { @by_the_clock redlock RedlockStore start $($promise)+ }
        $crate::places::on_each_store! { @by_the_clock etcd EtcdStore start $($promise)+ }
        $crate::places::on_each_store! { @by_the_clock consul ConsulStore start $($promise)+ }
    };
    (@by_the_clock $module:ident $store:ident $start:ident $($promise:ident)+) => {
        $crate::places::on_each_store! {
            @tests $module $store $start [flavor = "multi_thread", worker_threads = 2]
            $($promise)+
        }
    };
    (@tests $module:ident $store:ident $start:ident $clock:tt $($promise:ident)+) => {
        mod $module {
            $(
                $crate::places::on_each_store! { @test $promise $store $start $clock }
            )+
        }
    };
    (@test $promise:ident $store:ident $start:ident [$($clock:tt)+]) => {
        #[tokio::test($($clock)+)]
        async fn $promise() {
            super::$promise(&$crate::places::$store::$start()).await;
        }
    };
    ($($promise:ident)+) => {
        $crate::places::on_each_store! {
            @tests memory MemoryStore default [start_paused = true] $($promise)+
        }
        $crate::places::on_each_store! { @on_servers $($promise)+ }
    };
}
pub(crate) use on_each_store;
