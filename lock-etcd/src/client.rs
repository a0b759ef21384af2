//! The calls to etcd: which member is asked, by whom, and for how long.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{ConnectError, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::fault::Fault;
use crate::layout::escaped;
use crate::messages::{AuthenticateRequest, AuthenticateResponse, RangeRequest, RangeResponse};
use crate::settings::{EtcdSettings, InvalidSetting};

/// The methods of etcd's API that are called here.
pub(crate) mod method {
    pub(crate) const RANGE: &str = "/etcdserverpb.KV/Range";
    pub(crate) const TXN: &str = "/etcdserverpb.KV/Txn";
    pub(crate) const LEASE_GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
    pub(crate) const LEASE_REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
    pub(crate) const LEASE_KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
    pub(crate) const LEASE_TIME_TO_LIVE: &str = "/etcdserverpb.Lease/LeaseTimeToLive";
    pub(crate) const WATCH: &str = "/etcdserverpb.Watch/Watch";
    pub(super) const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";
}

/// The pause before a member is asked again that has just got another leader, or has none.
const AGAIN: Duration = Duration::from_millis(10);

/// The members of a cluster, of which one is asked at a time.
pub(crate) struct Client {
    targets: Vec<Endpoint>,
    user: Option<(String, String)>,
    patience: Duration,
    permission: String,
    /// A key that the user may read.
    any_key: Vec<u8>,
    state: Mutex<State>,
    /// The number of the present connection, for those who use one for long.
    moved: watch::Sender<u64>,
}

struct State {
    /// Which member is asked.
    place: usize,
    channel: Channel,
    /// Grows with every channel: whoever leaves one that has been left already leaves nothing.
    number: u64,
    token: Option<MetadataValue<Ascii>>,
    /// Whether the member has to be asked first whether there is a leader.
    needs_leader: bool,
    /// Whether etcd knows no users, so that none has to log in.
    is_open_to_all: bool,
}

/// One connection to one member.
#[derive(Clone)]
pub(crate) struct Connection {
    channel: Channel,
    number: u64,
    token: Option<MetadataValue<Ascii>>,
}

impl Client {
    /// A client that connects when it is first asked. To be made within a tokio runtime, which has
    /// to live as long.
    pub(crate) fn new(settings: &EtcdSettings) -> Result<Client, InvalidSetting> {
        let targets = settings.targets()?;
        // Not all processes to the first member.
        let place = fastrand::usize(..targets.len());
        let channel = targets[place].connect_lazy();
        Ok(Client {
            user: settings.user.clone(),
            patience: settings.patience(),
            permission: settings.permission(),
            any_key: format!("{}leader", escaped(&settings.key_prefix)).into_bytes(),
            state: Mutex::new(State {
                place,
                channel,
                number: 0,
                token: None,
                needs_leader: false,
                is_open_to_all: false,
            }),
            targets,
            moved: watch::Sender::new(0),
        })
    }

    /// How long one call may take.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// Asks one question. A member that cannot be reached is left for the next one, and the
    /// question is asked of that; one that was asked and did not answer is left, and the answer is
    /// not known.
    pub(crate) async fn ask<Q, A>(&self, method: &'static str, question: Q) -> Result<A, Fault>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let deadline = Instant::now() + self.patience;
        let mut logged_in = false;
        let mut unreachable = 0;
        loop {
            let connection = self.connection();
            // What is asked before has no effect.
            let is_asked = AtomicBool::new(false);
            let attempt = async {
                self.log_in_first(&connection).await?;
                let connection = self.connection();
                self.find_leader(&connection).await?;
                is_asked.store(true, Ordering::Relaxed);
                let answer = call(&connection, method, question.clone()).await;
                answer.map_err(Failure::Status)
            };
            let status = match timeout_at(deadline, attempt).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(Failure::Fault(fault))) => return Err(fault),
                Ok(Err(Failure::Status(status))) => status,
                Err(_) => {
                    self.leave(&connection);
                    return Err(match is_asked.load(Ordering::Relaxed) {
                        true => Fault::Timeout,
                        false => Fault::NoLeader,
                    });
                }
            };
            if was_not_sent(&status) {
                self.leave(&connection);
                unreachable += 1;
                if unreachable == self.targets.len() {
                    return Err(Fault::unreachable(&status));
                }
                continue;
            }
            match Fault::of(&status) {
                Fault::LogIn if !logged_in && self.user.is_some() => {
                    logged_in = true;
                    self.forget_token(&connection);
                }
                fault => {
                    if fault.is_unknown() {
                        self.leave(&connection);
                        if !is_asked.load(Ordering::Relaxed) {
                            return Err(Fault::unreachable(&status));
                        }
                    }
                    return Err(self.explained(fault, &status));
                }
            }
        }
    }

    /// Asks each member, by a connection of its own, for a key that is read by a majority. Where it
    /// is, and whether it answers.
    pub(crate) async fn each_member(self: &Arc<Self>) -> Vec<(String, Result<(), Fault>)> {
        let mut asked = JoinSet::new();
        for (place, target) in self.targets.iter().enumerate() {
            let (client, target) = (Arc::clone(self), target.clone());
            asked.spawn(async move {
                let address = target
                    .uri()
                    .authority()
                    .map_or("", |at| at.as_str())
                    .to_owned();
                let answer = timeout(client.patience, client.ask_member(&target)).await;
                (place, address, answer.unwrap_or(Err(Fault::Timeout)))
            });
        }
        let mut answers = asked.join_all().await;
        answers.sort_by_key(|(place, ..)| *place);
        let answers = answers.into_iter();
        answers
            .map(|(_, address, answer)| (address, answer))
            .collect()
    }

    async fn ask_member(&self, target: &Endpoint) -> Result<(), Fault> {
        let failed = |failure| match failure {
            Failure::Fault(fault) => fault,
            Failure::Status(status) => self.explained(Fault::of(&status), &status),
        };
        let own = |token| Connection {
            channel: target.connect_lazy(),
            number: u64::MAX,
            token,
        };
        self.log_in_first(&own(None)).await.map_err(failed)?;
        let connection = own(self.state().token.clone());
        let question = RangeRequest {
            key: self.any_key.clone(),
            ..RangeRequest::default()
        };
        let read: Result<RangeResponse, Status> = call(&connection, method::RANGE, question).await;
        read.map(drop)
            .map_err(|status| failed(Failure::Status(status)))
    }

    /// Opens a stream, over which `questions` go. The first has to lie in it already, since the
    /// server says nothing before it has heard something.
    pub(crate) async fn open<Q, A>(
        &self,
        method: &'static str,
        questions: UnboundedReceiverStream<Q>,
    ) -> Result<(Connection, Streaming<A>), Fault>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let connection = self.connection();
        let opening = async {
            self.log_in_first(&connection).await?;
            let mut request = Request::new(questions);
            self.connection().sign(&mut request);
            // A member that has lost its leader ends the stream, rather than be silent.
            let yes = MetadataValue::from_static("true");
            request.metadata_mut().insert("hasleader", yes);
            let mut grpc = Grpc::new(connection.channel.clone());
            grpc.ready().await.map_err(|error| unavailable(&error))?;
            let path = PathAndQuery::from_static(method);
            let opened = grpc.streaming(request, path, ProstCodec::default()).await;
            opened.map_err(Failure::Status)
        };
        match timeout(self.patience, opening).await {
            Ok(Ok(stream)) => Ok((connection, stream.into_inner())),
            Ok(Err(Failure::Fault(fault))) => Err(fault),
            Ok(Err(Failure::Status(status))) => {
                self.broke(&connection, Some(&status));
                Err(self.explained(Fault::of(&status), &status))
            }
            Err(_) => {
                self.leave(&connection);
                Err(Fault::Timeout)
            }
        }
    }

    /// Takes in that a stream broke, for this reason.
    pub(crate) fn broke(&self, connection: &Connection, status: Option<&Status>) {
        let is_to_log_in = status.is_some_and(|status| matches!(Fault::of(status), Fault::LogIn));
        if is_to_log_in && self.user.is_some() {
            self.forget_token(connection);
        } else {
            self.leave(connection);
        }
    }

    /// Goes on with the next member, on a new connection; what is under way on the old one goes on.
    pub(crate) fn leave(&self, connection: &Connection) {
        let mut state = self.state();
        if state.number != connection.number {
            return;
        }
        state.number += 1;
        state.needs_leader = true;
        state.place = (state.place + 1) % self.targets.len();
        state.channel = self.targets[state.place].connect_lazy();
        self.moved.send_replace(state.number);
    }

    /// Resolves when this connection has been left for another: its member may stand still, of
    /// which a stream that has nothing to say hears nothing.
    pub(crate) fn left(&self, connection: &Connection) -> impl Future<Output = ()> + use<> {
        let (mut moved, number) = (self.moved.subscribe(), connection.number);
        async move {
            // It fails only when the client has gone.
            let _ = moved.wait_for(|present| *present != number).await;
        }
    }

    /// Waits until the next member has a leader, where another was left: what it is asked to write
    /// before, it drops without a word, while a read ends as soon as there is one.
    async fn find_leader(&self, connection: &Connection) -> Result<(), Failure> {
        loop {
            if !self.state().needs_leader {
                return Ok(());
            }
            let question = RangeRequest {
                key: self.any_key.clone(),
                ..RangeRequest::default()
            };
            let read: Result<RangeResponse, Status> =
                call(connection, method::RANGE, question).await;
            match read {
                Ok(_) => {
                    let mut state = self.state();
                    if state.number == connection.number {
                        state.needs_leader = false;
                    }
                    return Ok(());
                }
                Err(status) if status.message().contains("leader") => sleep(AGAIN).await,
                Err(status) => return Err(Failure::Status(status)),
            }
        }
    }

    /// Gets a token for the user, if there is one and it has none.
    async fn log_in_first(&self, connection: &Connection) -> Result<(), Failure> {
        let Some((name, password)) = self.user.clone() else {
            return Ok(());
        };
        {
            let state = self.state();
            if state.token.is_some() || state.is_open_to_all {
                return Ok(());
            }
        }
        let question = AuthenticateRequest { name, password };
        let anonymous = Connection {
            token: None,
            ..connection.clone()
        };
        let answer: AuthenticateResponse =
            match call(&anonymous, method::AUTHENTICATE, question).await {
                Ok(answer) => answer,
                Err(status) if status.message().contains("authentication is not enabled") => {
                    self.state().is_open_to_all = true;
                    return Ok(());
                }
                Err(status) => return Err(Failure::Status(status)),
            };
        let token: Result<MetadataValue<Ascii>, _> = answer.token.parse();
        let mut token = token.map_err(|_| Failure::Fault(Fault::Strange))?;
        token.set_sensitive(true);
        self.state().token = Some(token);
        Ok(())
    }

    /// The token of this connection has ended, or the user has changed since.
    fn forget_token(&self, connection: &Connection) {
        let mut state = self.state();
        if state.token == connection.token {
            state.token = None;
        }
        state.is_open_to_all = false;
    }

    fn explained(&self, fault: Fault, status: &Status) -> Fault {
        match fault {
            Fault::LogIn => Fault::Refused(status.message().to_owned()),
            Fault::Refused(text) if text.contains("permission denied") => {
                Fault::Refused(format!("{text}; {}", self.permission))
            }
            fault => fault,
        }
    }

    /// The present connection.
    pub(crate) fn connection(&self) -> Connection {
        let state = self.state();
        Connection {
            channel: state.channel.clone(),
            number: state.number,
            token: state.token.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an attempt has no answer.
enum Failure {
    Status(Status),
    Fault(Fault),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        Failure::Status(status)
    }
}

impl Connection {
    /// Names the user by its token.
    fn sign<T>(&self, request: &mut Request<T>) {
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
    }
}

async fn call<Q, A>(connection: &Connection, method: &'static str, question: Q) -> Result<A, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let mut request = Request::new(question);
    connection.sign(&mut request);
    let mut grpc = Grpc::new(connection.channel.clone());
    grpc.ready().await.map_err(|error| unavailable(&error))?;
    let path = PathAndQuery::from_static(method);
    let answer = grpc.unary(request, path, ProstCodec::default()).await?;
    Ok(answer.into_inner())
}

/// The channel itself has ended, so nothing was sent.
fn unavailable(error: &tonic::transport::Error) -> Status {
    let mut status = Status::unavailable(error.to_string());
    status.set_source(Arc::new(ConnectError(error.to_string().into())));
    status
}

/// Whether the question did not get as far as the server.
fn was_not_sent(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}
