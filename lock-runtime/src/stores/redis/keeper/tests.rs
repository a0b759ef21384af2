//! Links to a server that answers what a test says, on a clock that stands still.

use std::task::{Context, Waker};

use deadpool_redis::Config;
use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{AsyncConnectionConfig, RedisConnectionInfo, Value, cmd};
use lock_protocol::{LockKey, OwnerToken};
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream, WriteHalf,
    duplex, split,
};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::timeout;

use super::super::batch::Sharing;
use super::super::call::{Call, Reply};
use super::super::config::{self, RedisSettings};
use super::super::connection::Role;
use super::super::fault::Fault;
use super::super::link::{DIRECT, LANE};
use super::super::message::IfCallerGone;
use super::super::scripts;
use super::*;

const TIMEOUT: Duration = Duration::from_secs(1);
/// By when what must happen has happened.
const DEADLINE: Duration = Duration::from_secs(60);

/// The server's end of a connection.
struct Peer {
    asked: mpsc::UnboundedReceiver<Vec<String>>,
    writer: WriteHalf<DuplexStream>,
}

impl Peer {
    /// The next command that arrives.
    async fn asked(&mut self) -> Vec<String> {
        let asked = timeout(DEADLINE, self.asked.recv()).await;
        asked.expect("nothing comes").unwrap()
    }

    /// The next command that has arrived, without waiting.
    fn has_been_asked(&mut self) -> Option<Vec<String>> {
        self.asked.try_recv().ok()
    }

    async fn say(&mut self, reply: &str) {
        let reply = format!("{reply}\r\n");
        self.writer.write_all(reply.as_bytes()).await.unwrap();
    }

    /// Answers a script that was `asked` like this.
    async fn answer(&mut self, asked: &[String]) {
        let line = format!("{} withdrawn", number(asked));
        self.say(&format!("${}\r\n{line}", line.len())).await;
    }

    /// Takes the next command, which is a script, and answers it.
    async fn answer_next(&mut self) {
        let asked = self.asked().await;
        self.answer(&asked).await;
    }
}

/// The number of a call of a script that was sent like this.
fn number(asked: &[String]) -> u64 {
    assert!(asked[0].starts_with("EVAL"), "{asked:?}");
    let keys: usize = asked[2].parse().unwrap();
    asked[3 + keys].parse().unwrap()
}

/// Reads a command; `None` at the end.
async fn command(reader: &mut (impl AsyncBufRead + Unpin)) -> Option<Vec<String>> {
    let mut count = 1;
    let mut words = Vec::new();
    while words.len() < count {
        let mut line = String::new();
        reader.read_line(&mut line).await.ok()?;
        let length: usize = line.get(1..)?.trim_end().parse().ok()?;
        if line.starts_with('*') {
            count = length;
            continue;
        }
        let mut word = vec![0; length + 2];
        reader.read_exact(&mut word).await.ok()?;
        word.truncate(length);
        words.push(String::from_utf8(word).unwrap());
    }
    Some(words)
}

/// A connection and the other end of it.
async fn connection() -> (MultiplexedConnection, Peer) {
    let (ours, theirs) = duplex(1 << 20);
    let (reader, mut writer) = split(theirs);
    let mut reader = BufReader::new(reader);
    let greeting = async {
        // What the client says of itself.
        for _ in 0..2 {
            assert_eq!(command(&mut reader).await.unwrap()[0], "CLIENT");
            writer.write_all(b"+OK\r\n").await.unwrap();
        }
    };
    let (info, settings) = (RedisConnectionInfo::default(), AsyncConnectionConfig::new());
    let opening = MultiplexedConnection::new_with_config(&info, ours, settings);
    let (opened, ()) = tokio::join!(opening, greeting);
    let (connection, exchange) = opened.unwrap();
    tokio::spawn(exchange);
    let (tell, asked) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(command) = command(&mut reader).await {
            if tell.send(command).is_err() {
                return;
            }
        }
    });
    (connection, Peer { asked, writer })
}

/// A link by these `terms` with a connection, which nobody serves yet.
async fn linked(terms: Terms) -> (Arc<Link>, Keeper, Peer) {
    let config = Config::from_url("redis://127.0.0.1:1");
    let (pool, address) = config::pool(&config, &RedisSettings::default(), |_| Ok(())).unwrap();
    let target = Target {
        pool,
        address: address.into(),
        probe: None,
        role: Role::Alone,
        command_timeout: TIMEOUT,
        sharing: Sharing::ON_ONE_SERVER,
        wakeups: Arc::default(),
    };
    let (_, closing) = watch::channel(false);
    let (link, keeper) = Keeper::new(terms, target, None, closing);
    let (connection, peer) = connection().await;
    link.opened(connection, None);
    (link, keeper, peer)
}

/// Serves the connection of a link until it is given up.
fn serve(mut keeper: Keeper) -> JoinHandle<()> {
    let (open, closing) = watch::channel(false);
    keeper.closing = closing;
    tokio::spawn(async move {
        let _open = open;
        assert!(keeper.serve().await == Ended::Broken);
    })
}

fn script() -> Call {
    scripts::give_back(&LockKey::new("lock:", "k").unwrap(), "owner", None)
}

fn plain() -> Call {
    let mut get = cmd("GET");
    get.arg("k");
    Call::commands(vec![get])
}

/// Asks in a task of its own.
fn ask(link: &Arc<Link>, call: Call) -> JoinHandle<Result<Reply, Fault>> {
    let link = Arc::clone(link);
    tokio::spawn(async move { link.ask(call, IfCallerGone::Drop).reply().await })
}

#[tokio::test(start_paused = true)]
async fn a_lane_is_given_up_after_two_exchanges_in_a_row_without_an_answer() {
    let (link, keeper, mut peer) = linked(LANE).await;
    let served = serve(keeper);
    for _ in 0..3 {
        let started = Instant::now();
        let unanswered = link.ask(script(), IfCallerGone::Drop).reply().await;
        let no_answer = matches!(unanswered, Err(Fault::NoAnswer(TIMEOUT)));
        assert!(no_answer, "{unanswered:?}");
        assert!(started.elapsed() < TIMEOUT * 2);
        assert!(link.works(), "one is not enough");
        // It comes late. What is answered in time makes good for it.
        peer.answer_next().await;
        let asking = ask(&link, script());
        peer.answer_next().await;
        asking.await.unwrap().unwrap().unwrap();
    }
    link.ask(script(), IfCallerGone::Drop)
        .reply()
        .await
        .unwrap_err();
    link.ask(script(), IfCallerGone::Drop)
        .reply()
        .await
        .unwrap_err();
    assert!(!link.works());
    served.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_exchange_without_an_answer_ends_a_direct_link_and_keeps_nobody_waiting() {
    // Nobody serves the link: its thread is blocked.
    let (link, _keeper, mut peer) = linked(DIRECT).await;
    let started = Instant::now();
    let alone: Vec<_> = (0..4).map(|_| ask(&link, script())).collect();
    for _ in &alone {
        peer.asked().await;
    }
    sleep(TIMEOUT / 2).await;
    let told = ask(&link, script()).await.unwrap();
    assert!(matches!(told, Err(Fault::Lost(_))), "{told:?}");
    // Not half a timeout later.
    let waited = started.elapsed();
    assert!(TIMEOUT <= waited && waited < TIMEOUT * 5 / 4, "{waited:?}");
    assert!(peer.has_been_asked().is_none(), "somebody sent what waits");
    for alone in alone {
        let unanswered = alone.await.unwrap();
        let no_answer = matches!(unanswered, Err(Fault::NoAnswer(TIMEOUT)));
        assert!(no_answer, "{unanswered:?}");
    }
    assert!(!link.works());
}

#[tokio::test(start_paused = true)]
async fn whoever_gives_up_a_call_that_is_overdue_gives_up_the_connection() {
    for overdue in [false, true] {
        let (link, _keeper, mut peer) = linked(DIRECT).await;
        let asking = || Box::pin(link.ask(script(), IfCallerGone::Drop).reply());
        let mut asked: Vec<_> = (0..5).map(|_| asking()).collect();
        let mut context = Context::from_waker(Waker::noop());
        for asked in &mut asked {
            assert!(asked.as_mut().poll(&mut context).is_pending());
        }
        let waits = asked.pop();
        for _ in &asked {
            peer.asked().await;
        }
        if overdue {
            tokio::time::advance(TIMEOUT).await;
        }
        // Neither what waits for the thread that is blocked, nor what it would be told of.
        drop(waits);
        assert_eq!(link.works(), !overdue);
    }
}

#[tokio::test(start_paused = true)]
async fn calls_leave_in_the_order_of_their_first_polls() {
    let (link, keeper, mut peer) = linked(DIRECT).await;
    // More than two pipelines.
    let asking: Vec<_> = (0..150).map(|_| ask(&link, script())).collect();
    for _ in 0..10 {
        yield_now().await;
    }
    let mut numbers = Vec::new();
    while let Some(asked) = peer.has_been_asked() {
        numbers.push(number(&asked));
        peer.answer(&asked).await;
    }
    assert_eq!(numbers.len(), 4, "others went by themselves");
    let _served = serve(keeper);
    while numbers.len() < asking.len() {
        let asked = peer.asked().await;
        numbers.push(number(&asked));
        peer.answer(&asked).await;
    }
    assert!(numbers.is_sorted(), "{numbers:?}");
    for asking in asking {
        asking.await.unwrap().unwrap().unwrap();
    }
}

/// Asks for the release of a lock of its own in a task of its own, which shares a command with
/// others.
fn ask_in_company(link: &Arc<Link>, lock: usize) -> JoinHandle<Result<Reply, Fault>> {
    let key = LockKey::new("lock:", &lock.to_string()).unwrap();
    let owner = OwnerToken::unique("owner");
    ask(link, scripts::release(&key, &owner, None))
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_together_share_a_command_and_others_do_not_wait_for_company() {
    let (link, keeper, mut peer) = linked(DIRECT).await;
    let alone: Vec<_> = (0..4).map(|lock| ask_in_company(&link, lock)).collect();
    let mut asked_alone = Vec::new();
    for lock in 0..4 {
        asked_alone.push(peer.asked().await);
        assert_eq!(asked_alone[lock][3], format!("lock:{lock}"));
    }
    let waiting: Vec<_> = (4..9).map(|lock| ask_in_company(&link, lock)).collect();
    yield_now().await;
    // Nobody waits for this any more.
    waiting[0].abort();
    yield_now().await;
    let _served = serve(keeper);
    let asked = peer.asked().await;
    let locks: Vec<_> = asked
        .iter()
        .filter(|word| word.starts_with("lock:"))
        .collect();
    assert_eq!(locks, ["lock:5", "lock:6", "lock:7", "lock:8"]);
    assert_eq!(asked[2], "12");
    yield_now().await;
    assert!(peer.has_been_asked().is_none());

    for asked in asked_alone {
        peer.answer(&asked).await;
    }
    let number = &asked[15];
    let word = |word: &str| format!("${}\r\n{word}\r\n", word.len());
    let mut reply = format!("*5\r\n{}", word(number));
    for answer in ["lost", "released", "lost", "released"] {
        reply += &word(&format!("{number} {answer}"));
    }
    peer.say(reply.trim_end()).await;
    let mut answers = Vec::new();
    for waiting in waiting.into_iter().skip(1) {
        answers.push(waiting.await.unwrap().unwrap().unwrap());
    }
    let line = |answer| Value::BulkString(format!("{number} {answer}").into_bytes());
    assert_eq!(answers, ["lost", "released", "lost", "released"].map(line));
    for alone in alone {
        alone.await.unwrap().unwrap().unwrap();
    }
    assert!(link.works());
}

#[tokio::test(start_paused = true)]
async fn while_many_calls_are_in_flight_none_goes_by_itself() {
    for (many, goes_alone) in [(1, true), (5, false)] {
        let (link, _keeper, mut peer) = linked(DIRECT).await;
        let alone: Vec<_> = (0..4).map(|lock| ask_in_company(&link, lock)).collect();
        let mut asked = Vec::new();
        for _ in 0..4 {
            asked.push(peer.asked().await);
        }
        let _waiting: Vec<_> = (4..4 + many)
            .map(|lock| ask_in_company(&link, lock))
            .collect();
        yield_now().await;
        let Next::Send(_batch) = link.next() else {
            panic!("nothing waits");
        };
        assert!(matches!(link.next(), Next::Wait));
        for asked in asked {
            peer.answer(&asked).await;
        }
        for alone in alone {
            alone.await.unwrap().unwrap().unwrap();
        }
        let _next = ask_in_company(&link, 9);
        for _ in 0..10 {
            yield_now().await;
        }
        assert_eq!(peer.has_been_asked().is_some(), goes_alone, "{many}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_is_cut_off_in_the_middle_answers_none_of_the_calls() {
    for is_cut_off in [true, false] {
        let (link, keeper, mut peer) = linked(LANE).await;
        let waiting: Vec<_> = (0..3).map(|lock| ask_in_company(&link, lock)).collect();
        yield_now().await;
        let served = serve(keeper);
        let asked = peer.asked().await;
        assert_eq!(asked[2], "9");
        let number = &asked[12];
        let line = format!("{number} released");
        let (first, line) = (
            format!("*4\r\n${}\r\n{number}", number.len()),
            format!("${}\r\n{line}", line.len()),
        );
        for part in [&first, &line, &line] {
            peer.say(part).await;
        }
        if is_cut_off {
            peer.writer.shutdown().await.unwrap();
        } else {
            peer.say(&line).await;
        }
        for waiting in waiting {
            let answer = waiting.await.unwrap();
            assert_eq!(answer.is_err(), is_cut_off, "{answer:?}");
            if let Err(fault) = answer {
                assert!(matches!(fault, Fault::Lost(_)), "{fault:?}");
            }
        }
        if is_cut_off {
            served.await.unwrap();
        }
        assert_eq!(link.works(), !is_cut_off);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_nobody_waits_for_any_more_is_sent_only_if_it_has_to_be() {
    let (link, keeper, mut peer) = linked(LANE).await;
    drop(link.send(vec![plain()], IfCallerGone::Drop));
    drop(link.send(vec![script()], IfCallerGone::Send));
    let _served = serve(keeper);
    assert_eq!(peer.asked().await[0], "EVALSHA");
}

#[tokio::test(start_paused = true)]
async fn commands_among_scripts_keep_their_replies_and_only_what_failed_is_sent_again() {
    let (link, keeper, mut peer) = linked(LANE).await;
    let mut first = link.send(vec![script()], IfCallerGone::Drop);
    let mut second = link.send(vec![plain(), script()], IfCallerGone::Drop);
    let _served = serve(keeper);
    let mut asked = Vec::new();
    for name in ["EVALSHA", "GET", "PING", "EVALSHA"] {
        asked.push(peer.asked().await);
        assert_eq!(asked[asked.len() - 1][0], name);
    }
    peer.say("-NOSCRIPT No matching script. Please use EVAL.")
        .await;
    peer.say("+OK").await;
    peer.say(&format!("${}\r\n{}", asked[2][1].len(), asked[2][1]))
        .await;
    peer.answer(&asked[3]).await;
    let replies = second.replies().await.unwrap();
    assert_eq!(replies[0], Ok(Value::Array(vec![Value::Okay])));
    assert!(matches!(&replies[1], Ok(Value::BulkString(_))));

    let again = peer.asked().await;
    assert_eq!((&*again[0], number(&again)), ("EVAL", number(&asked[0])));
    peer.answer(&again).await;
    first.reply().await.unwrap().unwrap();
    assert!(link.works() && peer.has_been_asked().is_none());
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_another_call_gives_up_the_connection() {
    for terms in [LANE, DIRECT] {
        let (link, keeper, mut peer) = linked(terms).await;
        let served = serve(keeper);
        let asking = ask(&link, script());
        peer.asked().await;
        peer.say("$30\r\n18446744073709551615 withdrawn").await;
        let shifted = asking.await.unwrap();
        assert!(matches!(shifted, Err(Fault::BadReply(_))), "{shifted:?}");
        served.await.unwrap();
        assert!(!link.works());
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_by_a_connection_that_was_given_up_dates_nothing_that_comes_by_the_next() {
    let (link, _keeper, mut first) = linked(DIRECT).await;
    let before = link.last_answered();
    let early = ask(&link, script());
    let asked_early = first.asked().await;
    sleep(TIMEOUT / 2).await;
    let late = ask(&link, script());
    let asked_late = first.asked().await;
    early.await.unwrap().unwrap_err();
    assert!(!link.works());

    let (second, mut peer) = connection().await;
    link.opened(second, None);
    first.answer(&asked_early).await;
    first.answer(&asked_late).await;
    late.await.unwrap().unwrap().unwrap();
    assert_eq!(link.last_answered(), before);

    let asking = ask(&link, script());
    peer.answer_next().await;
    asking.await.unwrap().unwrap().unwrap();
    assert!(link.last_answered() > before);
}

#[tokio::test(start_paused = true)]
async fn what_becomes_of_a_connection_that_is_given_up_does_not_matter_to_the_next() {
    let (link, _keeper, _first) = linked(DIRECT).await;
    let early = ask(&link, script());
    sleep(TIMEOUT / 2).await;
    let late = ask(&link, script());
    early.await.unwrap().unwrap_err();
    assert!(!link.works());

    let (second, mut peer) = connection().await;
    link.opened(second, None);
    let unanswered = late.await.unwrap();
    let no_answer = matches!(unanswered, Err(Fault::NoAnswer(TIMEOUT)));
    assert!(no_answer, "{unanswered:?}");
    let asking = ask(&link, script());
    peer.answer_next().await;
    asking.await.unwrap().unwrap().unwrap();
    assert!(link.works());
}

#[tokio::test(start_paused = true)]
async fn while_there_is_no_connection_a_lane_keeps_what_a_direct_link_refuses() {
    for (terms, keeps) in [(LANE, true), (DIRECT, false)] {
        let (link, mut keeper, mut first) = linked(terms).await;
        let asking = ask(&link, script());
        let (open, closing) = watch::channel(false);
        keeper.closing = closing;
        // Broken off before anything is sent, or as it is.
        first.writer.shutdown().await.unwrap();
        drop(first);
        assert!(keeper.serve().await == Ended::Broken);
        asking.await.unwrap().unwrap_err();

        let started = Instant::now();
        let asking = ask(&link, script());
        let told = timeout(DEADLINE, keeper.meanwhile(asking)).await;
        let told = told.expect("it waits").unwrap().unwrap();
        let (no_answer, lost) = (
            matches!(told, Err(Fault::NoAnswer(TIMEOUT))),
            matches!(told, Err(Fault::Lost(_))),
        );
        assert_eq!((no_answer, lost), (keeps, !keeps), "{told:?}");
        assert_eq!(started.elapsed() >= TIMEOUT, keeps);
        drop(open);
    }
}
