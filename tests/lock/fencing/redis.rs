//! On a real Redis server.

use lock_runtime::fencing::redis::{FencedError, FencedScript};
use lock_runtime::fencing::{Stale, Writer};
use lock_tests::server::Server;
use redis::aio::MultiplexedConnection;

use super::{Phases, stale_and_later, twin, writer};

const FENCE: &str = "{account:7}:fence";
const ACCOUNT: &str = "account:7";

/// A server with an account that holds 100.
struct Store {
    server: Server,
    connection: MultiplexedConnection,
    read: FencedScript,
    write: FencedScript,
}

impl Store {
    async fn new() -> Store {
        let server = Server::start();
        server.forgive(FENCE);
        server.forgive(ACCOUNT);
        let () = server.run(&["SET", ACCOUNT, "100"]);
        let client = redis::Client::open(server.url()).unwrap();
        Store {
            connection: client.get_multiplexed_async_connection().await.unwrap(),
            server,
            read: FencedScript::new("return redis.call('GET', KEYS[1])"),
            write: FencedScript::new("redis.call('SET', KEYS[1], ARGV[1])"),
        }
    }

    async fn read(&mut self, writer: &Writer) -> Result<i64, FencedError> {
        let keys = [ACCOUNT];
        self.read
            .run(&mut self.connection, FENCE, writer, &keys, &[])
            .await
    }

    async fn write(&mut self, writer: &Writer, balance: i64) -> Result<(), FencedError> {
        let (keys, balance) = ([ACCOUNT], balance.to_string());
        self.write
            .run(&mut self.connection, FENCE, writer, &keys, &[&balance])
            .await
    }

    fn unfenced_write(&self, balance: i64) {
        let () = self.server.run(&["SET", ACCOUNT, &balance.to_string()]);
    }

    fn balance(&self) -> i64 {
        self.server.run(&["GET", ACCOUNT])
    }
}

/// The fence that a refusal names.
fn stale<T: std::fmt::Debug>(answer: Result<T, FencedError>) -> u64 {
    match answer {
        Err(FencedError::Stale(Stale { fence })) => fence.unwrap().as_u64(),
        other => panic!("it should have been stale, but: {other:?}"),
    }
}

#[tokio::test]
async fn a_stale_write_is_refused() {
    let (first, second) = stale_and_later().await;
    let mut store = Store::new().await;
    store.write(&first, 1).await.unwrap();
    store.write(&second, 2).await.unwrap();
    let fence = stale(store.write(&first, 1).await);
    assert_eq!(fence, second.token().as_u64());
    assert_eq!(store.balance(), 2);

    // The control.
    store.unfenced_write(1);
    assert_eq!(store.balance(), 1);
}

#[tokio::test]
async fn readers_pass_together_and_refuse_the_writer_before_them_and_the_next_refuses_them() {
    let Phases {
        earlier,
        readers,
        later,
    } = Phases::new().await;
    let mut store = Store::new().await;
    store.write(&earlier, 1).await.unwrap();
    for reader in readers.iter().chain(&readers) {
        assert_eq!(store.read(reader).await.unwrap(), 1);
    }
    assert_eq!(
        stale(store.write(&earlier, 2).await),
        readers[0].token().as_u64()
    );
    store.write(&later, 3).await.unwrap();
    for reader in &readers {
        assert_eq!(stale(store.read(reader).await), later.token().as_u64());
    }
    assert_eq!(store.balance(), 3);

    // The controls: readers that are told apart, and a fence that nobody looks at.
    let mut control = Store::new().await;
    assert_eq!(control.read(&readers[0]).await.unwrap(), 100);
    stale(control.read(&twin(&readers[1])).await);
    control.unfenced_write(2);
    assert_eq!(control.balance(), 2);
}

#[tokio::test]
async fn a_holder_writes_as_often_as_it_likes() {
    let (mut store, holder) = (Store::new().await, writer(5));
    for balance in 0..3 {
        store.write(&holder, balance).await.unwrap();
    }
    assert_eq!(store.balance(), 2);
}

#[tokio::test]
async fn an_equal_token_of_another_owner_is_refused() {
    let (mut store, holder) = (Store::new().await, writer(5));
    store.write(&holder, 1).await.unwrap();
    assert_eq!(stale(store.write(&twin(&holder), 2).await), 5);
    assert_eq!(store.balance(), 1);
}

#[tokio::test]
async fn tokens_are_compared_exactly_up_to_the_largest() {
    let mut store = Store::new().await;
    let largest = (1 << 53) - 1;
    store.write(&writer(9), 1).await.unwrap();
    store.write(&writer(10), 2).await.unwrap();
    store.write(&writer(largest - 1), 3).await.unwrap();
    store.write(&writer(largest), 4).await.unwrap();
    assert_eq!(stale(store.write(&writer(largest - 1), 5).await), largest);
    assert_eq!(store.balance(), 4);
}

#[tokio::test]
async fn no_accepted_write_is_lost_if_the_fence_is_raised_before_the_first_read() {
    let (first, second) = stale_and_later().await;
    let mut store = Store::new().await;
    let stale_read = store.read(&first).await.unwrap();
    let later_read = store.read(&second).await.unwrap();
    stale(store.write(&first, stale_read + 1).await);
    store.write(&second, later_read + 10).await.unwrap();
    assert_eq!(store.balance(), 110);

    // The control: read without the fence, and the stale write is accepted, then overwritten.
    let mut store = Store::new().await;
    let (stale_read, later_read) = (store.balance(), store.balance());
    store.write(&first, stale_read + 1).await.unwrap();
    store.write(&second, later_read + 10).await.unwrap();
    assert_eq!(store.balance(), 110);
}

#[tokio::test]
async fn the_body_sees_its_own_keys_and_arguments_and_may_return_anything() {
    let mut store = Store::new().await;
    let holder = writer(5);
    for (body, expected) in [
        ("return {KEYS[1], ARGV[1], #KEYS, #ARGV}", "a b 1 1"),
        ("return {}", ""),
    ] {
        let answer: Vec<String> = FencedScript::new(body)
            .run(&mut store.connection, FENCE, &holder, &["a"], &["b"])
            .await
            .unwrap();
        assert_eq!(answer.join(" "), expected);
    }
    for body in ["return nil", "return false", "-- nothing"] {
        let answer: Option<String> = FencedScript::new(body)
            .run(&mut store.connection, FENCE, &holder, &[], &[])
            .await
            .unwrap();
        assert_eq!(answer, None, "{body}");
    }
    let failed: Result<(), FencedError> =
        FencedScript::new("return redis.call('LPUSH', KEYS[1], 1)")
            .run(&mut store.connection, FENCE, &holder, &[ACCOUNT], &[])
            .await;
    assert!(matches!(failed, Err(FencedError::Redis(_))), "{failed:?}");
}

#[tokio::test]
async fn a_fence_that_cannot_be_read_lets_nobody_pass() {
    for token in ["nan", "-1", "", "1e3", " 5"] {
        let mut store = Store::new().await;
        let _: i64 = store.server.run(&["HSET", FENCE, "token", token]);
        let answer = store.write(&writer(5), 1).await;
        assert!(
            matches!(answer, Err(FencedError::Redis(_))),
            "{token:?}: {answer:?}"
        );
        assert_eq!(store.balance(), 100);
    }
    let mut store = Store::new().await;
    let () = store.server.run(&["SET", FENCE, "5"]);
    let answer = store.write(&writer(5), 1).await;
    assert!(matches!(answer, Err(FencedError::Redis(_))), "{answer:?}");
    assert_eq!(store.balance(), 100);
}
