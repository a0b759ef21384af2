//! The calls to Consul: which agent is asked, by whom, and for how long.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::connections::{Answer, Call, Connections, Failure, PerAgent};
use crate::fault::Fault;
use crate::messages::{Op, TxnAnswer};
use crate::settings::{ConsulSettings, InvalidSetting};
use crate::tls::{Secret, connector};

/// For how long an agent lets a long poll wait; it may add a sixteenth.
const POLL: Duration = Duration::from_secs(20);
/// The pause before a question is asked again for which an agent had no room.
const PAUSE: Duration = Duration::from_millis(50);
/// How long an agent has had room for all questions when it is tried with more long polls.
const CALM: Duration = Duration::from_secs(10);

/// What stands in a path for itself.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'/');

tokio::task_local! {
    /// By when the verb has ended that asks.
    static VERB_ENDS: Instant;
}

/// Does something for a verb that has ended by then, however many questions it takes.
pub(crate) fn by<F: Future>(end: Instant, work: F) -> impl Future<Output = F::Output> {
    VERB_ENDS.scope(end, work)
}

/// The agents, of which one is asked at a time.
pub(crate) struct Client {
    /// For questions.
    verbs: PerAgent,
    /// For long polls.
    polls: PerAgent,
    token: Option<HeaderValue>,
    patience: Duration,
    policy: String,
    /// Which agent is asked, and how often it was changed.
    state: Mutex<ChosenAgent>,
    moved: watch::Sender<u64>,
    /// How many long polls there may be at a time.
    room: watch::Sender<Room>,
    /// How many there may be where agents have room for them.
    long_polls: usize,
}

/// For how many long polls agents have room, as far as is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    most: usize,
    since: Instant,
}

/// An agent, as it was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChosenAgent {
    pub(crate) agent: usize,
    /// Grows with every choice: whoever leaves one that has been left already leaves nothing.
    pub(crate) number: u64,
}

/// What became of a key that was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Polled {
    /// It was changed, or deleted.
    Changed,
    /// Nothing, as far as is known.
    Same,
}

impl Client {
    /// A client that connects when it is first asked.
    pub(crate) fn new(settings: &ConsulSettings) -> Result<Client, InvalidSetting> {
        let targets = settings.targets()?;
        let tls = settings.tls.clone().unwrap_or_default();
        let connector = match targets.iter().any(|target| target.is_secure) {
            true => Some(connector(&tls)?),
            false => None,
        };
        let per_agent = |most: usize| {
            let connections = targets.iter().map(|target| {
                let secret = match connector.as_ref().filter(|_| target.is_secure) {
                    Some(connector) => Some(Secret::of(connector, &tls, target)?),
                    None => None,
                };
                Ok(Arc::new(Connections::new(target.clone(), secret, most)))
            });
            connections.collect::<Result<PerAgent, InvalidSetting>>()
        };
        // Not all processes to the first agent.
        let agent = fastrand::usize(..targets.len());
        Ok(Client {
            verbs: per_agent(settings.connections)?,
            polls: per_agent(settings.long_polls.max(1))?,
            token: settings.token_header()?,
            patience: settings.patience(),
            policy: settings.policy(),
            state: Mutex::new(ChosenAgent { agent, number: 0 }),
            moved: watch::Sender::new(0),
            room: watch::Sender::new(Room {
                most: settings.long_polls,
                since: Instant::now(),
            }),
            long_polls: settings.long_polls,
        })
    }

    /// How long one call may take.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// By when a verb has ended that begins now.
    pub(crate) fn verb_ends(&self) -> Instant {
        Instant::now() + 2 * self.patience
    }

    /// Asks one question, within what is left of the time of its verb. An agent that cannot be
    /// reached, or has no room, is left for the next one, and the question is asked of that; one
    /// that was asked and did not answer is left, and the answer is not known.
    async fn ask(&self, call: Call) -> Result<Answer, Fault> {
        let asked = Instant::now();
        let end = VERB_ENDS
            .try_with(|end| *end)
            .unwrap_or(asked + self.patience);
        let deadline = end.min(asked + self.patience);
        if deadline <= asked {
            // Of the questions before this one of the same verb some may have been done.
            return Err(Fault::Timeout);
        }
        let (mut unreachable, mut left) = (0, 0);
        loop {
            let place = self.place();
            let asking = self.verbs[place.agent].ask(&call, self.token.as_ref());
            let judged = match timeout_at(deadline, asking).await {
                Ok(Ok(answer)) => self.judged(place, answer),
                Ok(Err(Failure::NoRoom(text))) => Err(self.full(text)),
                Ok(Err(Failure::NotSent(text))) => {
                    self.leave(place);
                    unreachable += 1;
                    if unreachable >= self.verbs.len() {
                        return Err(Fault::Unreachable(text));
                    }
                    continue;
                }
                Ok(Err(Failure::Unknown(text))) => {
                    self.leave(place);
                    return Err(Fault::Unknown(text));
                }
                Err(_) => {
                    // One that had less time than the others may be as good as ever.
                    if asked.elapsed() >= self.patience {
                        self.leave(place);
                    }
                    return Err(Fault::Timeout);
                }
            };
            // Nothing was done, and long polls make room, if another agent has none.
            if !matches!(judged, Err(Fault::Full(_))) || Instant::now() + PAUSE >= deadline {
                return judged;
            }
            // The others may be there by then, and each is asked once before this one is again.
            unreachable = 0;
            if left + 1 < self.verbs.len() {
                left += 1;
                self.leave(place);
            }
            sleep(PAUSE).await;
        }
    }

    /// What an answer means that has no contents of its own.
    fn judged(&self, place: ChosenAgent, answer: Answer) -> Result<Answer, Fault> {
        let text = || String::from_utf8_lossy(&answer.body).trim().to_owned();
        match answer.status {
            status if status.is_success() => Ok(answer),
            // Those who ask know what they are for.
            StatusCode::CONFLICT | StatusCode::NOT_FOUND => Ok(answer),
            StatusCode::INTERNAL_SERVER_ERROR if text().contains("Invalid Session TTL") => {
                Err(Fault::Refused(text()))
            }
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => Err(self.denied(&text())),
            StatusCode::TOO_MANY_REQUESTS => Err(self.full(text())),
            status if status.is_server_error() => {
                if self.verbs.len() > 1 {
                    // Another may know who leads.
                    self.leave(place);
                }
                Err(Fault::Unknown(text()))
            }
            _ => Err(Fault::Refused(text())),
        }
    }

    /// Does all of `ops`, or none. Where all of them only read, what is read is no older than the
    /// question.
    pub(crate) async fn txn(&self, ops: &[Op], is_read: bool) -> Result<TxnAnswer, Fault> {
        let path = match is_read {
            true => "/v1/txn?consistent",
            false => "/v1/txn",
        };
        self.txn_at(path, ops).await
    }

    /// Reads what may be older than the question: good enough to be woken by.
    pub(crate) async fn glance(&self, ops: &[Op]) -> Result<TxnAnswer, Fault> {
        self.txn_at("/v1/txn", ops).await
    }

    async fn txn_at(&self, path: &str, ops: &[Op]) -> Result<TxnAnswer, Fault> {
        let body = serde_json::to_vec(ops).map_err(|_| Fault::Strange)?;
        let answer = self.put(path, body.into()).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Err(Fault::Refused("it has no transactions".to_owned()));
        }
        let read: TxnAnswer = serde_json::from_slice(&answer.body).map_err(|_| Fault::Strange)?;
        let errors = read.errors.iter().flatten();
        if let Some(error) = errors.into_iter().find(|error| is_denial(&error.what)) {
            return Err(self.denied(&error.what));
        }
        // What was done is told by the status, too.
        if read.is_done() != (answer.status == StatusCode::OK) {
            return Err(Fault::Strange);
        }
        Ok(read)
    }

    /// Asks each agent whether it knows who leads, which those that have no majority do not. Where
    /// it is, and whether it answers.
    pub(crate) async fn each_agent(&self) -> Vec<(String, Result<(), Fault>)> {
        let mut asked = JoinSet::new();
        for (place, agent) in self.verbs.iter().enumerate() {
            let (agent, token, patience) = (Arc::clone(agent), self.token.clone(), self.patience);
            asked.spawn(async move {
                let call = Call {
                    method: Method::GET,
                    path: "/v1/status/leader".to_owned(),
                    body: Bytes::new(),
                };
                let answer = timeout(patience, agent.ask(&call, token.as_ref())).await;
                let answer = match answer {
                    Ok(Ok(answer)) => knows_who_leads(&answer),
                    Ok(Err(Failure::NotSent(text))) => Err(Fault::Unreachable(text)),
                    Ok(Err(Failure::NoRoom(text))) => Err(Fault::Full(text)),
                    Ok(Err(Failure::Unknown(text))) => Err(Fault::Unknown(text)),
                    Err(_) => Err(Fault::Timeout),
                };
                (place, agent.address().to_owned(), answer)
            });
        }
        let mut answers = asked.join_all().await;
        answers.sort_by_key(|(place, ..)| *place);
        let answers = answers.into_iter();
        answers
            .map(|(_, address, answer)| (address, answer))
            .collect()
    }

    pub(crate) async fn put(&self, path: &str, body: Bytes) -> Result<Answer, Fault> {
        let call = Call {
            method: Method::PUT,
            path: path.to_owned(),
            body,
        };
        self.ask(call).await
    }

    /// Waits until a key is another than it was at `index`, or for as long as the agent likes.
    pub(crate) async fn poll(&self, key: &str, index: u64) -> Result<Polled, Fault> {
        let place = self.place();
        let key = utf8_percent_encode(key, PLAIN);
        let wait = POLL.as_secs();
        let call = Call {
            method: Method::GET,
            path: format!("/v1/kv/{key}?index={index}&wait={wait}s"),
            body: Bytes::new(),
        };
        let polling = self.polls[place.agent].ask(&call, self.token.as_ref());
        match timeout(POLL + POLL / 16 + self.patience, polling).await {
            Ok(Ok(answer)) if answer.status == StatusCode::NOT_FOUND => Ok(Polled::Changed),
            Ok(Ok(answer)) => {
                let answer = self.judged(place, answer)?;
                Ok(match answer.index {
                    Some(now) if now == index => Polled::Same,
                    _ => Polled::Changed,
                })
            }
            Ok(Err(Failure::NotSent(text))) => {
                self.leave(place);
                Err(Fault::Unreachable(text))
            }
            Ok(Err(Failure::NoRoom(text))) => Err(self.full(text)),
            Ok(Err(Failure::Unknown(text))) => Err(Fault::Unknown(text)),
            Err(_) => {
                self.leave(place);
                Err(Fault::Timeout)
            }
        }
    }

    /// Goes on with the next agent, on new connections; what is under way at the old one goes on.
    pub(crate) fn leave(&self, place: ChosenAgent) {
        let mut state = self.state();
        if *state != place {
            return;
        }
        self.verbs[place.agent].close_idle();
        self.polls[place.agent].close_idle();
        state.number += 1;
        state.agent = (place.agent + 1) % self.verbs.len();
        self.moved.send_replace(state.number);
    }

    /// Resolves when the agent has been left for another that was the present one at `number`.
    pub(crate) fn left(&self, number: u64) -> impl Future<Output = ()> + use<> {
        let mut moved = self.moved.subscribe();
        async move {
            // It fails only when the client has gone.
            let _ = moved.wait_for(|present| *present != number).await;
        }
    }

    /// The present agent.
    pub(crate) fn place(&self) -> ChosenAgent {
        *self.state()
    }

    /// How many long polls there may be at a time.
    pub(crate) fn most_polls(&self) -> usize {
        self.room.borrow().most
    }

    /// Tells when there may be another number of long polls.
    pub(crate) fn room(&self) -> watch::Receiver<Room> {
        self.room.subscribe()
    }

    /// An agent has no room for all the connections of this machine: those that wait make room for
    /// those that ask, as do those that nobody uses.
    fn shrink(&self) {
        self.room.send_modify(|room| {
            room.most /= 2;
            room.since = Instant::now();
        });
        let all = self.polls.iter().chain(&self.verbs);
        all.for_each(|connections| connections.close_idle());
    }

    /// Tries whether agents have room for more long polls, if they had for all for a while.
    pub(crate) fn grow(&self) {
        self.room.send_if_modified(|room| {
            let is_small = room.most < self.long_polls;
            let grows = is_small && room.since.elapsed() >= CALM;
            if grows {
                room.most = (room.most * 2).clamp(1, self.long_polls);
                room.since = Instant::now();
            }
            grows
        });
    }

    fn full(&self, text: String) -> Fault {
        self.shrink();
        Fault::Full(text)
    }

    fn denied(&self, text: &str) -> Fault {
        Fault::Refused(format!("{text}; {}", self.policy))
    }

    fn state(&self) -> MutexGuard<'_, ChosenAgent> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an agent has said who leads: it answers with a text, which is empty if it does not know.
fn knows_who_leads(answer: &Answer) -> Result<(), Fault> {
    let text = String::from_utf8_lossy(&answer.body);
    match text.trim() {
        _ if !answer.status.is_success() => Err(Fault::Unknown(text.into_owned())),
        "" | "\"\"" => Err(Fault::Unknown("there is no leader".to_owned())),
        _ => Ok(()),
    }
}

/// Whether an operation was not allowed.
fn is_denial(what: &str) -> bool {
    what.contains("ermission denied") || what.contains("ACL not found")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use super::*;

    const NO_ROOM: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n";

    /// Where an agent does the same with all that connect.
    fn agent(does: impl Fn(TcpStream) + Send + 'static) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        thread::spawn(move || listener.incoming().flatten().for_each(does));
        port
    }

    fn client(agents: Vec<String>) -> Client {
        let mut settings = ConsulSettings::new(agents);
        settings.command_timeout = Duration::from_secs(4);
        Client::new(&settings).expect("a client")
    }

    #[tokio::test]
    async fn each_agent_is_asked_before_one_without_room_is_asked_again() {
        const FULL: usize = 3;
        let asked = Arc::<Mutex<Vec<usize>>>::default();
        let mut agents = Vec::new();
        for place in 0..FULL {
            let asked = Arc::clone(&asked);
            let port = agent(move |mut stream| {
                // The question is short enough to come at once.
                let _ = stream.read(&mut [0; 4096]);
                asked.lock().expect("nobody panicked").push(place);
                let _ = stream.write_all(NO_ROOM);
            });
            agents.push(format!("http://127.0.0.1:{port}"));
        }
        // Nobody listens there.
        agents.push("http://127.0.0.1:1".to_owned());

        let answer = client(agents).txn(&[], true).await;
        assert!(matches!(answer, Err(Fault::Full(_))), "{answer:?}");
        let asked = asked.lock().expect("nobody panicked");
        let first: BTreeSet<_> = asked.iter().take(FULL).collect();
        assert_eq!(
            first.len(),
            FULL,
            "they were asked in this order: {asked:?}"
        );
        assert!(asked.len() > FULL, "nobody was asked again: {asked:?}");
    }

    #[tokio::test]
    async fn an_agent_that_hangs_up_in_the_handshake_of_tls_has_no_room() {
        let agents = vec![format!("https://127.0.0.1:{}", agent(drop))];
        let answer = client(agents).txn(&[], true).await;
        assert!(matches!(answer, Err(Fault::Full(_))), "{answer:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn long_polls_that_made_room_come_back_after_a_while() {
        let mut settings = ConsulSettings::new(["host:8500"]);
        settings.long_polls = 5;
        let client = Client::new(&settings).expect("a client");
        for left in [2, 1, 0] {
            client.shrink();
            assert_eq!(client.most_polls(), left);
        }
        client.grow();
        assert_eq!(client.most_polls(), 0, "it was not calm for long enough");
        for more in [1, 2, 4, 5, 5] {
            tokio::time::sleep(CALM).await;
            client.grow();
            assert_eq!(client.most_polls(), more);
        }
    }
}
