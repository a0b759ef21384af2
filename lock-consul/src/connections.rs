//! The connections to one agent, each with one question at a time.

use std::io::{self, ErrorKind};
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::client::TlsStream;

use crate::settings::Target;
use crate::tls::Secret;

/// The longest answer that is read: that of a lock with tens of thousands of waiters.
const LONGEST_ANSWER: usize = 32 << 20;

/// The header with the index of what was read, by which one can wait for the next change.
const INDEX: &str = "x-consul-index";

/// One question.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) path: String,
    pub(crate) body: Bytes,
}

/// What an agent answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) index: Option<u64>,
    pub(crate) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The question was not sent.
    NotSent(String),
    /// Neither was it here: the agent closed the connection that it had just accepted, as one does
    /// that has no room.
    NoRoom(String),
    /// It was, or may have been.
    Unknown(String),
}

/// The connections to one agent for one purpose.
pub(crate) struct Connections {
    target: Target,
    secret: Option<Secret>,
    /// How many there may be.
    places: Semaphore,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Connections {
    pub(crate) fn new(target: Target, secret: Option<Secret>, most: usize) -> Connections {
        Connections {
            target,
            secret,
            places: Semaphore::new(most.min(Semaphore::MAX_PERMITS)),
            idle: Mutex::default(),
        }
    }

    /// Where the agent is.
    pub(crate) fn address(&self) -> &str {
        self.target.authority.as_str()
    }

    /// Asks, on a connection of which nobody else makes use meanwhile. One that is left in the
    /// middle of a question is closed.
    pub(crate) async fn ask(
        &self,
        call: &Call,
        token: Option<&header::HeaderValue>,
    ) -> Result<Answer, Failure> {
        let place = self.places.acquire().await;
        // Nobody closes it.
        let _place = place.map_err(|error| Failure::NotSent(error.to_string()))?;
        let mut request = self.request(call, token)?;
        // One that was idle may have been closed by the agent, of which we may hear only now.
        while let Some(mut connection) = self.take() {
            match connection.try_send_request(request).await {
                Ok(response) => return self.read(connection, response).await,
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Failure::Unknown(described(&error.into_error()))),
                },
            }
        }
        let mut connection = self.open().await?;
        match connection.try_send_request(request).await {
            Ok(response) => self.read(connection, response).await,
            Err(mut error) => {
                let was_sent = error.take_message().is_none();
                let text = described(&error.into_error());
                Err(if was_sent {
                    Failure::Unknown(text)
                } else {
                    Failure::NoRoom(text)
                })
            }
        }
    }

    fn request(
        &self,
        call: &Call,
        token: Option<&header::HeaderValue>,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(&call.path)
            .header(header::HOST, self.target.authority.as_str());
        if let Some(token) = token {
            request = request.header("x-consul-token", token);
        }
        request
            .body(Full::new(call.body.clone()))
            .map_err(|error| Failure::NotSent(error.to_string()))
    }

    async fn read(
        &self,
        connection: SendRequest<Full<Bytes>>,
        response: http::Response<hyper::body::Incoming>,
    ) -> Result<Answer, Failure> {
        let status = response.status();
        let index = response.headers().get(INDEX);
        let index = index.and_then(|index| index.to_str().ok()?.parse().ok());
        let body = Limited::new(response.into_body(), LONGEST_ANSWER);
        let body = body.collect().await;
        let body = body.map_err(|error| Failure::Unknown(error.to_string()))?;
        if !connection.is_closed() {
            self.idle().push(connection);
        }
        Ok(Answer {
            status,
            index,
            body: body.to_bytes(),
        })
    }

    fn take(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle();
        while let Some(connection) = idle.pop() {
            // It becomes ready again when its last answer has been read to the end.
            if !connection.is_closed() {
                return Some(connection);
            }
        }
        None
    }

    /// A new connection, which the agent has not closed yet as far as is known.
    async fn open(&self) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let not_sent = |error: io::Error| Failure::NotSent(error.to_string());
        let stream = TcpStream::connect((self.target.host(), self.target.port())).await;
        let stream = stream.map_err(not_sent)?;
        stream.set_nodelay(true).map_err(not_sent)?;
        let Some(secret) = &self.secret else {
            return speaking(Stream::Plain(stream)).await;
        };
        let secured = secret.connector.connect(secret.name.clone(), stream).await;
        let secured = secured.map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                Failure::NoRoom(error.to_string())
            }
            _ => Failure::NotSent(error.to_string()),
        })?;
        speaking(Stream::Secret(Box::new(secured))).await
    }

    /// Closes those that nobody uses.
    pub(crate) fn close_idle(&self) {
        drop(mem::take(&mut *self.idle()));
    }

    fn idle(&self) -> MutexGuard<'_, Vec<SendRequest<Full<Bytes>>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Begins to speak HTTP on a stream.
async fn speaking(stream: Stream) -> Result<SendRequest<Full<Bytes>>, Failure> {
    let shaken = http1::handshake(TokioIo::new(stream)).await;
    let (mut connection, runs) = shaken.map_err(|error| Failure::NotSent(described(&error)))?;
    tokio::spawn(async move {
        // Its end is seen by whoever asks.
        let _ = runs.await;
    });
    let ready = connection.ready().await;
    ready.map_err(|error| Failure::NoRoom(described(&error)))?;
    Ok(connection)
}

/// The error and its innermost cause.
fn described(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    let mut innermost = None;
    while let Some(error) = cause {
        innermost = Some(error);
        cause = error.source();
    }
    if let Some(error) = innermost {
        text = format!("{text}: {error}");
    }
    text
}

/// Bytes from and to an agent.
enum Stream {
    Plain(TcpStream),
    Secret(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Secret(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Secret(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Secret(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Secret(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// The connections to every agent, for the questions and for the long polls.
pub(crate) type PerAgent = Vec<Arc<Connections>>;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// What an agent without room does to a new connection, whether it says why or not.
    #[tokio::test]
    async fn a_connection_that_is_closed_as_it_was_made_is_no_room() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        for says in [
            "HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\n\r\n",
            "",
        ] {
            let stream = TcpStream::connect(("127.0.0.1", port)).await;
            let stream = stream.expect("a connection");
            let (mut agent, _) = listener.accept().expect("the same");
            agent.write_all(says.as_bytes()).expect("it is open");
            drop(agent);
            stream.readable().await.expect("its end");
            let spoken = speaking(Stream::Plain(stream)).await;
            assert!(matches!(spoken, Err(Failure::NoRoom(_))), "{spoken:?}");
        }
    }
}
