//! Calls within a body that holds a part of the key.

use std::time::Duration;

use lock_runtime::LockError;
use tokio::time::{Instant, sleep};

use crate::shapes::shards::visited;
use crate::shapes::way::{processes, waiting};

#[tokio::test(start_paused = true)]
async fn who_reads_and_wants_to_write_is_told_at_once() {
    for is_plain in [false, true] {
        let [(_, locks)] = processes(is_plain).await;
        let at = Instant::now();
        let inner = locks.lock("k");
        let outer = locks.lock("k").shared();
        let upgrade = outer.run(async |_| inner.run(async |_| ()).await).await;
        let error: LockError = upgrade.unwrap().unwrap_err();
        assert!(error.is_upgrade(), "{error}");
        assert!(at.elapsed() < Duration::from_secs(1));
        let part = locks.lock("k").permits(3);
        let inner = locks.lock("k").shared();
        let other = part.run(async |_| inner.run(async |_| ()).await).await;
        assert!(other.unwrap().unwrap_err().is_upgrade());
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_within_a_reader_does_not_wait_for_a_writer_in_between() {
    for is_plain in [false, true] {
        let [(_, one), (_, other)] = processes(is_plain).await;
        let outer = one.lock("k").shared();
        let inner = one.lock("k").shared();
        let writer = other.lock("k").wait(Duration::from_secs(60));
        let read = outer.run(async |_| {
            let writing = tokio::spawn(async move { writer.acquire().await.map(drop) });
            sleep(Duration::from_secs(2)).await;
            inner.run(async |_| ()).await.unwrap();
            assert!(!writing.is_finished());
            [writing]
        });
        let [writing] = read.await.unwrap();
        writing.await.unwrap().unwrap();
    }
}

/// It is no call within the body, so it stands behind the writer, which waits for the first.
#[tokio::test(start_paused = true)]
async fn a_second_guard_behind_a_writer_waits_until_one_of_the_waits_ends() {
    for is_plain in [false, true] {
        let [(_, one), (_, other)] = processes(is_plain).await;
        let first = one.lock("k").shared().acquire().await.unwrap();
        let writer = waiting(other.lock("k")).await;
        // The share of the process is open to others for a second.
        sleep(Duration::from_secs(2)).await;
        let (at, wait) = (Instant::now(), Duration::from_secs(3));
        let second = one.lock("k").shared().wait(wait).acquire().await;
        assert!(second.unwrap_err().is_timeout());
        assert!(at.elapsed() >= wait && at.elapsed() < wait * 2);
        assert!(first.is_held() && !writer.is_finished());
        drop(first);
        writer.await.unwrap().release().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn readers_within_a_reader_run_at_once() {
    for is_plain in [false, true] {
        let [(_, locks)] = processes(is_plain).await;
        let section = Duration::from_secs(1);
        let reader = || locks.lock("k").shared();
        let at = Instant::now();
        let outer = reader().run(async |_| {
            let inner = || async { reader().run(async |_| sleep(section).await).await.unwrap() };
            tokio::join!(inner(), inner(), inner());
        });
        outer.await.unwrap();
        assert!(at.elapsed() < section * 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_permit_within_a_permit_is_the_same() {
    for is_plain in [false, true] {
        let [(_, locks)] = processes(is_plain).await;
        let one = || locks.lock("k").permits(1);
        let nested = one()
            .run(async |_| one().run(async |_| 7).await.unwrap())
            .await;
        assert_eq!(nested.unwrap(), 7);
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_all_of_a_key_has_each_part_of_it() {
    for is_plain in [false, true] {
        let [(_, locks)] = processes(is_plain).await;
        let within = locks.lock("k").run(async |_| {
            locks.lock("k").shared().run(async |_| ()).await.unwrap();
            locks.lock("k").permits(2).run(async |_| ()).await.unwrap();
            visited(locks.lock("k").shards(3)).await
        });
        assert_eq!(within.await.unwrap(), [0, 1, 2]);
    }
}
