//! M4: all servers restart empty, one after the other, under one lease.

use super::*;

/// Each server in turn loses everything, so that it votes for nobody for a while; the lease is
/// joined again by its renewals.
#[tokio::test]
async fn a_rolling_restart_of_all_servers_loses_no_lock() {
    let mut servers = five();
    let builder = LockRuntime::redlock(urls(&servers)).restart_delay(LONG);
    let builder = builder.default_ttl(ms(4000)).command_timeout(ms(400));
    let locks = builder.build().await.unwrap();
    servers.iter().for_each(was_there_before);
    let guard = locks.lock("k").acquire().await.unwrap();
    let owner = guard.owner_token().as_str().to_owned();
    for server in &mut servers {
        server.kill();
        server.restart();
        assert_eq!(holders(&[server]), [None], "it should have lost its data");
        comes_true("the vote of the restarted server", async || {
            // Where the claim was not granted at first, the number of its try stands before it.
            let holder = holders(&[server]).remove(0);
            holder.is_some_and(|holder| holder.ends_with(&owner))
        })
        .await;
    }
    assert!(!guard.remaining().is_zero());
    guard.release().await.unwrap();
    locks.shutdown().await.unwrap();
}
