//! W14: a lock twice in one task; two that want what the other has.

use super::*;

#[tokio::test]
async fn taking_a_lock_twice_in_one_task_times_out() {
    let server = Server::start();
    let locks = locks(server.url()).await;
    let held = locks.lock("k").acquire().await.unwrap();
    let error = locks.lock("k").wait(ms(100)).acquire().await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert!(error.to_string().contains('k'));
    held.release().await.unwrap();
    nothing_left(&server).await;
}

#[tokio::test]
async fn two_that_want_what_the_other_has_time_out() {
    let server = Server::start();
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    let a = one.lock("a").acquire().await.unwrap();
    let b = two.lock("b").acquire().await.unwrap();
    let (b_too, a_too) = tokio::join!(
        one.lock("b").wait(ms(200)).acquire(),
        two.lock("a").wait(ms(300)).acquire()
    );
    assert!(b_too.unwrap_err().is_timeout() && a_too.unwrap_err().is_timeout());
    a.release().await.unwrap();
    b.release().await.unwrap();
    nothing_left(&server).await;
}
