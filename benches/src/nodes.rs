//! Several servers that vote: which of them a side is given.

use lock_tests::free_ports;
use lock_tests::server::Server;

use crate::side::Side;

/// How many servers vote.
const NODES: usize = 5;
/// How many of them are down, where some are.
const DOWN: usize = 2;

/// Servers beside the one that is counted.
pub struct Nodes {
    first: String,
    others: Vec<Server>,
    /// They have accepted connections, and answer nothing.
    hung: Vec<Server>,
    /// Where nobody listens.
    dead: Vec<String>,
}

impl Nodes {
    /// Those that vote together with the server at `first`.
    pub fn start(first: &str) -> Nodes {
        let mut hung: Vec<Server> = (0..DOWN).map(|_| Server::start()).collect();
        hung.iter_mut().for_each(Server::pause);
        let dead = free_ports(DOWN).into_iter();
        Nodes {
            first: first.to_owned(),
            others: (1..NODES).map(|_| Server::start()).collect(),
            hung,
            dead: dead
                .map(|port| format!("redis://127.0.0.1:{port}"))
                .collect(),
        }
    }

    /// Where `side` finds its servers.
    pub fn urls(&self, side: Side) -> String {
        let others = self.others.iter().map(Server::url);
        let mut urls: Vec<String> = [self.first.clone()].into_iter().chain(others).collect();
        let down: Vec<String> = match side {
            Side::RedlockTwoRefuse => self.dead.clone(),
            Side::RedlockTwoHang => self.hung.iter().map(Server::url).collect(),
            _ => return urls.join(","),
        };
        urls.truncate(NODES - down.len());
        urls.extend(down);
        urls.join(",")
    }
}
