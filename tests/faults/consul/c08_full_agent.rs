//! C8: an agent has no room for another connection.

use super::*;

/// An agent has no room for another connection: that is no answer, and those that wait make room.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_room_is_no_answer_and_waiters_make_room() {
    let limits = json!({"http_max_conns_per_client": 12});
    let cluster = Options::default().with("limits", limits).start(1);
    let locks = runtime(cluster.endpoints()).await;
    let guard = held(&locks, "k", secs(20)).await;
    let waiting: Vec<_> = (0..4).map(|_| waits(&locks, "k")).collect();
    // All the room that is left.
    let mut others = Vec::new();
    let refused = loop {
        let Ok((status, _)) = cluster.ask_of(0, "GET", "/v1/status/leader", "") else {
            break true;
        };
        if status == 429 {
            break true;
        }
        let mut other = TcpStream::connect(("127.0.0.1", cluster.port(0))).unwrap();
        let request = b"GET /v1/kv/none?index=1 HTTP/1.1\r\n";
        if other.write_all(request).is_err() {
            // It was closed at once.
            break true;
        }
        others.push(other);
        assert!(others.len() < 20, "there is always room");
    };
    assert!(refused);
    let fresh = LockRuntime::consul(cluster.endpoints()).command_timeout(secs(2));
    let error = fresh.build().await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    assert!(guard.is_held());
    drop(others);
    guard.release().await.unwrap();
    for next in waiting {
        let (next, _) = timeout(DEADLINE, next).await.unwrap().unwrap();
        next.release().await.unwrap();
    }
}
