//! W10: the wait ends as the lock comes.

use super::*;

#[tokio::test]
async fn a_wait_that_ends_as_the_lock_comes_gives_it_or_hands_it_on() {
    let server = Server::start();
    let (one, two, three) = (
        locks(server.url()).await,
        locks(server.url()).await,
        locks(server.url()).await,
    );
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
        let started = Instant::now();
        let racing = tokio::spawn(two.lock("k").ttl(ms(60_000)).wait(wait).acquire());
        // On a busy machine its wait may be over before anybody has seen it wait.
        eventually("it waits", || {
            racing.is_finished() || waiters(&server, "k") == 1
        })
        .await;
        let successor = tokio::spawn(three.lock("k").ttl(ms(60_000)).acquire());
        sleep_until(started + wait.saturating_sub(ahead)).await;
        holder.release().await.unwrap();
        let racing = racing.await.unwrap();
        let is_missed = racing.is_err();
        match racing {
            Ok(guard) => {
                got += 1;
                guard.release().await.unwrap();
            }
            Err(error) if error.is_timeout() => missed += 1,
            // The answer was not read within the wait either.
            Err(error) => assert!(error.is_unavailable(), "{error}"),
        }
        match is_missed {
            false => ahead = ahead.saturating_sub(STEP),
            true if ahead < wait / 2 => ahead += STEP,
            true => wait *= 2,
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
