//! H13: renewals fail.

use super::*;

#[tokio::test]
async fn renewals_that_fail_are_repeated_before_the_lease_ends() {
    for failures in 1..=4 {
        let (server, proxy, locks) = start().await;
        let guard = locks.lock("k").ttl(ms(5000)).acquire().await.unwrap();
        proxy.fault_times("renew", failures, Fault::Reply("-BUSY Redis is busy"));
        eventually("they fail", || proxy.faults() == failures).await;
        let before = remaining(&server, "k").unwrap();
        eventually("it is renewed", || {
            remaining(&server, "k").unwrap() > before
        })
        .await;
        assert_eq!(proxy.faults(), failures);
        assert!(guard.is_held(), "{failures} failures");
        guard.release().await.unwrap();
        nothing_left(&server).await;
    }
}

#[tokio::test]
async fn a_lease_whose_renewals_all_fail_is_lost_before_the_server_ends_it() {
    struct Ended<'a>(&'a Server, &'a AtomicBool);
    impl Drop for Ended<'_> {
        fn drop(&mut self) {
            self.1.store(owner(self.0, "k").is_some(), Ordering::SeqCst);
        }
    }
    let (server, proxy, locks) = start().await;
    proxy.fault_all("renew", Fault::Reply("-BUSY Redis is busy"));
    let mut tries = 0;
    // A machine that stands still in the few milliseconds between the two ends shows nothing.
    for _ in 0..10 {
        let was_owner = AtomicBool::new(false);
        let faults = proxy.faults();
        let started = Instant::now();
        let ran = locks.lock("k").ttl(ms(1500)).run(async |lock| {
            let _ended = Ended(&server, &was_owner);
            loop {
                let is_owner = owner(&server, "k").is_some();
                assert!(
                    is_owner || !lock.is_held(),
                    "another could have had it while it was held"
                );
                sleep(ms(2)).await;
            }
        });
        let ran: Result<(), LockError> = ran.await;
        assert!(ran.unwrap_err().is_lost());
        assert!(started.elapsed() < ms(1500) + SLACK);
        tries = proxy.faults() - faults;
        if was_owner.into_inner() && tries >= 3 {
            return;
        }
        free(&server, "k").await;
    }
    panic!("another could have had it while the body ran, or too little was tried: {tries} times");
}
