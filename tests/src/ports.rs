//! Ports for servers that are killed and started again.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Below those that a system gives to connections, so that none has taken a port when its server
/// comes back.
const PORTS: Range<u16> = 12_000..32_000;

/// So many ports that nobody uses. Nobody is given one of them again before all others, so that no
/// other server has taken it either.
pub fn free_ports(count: usize) -> Vec<u16> {
    static TURN: LazyLock<AtomicUsize> =
        LazyLock::new(|| AtomicUsize::new(fastrand::usize(..PORTS.len())));
    let mut found = Vec::new();
    while found.len() < count {
        let turn = TURN.fetch_add(1, Ordering::Relaxed) % PORTS.len();
        let port = PORTS.clone().nth(turn);
        let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
        found.extend(port.filter(is_free));
    }
    found
}
