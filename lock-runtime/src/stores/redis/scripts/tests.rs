use proptest::prelude::*;

use super::*;

fn claim() -> Claim {
    let key = LockKey::new("lock:", "k").unwrap();
    let mut claim = Claim::new(key, OwnerToken::unique("o"), Duration::from_secs(1));
    claim.tokens = 2;
    claim
}

/// To be told by `channel`, and by no other before.
fn by(channel: &str) -> Named<'_> {
    Named {
        channel,
        earlier: None,
    }
}

/// The reply of a script to the call with this `number`.
fn line(number: &[u8], rest: &str) -> Value {
    Value::BulkString([number, rest.as_bytes()].concat())
}

#[test]
fn replies_that_no_script_gives_are_not_taken_for_others() {
    let claim = claim();
    let reply = |rest: &str| line(b"7", rest);
    for rest in [
        "",
        " ",
        " again",
        " granted",
        " granted 5",
        " granted 5 5",
        " granted 5 7",
        " granted 5 4 ",
        " granted 5 4 1",
        " granted -5 1",
        " granted 5 -1",
        " granted 5  4",
        " granted 9223372036854775807 1",
        " granted 5 18446744073709551615",
        " GRANTED 5 4",
        " queued 10",
        " queued 10 2",
        " taken ten 1",
        " lost",
        " granted \u{ff} 1",
    ] {
        assert_eq!(acquired(&reply(rest), &claim), None, "{rest}");
    }
    for other in [Value::Nil, Value::Okay, Value::Int(1), Value::Array(vec![])] {
        assert_eq!(acquired(&other, &claim), None, "{other:?}");
    }
    let renewal = Renewal::new(claim.key.clone(), claim.owner.clone(), claim.ttl);
    assert_eq!(renewed(&reply(" held 1"), &renewal), None);
    assert_eq!(renewed(&reply(" lost gone 1"), &renewal), None);
    assert_eq!(acquired(&reply(" queued 1 0 ff-1a"), &claim), None);
    assert_eq!(released(&reply(" released taken 1 0"), None), None);
    assert_eq!(released(&reply(" released"), Some(&claim)), None);
    assert_eq!(abandoned(&reply(" withdrawn 1")), None);
}

#[test]
fn replies_are_read_as_the_scripts_write_them() {
    let claim = claim();
    let ttl = claim.ttl;
    let reply = |rest: &str| line(b"7", rest);
    let tokens = FenceBlock {
        first: FencingToken::new(4),
        last: FencingToken::new(5),
    };
    let granted = Acquired::Granted(Grant::new(tokens, ttl));
    for (rest, answer) in [
        (" granted 5 3", granted),
        (" queued 1000 0", Acquired::Queued(Holder::of_ours(ttl))),
        (
            " queued 1000 0 00000000000000ff-1a",
            Acquired::Queued({
                let mut holder = Holder::of_ours(ttl);
                holder.process = Process::parse("00000000000000ff-1a");
                holder
            }),
        ),
        // It never ends.
        (" taken -1 1", Acquired::Taken(Holder::foreign(None))),
    ] {
        assert_eq!(acquired(&reply(rest), &claim).as_ref(), Some(&answer));
        assert_eq!(
            released(&reply(&format!(" released{rest}")), Some(&claim)),
            Some(Released::Released(Some(answer)))
        );
    }
    let mut renewal = Renewal::new(claim.key.clone(), claim.owner.clone(), ttl);
    assert_eq!(renewed(&reply(" held"), &renewal), Some(Renewed::held()));
    assert_eq!(renewed(&reply(" lost"), &renewal), Some(Renewed::lost()));
    for (word, reason) in [
        ("gone", LostReason::Deleted),
        ("taken", LostReason::TakenOver),
    ] {
        let lost = renewed(&reply(&format!(" lost {word}")), &renewal);
        assert_eq!(lost, Some(Renewed::Lost(reason)));
    }
    renewal.tokens = 2;
    let further = Extension::with_tokens(Some(tokens));
    assert_eq!(
        renewed(&reply(" granted 5 3"), &renewal),
        Some(Renewed::Held(further))
    );
    assert_eq!(
        released(&reply(" released"), None),
        Some(Released::Released(None))
    );
    assert_eq!(released(&reply(" lost"), None), Some(Released::NotHeld));
    assert_eq!(abandoned(&reply(" withdrawn")), Some(()));
}

#[test]
fn tokens_are_the_newest_that_were_drawn_and_no_more_than_wanted() {
    let numbers = |old, last, wanted| {
        drawn(old, last, wanted).map(|block| (block.first.as_u64(), block.last.as_u64()))
    };
    assert_eq!(numbers(100, 200, 3), Some((198, 200)));
    assert_eq!(numbers(100, 200, 1), Some((200, 200)));
    assert_eq!(numbers(100, 102, 3), Some((101, 102)));
    assert_eq!(numbers(0, 2, u32::MAX), Some((1, 2)));
    assert_eq!(numbers(200, 200, 3), None);
    assert_eq!(numbers(u64::MAX, 200, 3), None);
    assert_eq!(numbers(1, 1 << 53, 3), None);
}

/// What `offer.lua` publishes for this member of the queue of `lock:k/x`.
fn offer(old: u64, last: u64, member: &str) -> String {
    format!("x/{old}/{last}/lock:k/x{member}")
}

#[test]
fn a_hand_over_survives_slashes_in_owner_and_key() {
    let message = offer(1, 9, "a/b/c/0000000003/0005/0008/chan/500/0004/03/x");
    let message = hand_over(message.as_bytes()).unwrap();
    assert_eq!(message.owner, "a/b/c");
    assert_eq!(
        (message.key.prefix(), message.key.as_str()),
        ("lock:", "k/x")
    );
    assert_eq!(message.grant.tokens.first, FencingToken::new(7));
    assert_eq!(message.grant.tokens.last, FencingToken::new(9));
    assert_eq!(message.grant.valid_for, Duration::from_millis(500));
}

#[test]
fn a_place_tells_a_hand_over_what_the_claim_was() {
    let mut claim = claim().queued();
    claim.grace = Duration::from_millis(1500);
    let call = acquire(&claim, by("lock:c:0"));
    let place = String::from_utf8(call.words()[9].clone()).unwrap();
    let member = format!("{}{place}", claim.owner);
    let message = format!("x/3/5/lock:k{member}");
    let message = hand_over(message.as_bytes()).unwrap();
    assert_eq!(message.owner, claim.owner.as_str());
    assert_eq!(message.key, claim.key);
    assert_eq!(message.key.prefix(), claim.key.prefix());
    assert_eq!(message.grant.valid_for, claim.grace);
    assert_eq!(message.grant.tokens.first, FencingToken::new(4));
}

#[test]
fn an_announcement_is_no_hand_over() {
    let message = b"next/500/a/b";
    assert_eq!(
        announcement(message),
        Some(("a/b", Duration::from_millis(500)))
    );
    assert_eq!(hand_over(message), None);
    let offer = offer(1, 9, "a/0000000003/0005/0008/chan/500/0004/03/x");
    assert_eq!(announcement(offer.as_bytes()), None);
    assert_eq!(announcement(b"next/-1/a"), None);
}

#[test]
fn nonsense_on_the_channel_is_no_hand_over() {
    let good = offer(1, 9, "a/0000000003/0005/0008/chan/500/0004/03/x");
    assert!(hand_over(good.as_bytes()).is_some());
    let nonsense = [
        String::new(),
        "hello".into(),
        "x/1/2/3".into(),
        "x/1/2/3/4".into(),
        // Nothing was drawn.
        offer(9, 9, "a/0000000003/0005/0008/chan/500/0004/03/x"),
        // Of another mode than was asked for.
        good.replacen('x', "s", 1),
        // Too few fields, a grace that is none, and a prefix longer than the name of the lock.
        good.replacen("k/x", "", 1).replacen("a/", "", 1),
        offer(1, 9, "a/0000000003/0005/0008/chan/-1/0004/02/x"),
        good.replace("/0005/", "/0009/"),
        // One that is longer than all, and one that ends within a character.
        good.replace("/0008/", "/0010/"),
        good.replace("k/x", "k/\u{e9}"),
        // A lock without a name.
        good.replace("/0005/", "/0008/"),
    ];
    for message in nonsense {
        assert_eq!(hand_over(message.as_bytes()), None, "{message:?}");
    }
    assert_eq!(hand_over(b"x/1/9/\xff\xfe"), None);
}

#[test]
fn a_script_contains_what_its_lines_name() {
    let every = || all().chain(inspecting::all()).chain([&*GAP]);
    for script in every() {
        for (line, _) in FRAGMENTS {
            assert!(!script.source.contains(line), "{line} is left");
        }
    }
    // Each is somewhere, and so is no line of another name.
    for (_, fragment) in FRAGMENTS {
        let end = fragment.lines().last().unwrap();
        assert!(every().any(|script| script.source.contains(end)), "{end}");
    }
}

#[test]
fn a_plain_renewal_names_no_key_but_the_lock() {
    let claim = claim();
    let mut renewal = Renewal::new(claim.key.clone(), claim.owner.clone(), claim.ttl);
    // Behind EVALSHA and the hash.
    let keys = |renewal: &Renewal| String::from_utf8(renew(renewal).words()[2].clone()).unwrap();
    assert_eq!(keys(&renewal), "1");
    renewal.tokens = 1;
    assert_eq!(keys(&renewal), "3");
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
        let claim = claim();
        let mut renewal = Renewal::new(claim.key.clone(), claim.owner.clone(), claim.ttl);
        renewal.tokens = 3;
        let sane = |tokens: FenceBlock| tokens.first <= tokens.last && tokens.last < FencingToken::new(1 << 53);
        if let Some(Acquired::Granted(grant)) = acquired(&reply, &claim) {
            prop_assert!(sane(grant.tokens) && grant.valid_for == claim.ttl);
        }
        if let Some(Renewed::Held(extension)) = renewed(&reply, &renewal) {
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
        old in 0..1_u64 << 52,
        more in 1..1000_u64,
        tokens in 1..100_u32,
        grace in 1..u32::MAX,
        owner in ".{0,20}",
        prefix in "[^{}]{0,10}",
        lock in "[^{}]{1,20}",
    ) {
        let _ = (hand_over(&noise), hand_over(text.as_bytes()));
        let mut claim = Claim::new(LockKey::new(&prefix, &lock).unwrap(), OwnerToken::new(owner.as_str()), Duration::from_secs(1)).queued();
        claim.grace = Duration::from_millis(grace.into());
        claim.tokens = tokens;
        let call = acquire(&claim, by("channel"));
        let place = String::from_utf8_lossy(&call.words()[9]).into_owned();
        let last = old + more;
        let member = format!("{owner}{place}");
        let message = format!("x/{old}/{last}/{prefix}{lock}{member}");
        let read = hand_over(message.as_bytes()).expect("a true message");
        prop_assert_eq!((read.owner, read.key), (owner, claim.key));
        prop_assert_eq!(read.grant.tokens.first.as_u64(), last + 1 - more.min(tokens.into()));
        prop_assert_eq!(read.grant.tokens.last, FencingToken::new(last));
        prop_assert_eq!(read.grant.valid_for, claim.grace);
    }
}
