//! W10: the wait ends as the lock comes.

use std::sync::atomic::{AtomicU32, Ordering};

use lock_runtime::LockEvent;

use super::*;

#[tokio::test]
async fn a_wait_that_ends_as_the_lock_comes_gives_it_or_hands_it_on() {
    let server = Server::start();
    let (one, three) = (locks(server.url()).await, locks(server.url()).await);
    // How often the one who races has heard that another holds the lock.
    let heard = Arc::new(AtomicU32::new(0));
    let hears = Arc::clone(&heard);
    let two = builder(server.url()).observer(move |event: &LockEvent| {
        let is_queued = matches!(event, LockEvent::Queued { .. });
        hears.fetch_add(u32::from(is_queued), Ordering::SeqCst);
    });
    let two = two.build().await.unwrap();
    let (mut got, mut missed) = (0, 0);
    // How long before the end of the wait it is released: later after each that got it, and earlier
    // after each that missed it, however slow the machine is.
    let (mut wait, mut ahead) = (ms(20), Duration::from_micros(1000));
    const STEP: Duration = Duration::from_micros(250);
    for round in 0..600 {
        if round >= 60 && got > 0 && missed > 0 {
            break;
        }
        let holder = one.lock("k").ttl(ms(60_000)).acquire().await.unwrap();
        let before = heard.load(Ordering::SeqCst);
        let has_heard = || heard.load(Ordering::SeqCst) > before;
        let started = Instant::now();
        let racing = tokio::spawn(two.lock("k").ttl(ms(60_000)).wait(wait).acquire());
        eventually("it waits", || racing.is_finished() || has_heard()).await;
        if !has_heard() {
            // The machine is so busy that the wait was over before: no race.
            racing.await.unwrap().unwrap_err();
            holder.release().await.unwrap();
            wait *= 2;
            continue;
        }
        let successor = tokio::spawn(three.lock("k").ttl(ms(60_000)).acquire());
        sleep_until(started + wait.saturating_sub(ahead)).await;
        holder.release().await.unwrap();
        match racing.await.unwrap() {
            Ok(guard) => {
                got += 1;
                guard.release().await.unwrap();
                ahead = ahead.saturating_sub(STEP);
            }
            Err(error) => {
                // It knew that another had the lock.
                assert!(error.is_timeout(), "{error}");
                missed += 1;
                match ahead < wait / 2 {
                    true => ahead += STEP,
                    false => wait *= 2,
                }
            }
        }
        let guard = timeout(GRACE + SLACK, successor)
            .await
            .expect("the lock is stuck");
        guard.unwrap().unwrap().release().await.unwrap();
    }
    nothing_left(&server).await;
    assert!(
        got > 0 && missed > 0,
        "no race: {got} got it, {missed} missed it"
    );
}
