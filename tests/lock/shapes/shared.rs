//! Readers together, a writer alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lock_runtime::fencing::Writer;
use lock_runtime::{LockError, LockRuntime, distributed_lock};
use lock_tests::faults::can_be_had;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::shapes::way::{processes, settled, waiting};

#[tokio::test(start_paused = true)]
async fn readers_of_all_processes_share_a_key_and_exclude_a_writer() {
    let [(_, one), (_, other)] = processes(false).await;
    let here = one.lock("k").shared().acquire().await.unwrap();
    let there = other.lock("k").shared().acquire().await.unwrap();
    assert!(other.lock("k").try_acquire().await.unwrap().is_none());
    here.release().await.unwrap();
    assert!(one.lock("k").try_acquire().await.unwrap().is_none());
    there.release().await.unwrap();
    let writer = one.lock("k").acquire().await.unwrap();
    assert!(
        other
            .lock("k")
            .shared()
            .try_acquire()
            .await
            .unwrap()
            .is_none()
    );
    writer.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn readers_that_come_after_a_writer_wait_behind_it() {
    let [(_, one), (_, other), (_, third)] = processes(false).await;
    let reader = one.lock("k").shared().acquire().await.unwrap();
    let writer = waiting(other.lock("k")).await;
    let late = waiting(third.lock("k").shared()).await;
    assert!(!writer.is_finished() && !late.is_finished());
    reader.release().await.unwrap();
    let writer = writer.await.unwrap();
    settled().await;
    assert!(!late.is_finished());
    writer.release().await.unwrap();
    late.await.unwrap().release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn all_readers_at_the_head_enter_when_a_writer_ends() {
    let processes = processes::<9>(false).await;
    let (_, writing) = &processes[0];
    let writer = writing.lock("k").acquire().await.unwrap();
    let mut readers = Vec::new();
    for (_, locks) in &processes {
        for _ in 0..5 {
            readers.push(waiting(locks.lock("k").shared()).await);
        }
    }
    let last = waiting(writing.lock("k")).await;
    writer.release().await.unwrap();
    let mut held = Vec::new();
    for reader in readers {
        held.push(reader.await.unwrap());
    }
    assert_eq!(held.len(), 45);
    assert!(held.iter().all(|guard| guard.is_held()));
    assert!(!last.is_finished());
    for guard in held {
        guard.release().await.unwrap();
    }
    last.await.unwrap().release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn readers_of_a_process_cost_two_commands_a_second() {
    let [(way, locks)] = processes(false).await;
    let before = way.asked();
    let until = Instant::now() + Duration::from_secs(10);
    let mut reads = 0;
    while Instant::now() < until {
        let mut readers = JoinSet::new();
        for _ in 0..8 {
            let reader = locks.lock("k").shared();
            readers.spawn(async move {
                let section = Duration::from_millis(5);
                reader.run(async |_| sleep(section).await).await.unwrap();
            });
        }
        reads += readers.join_all().await.len();
    }
    let asked = way.asked() - before;
    assert!(reads > 5_000, "{reads}");
    // A lease for as long as there are readers.
    println!("{asked} questions for {reads} reads");
}

/// Readers that follow each other without a gap until they are told to stop.
fn endless_readers(locks: &LockRuntime, section: Duration) -> (Arc<AtomicBool>, JoinSet<u32>) {
    let stop = Arc::new(AtomicBool::new(false));
    let mut readers = JoinSet::new();
    for number in 0..4 {
        let (locks, stop) = (locks.clone(), Arc::clone(&stop));
        readers.spawn(async move {
            sleep(section / 4 * number).await;
            let mut reads = 0;
            while !stop.load(Ordering::Relaxed) {
                let read = locks.lock("k").shared().run(async |_| sleep(section).await);
                read.await.unwrap();
                reads += 1;
            }
            reads
        });
    }
    (stop, readers)
}

#[tokio::test(start_paused = true)]
async fn a_writer_elsewhere_waits_no_longer_than_a_second_and_a_section() {
    let section = Duration::from_millis(200);
    for is_plain in [false, true] {
        let [(_, here), (_, there)] = processes(is_plain).await;
        let (stop, readers) = endless_readers(&here, section);
        sleep(Duration::from_millis(700)).await;
        for pause in [0, 300, 900] {
            sleep(Duration::from_millis(pause)).await;
            let at = Instant::now();
            let writer = there.lock("k").acquire().await.unwrap();
            let waited = at.elapsed();
            assert!(
                waited <= Duration::from_secs(1) + section + Duration::from_millis(20),
                "{waited:?}"
            );
            writer.release().await.unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        assert!(readers.join_all().await.into_iter().all(|reads| reads > 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_writer_of_the_same_process_waits_no_longer_either() {
    let section = Duration::from_millis(200);
    let [(_, locks)] = processes(false).await;
    let (stop, readers) = endless_readers(&locks, section);
    sleep(Duration::from_millis(700)).await;
    let at = Instant::now();
    can_be_had(&locks, "k").await;
    let waited = at.elapsed();
    assert!(
        waited <= Duration::from_secs(1) + section + Duration::from_millis(20),
        "{waited:?}"
    );
    stop.store(true, Ordering::Relaxed);
    readers.join_all().await;
}

#[tokio::test(start_paused = true)]
async fn all_readers_between_two_writers_have_one_token() {
    let [(_, one), (_, other)] = processes(false).await;
    let writer = one.lock("k").acquire().await.unwrap();
    let before = writer.fencing_token();
    writer.release().await.unwrap();
    let here = one.lock("k").shared().acquire().await.unwrap();
    let there = other.lock("k").shared().acquire().await.unwrap();
    let again = one.lock("k").shared().acquire().await.unwrap();
    assert!(here.fencing_token() > before);
    assert_eq!(here.fencing_token(), there.fencing_token());
    assert_eq!(Writer::from(&here), Writer::from(&there));
    assert_eq!(Writer::from(&here), Writer::from(&again));
    let token = here.fencing_token();
    for guard in [here, there, again] {
        guard.release().await.unwrap();
    }
    settled().await;
    let next = other.lock("k").shared().acquire().await.unwrap();
    assert!(next.fencing_token() > token);
    next.release().await.unwrap();
    let writer = one.lock("k").acquire().await.unwrap();
    assert!(writer.fencing_token() > token);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_died_costs_its_ttl_while_another_lives() {
    let [(_, one), (_, other), (_, third)] = processes(false).await;
    let ttl = Duration::from_secs(5);
    let dead = one
        .lock("k")
        .shared()
        .ttl(ttl)
        .renew(false)
        .acquire()
        .await
        .unwrap();
    let alive = other.lock("k").shared().ttl(ttl).acquire().await.unwrap();
    let writer = waiting(third.lock("k")).await;
    sleep(ttl * 3).await;
    assert!(!dead.is_held() && alive.is_held());
    assert!(!writer.is_finished());
    let at = Instant::now();
    alive.release().await.unwrap();
    let writer = writer.await.unwrap();
    assert!(at.elapsed() < ttl, "{:?}", at.elapsed());
    writer.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_readers_of_a_process_share_is_lost_for_all() {
    let [(way, locks)] = processes(false).await;
    let guards = [
        locks.lock("k").shared().acquire().await.unwrap(),
        locks.lock("k").shared().acquire().await.unwrap(),
    ];
    assert_eq!(guards[0].owner_token(), guards[1].owner_token());
    way.store.steal("k");
    sleep(Duration::from_secs(10)).await;
    for guard in guards {
        assert!(!guard.is_held());
        assert!(guard.release().await.unwrap_err().is_lost());
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_with_a_limit_of_its_own_has_a_lease_of_its_own() {
    let [(_, locks)] = processes(false).await;
    let limited = locks.lock("k").shared().max_hold(Duration::from_secs(3));
    let one = limited.clone().acquire().await.unwrap();
    sleep(Duration::from_secs(2)).await;
    let two = limited.acquire().await.unwrap();
    assert_ne!(one.owner_token(), two.owner_token());
    sleep(Duration::from_secs(2)).await;
    assert!(!one.is_held() && two.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_nobody_takes_leaves_the_others_alone() {
    let [(_, one), (_, other)] = processes(false).await;
    let writer = one.lock("k").acquire().await.unwrap();
    let leaving = waiting(other.lock("k").shared()).await;
    let staying = waiting(other.lock("k").shared()).await;
    leaving.abort();
    writer.release().await.unwrap();
    let reader = staying.await.unwrap();
    assert!(one.lock("k").try_acquire().await.unwrap().is_none());
    reader.release().await.unwrap();
    settled().await;
    assert!(one.lock("k").try_acquire().await.unwrap().is_some());
}

#[distributed_lock(key = "k", mode = shared, runtime = locks)]
async fn reading(locks: &LockRuntime) -> Result<(), LockError> {
    sleep(Duration::from_secs(1)).await;
    Ok(())
}

#[distributed_lock(key = "k", mode = exclusive, runtime = locks)]
async fn writing(locks: &LockRuntime) -> Result<(), LockError> {
    sleep(Duration::from_secs(1)).await;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn annotated_functions_read_and_write() {
    let [(_, one), (_, other)] = processes(false).await;
    let at = Instant::now();
    let (a, b, c) = tokio::join!(reading(&one), reading(&other), reading(&one));
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    assert!(at.elapsed() < Duration::from_secs(2));
    let at = Instant::now();
    let (a, b, c) = tokio::join!(writing(&one), reading(&other), writing(&one));
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    assert!(at.elapsed() >= Duration::from_secs(3));
}
