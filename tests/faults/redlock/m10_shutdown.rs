//! M10: a process ends while two or three hang.

use super::*;

/// With half of the servers hung, the end of a process takes no longer than it may.
#[tokio::test]
async fn shutdown_ends_in_its_time_while_servers_hang() {
    for hung in [2, 3] {
        let mut servers = five();
        let builder = LockRuntime::redlock(urls(&servers)).restart_delay(Duration::ZERO);
        let builder = builder.command_timeout(ms(300)).shutdown_timeout(ms(1500));
        let locks = builder.build().await.unwrap();
        let guard = locks.lock("k").acquire().await.unwrap();
        for server in &mut servers[..hung] {
            server.pause();
        }
        drop(guard);
        let ended = timeout(DEADLINE, locks.shutdown()).await;
        assert!(
            matches!(ended, Ok(Ok(()))),
            "{hung} of five hang: {ended:?}"
        );
    }
}
