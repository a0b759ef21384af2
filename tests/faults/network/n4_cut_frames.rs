//! N4: reset in the middle of a frame; an answer that is no RESP.

use super::*;

#[tokio::test]
async fn an_answer_cut_in_half_is_asked_for_again() {
    for fault in [Fault::Truncate, Fault::CutAnswer, Fault::Cut] {
        let (server, proxy, locks) = start_patient().await;
        proxy.fault("acquire", fault);
        let guard = locks.lock("k").acquire().await.unwrap();
        assert_eq!((proxy.faults(), proxy.seen("acquire")), (1, 2), "{fault:?}");
        assert_eq!(
            owner(&server, "k").as_deref(),
            Some(guard.owner_token().as_str())
        );

        proxy.fault("release", fault);
        let released = guard.release().await;
        assert_eq!(proxy.faults(), 2, "{fault:?}");
        assert!(released.is_ok(), "{fault:?}: {released:?}");
        nothing_left(&server).await;
    }
}

#[tokio::test]
async fn an_answer_that_is_no_resp_is_asked_for_again() {
    for nonsense in [
        "?!",
        "*1000000000",
        "$-7",
        ":x",
        "HTTP/1.1 400 Bad Request",
        "*1\r\n+nonsense",
        "+OK",
        ":1",
        "_",
    ] {
        let (server, proxy, locks) = start().await;
        proxy.fault("acquire", Fault::Reply(nonsense));
        let guard = locks.lock("k").acquire().await;
        assert_eq!(proxy.faults(), 1, "{nonsense}");
        let guard = guard.unwrap_or_else(|error| panic!("{nonsense}: {error:?}"));
        guard.release().await.unwrap();
        nothing_left(&server).await;
    }
}
