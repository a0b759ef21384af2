//! C16: some questions are refused, or have no answer, and others are done.

use super::*;

/// An agent does not let the session of a holder be renewed: that is told with the reason, although
/// the lock is there until the session ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_of_a_session_that_is_refused_is_told() {
    let cluster = Cluster::start();
    let http = Http::to(cluster.port(0));
    let backend = backend(&[http.endpoint()]).await;
    let mut holder = claim("k");
    holder.ttl = secs(60);
    granted(&backend, &holder).await;
    let renewal = Renewal::new(holder.key, holder.owner, holder.ttl);
    let answers = backend.renew(std::slice::from_ref(&renewal)).await;
    assert!(matches!(answers[0], Ok(Renewed::Held(_))), "{answers:?}");
    http.rule(|asked| match asked.path.starts_with("/v1/session/renew") {
        true => Fate::Refuse(403, "Permission denied: the token was changed"),
        false => Fate::Pass,
    });
    // The first that is refused is heard of beside the answer to it, and told with the next.
    let mut refused = None;
    comes_true("it is told", async || {
        let mut answers = backend.renew(std::slice::from_ref(&renewal)).await;
        refused = answers.remove(0).err();
        refused.is_some()
    })
    .await;
    let error = refused.unwrap();
    assert!(error.is_denied(), "{error:?}");
    assert!(causes(&error).contains("the token was changed"), "{error}");
    assert!(cluster.owner("lock:k").is_some(), "it is there still");
    http.pass();
    comes_true("it is renewed again", async || {
        let answers = backend.renew(std::slice::from_ref(&renewal)).await;
        matches!(answers[0], Ok(Renewed::Held(_)))
    })
    .await;
}

/// A claim is put into the queue, and what follows is refused. Its session is not given to another
/// claim, since the lock may be handed to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_waits_for_a_lock_is_not_used_for_another() {
    let cluster = Cluster::start();
    let http = Http::to(cluster.port(0));
    let backend = backend(&[http.endpoint()]).await;
    // Nobody holds it, but its key is there, so that it is given to the first that waits.
    cluster.ask("PUT", "/v1/kv/lock:k/.lock", "");
    http.rule(|asked| match asked.body.contains("delete-cas") {
        true => Fate::Refuse(403, "Permission denied"),
        false => Fate::Pass,
    });
    let waiter = claim("k").queued();
    let error = backend.acquire(&waiter).await.unwrap_err();
    assert!(error.is_denied(), "{error:?}");
    assert_eq!(http.failed(), 1);
    http.pass();
    let waiting = cluster.waiting_sessions("lock:k");
    assert_eq!(waiting.len(), 1, "it is in the queue");
    granted(&backend, &claim("other")).await;
    let (session, _) = cluster.owner("lock:other").unwrap();
    assert!(!waiting.contains(&session), "its session is used twice");
    // Whoever gives it up takes it out of the queue.
    let mut gone = waiter.clone();
    gone.in_doubt = true;
    backend.abandon(&gone).await.unwrap();
    assert!(cluster.waiting_sessions("lock:k").is_empty());
}

/// A backend that is not made, since an answer got lost, leaves nothing in Consul for longer than
/// its session lives.
#[tokio::test(flavor = "multi_thread")]
async fn a_connect_that_fails_leaves_no_key() {
    let cluster = Cluster::start();
    let http = Http::to(cluster.port(0));
    http.rule(|asked| match asked.path.starts_with("/v1/txn") {
        true => Fate::Lose,
        false => Fate::Pass,
    });
    let mut settings = ConsulSettings::new([http.endpoint()]);
    settings.command_timeout = secs(2);
    let connecting = tokio::spawn(ConsulBackend::connect(settings));
    eventually("the key is there", || !cluster.keys().is_empty()).await;
    assert!(connecting.await.unwrap().is_err());
    assert!(http.failed() > 0);
    eventually("the key goes", || cluster.keys().is_empty()).await;
}

/// However many calls a question takes, it ends within its time. The control: with more time it is
/// answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_question_of_many_calls_ends_within_its_time() {
    let cluster = Cluster::start();
    let http = Http::to(cluster.port(0));
    granted(&backend(&cluster.endpoints()).await, &claim("k")).await;
    for (time, is_answered) in [(ms(1_000), false), (DEADLINE, true)] {
        http.pass();
        let mut settings = ConsulSettings::new([http.endpoint()]);
        settings.command_timeout = time;
        let backend = ConsulBackend::connect_lazily(settings).unwrap();
        // A session, a try to take the lock, and a place in the queue, each well within half a
        // second.
        http.rule(|_| Fate::Delay(ms(350)));
        let answer = backend.acquire(&claim("k").queued()).await;
        assert_eq!(answer.is_ok(), is_answered, "{answer:?}");
        if let Err(error) = answer {
            assert!(error.is_timeout(), "{error:?}");
        }
    }
}
