use deadpool_redis::redis::parse_redis_value;
use lock_protocol::LockKey;
use proptest::prelude::*;

use super::super::scripts::{give_back, tests::replies};
use super::*;

fn script() -> Call {
    give_back(&LockKey::new("lock:", "k").unwrap(), "owner", None)
}

fn commands() -> Call {
    Call::commands(vec![cmd("HELLO"), cmd("GET")])
}

/// A reply of a script to `call`.
fn line(call: &Call, rest: &str) -> Value {
    Value::BulkString(format!("{}{rest}", call.number).into_bytes())
}

/// The replies in `resp`, where `#` is the number of `call` as the server sends it back.
fn from_wire(call: &Call, resp: &[&str]) -> Vec<Value> {
    let number = call.number.to_string();
    let number = format!("${}\r\n{number}\r\n", number.len());
    let parsed = |resp: &&str| {
        parse_redis_value(
            (resp.to_string() + "\r\n")
                .replace("#\r\n", &number)
                .as_bytes(),
        )
    };
    resp.iter().map(parsed).collect::<RedisResult<_>>().unwrap()
}

/// What `call` sends.
fn sent(call: &mut Call) -> Pipeline {
    let mut pipeline = Pipeline::new();
    call.write(&mut pipeline);
    pipeline
}

/// Gives `call` these replies to what it sends.
fn hear(call: &mut Call, replies: Vec<Value>) -> Result<(), Fault> {
    let pipeline = sent(call);
    call.hear(&mut pipeline.cmd_iter().zip(replies))
}

fn arguments(pipeline: &Pipeline) -> Vec<Vec<u8>> {
    let arguments = pipeline.cmd_iter().flat_map(Cmd::args_iter);
    let bytes = arguments.map(|argument| match argument {
        Arg::Simple(bytes) => bytes.to_vec(),
        _ => panic!("a cursor"),
    });
    bytes.collect()
}

#[test]
fn a_reply_answers_the_call_whose_number_it_bears_and_no_other() {
    let (mut call, other) = (script(), script());
    let reply = line(&call, " withdrawn");
    hear(&mut call, vec![reply.clone()]).unwrap();
    assert_eq!(call.take_reply(), Some(Ok(reply)));

    let mut call = script();
    for shifted in [
        line(&other, " withdrawn"),
        line(&call, "0 withdrawn"),
        Value::BulkString(format!("+{} withdrawn", call.number).into_bytes()),
        Value::BulkString(b" withdrawn".to_vec()),
        line(&call, ""),
        Value::Nil,
        Value::SimpleString("PONG".into()),
    ] {
        let heard = hear(&mut call, vec![shifted.clone()]);
        assert!(matches!(heard, Err(Fault::BadReply(_))), "{shifted:?}");
        assert!(call.is_open());
    }
    let mut ping = Call::ping();
    let own = Value::BulkString(ping.number.to_string().into_bytes());
    for shifted in [line(&other, " withdrawn"), line(&other, "")] {
        assert!(hear(&mut Call::ping(), vec![shifted]).is_err());
    }
    hear(&mut ping, vec![own]).unwrap();
    assert_eq!(ping.take_reply(), Some(Ok(Value::Array(vec![]))));
}

#[test]
fn a_script_that_is_not_known_comes_with_its_source_and_its_number() {
    let mut call = script();
    let unknown = from_wire(&call, &["-NOSCRIPT No matching script. Please use EVAL."]);
    let by_hash = sent(&mut call);
    let came = &mut by_hash.cmd_iter().zip(unknown.clone());
    call.hear(came).unwrap();
    assert!(call.is_open());

    let whole = sent(&mut call);
    let came = &mut whole.cmd_iter().zip(unknown);
    let (by_hash, arguments) = (arguments(&by_hash), arguments(&whole));
    assert_eq!(
        (&*by_hash[0], &*arguments[0]),
        (&b"EVALSHA"[..], &b"EVAL"[..])
    );
    assert_eq!(by_hash[2..], arguments[2..]);
    assert!(arguments.contains(&call.number.to_string().into_bytes()));
    // It cannot help to say more than all.
    call.hear(came).unwrap();
    assert!(matches!(call.take_reply(), Some(Err(_))));
}

#[test]
fn a_script_that_had_too_much_to_do_is_sent_again_as_it_was() {
    let mut call = script();
    let unfinished = line(&call, " again");
    let first = sent(&mut call);
    let came = &mut first.cmd_iter().zip([unfinished]);
    call.hear(came).unwrap();
    assert!(call.is_open());
    assert_eq!(arguments(&first), arguments(&sent(&mut call)));
}

#[test]
fn of_several_calls_only_that_whose_script_is_not_known_is_sent_again() {
    let mut calls = [script(), commands(), script(), Call::ping()];
    let replies = [
        vec![line(&calls[0], " withdrawn")],
        from_wire(&calls[1], &["+OK", "$1\r\nx", "#"]),
        from_wire(
            &calls[2],
            &["-NOSCRIPT No matching script. Please use EVAL."],
        ),
        from_wire(&calls[3], &["#"]),
    ];
    let mut pipeline = Pipeline::new();
    calls.iter_mut().for_each(|call| call.write(&mut pipeline));
    let mut came = pipeline.cmd_iter().zip(replies.concat());
    for call in &mut calls {
        call.hear(&mut came).unwrap();
    }
    assert!(came.next().is_none());
    assert_eq!(
        calls.each_ref().map(Call::is_open),
        [false, false, true, false]
    );
}

#[test]
fn commands_fail_one_by_one_and_are_known_by_the_last() {
    let mut call = commands();
    let replies = from_wire(&call, &["-NOPERM no", "$1\r\nx", "#"]);
    hear(&mut call, replies).unwrap();
    let Some(Ok(Value::Array(replies))) = call.take_reply() else {
        panic!("they were executed");
    };
    assert!(matches!(
        &*replies,
        [Value::ServerError(_), Value::BulkString(_)]
    ));

    let mut call = commands();
    let replies = from_wire(&call, &["-LOADING no", "-LOADING no", "-LOADING no"]);
    hear(&mut call, replies).unwrap();
    assert!(call.is_of_wrong_server());
    let mut call = commands();
    let replies = from_wire(&call, &["+OK", "+OK", "$1\r\nx"]);
    assert!(hear(&mut call, replies).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn no_reply_panics_and_none_without_the_number_is_an_answer(
        mut replies in prop::collection::vec(replies(), 3),
    ) {
        let mut call = script();
        let own = call.number;
        let is_its_own = |reply: &Value| match reply {
            Value::BulkString(line) => split(line).is_some_and(|(number, _)| number == own),
            _ => false,
        };
        let belongs = is_its_own(&replies[0]);
        let heard = hear(&mut call, replies[..1].to_vec());
        prop_assert_eq!(belongs, heard.is_ok());
        prop_assert!(hear(&mut commands(), replies.split_off(0)).is_err());
    }
}
