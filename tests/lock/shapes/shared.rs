//! Readers together, a writer alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lock_runtime::backend::Mode;
use lock_runtime::fencing::Writer;
use lock_runtime::{Lock, LockError, LockGuard, LockRuntime, distributed_lock};
use lock_tests::faults::can_be_had;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::shapes::way::{TRIP, Way, processes, settled, waiting};

/// Readers of one process who waited for a writer together: they share a lease, also where the
/// store grants each claim alone.
async fn in_one_line<const N: usize>(locks: &LockRuntime, reader: Lock) -> [LockGuard; N] {
    let writer = locks.lock("k").acquire().await.unwrap();
    let mut line = Vec::new();
    for _ in 0..N {
        line.push(waiting(reader.clone()).await);
    }
    writer.release().await.unwrap();
    let mut readers = Vec::new();
    for reader in line {
        readers.push(reader.await.unwrap());
    }
    let owner = readers[0].owner_token();
    assert!(readers.iter().all(|reader| reader.owner_token() == owner));
    readers.try_into().unwrap()
}

#[tokio::test(start_paused = true)]
async fn readers_of_all_processes_share_a_key_and_exclude_a_writer() {
    for is_plain in [false, true] {
        let [(_, one), (_, other)] = processes(is_plain).await;
        let [here, beside] = in_one_line(&one, one.lock("k").shared()).await;
        assert_eq!([here.mode(), beside.handle().mode()], [Mode::Shared; 2]);
        let there = other.lock("k").shared().try_acquire().await.unwrap();
        assert_eq!(there.is_some(), !is_plain);
        assert!(other.lock("k").try_acquire().await.unwrap().is_none());
        here.release().await.unwrap();
        assert!(one.lock("k").try_acquire().await.unwrap().is_none());
        beside.release().await.unwrap();
        if let Some(there) = there {
            assert!(one.lock("k").try_acquire().await.unwrap().is_none());
            there.release().await.unwrap();
        }
        let writer = one.lock("k").acquire().await.unwrap();
        assert_eq!(writer.mode(), Mode::Exclusive);
        for locks in [&one, &other] {
            let reader = locks.lock("k").shared().try_acquire().await;
            assert!(reader.unwrap().is_none());
        }
        writer.release().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn readers_that_come_after_a_writer_wait_behind_it() {
    for is_plain in [false, true] {
        let [(_, one), (_, other), (_, third)] = processes(is_plain).await;
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
async fn where_each_is_granted_alone_the_readers_in_one_line_enter_together() {
    let [(_, first), (_, second), (_, third), (_, writing), (_, last)] = processes(true).await;
    let writer = writing.lock("k").acquire().await.unwrap();
    let mut lines = Vec::new();
    for locks in [&first, &second, &third] {
        let mut line = Vec::new();
        for _ in 0..5 {
            line.push(waiting(locks.lock("k").shared()).await);
        }
        lines.push(line);
    }
    let last = waiting(last.lock("k")).await;
    writer.release().await.unwrap();
    while !lines.is_empty() {
        let mut held = Vec::new();
        for reader in lines.remove(0) {
            held.push(reader.await.unwrap());
        }
        settled().await;
        assert!(held.len() == 5 && held.iter().all(|guard| guard.is_held()));
        assert!(lines.iter().flatten().all(|reader| !reader.is_finished()));
        assert!(!last.is_finished());
        for guard in held {
            guard.release().await.unwrap();
        }
    }
    last.await.unwrap().release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn readers_of_a_process_cost_two_commands_a_second() {
    let [(way, locks)] = processes(false).await;
    let before = way.asked();
    let (stop, readers) = endless_readers(&locks, Duration::from_millis(5));
    sleep(Duration::from_secs(10)).await;
    stop.store(true, Ordering::Relaxed);
    let reads: u32 = readers.join_all().await.into_iter().sum();
    settled().await;
    assert!(reads > 5_000, "{reads}");
    // A lease for a second, and its release; renewals would count.
    let asked = way.asked() - before;
    assert!((20..=22).contains(&asked), "{asked} for {reads} reads");
}

#[tokio::test(start_paused = true)]
async fn readers_who_come_and_go_together_cost_two_commands() {
    for is_plain in [false, true] {
        let [(way, locks)] = processes(is_plain).await;
        let before = way.asked();
        for _ in 0..10 {
            let mut readers = JoinSet::new();
            for _ in 0..8 {
                let reader = locks.lock("k").shared();
                readers.spawn(reader.run(async |_| sleep(Duration::from_millis(5)).await));
            }
            assert!(
                readers
                    .join_all()
                    .await
                    .into_iter()
                    .all(|read| read.is_ok())
            );
        }
        settled().await;
        assert_eq!(way.asked() - before, 20);
    }
}

#[tokio::test(start_paused = true)]
async fn the_leases_of_readers_are_renewed_until_the_last_of_them_ends() {
    let ttl = Duration::from_secs(5);
    for is_plain in [false, true] {
        let [(here, one), (there, other), (_, third)] = processes(is_plain).await;
        let reader = |locks: &LockRuntime| locks.lock("k").shared().ttl(ttl);
        let [first, second] = in_one_line(&one, reader(&one)).await;
        let elsewhere = reader(&other).try_acquire().await.unwrap();
        assert_eq!(elsewhere.is_some(), !is_plain);
        let all_are_renewed = async |ways: &[&Way]| {
            let before: Vec<usize> = ways.iter().map(|way| way.renewed()).collect();
            let at = Instant::now();
            while at.elapsed() < ttl * 4 {
                assert!(third.lock("k").try_acquire().await.unwrap().is_none());
                sleep(ttl / 10).await;
            }
            for (way, before) in ways.iter().zip(before) {
                assert!(way.renewed() >= before + 4, "{}", way.renewed());
            }
        };
        match &elsewhere {
            Some(_) => all_are_renewed(&[&here, &there]).await,
            None => all_are_renewed(&[&here]).await,
        }
        // The second reader of a process has its lease when the first has left.
        first.release().await.unwrap();
        all_are_renewed(&[&here]).await;
        assert!(second.is_held());
        if let Some(elsewhere) = elsewhere {
            second.release().await.unwrap();
            all_are_renewed(&[&there]).await;
            assert!(elsewhere.is_held());
            elsewhere.release().await.unwrap();
        } else {
            second.release().await.unwrap();
        }
        settled().await;
        let asked = here.asked() + there.asked();
        sleep(ttl * 4).await;
        assert_eq!(here.asked() + there.asked(), asked);
        can_be_had(&third, "k").await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_reader_kept_of_its_lock_counts_as_lost_while_others_read_on() {
    for is_plain in [false, true] {
        let [(_, locks)] = processes(is_plain).await;
        let [staying, released, dropped] = in_one_line(&locks, locks.lock("k").shared()).await;
        let kept = [released.handle(), dropped.handle()];
        let told = kept.clone().map(|handle| {
            tokio::spawn(async move {
                handle.lost().await;
            })
        });
        settled().await;
        assert!(kept.iter().all(|handle| handle.is_held()));
        assert!(told.iter().all(|told| !told.is_finished()));
        released.release().await.unwrap();
        drop(dropped);
        for told in told {
            let told = timeout(TRIP * 5, told).await;
            told.expect("it is not told").unwrap();
        }
        // Of one that ended a body as well, where it need not wait for those who read on.
        let mut ended = None;
        if !is_plain {
            let reading = locks.lock("k").shared().run(async |lock| lock);
            ended = Some(reading.await.unwrap());
        }
        for handle in kept.iter().chain(&ended) {
            assert!(!handle.is_held());
            assert_eq!(handle.remaining(), Duration::ZERO);
            assert!(handle.renew().await.unwrap_err().is_lost());
            handle.lost().await;
        }
        assert!(staying.is_held() && staying.handle().is_held());
        staying.renew().await.unwrap();
        staying.release().await.unwrap();
    }
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
    for is_plain in [false, true] {
        let [(_, locks)] = processes(is_plain).await;
        let (stop, readers) = endless_readers(&locks, section);
        sleep(Duration::from_millis(700)).await;
        let at = Instant::now();
        can_be_had(&locks, "k").await;
        let waited = at.elapsed();
        // Granted alone, readers of the process pass the lock on for a tenth of the ttl.
        let longest = if is_plain {
            Duration::from_secs(1)
        } else {
            Duration::ZERO
        };
        assert!(
            waited <= longest + section + Duration::from_millis(20),
            "{waited:?}"
        );
        stop.store(true, Ordering::Relaxed);
        readers.join_all().await;
    }
}

#[tokio::test(start_paused = true)]
async fn all_readers_between_two_writers_have_one_token() {
    for is_plain in [false, true] {
        let [(_, one), (_, other)] = processes(is_plain).await;
        let writer = one.lock("k").acquire().await.unwrap();
        let before = writer.fencing_token();
        writer.release().await.unwrap();
        let [here, again] = in_one_line(&one, one.lock("k").shared()).await;
        let there = other.lock("k").shared().try_acquire().await.unwrap();
        assert_eq!(there.is_some(), !is_plain);
        assert!(here.fencing_token() > before);
        let token = here.fencing_token();
        let all: Vec<_> = [here, again].into_iter().chain(there).collect();
        for guard in &all[1..] {
            assert_eq!(Writer::from(&all[0]), Writer::from(guard));
        }
        for guard in all {
            assert_eq!(guard.fencing_token(), token);
            guard.release().await.unwrap();
        }
        settled().await;
        let next = other.lock("k").shared().acquire().await.unwrap();
        assert!(next.fencing_token() > token);
        let token = next.fencing_token();
        next.release().await.unwrap();
        let writer = one.lock("k").acquire().await.unwrap();
        assert!(writer.fencing_token() > token);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_died_costs_its_ttl_while_another_lives() {
    for is_plain in [false, true] {
        let [(_, one), (_, other), (_, third)] = processes(is_plain).await;
        let ttl = Duration::from_secs(5);
        let at = Instant::now();
        let dying = one.lock("k").shared().ttl(ttl).renew(false);
        let dead = dying.acquire().await.unwrap();
        // Where the store grants each alone, it lives only after that.
        let alive = other.lock("k").shared().ttl(ttl).acquire().await.unwrap();
        let most = if is_plain { ttl } else { Duration::ZERO };
        assert!(at.elapsed() <= most + TRIP * 10, "{:?}", at.elapsed());
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
}

#[tokio::test(start_paused = true)]
async fn what_readers_of_a_process_share_is_lost_for_all() {
    for is_plain in [false, true] {
        let [(way, locks)] = processes(is_plain).await;
        let guards: [_; 2] = in_one_line(&locks, locks.lock("k").shared()).await;
        way.store.steal("k");
        sleep(Duration::from_secs(10)).await;
        for guard in guards {
            assert!(!guard.is_held());
            assert!(guard.release().await.unwrap_err().is_lost());
        }
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
    for is_plain in [false, true] {
        let [(_, one), (_, other)] = processes(is_plain).await;
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
}

#[distributed_lock(key = "k", mode = shared, guard = lock, runtime = locks)]
async fn reading(locks: &LockRuntime) -> Result<Mode, LockError> {
    sleep(Duration::from_secs(1)).await;
    Ok(lock.mode())
}

#[distributed_lock(key = "k", mode = exclusive, guard = lock, runtime = locks)]
async fn writing(locks: &LockRuntime) -> Result<Mode, LockError> {
    sleep(Duration::from_secs(1)).await;
    Ok(lock.mode())
}

#[tokio::test(start_paused = true)]
async fn annotated_functions_read_and_write() {
    for is_plain in [false, true] {
        let [(_, one), (_, other)] = processes(is_plain).await;
        let at = Instant::now();
        let (a, b, c) = tokio::join!(reading(&one), reading(&other), reading(&one));
        assert_eq!([a, b, c].map(Result::unwrap), [Mode::Shared; 3]);
        let processes = if is_plain { 2 } else { 1 };
        let took = at.elapsed().as_secs();
        assert_eq!(took, processes);
        let at = Instant::now();
        let (a, b, c) = tokio::join!(writing(&one), reading(&other), writing(&one));
        let modes = [a, b, c].map(Result::unwrap);
        assert_eq!(modes, [Mode::Exclusive, Mode::Shared, Mode::Exclusive]);
        assert!(at.elapsed() >= Duration::from_secs(3));
    }
}
