//! C8: an agent has no room for another connection.

use super::*;

/// A connection that keeps a place of the agent until it is dropped, if there is room for it.
fn takes_room(cluster: &Cluster) -> Option<TcpStream> {
    let mut other = TcpStream::connect(("127.0.0.1", cluster.port(0))).ok()?;
    // The head of a question, without its end.
    other.write_all(b"GET /v1/kv/none HTTP/1.1\r\n").ok()?;
    Some(other)
}

fn has_room(cluster: &Cluster) -> bool {
    let answer = cluster.ask_of(0, "GET", "/v1/status/leader", "");
    answer.is_ok_and(|(status, _)| status == 200)
}

/// An agent has no room for another connection: that is no answer, and those that wait make room.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_room_is_no_answer_and_waiters_make_room() {
    let limits = json!({"http_max_conns_per_client": 12});
    let cluster = Options::default().with("limits", limits).start(1);
    // It keeps its connections, however slow the machine is.
    let locks = LockRuntime::consul(cluster.endpoints()).command_timeout(DEADLINE);
    let locks = locks.heartbeat(secs(2)).build().await.unwrap();
    let guard = held(&locks, "k", secs(60)).await;
    let mut waiting = JoinSet::new();
    for _ in 0..4 {
        let lock = locks.lock("k").ttl(secs(60)).wait(DEADLINE);
        // They come in any order, so that each has to release by itself.
        waiting.spawn(async move { lock.acquire().await.unwrap().release().await });
    }
    // All the room that is left, and what is given back meanwhile by those that asked.
    let mut others = Vec::new();
    let error = loop {
        while has_room(&cluster) {
            others.extend(takes_room(&cluster));
            assert!(others.len() < 40, "there is always room");
        }
        let fresh = LockRuntime::consul(cluster.endpoints()).command_timeout(secs(2));
        if let Err(error) = fresh.build().await {
            break error;
        }
        assert!(others.len() < 40, "there is always room");
    };
    assert!(error.is_unavailable(), "{error:?}");
    assert!(guard.is_held());
    drop(others);
    eventually("there is room", || has_room(&cluster)).await;
    guard.release().await.unwrap();
    let served = timeout(DEADLINE, waiting.join_all()).await.unwrap();
    assert!(served.iter().all(Result::is_ok), "{served:?}");
}

/// An agent has room for fewer connections than there are waiters with one each. They are served
/// all the same, and no release has to wait for their room.
#[tokio::test(flavor = "multi_thread")]
async fn waiters_give_their_room_to_those_that_ask() {
    const LOCKS: usize = 24;
    let limits = json!({"http_max_conns_per_client": LOCKS / 2});
    let cluster = Options::default().with("limits", limits).start(1);
    let runtime = async || {
        let mut settings = ConsulSettings::new(cluster.endpoints());
        settings.command_timeout = secs(20);
        settings.long_polls = LOCKS;
        let backend = ConsulBackend::connect(settings).await.unwrap();
        let locks = LockRuntime::backend(backend).command_timeout(secs(20));
        locks.build().await.unwrap()
    };
    let (holder, waiter) = (runtime().await, runtime().await);
    let mut guards = Vec::new();
    for lock in 0..LOCKS {
        guards.push(held(&holder, &lock.to_string(), secs(60)).await);
    }
    let mut waiting = JoinSet::new();
    for lock in 0..LOCKS {
        let lock = waiter.lock(lock.to_string()).ttl(secs(60)).wait(DEADLINE);
        waiting.spawn(async move { lock.acquire().await.unwrap().release().await });
    }
    eventually("more wait than there are connections", || {
        let keys = cluster.keys();
        keys.iter().filter(|key| key.contains("/.queue/")).count() == LOCKS
    })
    .await;
    let mut releasing = JoinSet::new();
    guards.into_iter().for_each(|guard| {
        releasing.spawn(guard.release());
    });
    for released in timeout(DEADLINE, releasing.join_all()).await.unwrap() {
        released.unwrap();
    }
    let served = timeout(DEADLINE, waiting.join_all()).await.unwrap();
    assert!(served.iter().all(Result::is_ok), "{served:?}");
}
