//! A network that fails on command: a TCP proxy that understands the frames of Redis.
//!
//! It stands between a client and a server and lets everything through, until a rule hits a command
//! (by its name, or that of the script it runs) or the whole of it is told to misbehave. It runs on
//! a thread of its own, so that a test may block its executor. It is as honest as TCP: what passes
//! is in order and complete, and what is lost is lost from there on; only [`Fault::RepeatAnswer`]
//! lies.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::resp;

/// What happens to a command, its answer, or a message that the server pushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It waits for so long, and everything behind it. It reaches the server even if the client is
    /// gone by then.
    Delay(Duration),
    /// It waits for [`Proxy::let_go`], and everything behind it. It reaches the server even if the
    /// client is gone by then.
    Hold,
    /// It gets lost, and everything behind it.
    LoseRequest,
    /// It reaches the server; from its answer on everything gets lost.
    LoseAnswer,
    /// It reaches the server twice; one answer comes back.
    Duplicate,
    /// The connection is reset before it reaches the server.
    Cut,
    /// It reaches the server, and the connection is reset in the place of the answer.
    CutAnswer,
    /// Half of the answer comes back before the connection is reset.
    Truncate,
    /// The answer waits for so long, and everything behind it.
    DelayAnswer(Duration),
    /// The answer comes twice, which no network does.
    RepeatAnswer,
    /// It does not reach the server; this comes back. Without the `\r\n`.
    Reply(&'static str),
    /// It reaches the server; in the place of the answer the stream to the client ends, while the
    /// one to the server stays open.
    HalfClose,
    /// It waits for ever, and the client is not read from any more.
    StopReading,
    /// For a pushed message (`push`): it gets lost, and nothing else does.
    LosePush,
}

/// A way through the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
    /// Both.
    Both,
}

/// A running proxy; it ends with its value.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    control: Arc<Control>,
    runtime: Option<Runtime>,
}

impl Proxy {
    /// A proxy in front of the server at `port`.
    pub fn start(port: u16) -> Proxy {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("proxy")
            .enable_all()
            .build()
            .unwrap();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let control = Arc::new(Control::new(SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
        let _entered = runtime.enter();
        let listener = TcpListener::from_std(listener).unwrap();
        runtime.spawn(accept(listener, Arc::clone(&control)));
        Proxy {
            address,
            control,
            runtime: Some(runtime),
        }
    }

    /// Where clients connect to.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// The next command called `name` meets `fault`: a script by the name of its file, another
    /// command in capitals, a pushed message as `push`, anything as `*`.
    pub fn fault(&self, name: &str, fault: Fault) {
        self.fault_nth(name, 1, fault);
    }

    /// The `nth` command called `name` from now on meets `fault`.
    pub fn fault_nth(&self, name: &str, nth: usize, fault: Fault) {
        self.add(name, nth - 1, 1, fault);
    }

    /// The next `times` commands called `name` meet `fault`.
    pub fn fault_times(&self, name: &str, times: usize, fault: Fault) {
        self.add(name, 0, times, fault);
    }

    /// Every command called `name` meets `fault`, until [`heal`](Proxy::heal).
    pub fn fault_all(&self, name: &str, fault: Fault) {
        self.add(name, 0, usize::MAX, fault);
    }

    /// Nothing passes that way until [`heal`](Proxy::heal), and then all that had been sent, as
    /// after a partition shorter than the patience of TCP.
    pub fn partition(&self, way: Way) {
        self.control.gates.send_modify(|gates| {
            gates.up |= way != Way::Down;
            gates.down |= way != Way::Up;
        });
    }

    /// Resets all connections, and every new one, until [`heal`](Proxy::heal).
    pub fn refuse(&self) {
        self.control.refusing.store(true, Ordering::SeqCst);
        self.cut();
    }

    /// Resets all connections.
    pub fn cut(&self) {
        self.control.cut.send_modify(|cuts| *cuts += 1);
    }

    /// Lets so many bytes a second pass each way.
    pub fn throttle(&self, bytes_a_second: u64) {
        self.control
            .throttle
            .store(bytes_a_second, Ordering::SeqCst);
    }

    /// Holds every frame back for so long, each way.
    pub fn lag(&self, lag: Duration) {
        self.control
            .lag_ms
            .store(lag.as_millis().try_into().unwrap(), Ordering::SeqCst);
    }

    /// Ends every misbehaviour, but what single connections have suffered for good.
    pub fn heal(&self) {
        self.control.state().rules.clear();
        self.control.refusing.store(false, Ordering::SeqCst);
        self.throttle(0);
        self.lag(Duration::ZERO);
        self.control.gates.send_replace(Gates::default());
    }

    /// Lets all go on that a [`Fault::Hold`] has hit, or hits from now on, and waits until so many
    /// have gone to the server since the start.
    pub async fn let_go(&self, count: usize) {
        self.control.held.send_replace(false);
        let mut gone = self.control.gone.subscribe();
        let all = gone.wait_for(|gone| *gone >= count);
        let all = tokio::time::timeout(super::DEADLINE, all).await;
        all.expect("what was held goes on").unwrap();
    }

    /// How many commands of this name have come from clients.
    pub fn seen(&self, name: &str) -> usize {
        self.log()
            .iter()
            .filter(|command| command.name == name)
            .count()
    }

    /// How many commands and messages have met a fault.
    pub fn faults(&self) -> usize {
        self.log()
            .iter()
            .filter(|command| command.fault.is_some())
            .count()
    }

    /// What has come: commands of clients, and messages that a rule hit.
    pub fn log(&self) -> Vec<Seen> {
        self.control.state().log.clone()
    }

    /// How many connections are open.
    #[allow(clippy::misnamed_getters)]
    pub fn connections(&self) -> usize {
        self.control.state().open
    }

    fn add(&self, name: &str, skip: usize, times: usize, fault: Fault) {
        self.control.state().rules.push(Rule {
            name: name.to_owned(),
            skip,
            times,
            fault,
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A command that came, or a message that a rule hit.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Which connection, counted from zero.
    pub connection: usize,
    /// The script, the command in capitals, or `push`.
    pub name: String,
    /// Its second word, for a script the name of the lock.
    pub key: String,
    /// What happened to it.
    pub fault: Option<Fault>,
}

#[derive(Debug)]
struct Rule {
    name: String,
    skip: usize,
    times: usize,
    fault: Fault,
}

#[derive(Clone, Copy, Debug, Default)]
struct Gates {
    up: bool,
    down: bool,
}

#[derive(Debug)]
struct Control {
    upstream: SocketAddr,
    state: Mutex<State>,
    /// Which ways are closed.
    gates: watch::Sender<Gates>,
    /// How often all connections have been reset.
    cut: watch::Sender<u64>,
    /// Whether what is to be held stays.
    held: watch::Sender<bool>,
    /// How many commands went on that had been held.
    gone: watch::Sender<usize>,
    refusing: AtomicBool,
    throttle: AtomicU64,
    lag_ms: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    log: Vec<Seen>,
    /// The names of scripts by their hashes, learned from the answers to `SCRIPT LOAD`.
    scripts: HashMap<Vec<u8>, String>,
    connections: usize,
    open: usize,
}

impl Control {
    fn new(upstream: SocketAddr) -> Control {
        Control {
            upstream,
            state: Mutex::default(),
            gates: watch::Sender::default(),
            cut: watch::Sender::default(),
            held: watch::Sender::new(true),
            gone: watch::Sender::default(),
            refusing: AtomicBool::new(false),
            throttle: AtomicU64::new(0),
            lag_ms: AtomicU64::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the way is open, and for as long as the network lags.
    async fn pass(&self, way: Way) {
        let closed = |gates: &Gates| if way == Way::Up { gates.up } else { gates.down };
        let _ = self
            .gates
            .subscribe()
            .wait_for(|gates| !closed(gates))
            .await;
        let lag = self.lag_ms.load(Ordering::SeqCst);
        if lag > 0 {
            sleep(Duration::from_millis(lag)).await;
        }
    }

    async fn write(&self, stream: &mut OwnedWriteHalf, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let rate = self.throttle.load(Ordering::SeqCst);
            if rate == 0 {
                return stream.write_all(rest).await;
            }
            let piece = usize::try_from(rate.div_ceil(20)).unwrap().min(rest.len());
            sleep(Duration::from_secs(1).mul_f64(piece as f64 / rate as f64)).await;
            stream.write_all(&rest[..piece]).await?;
            rest = &rest[piece..];
        }
        Ok(())
    }
}

impl State {
    /// Notes a command, and tells what is to happen to it.
    fn meet(&mut self, connection: usize, name: &str, key: &str) -> Option<Fault> {
        let matches = |rule: &Rule| rule.name == name || (rule.name == "*" && name != "push");
        let mut fault = None;
        for rule in self.rules.iter_mut().filter(|rule| matches(rule)) {
            if rule.skip > 0 {
                rule.skip -= 1;
            } else if fault.is_none() && rule.times > 0 {
                rule.times = rule
                    .times
                    .saturating_sub(usize::from(rule.times != usize::MAX));
                fault = Some(rule.fault);
            }
        }
        if name != "push" || fault.is_some() {
            self.log.push(Seen {
                connection,
                name: name.to_owned(),
                key: key.to_owned(),
                fault,
            });
        }
        fault
    }

    fn name(&self, words: &[&[u8]]) -> String {
        let command = words
            .first()
            .copied()
            .unwrap_or_default()
            .to_ascii_uppercase();
        let script = match (command.as_slice(), words.get(1)) {
            (b"EVALSHA", Some(hash)) => self.scripts.get(*hash).cloned(),
            (b"EVAL", Some(source)) => script_name(source),
            _ => None,
        };
        script.unwrap_or_else(|| String::from_utf8_lossy(&command).into_owned())
    }
}

/// The name of a script, which a comment of the form `-- name.lua:` tells.
fn script_name(source: &[u8]) -> Option<String> {
    let source = std::str::from_utf8(source).ok()?;
    let mut names = source
        .lines()
        .filter_map(|line| Some(line.strip_prefix("-- ")?.split_once(".lua:")?.0));
    names.next().map(str::to_owned)
}

async fn accept(listener: TcpListener, control: Arc<Control>) {
    while let Ok((client, _)) = listener.accept().await {
        let connection = {
            let mut state = control.state();
            state.connections += 1;
            state.open += 1;
            state.connections - 1
        };
        let control = Arc::clone(&control);
        tokio::spawn(async move {
            serve(client, connection, &control).await;
            control.state().open -= 1;
        });
    }
}

async fn serve(client: TcpStream, connection: usize, control: &Control) {
    client.set_nodelay(true).unwrap();
    let mut cut = control.cut.subscribe();
    if control.refusing.load(Ordering::SeqCst) {
        let _ = client.set_zero_linger();
        return;
    }
    let Ok(server) = TcpStream::connect(control.upstream).await else {
        let _ = client.set_zero_linger();
        return;
    };
    server.set_nodelay(true).unwrap();
    let link = Link {
        connection,
        control,
        expected: Mutex::default(),
        canned: Notify::new(),
    };
    let (from_client, mut to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    let ended = tokio::select! {
        ended = link.both(from_client, &mut to_server, from_server, &mut to_client) => ended,
        _ = cut.changed() => Ended::Reset,
    };
    if ended == Ended::Reset {
        // Closing it then sends a reset instead of an orderly end.
        let _ = to_client.as_ref().set_zero_linger();
        let _ = to_server.as_ref().set_zero_linger();
    }
}

struct Link<'a> {
    connection: usize,
    control: &'a Control,
    expected: Mutex<VecDeque<Expected>>,
    canned: Notify,
}

/// What a link has sent to the server and not seen the answer of.
struct Expected {
    answer: Answer,
    /// The source of a script whose hash the answer tells.
    loads: Option<String>,
}

enum Answer {
    /// From the server, with what is to happen to it.
    Real(Option<Fault>),
    /// From the server, for nobody.
    Swallowed,
    /// From here.
    Canned(&'static str),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Orderly,
    Reset,
}

impl Link<'_> {
    async fn both(
        &self,
        from_client: OwnedReadHalf,
        to_server: &mut OwnedWriteHalf,
        from_server: OwnedReadHalf,
        to_client: &mut OwnedWriteHalf,
    ) -> Ended {
        let mut up = std::pin::pin!(self.up(from_client, to_server));
        let mut down = std::pin::pin!(self.down(from_server, to_client));
        tokio::select! {
            ended = &mut up => ended.unwrap_or(Ended::Orderly),
            ended = &mut down => match ended {
                Ok(ended) => ended,
                // The client is gone. What it has sent still arrives.
                Err(_) => up.await.unwrap_or(Ended::Orderly),
            },
        }
    }

    /// Carries commands from the client to the server.
    async fn up(
        &self,
        mut client: OwnedReadHalf,
        server: &mut OwnedWriteHalf,
    ) -> io::Result<Ended> {
        let mut buffer = Vec::new();
        let mut lost = false;
        loop {
            while let Some(frame) = resp::frame(&buffer).map(<[u8]>::to_vec) {
                buffer.drain(..frame.len());
                self.control.pass(Way::Up).await;
                if lost {
                    continue;
                }
                let (fault, expected, answered) = self.meet(&frame);
                match fault {
                    Some(Fault::Delay(pause)) => sleep(pause).await,
                    Some(Fault::Hold) => {
                        let mut held = self.control.held.subscribe();
                        let _ = held.wait_for(|held| !held).await;
                    }
                    Some(Fault::LoseRequest) => {
                        lost = true;
                        continue;
                    }
                    Some(Fault::Cut) => return Ok(Ended::Reset),
                    Some(Fault::StopReading) => std::future::pending().await,
                    _ => {}
                }
                if answered {
                    self.expected().push_back(expected);
                    if fault == Some(Fault::Duplicate) {
                        self.expected().push_back(Expected {
                            answer: Answer::Swallowed,
                            loads: None,
                        });
                        self.control.write(server, &frame).await?;
                    }
                }
                if let Some(Fault::Reply(_)) = fault {
                    self.canned.notify_one();
                } else {
                    self.control.write(server, &frame).await?;
                }
                if fault == Some(Fault::Hold) {
                    self.control.gone.send_modify(|gone| *gone += 1);
                }
            }
            if client.read_buf(&mut buffer).await? == 0 {
                return Ok(Ended::Orderly);
            }
        }
    }

    /// Notes a command; tells what is to happen to it, what answer it will get, and whether it gets
    /// one at all.
    fn meet(&self, frame: &[u8]) -> (Option<Fault>, Expected, bool) {
        let words = resp::words(frame);
        let mut state = self.control.state();
        let name = state.name(&words);
        let key = words.get(if words.len() > 3 { 3 } else { 1 }).copied();
        let key = String::from_utf8_lossy(key.unwrap_or_default()).into_owned();
        let fault = state.meet(self.connection, &name, &key);
        let is_load = name == "SCRIPT" && words.len() == 3;
        let expected = Expected {
            answer: match fault {
                Some(Fault::Reply(text)) => Answer::Canned(text),
                other => Answer::Real(other),
            },
            loads: is_load.then(|| script_name(words[2])).flatten(),
        };
        // These are answered by pushes.
        let answered = !name.ends_with("SUBSCRIBE");
        (fault, expected, answered)
    }

    /// Carries answers and messages from the server to the client.
    async fn down(
        &self,
        mut server: OwnedReadHalf,
        client: &mut OwnedWriteHalf,
    ) -> io::Result<Ended> {
        let mut buffer = Vec::new();
        let mut lost = false;
        loop {
            while let Some(text) = self.next_canned() {
                self.control
                    .write(client, format!("{text}\r\n").as_bytes())
                    .await?;
            }
            while let Some(frame) = resp::frame(&buffer).map(<[u8]>::to_vec) {
                buffer.drain(..frame.len());
                self.control.pass(Way::Down).await;
                let answer = self.answer_to(&frame);
                if lost {
                    continue;
                }
                let fault = match answer {
                    Answer::Real(fault) => fault,
                    Answer::Swallowed => continue,
                    Answer::Canned(_) => unreachable!("sent above"),
                };
                match fault {
                    Some(Fault::LoseAnswer) => {
                        lost = true;
                        continue;
                    }
                    Some(Fault::LosePush) => continue,
                    Some(Fault::CutAnswer) => return Ok(Ended::Reset),
                    Some(Fault::Truncate) => {
                        client.write_all(&frame[..frame.len() / 2]).await?;
                        client.flush().await?;
                        return Ok(Ended::Reset);
                    }
                    Some(Fault::DelayAnswer(pause)) => sleep(pause).await,
                    Some(Fault::RepeatAnswer) => self.control.write(client, &frame).await?,
                    Some(Fault::HalfClose) => {
                        client.shutdown().await?;
                        lost = true;
                        continue;
                    }
                    _ => {}
                }
                self.control.write(client, &frame).await?;
                while let Some(text) = self.next_canned() {
                    self.control
                        .write(client, format!("{text}\r\n").as_bytes())
                        .await?;
                }
            }
            tokio::select! {
                read = server.read_buf(&mut buffer) => if read? == 0 {
                    return Ok(Ended::Orderly);
                },
                () = self.canned.notified() => {}
            }
        }
    }

    /// What `frame` answers.
    fn answer_to(&self, frame: &[u8]) -> Answer {
        if resp::is_push(frame) {
            // A confirmation of a subscription is no message.
            let is_message = resp::push_kind(frame) == Some(b"message");
            let fault = is_message.then(|| self.control.state().meet(self.connection, "push", ""));
            return Answer::Real(fault.flatten());
        }
        let Some(expected) = self.expected().pop_front() else {
            return Answer::Real(None);
        };
        if let (Some(name), Some(hash)) = (expected.loads, resp::bulk(frame)) {
            self.control.state().scripts.insert(hash.to_vec(), name);
        }
        expected.answer
    }

    fn next_canned(&self) -> Option<&'static str> {
        let mut expected = self.expected();
        let Answer::Canned(text) = expected.front()?.answer else {
            return None;
        };
        expected.pop_front();
        Some(text)
    }

    fn expected(&self) -> MutexGuard<'_, VecDeque<Expected>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
