//! M8: two servers answer when the lock has been released.

use super::*;

/// An acquire whose answers were lost, and which arrives after its withdrawal, brings nothing back.
#[tokio::test]
async fn votes_of_servers_that_wake_up_late_are_given_back() {
    let mut servers = five();
    let backend = connect(&servers).await;
    servers[0].pause();
    servers[1].pause();
    let holder = claim(LONG);
    granted(&backend, &holder).await;
    let release = Release::new(holder.key.clone(), holder.owner.clone());
    assert_eq!(
        backend.release(&release).await.unwrap(),
        Released::Released(None)
    );
    servers[0].resume();
    servers[1].resume();
    let all: Vec<_> = servers.iter().collect();
    comes_true("the end of late votes", async || {
        holders(&all).iter().all(Option::is_none)
    })
    .await;
    granted(&backend, &claim(LONG)).await;
    comes_true("all votes", async || {
        holders(&all).iter().flatten().count() == 5
    })
    .await;
}
