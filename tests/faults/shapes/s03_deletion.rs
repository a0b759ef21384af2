//! S3: FLUSHALL, or DEL of a lock that several hold.

use super::*;

#[tokio::test]
async fn all_holders_of_a_lock_that_was_deleted_are_told_and_it_is_never_made_again() {
    let markers = Part::ALL.map(|part| format!("lock:{}", part.key()));
    let mut delete = vec!["DEL"];
    delete.extend(markers.iter().map(String::as_str));
    for command in [&["FLUSHALL"][..], &delete[..]] {
        let server = Server::start();
        let (one, two) = (locks(server.url()).await, locks(server.url()).await);
        let held = hold_all([&one, &two], 2 * DEADLINE, ms(200)).await;
        let is_there = |part: &Part| owner(&server, &part.key()).is_some();
        assert!(held.iter().all(LockGuard::is_held) && Part::ALL.iter().all(is_there));
        server.run::<redis::Value>(command);
        let deleted = Instant::now();
        all_are_told(&held).await;
        // The next renewal tells it.
        assert!(deleted.elapsed() < SLACK, "{:?}", deleted.elapsed());
        assert!(!Part::ALL.iter().any(is_there), "a renewal made it again");
        for part in Part::ALL {
            let fresh = two.lock(part.key()).acquire().await.unwrap();
            let mut old = held.iter().filter(|guard| guard.key() == fresh.key());
            assert!(old.all(|guard| guard.fencing_token() < fresh.fencing_token()));
            let owner = owner(&server, &part.key());
            assert_eq!(owner.as_deref(), Some(fresh.owner_token().as_str()));
            fresh.release().await.unwrap();
        }
        for guard in held {
            assert!(guard.release().await.unwrap_err().is_lost());
        }
        nothing_left(&server).await;
    }
}
