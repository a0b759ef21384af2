//! Ports for servers that are killed and started again.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

/// Below those that a system gives to connections, so that none has taken a port when its server
/// comes back.
const PORTS: Range<u16> = 12_000..32_000;

/// So many ports that nobody used a moment ago.
pub fn free_ports(count: usize) -> Vec<u16> {
    let mut found = Vec::new();
    while found.len() < count {
        let port = fastrand::u16(PORTS);
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            found.push((port, listener));
        }
    }
    found.into_iter().map(|(port, _)| port).collect()
}
