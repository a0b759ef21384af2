//! What a call costs that nobody contends with.

use lock_tests::ms;
use lock_tests::redlock_store::five;
use lock_tests::server::Server;
use tokio::time::sleep;

use super::annotated::{runtime, when_held};

#[tokio::test]
async fn an_uncontended_call_sends_two_commands_to_each_server() {
    let servers = five();
    let locks = runtime(&servers).await;
    when_held(&locks).await.unwrap();
    sleep(ms(200)).await;
    let monitors: Vec<_> = servers.iter().map(Server::monitor).collect();
    when_held(&locks).await.unwrap();
    sleep(ms(200)).await;
    for (monitor, server) in monitors.iter().zip(&servers) {
        let commands = monitor.commands(server);
        assert_eq!(commands.len(), 2, "{commands:#?}");
    }
    locks.shutdown().await.unwrap();
}
