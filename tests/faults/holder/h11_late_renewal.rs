//! H11: a renewal arrives after the next grant.

use super::*;

#[tokio::test]
async fn a_renewal_that_arrives_after_the_next_grant_does_nothing() {
    let server = Server::start();
    let backend = connect(&server).await;
    let key = LockKey::new("lock:", "k").unwrap();
    let claim = |name| Claim::new(key.clone(), OwnerToken::unique(name), ms(20_000));
    let (first, second) = (claim("first"), claim("second"));
    backend.acquire(&first).await.unwrap();
    let ending = Release::new(key.clone(), first.owner.clone());
    backend.release(&ending).await.unwrap();
    backend.acquire(&second).await.unwrap();
    let late = Renewal::new(key.clone(), first.owner, ms(60_000));
    let answer = backend.renew(&[late]).await.remove(0).unwrap();
    assert_eq!(answer, Renewed::Lost(LostReason::TakenOver));
    assert_eq!(owner(&server, "k").as_deref(), Some(second.owner.as_str()));
    assert!(remaining(&server, "k").unwrap() <= ms(20_000));
}
