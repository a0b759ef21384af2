//! The network between the members of a cluster, of which one can be cut off.
//!
//! Each member is reached by the others through a proxy. A connection is told apart by the process
//! that made it, so that one member is cut off both ways while the others hear one another.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

/// The proxies of a cluster, on a thread of their own.
#[derive(Debug)]
pub(crate) struct Peers {
    ports: Vec<u16>,
    state: Arc<State>,
    runtime: Option<Runtime>,
}

#[derive(Debug)]
struct State {
    /// The processes of the members.
    processes: Mutex<Vec<u32>>,
    /// Who is cut off.
    cut: watch::Sender<Option<usize>>,
}

impl Peers {
    /// Proxies to the members that listen to one another at these ports.
    pub(crate) fn to(ports: &[u16]) -> Peers {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let state = Arc::new(State {
            processes: Mutex::new(vec![0; ports.len()]),
            cut: watch::Sender::new(None),
        });
        let mut own_ports = Vec::new();
        for (member, port) in ports.iter().enumerate() {
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            listener.set_nonblocking(true).unwrap();
            own_ports.push(listener.local_addr().unwrap().port());
            let (state, port) = (Arc::clone(&state), *port);
            runtime.spawn(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                while let Ok((from, address)) = listener.accept().await {
                    let state = Arc::clone(&state);
                    tokio::spawn(state.pass(from, address, member, port));
                }
            });
        }
        Peers {
            ports: own_ports,
            state,
            runtime: Some(runtime),
        }
    }

    /// Where the others find a member.
    pub(crate) fn port(&self, member: usize) -> u16 {
        self.ports[member]
    }

    /// The process of a member, from now on.
    pub(crate) fn is_process(&self, member: usize, process: u32) {
        self.state.processes()[member] = process;
    }

    /// Cuts a member off from the others, or nobody.
    pub(crate) fn cut(&self, member: Option<usize>) {
        self.state.cut.send_replace(member);
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl State {
    async fn pass(
        self: Arc<Self>,
        mut from: TcpStream,
        address: SocketAddr,
        member: usize,
        port: u16,
    ) {
        // It takes a while, in which what passes already is not to wait.
        let state = Arc::clone(&self);
        let found = spawn_blocking(move || state.maker(address.port()));
        let Ok(Some(maker)) = found.await else {
            return;
        };
        let is_cut = |cut: &Option<usize>| cut.is_some_and(|cut| cut == member || cut == maker);
        let mut cut = self.cut.subscribe();
        let both = async {
            if let Ok(mut to) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
                let _ = from.set_nodelay(true);
                let _ = to.set_nodelay(true);
                let _ = copy_bidirectional(&mut from, &mut to).await;
            }
        };
        tokio::select! {
            biased;
            _ = cut.wait_for(is_cut) => {}
            () = both => return,
        }
        // A network that is cut is silent. One who was refused would come again at once, and who it
        // is would have to be found out each time.
        let _ = cut.wait_for(|cut| !is_cut(cut)).await;
    }

    /// The member whose process has a socket at this port.
    fn maker(&self, port: u16) -> Option<usize> {
        let table = fs::read_to_string("/proc/net/tcp").ok()?;
        let end = format!(":{port:04X}");
        // The columns are: number, local address, remote address, state, ….
        let mut sockets = table.lines().map(|line| line.split_whitespace());
        let inode = sockets.find_map(|mut columns| {
            let is_it = columns.nth(1)?.ends_with(&end);
            columns.nth(7).filter(|_| is_it).map(str::to_owned)
        })?;
        let socket = format!("socket:[{inode}]");
        let processes = self.processes().clone();
        processes.iter().position(|process| {
            let files = fs::read_dir(format!("/proc/{process}/fd"));
            files.is_ok_and(|files| {
                files.flatten().any(|file| {
                    fs::read_link(file.path()).is_ok_and(|it| it.to_str() == Some(&socket))
                })
            })
        })
    }

    fn processes(&self) -> std::sync::MutexGuard<'_, Vec<u32>> {
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
