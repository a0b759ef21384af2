use proptest::prelude::*;

use super::*;

/// The reply of a script to the call with this `number`.
fn line(number: &[u8], rest: &str) -> Value {
    Value::BulkString([number, rest.as_bytes()].concat())
}

#[test]
fn replies_that_no_script_gives_are_not_taken_for_others() {
    let ttl = Duration::from_secs(1);
    let reply = |rest: &str| line(b"7", rest);
    for rest in [
        "",
        " ",
        " again",
        " granted",
        " granted 5",
        " granted 5 0",
        " granted 5 7",
        " granted 5 1 ",
        " granted 5 1 1",
        " granted -5 1",
        " granted 5  1",
        " granted 9223372036854775807 1",
        " GRANTED 5 1",
        " queued 10",
        " queued 10 2",
        " taken ten 1",
        " lost",
        " granted \u{ff} 1",
    ] {
        assert_eq!(acquired(&reply(rest), ttl), None, "{rest}");
    }
    for other in [Value::Nil, Value::Okay, Value::Int(1), Value::Array(vec![])] {
        assert_eq!(acquired(&other, ttl), None, "{other:?}");
    }
    assert_eq!(renewed(&reply(" held 1")), None);
    let next = Claim::new(
        LockKey::new("lock:", "k").unwrap(),
        OwnerToken::unique("o"),
        ttl,
    );
    assert_eq!(released(&reply(" released taken 1 0"), None), None);
    assert_eq!(released(&reply(" released"), Some(&next)), None);
    assert_eq!(abandoned(&reply(" withdrawn 1")), None);
}

#[test]
fn replies_are_read_as_the_scripts_write_them() {
    let ttl = Duration::from_secs(1);
    let reply = |rest: &str| line(b"7", rest);
    let tokens = FenceBlock {
        first: FencingToken::new(4),
        last: FencingToken::new(5),
    };
    let granted = Acquired::Granted(Grant::new(tokens, ttl));
    for (rest, answer) in [
        (" granted 5 2", granted),
        (" queued 1000 0", Acquired::Queued(Holder::of_ours(ttl))),
        // It never ends.
        (" taken -1 1", Acquired::Taken(Holder::foreign(None))),
    ] {
        assert_eq!(acquired(&reply(rest), ttl).as_ref(), Some(&answer));
        let next = Claim::new(
            LockKey::new("lock:", "k").unwrap(),
            OwnerToken::unique("o"),
            ttl,
        );
        assert_eq!(
            released(&reply(&format!(" released{rest}")), Some(&next)),
            Some(Released::Released(Some(answer)))
        );
    }
    let renewal = renewed(&reply(" granted 5 2"));
    let further = Extension::with_tokens(Some(tokens));
    assert_eq!(renewal, Some(Renewed::Held(further)));
    assert_eq!(renewed(&reply(" held")), Some(Renewed::held()));
    assert_eq!(renewed(&reply(" lost")), Some(Renewed::lost()));
    assert_eq!(
        released(&reply(" released"), None),
        Some(Released::Released(None))
    );
    assert_eq!(released(&reply(" lost"), None), Some(Released::NotHeld));
    assert_eq!(abandoned(&reply(" withdrawn")), Some(()));
}

#[test]
fn a_hand_over_survives_slashes_in_owner_and_key() {
    let message = hand_over(b"9/3/500/5/a/b/clock:k/x").unwrap();
    assert_eq!(
        (message.owner.as_str(), message.lock.as_str()),
        ("a/b/c", "lock:k/x")
    );
    assert_eq!(message.grant.tokens.first, FencingToken::new(7));
    assert_eq!(message.grant.tokens.last, FencingToken::new(9));
    assert_eq!(message.grant.valid_for, Duration::from_millis(500));
}

#[test]
fn an_announcement_is_no_hand_over() {
    let message = b"next/500/a/b";
    assert_eq!(
        announcement(message),
        Some(("a/b", Duration::from_millis(500)))
    );
    assert_eq!(hand_over(message), None);
    assert_eq!(announcement(b"9/3/500/5/a/b/clock:k/x"), None);
    assert_eq!(announcement(b"next/-1/a"), None);
}

#[test]
fn nonsense_on_the_channel_is_no_hand_over() {
    let nonsense: [&[u8]; 9] = [
        b"",
        b"hello",
        b"1/2/3",
        b"1/2/3/4",
        b"1/2/3/99/short",
        b"2/0/3/1/ab",
        b"2/4/3/1/ab",
        "1/2/3/1/\u{e9}".as_bytes(),
        b"1/2/3/1/\xff\xfe",
    ];
    for message in nonsense {
        assert_eq!(hand_over(message), None, "{message:?}");
    }
}

#[test]
fn milliseconds_are_rounded_up_and_bounded() {
    assert_eq!(millis(Duration::ZERO), 1);
    assert_eq!(millis(Duration::from_nanos(1_000_001)), 2);
    assert!(millis(Duration::MAX) < 1 << 53);
}

/// Any reply, most of them near to those of the scripts.
pub(in super::super) fn replies() -> impl Strategy<Value = Value> {
    let words = "7( (granted|queued|taken|released|held|lost|withdrawn|again))?( (released|taken|granted))?( -?[0-9]{1,20}){0,3}";
    let leaf = prop_oneof![
        8 => words.prop_map(|words: String| Value::BulkString(words.into())),
        1 => any::<i64>().prop_map(Value::Int),
        1 => Just(Value::Nil),
        1 => Just(Value::Okay),
        1 => any::<bool>().prop_map(Value::Boolean),
        1 => any::<f64>().prop_map(Value::Double),
        1 => any::<Vec<u8>>().prop_map(Value::BulkString),
        1 => any::<String>().prop_map(Value::SimpleString),
    ];
    leaf.prop_recursive(3, 16, 5, |part| {
        prop::collection::vec(part, 0..5).prop_map(Value::Array)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn no_reply_panics_and_no_grant_is_beyond_reason(reply in replies()) {
        let claim = Claim::new(LockKey::new("lock:", "k").unwrap(), OwnerToken::unique("o"), Duration::from_secs(1));
        let sane = |tokens: FenceBlock| tokens.first <= tokens.last && tokens.last < FencingToken::new(1 << 53);
        if let Some(Acquired::Granted(grant)) = acquired(&reply, claim.ttl) {
            prop_assert!(sane(grant.tokens) && grant.valid_for == claim.ttl);
        }
        if let Some(Renewed::Held(extension)) = renewed(&reply) {
            prop_assert!(extension.tokens.is_none_or(sane));
        }
        for next in [None, Some(&claim)] {
            if let Some(Released::Released(Some(_))) = released(&reply, next) {
                prop_assert!(next.is_some());
            }
        }
        let _ = abandoned(&reply);
    }

    #[test]
    fn no_message_panics_and_a_true_one_is_read_as_it_was_written(
        noise in any::<Vec<u8>>(),
        text in "[0-9/-]{0,40}",
        first in 0..1_u64 << 52,
        more in 0..1000_u64,
        grace in any::<u32>(),
        owner in ".{0,20}",
        lock in ".{0,20}",
    ) {
        let _ = (hand_over(&noise), hand_over(text.as_bytes()));
        let last = first + more;
        let message = format!("{last}/{}/{grace}/{}/{owner}{lock}", more + 1, owner.len());
        let read = hand_over(message.as_bytes()).expect("a true message");
        prop_assert_eq!((read.owner, read.lock), (owner, lock));
        prop_assert_eq!(read.grant.tokens.first, FencingToken::new(first));
        prop_assert_eq!(read.grant.tokens.last, FencingToken::new(last));
        prop_assert_eq!(read.grant.valid_for, Duration::from_millis(grace.into()));
    }
}
