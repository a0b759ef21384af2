//! H7: the body is dropped.

use super::*;

#[tokio::test]
async fn a_body_that_is_dropped_releases_its_lock_when_it_is_gone() {
    struct Witness(Arc<AtomicBool>, Arc<Server>);
    impl Drop for Witness {
        fn drop(&mut self) {
            // The body ends before its lock does.
            self.0
                .store(owner(&self.1, "k").is_some(), Ordering::SeqCst);
        }
    }
    let server = Arc::new(Server::start());
    let locks = locks(server.url()).await;
    let held_at_the_end = Arc::new(AtomicBool::new(false));
    let witness = Witness(held_at_the_end.clone(), server.clone());
    let (began, begun) = tokio::sync::oneshot::channel();
    let body = tokio::spawn(async move {
        let ran = locks.lock("k").ttl(ms(60_000)).run(async move |_| {
            let _witness = witness;
            began.send(()).unwrap();
            std::future::pending::<()>().await;
        });
        ran.await
    });
    begun.await.unwrap();
    body.abort();
    assert!(body.await.unwrap_err().is_cancelled());
    let dropped = Instant::now();
    free(&server, "k").await;
    assert!(dropped.elapsed() < ms(100) + SLACK);
    assert!(
        held_at_the_end.load(Ordering::SeqCst),
        "the lock ended before the body"
    );
}
