use std::time::Duration;

use deadpool_redis::redis::cmd;
use lock_protocol::{Claim, LockKey, OwnerToken, Renewal};

use super::super::scripts;
use super::*;

fn claim(name: &str) -> Claim {
    let key = LockKey::new("lock:", name).unwrap();
    Claim::new(key, OwnerToken::unique("o"), Duration::from_secs(1))
}

const BY: scripts::Named<'_> = scripts::Named {
    channel: "channel",
    earlier: None,
};

fn acquire(name: &str) -> Call {
    scripts::acquire(&claim(name), BY)
}

fn release(name: &str) -> Call {
    let claim = claim(name);
    scripts::release(&claim.key, &claim.owner, None)
}

fn renew(name: &str, seconds: u64) -> Call {
    let claim = claim(name);
    let ttl = Duration::from_secs(seconds);
    scripts::renew(&Renewal::new(claim.key, claim.owner, ttl))
}

fn hand_over(name: &str) -> Call {
    let claim = claim(name);
    scripts::release(&claim.key, &claim.owner, Some((&claim, BY)))
}

/// Which calls share a command, by their indices.
fn shared(mut calls: Vec<Call>, sharing: Sharing) -> Vec<Vec<usize>> {
    let calls: Vec<_> = calls.iter_mut().collect();
    let pieces = pieces(&calls, sharing);
    pieces.iter().map(|piece| piece.calls.to_vec()).collect()
}

fn words(command: &Cmd) -> Vec<String> {
    let words = command.args_iter().map(|word| match word {
        Arg::Simple(word) => String::from_utf8(word.to_vec()).unwrap(),
        _ => panic!("a cursor"),
    });
    words.collect()
}

/// Calls, and what they are sent as.
struct Sent {
    calls: Vec<Call>,
    pieces: Vec<Piece>,
    pipeline: Pipeline,
}

impl Sent {
    fn new(calls: Vec<Call>) -> Sent {
        let mut sent = Sent {
            calls,
            pieces: Vec::new(),
            pipeline: Pipeline::new(),
        };
        sent.again();
        sent
    }

    /// Sends those that are open once more.
    fn again(&mut self) {
        let mut calls: Vec<_> = self
            .calls
            .iter_mut()
            .filter(|call| call.is_open())
            .collect();
        self.pieces = pieces(&calls, Sharing::ON_ONE_SERVER);
        self.pipeline = Pipeline::new();
        for piece in &self.pieces {
            piece.write(&mut calls, &mut self.pipeline);
        }
    }

    fn commands(&self) -> Vec<Vec<String>> {
        self.pipeline.cmd_iter().map(words).collect()
    }

    fn hear(&mut self, replies: Vec<Value>) -> Result<(), Fault> {
        let mut calls: Vec<_> = self
            .calls
            .iter_mut()
            .filter(|call| call.is_open())
            .collect();
        let mut came = self.pipeline.cmd_iter().zip(replies);
        let mut pieces = self.pieces.iter();
        pieces.try_for_each(|piece| piece.hear(&mut calls, &mut came))
    }

    /// A reply to the command at this index, which is shared.
    fn reply(&self, index: usize, each: &[&str]) -> Value {
        let number = self.pieces[index].number.unwrap();
        let line = |rest: &&str| match rest.strip_prefix('-') {
            Some(error) => refusal(error),
            None => Value::BulkString(format!("{number} {rest}").into_bytes()),
        };
        let first = Value::BulkString(number.to_string().into_bytes());
        Value::Array([first].into_iter().chain(each.iter().map(line)).collect())
    }

    fn answers(&mut self) -> Vec<Option<String>> {
        let answer = |call: &mut Call| {
            call.take_reply().map(|reply| match reply {
                Ok(Value::BulkString(line)) => {
                    let line = String::from_utf8(line).unwrap();
                    line.split_once(' ').unwrap().1.to_owned()
                }
                Ok(other) => panic!("{other:?}"),
                Err(error) => error.code().unwrap().to_owned(),
            })
        };
        self.calls.iter_mut().map(answer).collect()
    }
}

fn refusal(error: &str) -> Value {
    let line = format!("-{error}\r\n");
    deadpool_redis::redis::parse_redis_value(line.as_bytes()).unwrap()
}

#[test]
fn calls_of_a_kind_share_a_command_and_others_go_by_themselves() {
    let calls = vec![
        acquire("a"),
        release("b"),
        hand_over("c"),
        acquire("d"),
        Call::commands(vec![cmd("GET")]),
        renew("e", 1),
        // Of another ttl.
        renew("f", 2),
        release("g"),
        renew("h", 1),
    ];
    assert_eq!(
        shared(calls, Sharing::ON_ONE_SERVER),
        [
            vec![0, 3],
            vec![1, 7],
            vec![2],
            vec![4],
            vec![5, 8],
            vec![6]
        ]
    );
}

#[test]
fn no_call_goes_ahead_of_an_earlier_one_about_its_lock() {
    let calls = vec![
        acquire("a"),
        release("b"),
        // Behind the release, which is behind the first acquire.
        acquire("b"),
        acquire("c"),
        hand_over("a"),
        // The command that c goes by is before that.
        release("a"),
        acquire("a"),
        // The same twice, in their order.
        acquire("a"),
    ];
    assert_eq!(
        shared(calls, Sharing::ON_ONE_SERVER),
        [vec![0], vec![1], vec![2, 3], vec![4], vec![5], vec![6, 7]]
    );
}

#[test]
fn a_command_has_no_more_calls_than_the_server_does_at_once() {
    let names: Vec<_> = (0..2 * MOST + 1).map(|number| number.to_string()).collect();
    let calls = names.iter().map(|name| release(name)).collect();
    let sizes = shared(calls, Sharing::ON_ONE_SERVER);
    let sizes: Vec<_> = sizes.iter().map(Vec::len).collect();
    assert_eq!(sizes, [MOST, MOST, 1]);
}

#[test]
fn however_many_kinds_there_are_each_call_goes_in_its_turn() {
    let calls = (0..4 * KINDS as u64).map(|kind| renew(&kind.to_string(), 1 + kind % 20));
    let mut sent: Vec<_> = shared(calls.collect(), Sharing::ON_ONE_SERVER).concat();
    sent.sort_unstable();
    assert!(sent.into_iter().eq(0..4 * KINDS));
}

#[test]
fn calls_share_a_command_only_where_their_locks_are_of_one_group() {
    let by_last = Sharing {
        group: |name| name[name.len() - 1].into(),
        least: 2,
    };
    let calls = vec![release("a0"), release("b1"), release("c0"), release("d1")];
    assert_eq!(shared(calls, by_last), [vec![0, 2], vec![1, 3]]);
}

#[test]
fn a_call_without_company_goes_as_it_always_did() {
    let call = acquire("a");
    let alone: Vec<_> = call.words().concat();
    let sent = Sent::new(vec![call, release("b")]);
    let commands = sent.commands();
    assert_eq!(commands.len(), 2);
    assert_eq!(commands[0].concat().into_bytes(), alone);

    let mut call = acquire("a");
    assert!(pieces(&[&mut call], Sharing::ALWAYS)[0].number.is_some());
}

#[test]
fn a_command_names_the_locks_and_owners_and_once_what_is_the_same() {
    let claims = [claim("a"), claim("b")];
    let calls = claims.iter().map(|claim| scripts::acquire(claim, BY));
    let sent = Sent::new(calls.collect());
    let [command] = &sent.commands()[..] else {
        panic!("it is one");
    };
    let (keys, rest) = command[3..].split_at(6);
    assert_eq!((&*command[0], &*command[2]), ("EVALSHA", "6"));
    assert_eq!((&*keys[0], &*keys[1]), ("lock:a", "{lock:a}:waiters"));
    assert_eq!((&*keys[3], &*keys[4]), ("lock:b", "{lock:b}:waiters"));
    let number = sent.pieces[0].number.unwrap().to_string();
    let owners = claims.each_ref().map(|claim| claim.owner.as_str());
    assert_eq!(rest[..2], [&number, "3"]);
    assert_eq!(rest[2], "1000");
    assert_eq!(rest[5..], owners);
}

#[test]
fn each_call_has_its_own_reply() {
    let mut sent = Sent::new(vec![release("a"), release("b"), release("c"), release("d")]);
    let reply = sent.reply(0, &["released", "-BADKEY queue", "again", "lost"]);
    sent.hear(vec![reply]).unwrap();
    let answers = ["released", "BADKEY", "", "lost"].map(|answer| {
        let answer = answer.to_owned();
        (!answer.is_empty()).then_some(answer)
    });
    assert!(sent.calls[2].is_open());
    // What is unfinished is sent as it was.
    let before = sent.calls[2].words();
    assert!(before.len() > 3);
    assert_eq!(sent.answers(), answers);
}

#[test]
fn a_script_that_is_not_known_comes_with_its_source_for_all() {
    let mut sent = Sent::new(vec![release("a"), release("b")]);
    let first = sent.commands();
    let unknown = || vec![refusal("NOSCRIPT No matching script. Please use EVAL.")];
    sent.hear(unknown()).unwrap();
    sent.again();
    let second = sent.commands();
    assert_eq!((&*first[0][0], &*second[0][0]), ("EVALSHA", "EVAL"));
    assert!(second[0][1].contains("many.lua"));
    // All but the number.
    assert_eq!(first[0][2..9], second[0][2..9]);
    assert_eq!(first[0][10..], second[0][10..]);
    // It cannot help to say more than all.
    sent.hear(unknown()).unwrap();
    assert_eq!(
        sent.answers(),
        [const { Some("NOSCRIPT") }; 2].map(|code| code.map(str::to_owned))
    );
}

#[test]
fn what_was_refused_for_a_key_is_asked_one_by_one() {
    for refused in [
        "NOPERM this user has no permissions to access one of the keys used as arguments",
        "CROSSSLOT Keys in request don't hash to the same slot",
    ] {
        let mut sent = Sent::new(vec![release("a"), release("b")]);
        sent.hear(vec![refusal(refused)]).unwrap();
        sent.again();
        let commands = sent.commands();
        assert_eq!(commands.len(), 2, "{refused}");
        assert!(commands.iter().all(|command| command[2] == "3"));
    }
    // Any other reason is that of all.
    let mut sent = Sent::new(vec![release("a"), release("b")]);
    sent.hear(vec![refusal("READONLY no")]).unwrap();
    assert!(sent.calls.iter().all(Call::is_of_wrong_server));
}

#[test]
fn a_reply_that_is_not_that_of_the_command_gives_the_connection_away() {
    let sent = || Sent::new(vec![release("a"), release("b")]);
    let number = |sent: &Sent| sent.pieces[0].number.unwrap();
    let replies: [fn(&Sent, u64) -> Value; 7] = [
        |sent, _| sent.reply(0, &["released"]),
        |sent, _| sent.reply(0, &["released", "released", "released"]),
        |_, number| Value::BulkString(format!("{number} released").into_bytes()),
        |_, _| Value::Nil,
        |_, _| Value::Array(vec![]),
        |_, number| {
            let word =
                |number: u64, rest| Value::BulkString(format!("{number}{rest}").into_bytes());
            let line = word(number, " released");
            Value::Array(vec![word(number + 1, ""), line.clone(), line])
        },
        |_, number| {
            let word =
                |number: u64, rest| Value::BulkString(format!("{number}{rest}").into_bytes());
            let line = word(number + 1, " released");
            Value::Array(vec![word(number, ""), line.clone(), line])
        },
    ];
    for reply in replies {
        let mut sent = sent();
        let reply = reply(&sent, number(&sent));
        let heard = sent.hear(vec![reply.clone()]);
        assert!(matches!(heard, Err(Fault::BadReply(_))), "{reply:?}");
        assert!(sent.calls.iter().all(Call::is_open));
    }
    assert!(matches!(sent().hear(vec![]), Err(Fault::Lost(None))));
    // No two that are sent have the same, not even the same calls.
    let mut again = sent();
    let first = number(&again);
    again
        .hear(vec![again.reply(0, &["again", "again"])])
        .unwrap();
    again.again();
    assert_ne!(number(&again), first);
}
