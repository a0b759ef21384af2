//! Calls that share a command, on a real server: each fares as it would by itself.

use std::sync::Arc;
use std::time::Duration;

use lock_runtime::LostReason;
use lock_runtime::backend::{
    Acquired, Backend, BackendError, Claim, LockKey, OwnerToken, Release, Released, Renewal,
    Renewed,
};
use lock_runtime::redis::deadpool_redis::Config;
use lock_runtime::redis::{RedisBackend, RedisSettings};
use lock_tests::causes;
use lock_tests::server::Server;

const TTL: Duration = Duration::from_secs(30);

fn claim(name: &str) -> Claim {
    let key = LockKey::new("lock:", name).unwrap();
    Claim::new(key, OwnerToken::unique("test"), TTL)
}

fn claims<const N: usize>(names: [&str; N]) -> [Claim; N] {
    names.map(claim)
}

fn ending(claim: &Claim) -> Release {
    Release::new(claim.key.clone(), claim.owner.clone())
}

fn renewals(claims: &[Claim]) -> Vec<Renewal> {
    let renewal = |claim: &Claim| Renewal::new(claim.key.clone(), claim.owner.clone(), 2 * TTL);
    claims.iter().map(renewal).collect()
}

/// What is asked together.
enum Verb {
    Acquire(Claim),
    Release(Claim),
}

#[derive(Debug)]
enum Answer {
    Acquired(Acquired),
    Released(Released),
}

/// A server, and a backend whose calls all go by its lane.
struct Fixture {
    server: Server,
    backend: Arc<RedisBackend>,
}

impl Fixture {
    async fn start() -> Fixture {
        let server = Server::start();
        let backend = connect(server.url()).await;
        Fixture { server, backend }
    }

    /// Asks all of this at once: on the thread of the lane, so that nothing is sent in between.
    async fn ask(&self, verbs: Vec<Verb>) -> Vec<Result<Answer, BackendError>> {
        ask(&self.backend, verbs).await
    }

    async fn acquire(&self, claims: &[Claim]) -> Vec<Result<Answer, BackendError>> {
        self.ask(claims.iter().cloned().map(Verb::Acquire).collect())
            .await
    }

    async fn release(&self, claims: &[Claim]) -> Vec<Result<Answer, BackendError>> {
        self.ask(claims.iter().cloned().map(Verb::Release).collect())
            .await
    }

    /// Has these locks taken and freed once: a counter that is not there yet is none of the usual.
    async fn with_counters<const N: usize>(&self, names: [&str; N]) {
        let claims = claims(names);
        assert!(self.acquire(&claims).await.iter().all(is_granted));
        assert!(self.release(&claims).await.iter().all(is_released));
    }

    /// How many commands the backend sends for this.
    async fn commands_of<T>(&self, work: impl Future<Output = T>) -> (T, usize) {
        let monitor = self.server.monitor();
        let output = work.await;
        (output, monitor.commands(&self.server).len())
    }

    fn owner(&self, name: &str) -> Option<String> {
        self.server.run(&["GET", &format!("lock:{name}")])
    }
}

async fn connect(url: String) -> Arc<RedisBackend> {
    let mut settings = RedisSettings::default();
    settings.pool_size = Some(settings.lanes);
    let config = Config::from_url(url);
    Arc::new(RedisBackend::connect(config, settings).await.unwrap())
}

async fn ask(backend: &Arc<RedisBackend>, verbs: Vec<Verb>) -> Vec<Result<Answer, BackendError>> {
    let own = Arc::clone(backend);
    let all = backend.handle().spawn(async move {
        let each = |verb| {
            let backend = Arc::clone(&own);
            tokio::spawn(async move {
                match verb {
                    Verb::Acquire(claim) => backend.acquire(&claim).await.map(Answer::Acquired),
                    Verb::Release(claim) => {
                        let released = backend.release(&ending(&claim)).await;
                        released.map(Answer::Released)
                    }
                }
            })
        };
        let asked: Vec<_> = verbs.into_iter().map(each).collect();
        let mut answers = Vec::new();
        for asked in asked {
            answers.push(asked.await.unwrap());
        }
        answers
    });
    all.await.unwrap()
}

fn is_granted(answer: &Result<Answer, BackendError>) -> bool {
    matches!(answer, Ok(Answer::Acquired(Acquired::Granted(_))))
}

fn is_released(answer: &Result<Answer, BackendError>) -> bool {
    matches!(answer, Ok(Answer::Released(Released::Released(None))))
}

fn error<T: std::fmt::Debug>(answer: &Result<T, BackendError>) -> String {
    causes(answer.as_ref().unwrap_err())
}

#[tokio::test]
async fn calls_of_a_kind_are_one_command_and_each_has_its_answer() {
    let it = Fixture::start().await;
    let [a, b, c, d] = claims(["a", "b", "c", "d"]);
    let (answers, commands) = it.commands_of(it.acquire(&[a.clone(), b.clone()])).await;
    assert!(answers.iter().all(is_granted), "{answers:?}");
    assert_eq!(commands, 1);
    assert_eq!(it.owner("b").as_deref(), Some(b.owner.as_str()));

    let mixed = vec![
        Verb::Acquire(c),
        Verb::Release(a.clone()),
        // Taken, and not held.
        Verb::Acquire(claim("b")),
        Verb::Release(d.clone()),
        Verb::Acquire(d),
    ];
    let (answers, commands) = it.commands_of(it.ask(mixed)).await;
    assert!(is_granted(&answers[0]) && is_released(&answers[1]));
    let taken = matches!(&answers[2], Ok(Answer::Acquired(Acquired::Taken(_))));
    let not_held = matches!(&answers[3], Ok(Answer::Released(Released::NotHeld)));
    assert!(taken && not_held, "{answers:?}");
    // The last one is behind a release of the same lock.
    assert!(is_granted(&answers[4]));
    assert_eq!(commands, 3);
    it.server.finish();
}

#[tokio::test]
async fn many_calls_are_several_commands_of_at_most_32() {
    let it = Fixture::start().await;
    let claims: Vec<_> = (100..170)
        .map(|number| claim(&number.to_string()))
        .collect();
    let (answers, commands) = it.commands_of(it.acquire(&claims)).await;
    assert!(answers.iter().all(is_granted));
    assert_eq!(commands, 3);
    let (answers, commands) = it.commands_of(it.backend.renew(&renewals(&claims))).await;
    assert!(
        answers
            .into_iter()
            .all(|answer| answer.unwrap() == Renewed::held())
    );
    assert_eq!(commands, 3);
    let ttl: u64 = it.server.run(&["PTTL", "lock:169"]);
    assert!(Duration::from_millis(ttl) > TTL);
    let (answers, commands) = it.commands_of(it.release(&claims)).await;
    assert!(answers.iter().all(is_released));
    assert_eq!(commands, 3);
    it.server.finish();
}

#[tokio::test]
async fn tokens_of_locks_that_are_taken_together_grow() {
    let it = Fixture::start().await;
    // More than there are counters, so that some share one.
    let names: Vec<_> = (100..200).map(|number| number.to_string()).collect();
    let mut last = vec![0; names.len()];
    for _ in 0..5 {
        let mut claims: Vec<_> = names.iter().map(|name| claim(name)).collect();
        claims.iter_mut().for_each(|claim| claim.tokens = 9);
        let before: (u64, u64) = it.server.run(&["TIME"]);
        let answers = it.acquire(&claims).await;
        let after: (u64, u64) = it.server.run(&["TIME"]);
        for (answer, last) in answers.iter().zip(&mut last) {
            let Ok(Answer::Acquired(Acquired::Granted(grant))) = answer else {
                panic!("{answer:?}");
            };
            assert!(grant.tokens.first.as_u64() > *last);
            *last = grant.tokens.last.as_u64();
            // None is of the future, though all were drawn by one look at the clock.
            assert!(*last >= before.0 * 1_000_000 + before.1);
            assert!(*last <= after.0 * 1_000_000 + after.1);
        }
        it.release(&claims).await;
    }
    it.server.finish();
}

#[tokio::test]
async fn locks_that_are_released_together_are_each_freed_for_their_owner_alone() {
    let it = Fixture::start().await;
    let holders = claims(["a", "b", "c"]);
    assert!(it.acquire(&holders).await.iter().all(is_granted));
    let other = ["SET", "lock:b", "other", "PX", "30000"];
    it.server.run::<()>(&other);
    let (answers, commands) = it.commands_of(it.release(&holders)).await;
    assert_eq!(commands, 1);
    assert!(is_released(&answers[0]) && is_released(&answers[2]));
    assert!(matches!(
        answers[1],
        Ok(Answer::Released(Released::NotHeld))
    ));
    assert_eq!(it.owner("b").as_deref(), Some("other"));
    assert_eq!((it.owner("a"), it.owner("c")), (None, None));
    it.server.run::<()>(&["DEL", "lock:b"]);
    it.server.finish();
}

#[tokio::test]
async fn of_claims_on_one_lock_that_go_together_the_first_has_it() {
    let it = Fixture::start().await;
    it.with_counters(["a", "b", "c"]).await;
    let asked = claims(["a", "b", "a", "c"]);
    let (answers, commands) = it.commands_of(it.acquire(&asked)).await;
    assert_eq!(commands, 1);
    assert!([0, 1, 3].iter().all(|index| is_granted(&answers[*index])));
    assert!(matches!(
        answers[2],
        Ok(Answer::Acquired(Acquired::Taken(_)))
    ));
    assert_eq!(it.owner("a").as_deref(), Some(asked[0].owner.as_str()));
    it.release(&asked).await;
    it.server.finish();
}

#[tokio::test]
async fn claims_that_go_together_pass_nobody_who_waits_and_none_is_granted_once_it_is_withdrawn() {
    let it = Fixture::start().await;
    it.with_counters(["a", "b", "c", "d"]).await;
    let holders = claims(["b"]);
    let mut waiters = holders.clone().map(|_| claim("b").queued());
    waiters[0].grace = Duration::from_secs(5);
    assert!(it.acquire(&holders).await.iter().all(is_granted));
    it.acquire(&waiters).await;
    // Its lease has ended.
    it.server.run::<()>(&["DEL", "lock:b"]);
    // One after the other: what is unusual about one call is looked at for all.
    let asked = claims(["a", "b", "c", "d"]);
    let mut gone = asked[3].clone();
    gone.in_doubt = true;
    it.backend.abandon(&gone).await.unwrap();
    for (pair, left) in [(&asked[..2], &waiters[0].owner), (&asked[2..], &gone.owner)] {
        let (answers, commands) = it.commands_of(it.acquire(pair)).await;
        assert_eq!(commands, 1);
        assert!(is_granted(&answers[0]), "{left}");
        let is_taken = matches!(answers[1], Ok(Answer::Acquired(Acquired::Taken(_))));
        assert!(is_taken, "{left}");
    }
    assert_eq!(it.owner("b").as_deref(), Some(waiters[0].owner.as_str()));
    assert_eq!(it.owner("d"), None);
    it.release(&asked).await;
    it.server.finish();
}

#[tokio::test]
async fn a_key_of_another_kind_fails_its_call_alone() {
    let it = Fixture::start().await;
    let claims = claims(["a", "b", "c", "d"]);
    it.server.run::<()>(&["LPUSH", "lock:b", "x"]);
    it.server.run::<()>(&["SET", "{lock:c}:waiters", "x"]);
    it.server.forgive("lock:b");
    it.server.forgive("{lock:c}:waiters");
    let (answers, commands) = it.commands_of(it.acquire(&claims)).await;
    assert_eq!(commands, 1);
    assert!(is_granted(&answers[0]) && is_granted(&answers[3]));
    for (index, bad) in [(1, "`lock:b`"), (2, "`{lock:c}:waiters`")] {
        assert!(answers[index].as_ref().unwrap_err().is_denied());
        assert!(
            error(&answers[index]).contains(bad),
            "{}",
            error(&answers[index])
        );
    }

    let (answers, commands) = it.commands_of(it.backend.renew(&renewals(&claims))).await;
    assert_eq!(commands, 1);
    assert!(answers[1].as_ref().unwrap_err().is_denied());
    assert!(
        error(&answers[1]).contains("`lock:b`"),
        "{}",
        error(&answers[1])
    );
    let answers: Vec<_> = answers.into_iter().filter_map(Result::ok).collect();
    assert_eq!(
        answers,
        [
            Renewed::held(),
            Renewed::Lost(LostReason::Deleted),
            Renewed::held()
        ]
    );

    let (answers, commands) = it.commands_of(it.release(&claims)).await;
    assert_eq!(commands, 1);
    assert!(is_released(&answers[0]) && is_released(&answers[3]));
    assert!(error(&answers[1]).contains("`lock:b`"));
    assert!(matches!(
        answers[2],
        Ok(Answer::Released(Released::NotHeld))
    ));
    it.server.finish();
}

#[tokio::test]
async fn a_counter_that_is_no_fencing_token_fails_its_locks_alone() {
    let it = Fixture::start().await;
    let claims = claims(["a", "b", "c"]);
    let counter = lock_tests::redis_store::counter("lock:b");
    assert_ne!(counter, lock_tests::redis_store::counter("lock:c"));
    it.server
        .run::<()>(&["SET", &counter, "nonsense", "EX", "100"]);
    let answers = it.acquire(&claims).await;
    assert!(is_granted(&answers[0]) && is_granted(&answers[2]));
    assert!(answers[1].as_ref().unwrap_err().is_denied());
    assert!(error(&answers[1]).contains(&counter));
    it.server.finish();
}

#[tokio::test]
async fn a_key_that_the_user_may_not_use_fails_its_call_alone() {
    let it = Fixture::start().await;
    let user = ["ACL", "SETUSER", "app", "on", ">pw", "allchannels", "+@all"];
    let keys = [
        "~lock:ok*",
        "~{lock:ok*",
        "~lock:probe*",
        "~{lock:probe*",
        "~{lock:}*",
    ];
    let words: Vec<_> = user.into_iter().chain(keys).collect();
    it.server.run::<()>(&words);
    let backend = connect(format!("redis://app:pw@127.0.0.1:{}", it.server.port())).await;
    let claims = claims(["ok1", "bad", "ok2"]);
    let asked = ask(
        &backend,
        claims.iter().cloned().map(Verb::Acquire).collect(),
    );
    let (answers, commands) = it.commands_of(asked).await;
    // Servers do not show what they refuse.
    assert!((2..=4).contains(&commands), "{commands}");
    assert!(
        is_granted(&answers[0]) && is_granted(&answers[2]),
        "{answers:?}"
    );
    assert!(answers[1].as_ref().unwrap_err().is_denied());

    let answers = backend.renew(&renewals(&claims)).await;
    let held = answers
        .iter()
        .map(|answer| matches!(answer, Ok(held) if *held == Renewed::held()));
    assert!(held.eq([true, false, true]), "{answers:?}");
    let answers = ask(
        &backend,
        claims.iter().cloned().map(Verb::Release).collect(),
    )
    .await;
    assert!(is_released(&answers[0]) && is_released(&answers[2]));
    assert!(answers[1].as_ref().unwrap_err().is_denied());
    it.server.finish();
}

#[tokio::test]
async fn a_full_memory_refuses_what_it_would_refuse_alone() {
    let it = Fixture::start().await;
    let claims = claims(["a", "b", "c"]);
    assert!(it.acquire(&claims).await.iter().all(is_granted));
    it.server.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    let (answers, commands) = it.commands_of(it.acquire(&[claim("d"), claim("e")])).await;
    assert_eq!(commands, 1);
    for answer in &answers {
        assert!(!answer.as_ref().unwrap_err().is_denied());
        assert!(error(answer).contains("OOM"), "{}", error(answer));
    }
    assert_eq!((it.owner("d"), it.owner("e")), (None, None));
    let answers = it.backend.renew(&renewals(&claims)).await;
    assert!(
        answers
            .into_iter()
            .all(|answer| answer.unwrap() == Renewed::held())
    );
    assert!(it.release(&claims).await.iter().all(is_released));
    it.server.finish();
}

#[tokio::test]
async fn a_demoted_server_refuses_each_call_and_another_connection_is_opened() {
    let it = Fixture::start().await;
    let lane = || -> String {
        let clients: String = it.server.run(&["CLIENT", "LIST", "TYPE", "PUBSUB"]);
        clients.split(' ').next().unwrap().to_owned()
    };
    let first = lane();
    it.server.run::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
    for answer in &it.acquire(&claims(["a", "b"])).await {
        assert!(!answer.as_ref().unwrap_err().is_denied());
        let text = error(answer).to_lowercase();
        assert!(text.contains("readonly"), "{text}");
    }
    it.server.run::<()>(&["REPLICAOF", "NO", "ONE"]);
    let answers = it.acquire(&claims(["a", "b"])).await;
    assert!(answers.iter().all(is_granted), "{answers:?}");
    assert_ne!(lane(), first);
    it.server.finish();
}

#[tokio::test]
async fn those_who_wait_are_handed_the_locks_that_are_released_together() {
    let it = Fixture::start().await;
    let holders = claims(["a", "b", "c"]);
    let waiters = claims(["a", "b"]).map(|claim| {
        let mut claim = claim.queued();
        claim.grace = Duration::from_secs(5);
        claim
    });
    assert!(it.acquire(&holders).await.iter().all(is_granted));
    let (answers, commands) = it.commands_of(it.acquire(&waiters)).await;
    assert_eq!(commands, 1);
    for answer in answers {
        assert!(matches!(answer, Ok(Answer::Acquired(Acquired::Queued(_)))));
    }
    let (answers, commands) = it.commands_of(it.release(&holders)).await;
    assert!(answers.iter().all(is_released), "{answers:?}");
    assert_eq!(commands, 1);
    for (name, waiter) in ["a", "b"].into_iter().zip(&waiters) {
        assert_eq!(it.owner(name).as_deref(), Some(waiter.owner.as_str()));
    }
    assert_eq!(it.owner("c"), None);
    it.server.finish();
}

#[tokio::test]
async fn dead_waiters_of_one_lock_keep_the_server_no_longer_than_of_a_call_alone() {
    let it = Fixture::start().await;
    let holders = claims(["a", "b", "c"]);
    assert!(it.acquire(&holders).await.iter().all(is_granted));
    for number in 0..20 {
        let member = format!("dead-{number}/0000000001/0005/0006/gone/5000/0004/04/x");
        it.server
            .run::<()>(&["ZADD", "{lock:b}:waiters", &number.to_string(), &member]);
    }
    it.server.run::<()>(&["EXPIRE", "{lock:b}:waiters", "100"]);
    let monitor = it.server.monitor();
    let answers = it.release(&holders).await;
    assert!(answers.iter().all(is_released), "{answers:?}");
    let commands = monitor.commands(&it.server);
    let names_c: Vec<_> = commands
        .iter()
        .map(|it| it.contains("\"lock:c\""))
        .collect();
    // The first looks at 16 and leaves c to the second, too.
    assert_eq!(names_c, [true, true]);
    let left: Vec<String> = it.server.run(&["KEYS", "*lock:?"]);
    assert_eq!(left, Vec::<String>::new());
    it.server.finish();
}
