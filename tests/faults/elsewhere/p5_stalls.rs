//! P5: a server stalls for 60 ms.

use super::*;

#[tokio::test]
async fn stalls_of_the_server_hang_nobody() {
    let server = Options::default()
        .with(["--enable-debug-command", "yes"])
        .start();
    let stalls = AtomicU64::new(0);
    let served = contend(&server, &mut Contest::new(LONGEST), async || {
        if stalls.fetch_add(1, Ordering::SeqCst).is_multiple_of(4) {
            server.run::<()>(&["DEBUG", "SLEEP", "0.06"]);
        }
    })
    .await;
    assert!(stalls.into_inner() > 0, "it did not stall");
    assert!(served.iter().all(|served| *served > 0), "{served:?}");

    // Also not one that takes a free lock.
    let locks = locks(server.url()).await;
    for _ in 0..10 {
        let mut client = server.client();
        let stall = std::thread::spawn(move || {
            redis::cmd("DEBUG")
                .arg("SLEEP")
                .arg("0.06")
                .exec(&mut client)
        });
        let guard = timeout(DEADLINE, locks.lock("free").acquire()).await;
        guard.expect("it hangs").unwrap().release().await.unwrap();
        stall.join().unwrap().unwrap();
    }
    nothing_left(&server).await;
}
