//! W18: a lease ends with others in the queue.

use super::*;

#[tokio::test]
async fn nobody_barges_in_where_a_lease_ended_without_a_release() {
    let server = Server::start();
    let backend = connect(&server).await;
    let key = LockKey::new("lock:", "k").unwrap();
    let claim = |name: &str| Claim::new(key.clone(), OwnerToken::unique(name), ms(60_000));
    assert!(matches!(
        backend.acquire(&claim("first")).await.unwrap(),
        Acquired::Granted(_)
    ));
    let waiting = claim("waiting").queued();
    assert!(matches!(
        backend.acquire(&waiting).await.unwrap(),
        Acquired::Queued(_)
    ));
    assert_eq!(server.run::<usize>(&["DEL", "lock:k"]), 1);

    let newcomer = backend.acquire(&claim("newcomer")).await.unwrap();
    assert!(matches!(newcomer, Acquired::Taken(_)), "{newcomer:?}");
    assert_eq!(owner(&server, "k").as_deref(), Some(waiting.owner.as_str()));
}
