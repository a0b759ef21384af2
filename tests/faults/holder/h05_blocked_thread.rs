//! H5: the body blocks its thread; the tokio runtime of a guard is idle.

use super::*;

#[test]
fn a_body_that_blocks_its_thread_does_not_lose_its_lease() {
    let server = Server::start();
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    executor.block_on(async {
        let locks = locks(server.url()).await;
        let ran = locks.lock("k").ttl(ms(2000)).run(async |lock| {
            std::thread::sleep(ms(4000));
            assert!(lock.is_held());
            assert!(owner(&server, "k").is_some(), "the server gave it away");
        });
        ran.await.unwrap();
        nothing_left(&server).await;
    });
}

#[test]
fn a_body_that_blocks_beyond_a_lease_that_is_not_renewed_does_not_end_well() {
    let server = Server::start();
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    executor.block_on(async {
        let locks = locks(server.url()).await;
        let ran = locks.lock("k").ttl(ms(1000)).renew(false).run(async |_| {
            std::thread::sleep(ms(1500));
            assert_eq!(owner(&server, "k"), None, "the lease did not end");
        });
        assert!(ran.await.unwrap_err().is_lost());
    });
}
