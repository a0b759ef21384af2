//! A network that fails as a whole: a TCP proxy that knows nothing of what passes.
//!
//! What it holds back reaches the server when it is let go, even if the client has gone by then.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// A proxy on a thread of its own, in front of one server.
#[derive(Debug)]
pub struct Pipe {
    port: u16,
    mode: watch::Sender<Mode>,
    held: Arc<AtomicU64>,
    accepted: Arc<AtomicU64>,
    runtime: Option<Runtime>,
}

impl Pipe {
    /// A proxy to the server at this port.
    pub fn to(port: u16) -> Pipe {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (mode, changes) = watch::channel(Mode::Open);
        let (held, accepted) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let own_port = listener.local_addr().unwrap().port();
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (count, bytes) = (Arc::clone(&accepted), Arc::clone(&held));
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(pass(client, server, changes.clone(), Arc::clone(&bytes)));
            }
        });
        Pipe {
            port: own_port,
            mode,
            held,
            accepted,
            runtime: Some(runtime),
        }
    }

    /// Where a client finds it.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// How many connections it has taken.
    pub fn connections(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }

    /// How many bytes it holds back.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::SeqCst)
    }

    /// Holds back what comes from now on.
    pub fn hold(&self) {
        self.mode.send_replace(Mode::Held);
    }

    /// Holds back what it does, and loses what clients send from now on.
    pub fn seal(&self) {
        self.mode.send_replace(Mode::Sealed);
    }

    /// Closes all connections, and refuses new ones.
    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    /// Lets everything pass again.
    pub fn open(&self) {
        self.mode.send_replace(Mode::Open);
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What happens to what passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// It passes.
    Open,
    /// It waits.
    Held,
    /// What waits goes on waiting; what comes from clients from now on gets lost.
    Sealed,
    /// Connections are closed, and new ones as soon as they are made.
    Cut,
}

async fn pass(
    client: TcpStream,
    server: SocketAddr,
    mode: watch::Receiver<Mode>,
    held: Arc<AtomicU64>,
) -> io::Result<()> {
    if *mode.borrow() == Mode::Cut {
        return Ok(());
    }
    let server = TcpStream::connect(server).await?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut changes = mode.clone();
    let cut = async {
        let _ = changes.wait_for(|mode| *mode == Mode::Cut).await;
    };
    let up = copy(from_client, to_server, mode.clone(), Some(held));
    let down = copy(from_server, to_client, mode.clone(), None);
    let both = async {
        tokio::join!(up, down);
    };
    tokio::select! {
        () = both => {}
        () = cut => {}
    }
    Ok(())
}

/// Passes on what comes, until an end comes.
async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    held: Option<Arc<AtomicU64>>,
) {
    let mut waiting = Vec::new();
    let (mut has_ended, mut was_held) = (false, false);
    let mut buffer = vec![0; 16 * 1024];
    while !(has_ended && waiting.is_empty()) {
        let now = *mode.borrow_and_update();
        if now == Mode::Open && !waiting.is_empty() {
            if to.write_all(&waiting).await.is_err() {
                return;
            }
            waiting.clear();
            continue;
        }
        tokio::select! {
            read = from.read(&mut buffer), if !has_ended => match read {
                Ok(0) | Err(_) => has_ended = true,
                // Only what a client sends is lost.
                Ok(_) if *mode.borrow() == Mode::Sealed && held.is_some() => {}
                Ok(count) => {
                    waiting.extend_from_slice(&buffer[..count]);
                    // It may have changed while this was waited for.
                    let is_held = *mode.borrow() != Mode::Open;
                    if let (true, Some(held)) = (is_held, &held) {
                        was_held = true;
                        held.fetch_add(count as u64, Ordering::SeqCst);
                    }
                }
            },
            changed = mode.changed() => if changed.is_err() {
                return;
            },
        }
    }
    if was_held {
        // A server gives up what it has just begun for a client that has gone.
        std::future::pending().await
    }
}
