//! A network that fails for one method of gRPC: a proxy that knows the calls that pass, where all
//! of them go over one connection.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::Request;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

type Bytes = bytes::Bytes;
type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// A proxy on a thread of its own, in front of one server. A method is named as in
/// `/etcdserverpb.Watch/Watch`.
pub struct Grpc {
    port: u16,
    state: Arc<State>,
    runtime: Option<Runtime>,
}

struct State {
    server: SocketAddr,
    /// Of which method the answers are swallowed.
    silent: Mutex<Option<String>>,
    /// The method whose calls are ended, and how often that was ordered.
    cut: watch::Sender<(String, u64)>,
    seen: Mutex<HashMap<String, Seen>>,
}

/// What has been seen of a method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// How many calls there were.
    pub calls: u64,
    /// How many pieces of answers were passed on.
    pub passed: u64,
    /// How many were swallowed.
    pub swallowed: u64,
    /// How many calls were ended by the proxy.
    pub cut: u64,
}

impl Grpc {
    /// A proxy to the server at this port.
    pub fn to(port: u16) -> Grpc {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let own_port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            server: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            silent: Mutex::default(),
            cut: watch::Sender::default(),
            seen: Mutex::default(),
        });
        let serving = Arc::clone(&state);
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((client, _)) = listener.accept().await {
                // It ends when either side does.
                tokio::spawn(Arc::clone(&serving).serve(client));
            }
        });
        Grpc {
            port: own_port,
            state,
            runtime: Some(runtime),
        }
    }

    /// Where a client finds it.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Swallows all answers of a method from now on.
    pub fn silence(&self, method: &str) {
        *lock(&self.state.silent) = Some(method.to_owned());
    }

    /// Ends the calls of a method that are under way.
    pub fn cut(&self, method: &str) {
        self.state.cut.send_modify(|(cut, times)| {
            method.clone_into(cut);
            *times += 1;
        });
    }

    /// What has been seen of a method.
    pub fn seen(&self, method: &str) -> Seen {
        lock(&self.state.seen)
            .get(method)
            .copied()
            .unwrap_or_default()
    }
}

impl Drop for Grpc {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl State {
    async fn serve(self: Arc<State>, client: TcpStream) -> Outcome {
        let server = TcpStream::connect(self.server).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let mut calls = h2::server::handshake(client).await?;
        let (asking, server) = h2::client::handshake(server).await?;
        let server = tokio::spawn(server);
        while let Some(call) = calls.accept().await {
            let (question, answer) = call?;
            let (state, asking) = (Arc::clone(&self), asking.clone());
            tokio::spawn(state.pass(question, answer, asking));
        }
        server.abort();
        Ok(())
    }

    /// Passes one call on, until it ends or is cut.
    async fn pass(
        self: Arc<State>,
        question: Request<RecvStream>,
        mut answer: SendResponse<Bytes>,
        asking: h2::client::SendRequest<Bytes>,
    ) -> Outcome {
        let method = question.uri().path().to_owned();
        self.note(&method, |seen| seen.calls += 1);
        let mut cut = self.cut.subscribe();
        cut.mark_unchanged();
        let is_cut = async {
            while cut.changed().await.is_ok() {
                if cut.borrow_and_update().0 == method {
                    return;
                }
            }
            std::future::pending().await
        };
        let (head, mut body) = question.into_parts();
        let mut asking = asking.ready().await?;
        let (answered, mut to_server) =
            asking.send_request(Request::from_parts(head, ()), false)?;
        let both = async {
            let up = async {
                while let Some(piece) = body.data().await {
                    give(&mut body, &mut to_server, piece?)?;
                }
                to_server.send_data(Bytes::new(), true)?;
                Ok(())
            };
            let down = self.answer(&method, answered, &mut answer);
            let (up, down): (Outcome, Outcome) = tokio::join!(up, down);
            up.and(down)
        };
        tokio::select! {
            biased;
            () = is_cut => {}
            outcome = both => return outcome,
        }
        self.note(&method, |seen| seen.cut += 1);
        to_server.send_reset(Reason::CANCEL);
        answer.send_reset(Reason::INTERNAL_ERROR);
        Ok(())
    }

    async fn answer(
        &self,
        method: &str,
        answered: h2::client::ResponseFuture,
        answer: &mut SendResponse<Bytes>,
    ) -> Outcome {
        let (head, mut body) = answered.await?.into_parts();
        let is_over = body.is_end_stream();
        let mut to_client = answer.send_response(http::Response::from_parts(head, ()), is_over)?;
        while let Some(piece) = body.data().await {
            let piece = piece?;
            if lock(&self.silent).as_deref() == Some(method) {
                body.flow_control().release_capacity(piece.len())?;
                self.note(method, |seen| seen.swallowed += 1);
            } else {
                give(&mut body, &mut to_client, piece)?;
                self.note(method, |seen| seen.passed += 1);
            }
        }
        if let Some(trailers) = body.trailers().await? {
            to_client.send_trailers(trailers)?;
        }
        Ok(())
    }

    fn note(&self, method: &str, change: impl FnOnce(&mut Seen)) {
        change(lock(&self.seen).entry(method.to_owned()).or_default());
    }
}

/// Passes a piece on, and lets the sender send more.
fn give(from: &mut RecvStream, to: &mut SendStream<Bytes>, piece: Bytes) -> Result<(), h2::Error> {
    from.flow_control().release_capacity(piece.len())?;
    to.send_data(piece, false)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
