//! N7: flapping.

use super::*;

#[tokio::test]
async fn a_direct_link_that_is_cut_is_opened_again() {
    let (_server, proxy, locks) = start().await;
    by_the_direct_link(&proxy, &locks).await;
    proxy.cut();
    eventually("the cut", || proxy.connections() < 2).await;
    can_be_had(&locks, "warm").await;
    by_the_direct_link(&proxy, &locks).await;
}

#[tokio::test]
async fn flapping_grows_neither_connections_nor_files_nor_tasks() {
    let seconds: u64 = std::env::var("FAULT_SECONDS").map_or(3, |text| text.parse().unwrap());
    let (server, proxy, locks) = start().await;
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = (threads(), files());
    let proxy = Arc::new(proxy);
    let flapping = tokio::spawn({
        let proxy = Arc::clone(&proxy);
        async move {
            let mut flaps = 0;
            for _ in 0..seconds * 10 {
                proxy.cut();
                flaps += 1;
                sleep(ms(100)).await;
            }
            flaps
        }
    });
    let (wait, mut served) = (secs(seconds) + DEADLINE, 0);
    while !flapping.is_finished() {
        // It is asked for again after each cut, after the last one at the latest.
        let acquiring = timeout(wait + SLACK, locks.lock("k").wait(wait).acquire());
        drop(acquiring.await.expect("an acquire hangs").unwrap());
        served += 1;
        sleep(ms(20)).await;
    }
    assert_eq!(flapping.await.unwrap(), seconds * 10);
    can_be_had(&locks, "k").await;
    println!("served {served}");
    assert!(
        proxy.log().iter().map(|command| command.connection).max() > Some(2),
        "it did not flap"
    );
    // The lane, and the direct link of this tokio runtime.
    eventually("two connections", || proxy.connections() == 2).await;
    let clients: String = server.run(&["CLIENT", "LIST"]);
    let ours = clients
        .lines()
        .filter(|line| line.contains("lib-name=") || line.contains("sub=1"));
    assert!(ours.count() <= 3, "{clients}");
    // Other tests run beside this one.
    assert!(
        threads() <= before.0 + 40 && files() <= before.1 + 200,
        "they grow"
    );
    nothing_left(&server).await;
}
