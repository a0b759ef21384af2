//! Two different lists of values never take the same lock.

use std::borrow::Cow;
use std::collections::HashMap;
use std::future::Future;

use lock_attribute_tests::{locked, record};
use lock_runtime::memory::MemoryBackend;
use lock_runtime::{KeyBuilder, KeyPart, LockError, LockRuntime, distributed_lock, key};
use proptest::prelude::*;

type Res<T> = Result<T, LockError>;

#[distributed_lock(key = "k:<a>:{<b>}<c>")]
async fn three(a: &str, b: &str, c: &str) -> Res<()> {
    let _ = (a, b, c);
    Ok(())
}

fn run<T>(calls: impl Future<Output = T>) -> (T, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(record(calls))
}

/// The key that the call takes.
fn key(a: &str, b: &str, c: &str) -> Option<String> {
    let (result, events) = run(three(a, b, c));
    result.ok()?;
    Some(events[0].strip_prefix("acquire ").unwrap().to_owned())
}

/// Reads the values back out of a key, knowing nothing but the template.
fn decode(key: &str) -> [String; 3] {
    let (a, rest) = key.strip_prefix("k:").unwrap().split_once(":{").unwrap();
    let (b, c) = rest.split_once('}').unwrap();
    [a, b, c].map(|value| {
        value
            .replace("%3A", ":")
            .replace("%7B", "{")
            .replace("%7D", "}")
            .replace("%25", "%")
    })
}

fn value() -> impl Strategy<Value = String> {
    let special = prop::sample::select(vec![
        ":", "%", "{", "}", "<", ">", "%3A", "%25", "\0", "\r\n", "é", "日", "a", "3", "A",
    ]);
    let piece = prop_oneof![3 => special.prop_map(str::to_owned), 1 => any::<char>().prop_map(String::from)];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_values_can_be_read_back_from_the_key(a in value(), b in value().prop_filter("a tag", |b| !b.is_empty()), c in value()) {
        let key = key(&a, &b, &c).unwrap();
        prop_assert_eq!(decode(&key), [a, b, c]);
    }
}

#[test]
fn short_values_never_meet() {
    let parts = ["", ":", "%", "{", "}", "a", "%3A"];
    let mut seen = HashMap::new();
    for a in parts {
        for b in parts.iter().copied().filter(|b| !b.is_empty()) {
            for c in parts {
                let other = seen.insert(key(a, b, c).unwrap(), (a, b, c));
                assert_eq!(other, None, "{:?}", (a, b, c));
            }
        }
    }
    assert_eq!(seen.len(), 7 * 6 * 7);
}

#[test]
fn what_cannot_be_a_key_is_refused_before_the_body() {
    let refused =
        |a: &str, b: &str| matches!(run(three(a, b, "")).0, Err(LockError::InvalidKey(_)));
    assert!(refused("a", ""), "an empty hash tag");
    assert!(refused(&"x".repeat(1100), "b"), "too long");
    assert!(!refused(&"x".repeat(900), "b"));
}

struct CustomerId(u64);

impl KeyPart for CustomerId {
    fn add(&self, key: &mut KeyBuilder) {
        key.part(&self.0);
    }
}

struct Seat {
    row: u8,
    number: u8,
}

impl KeyPart for Seat {
    fn add(&self, key: &mut KeyBuilder) {
        key.part(&self.row).part(&self.number);
    }
}

#[distributed_lock(key = "t:<a>:<b>:<c>:<d>:<e>")]
#[allow(clippy::many_single_char_names)]
async fn types(a: CustomerId, b: Seat, c: Cow<'_, str>, d: Box<char>, e: uuid::Uuid) -> Res<()> {
    drop((a, b, c, d, e));
    Ok(())
}

#[distributed_lock(key = "<<k>>:{coupons}:<a>")]
async fn literal_marks(a: bool) -> Res<bool> {
    Ok(a)
}

// What looks like a placeholder of another language stays, if the value has its place.
#[distributed_lock(key = "order#id:$id:{0}:{ids}:/:id:<id>")]
async fn signs(id: u8) -> Res<u8> {
    Ok(id)
}

#[distributed_lock(key = "shard:{0}:#id:coupon:id")]
async fn signs_without_arguments() -> Res<()> {
    Ok(())
}

#[distributed_lock(key = "user:id:{users}:#identity")]
async fn signs_of_other_words(id: u8) -> Res<u8> {
    Ok(id)
}

// One lock for all calls, and meant to be.
const SIGNS: &str = "{0}:{users}:#user";

#[distributed_lock(key = SIGNS)]
async fn signs_in_an_expression(user: u8) -> Res<u8> {
    Ok(user)
}

#[test]
fn signs_that_can_mean_no_argument_are_text() {
    let ((), events) = run(async {
        signs(1).await.unwrap();
        signs_without_arguments().await.unwrap();
        signs_of_other_words(2).await.unwrap();
        signs_in_an_expression(3).await.unwrap();
    });
    let expected = [
        locked("order#id:$id:{0}:{ids}:/:id:1", []),
        locked("shard:{0}:#id:coupon:id", []),
        locked("user:id:{users}:#identity", []),
        locked("{0}:{users}:#user", []),
    ];
    assert_eq!(events, expected.concat());
}

#[test]
fn every_kind_of_part_has_its_text() {
    let ((), events) = run(async {
        let seat = Seat { row: 1, number: 12 };
        types(
            CustomerId(5),
            seat,
            "c".into(),
            Box::new('d'),
            uuid::Uuid::nil(),
        )
        .await
        .unwrap();
        literal_marks(true).await.unwrap();
    });
    let expected = [
        locked("t:5:%(1%,12%):c:d:00000000-0000-0000-0000-000000000000", []),
        locked("<k>:{coupons}:true", []),
    ];
    assert_eq!(events, expected.concat());
}

/// Values with every mark of a template, and those that a companion of a lock is called.
const NAMES: [&str; 12] = [
    "a", "C:x", "100%", "{a}", "}", "{", "%3A", "waiters", "counter", "holders", "queue", "fence",
];

#[distributed_lock(key = "file:<name>", wait = "0s")]
async fn convert(name: &str) -> Res<()> {
    let _ = name;
    Ok(())
}

#[test]
fn a_lock_by_hand_and_the_attribute_exclude_each_other_whatever_the_value() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = MemoryBackend::new();
        let locks = LockRuntime::backend(store.clone()).build().await.unwrap();
        for name in NAMES {
            let call = |name| LockRuntime::scope(locks.clone(), convert(name));
            let by_hand = locks.lock(key!("file:<name>")).acquire().await.unwrap();
            assert!(
                call(name).await.is_err_and(|error| error.is_taken()),
                "{}",
                name
            );
            // The control: the others are free.
            for other in NAMES.iter().copied().filter(|other| *other != name) {
                call(other).await.unwrap();
            }
            by_hand.release().await.unwrap();
            call(name).await.unwrap();

            store.steal(&key!("file:<name>"));
            assert!(
                call(name).await.is_err_and(|error| error.is_taken()),
                "{}",
                name
            );
            store.expire(&key!("file:<name>"));
            call(name).await.unwrap();
        }
    });
}

#[distributed_lock(key = "k:<name>", wait = "0s")]
async fn while_running(locks: &LockRuntime, name: &str) -> Res<bool> {
    let by_hand = locks.lock(key!("k:<name>")).try_acquire().await?;
    Ok(by_hand.is_none())
}

#[test]
fn the_attribute_keeps_out_a_lock_by_hand_whatever_the_value() {
    let (excluded, _) = run(async {
        let locks = LockRuntime::current().unwrap();
        let mut excluded = Vec::new();
        for name in NAMES {
            excluded.push(while_running(&locks, name).await.unwrap());
        }
        excluded
    });
    assert_eq!(excluded, [true; NAMES.len()]);
}

struct Order {
    id: u64,
    lines: (u8, &'static str),
}

impl Order {
    fn key(&self) -> String {
        key!("order:{<self.id>}:<self.lines.1>")
    }
}

#[test]
fn a_key_by_hand_takes_fields_self_and_values_of_several_parts() {
    let order = Order {
        id: 7,
        lines: (0, "a:b"),
    };
    assert_eq!(order.key(), "order:{7}:a%3Ab");
    assert_eq!(key!("<<o>>:<order.lines.0>"), "<o>:0");
    let seat = Seat { row: 1, number: 12 };
    assert_eq!(key!("t:<seat>", crate = locks), "t:%(1%,12%)");
    assert_eq!(key!("plain"), "plain");
}

#[test]
fn a_key_by_hand_that_is_too_long_is_refused_where_it_is_used() {
    let name = "x".repeat(2000);
    let (refused, _) = run(async {
        let locks = LockRuntime::current().unwrap();
        locks.lock(key!("file:<name>")).acquire().await
    });
    assert!(matches!(refused, Err(LockError::InvalidKey(_))));
}

macro_rules! key_of {
    ($template:literal) => {
        key!($template)
    };
}

#[test]
fn a_template_through_a_macro_is_still_one() {
    let id = 5;
    assert_eq!(key_of!("k:<id>"), "k:5");
}

#[test]
fn the_rule_for_other_languages_makes_the_same_keys() {
    let documentation = include_str!("../../../../lock-macros/src/lib.rs");
    let (_, python) = documentation.split_once("/// ```python\n").unwrap();
    let (python, _) = python.split_once("/// ```\n").unwrap();
    let lines = python.lines().map(|line| line.trim_start_matches("///"));
    let mut lines: Vec<&str> = lines
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect();
    lines.extend([
        "import sys",
        "for name in sys.argv[1:]: print(lock_name(name))",
    ]);
    let output = std::process::Command::new("python3")
        .args(["-c", &lines.join("\n")])
        .args(NAMES)
        .output()
        .expect("python3 runs");
    let theirs = String::from_utf8(output.stdout).unwrap();
    let ours = NAMES.map(|name| format!("lock:{}", key!("file:<name>")));
    assert_eq!(theirs.lines().collect::<Vec<_>>(), ours);
}
