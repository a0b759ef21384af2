//! A look at a Consul from outside, by its agents' HTTP API.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Asks the servers one after the other, each for a short time.
pub(crate) struct ConsulAdmin {
    ports: Vec<u16>,
    patience: Duration,
}

/// A claim in Consul that lives.
#[derive(Clone, Debug)]
pub(crate) struct Claimed {
    /// Its owner token.
    pub(crate) owner: String,
    pub(crate) session: String,
}

impl ConsulAdmin {
    pub(crate) fn new(ports: Vec<u16>, patience: Duration) -> ConsulAdmin {
        ConsulAdmin { ports, patience }
    }

    /// The claim that holds a lock.
    pub(crate) fn holder(&self, lock: &str) -> io::Result<Option<Claimed>> {
        let found = self.keys(&format!("lock:{lock}/.lock"))?;
        Ok(found.into_iter().next().map(|(_, claim)| claim))
    }

    /// The claims that wait for a lock, those that have waited longest first.
    pub(crate) fn waiters(&self, lock: &str) -> io::Result<Vec<Claimed>> {
        let mut found = self.keys(&format!("lock:{lock}/.queue/"))?;
        found.sort_by_key(|(created, _)| *created);
        Ok(found.into_iter().map(|(_, claim)| claim).collect())
    }

    /// How many claims live, in whatever lock.
    pub(crate) fn claims(&self) -> io::Result<usize> {
        self.keys("lock:").map(|keys| keys.len())
    }

    /// The claims behind all keys that start so and that a session has locked.
    fn keys(&self, prefix: &str) -> io::Result<Vec<(u64, Claimed)>> {
        let path = format!("/v1/kv/{prefix}?recurse&consistent");
        let found = self.ask("GET", &path)?;
        let found = found.as_array().into_iter().flatten();
        let claims =
            found.filter(|key| !key["Key"].as_str().unwrap_or_default().contains("%gone/"));
        let claims = claims.filter_map(|key| {
            let session = key["Session"].as_str()?.to_owned();
            let value = STANDARD.decode(key["Value"].as_str()?).ok()?;
            let value = String::from_utf8(value).ok()?;
            // `lock-consul 1 <ttl> <number> <owner token>`.
            let owner = value.splitn(5, ' ').nth(4)?.to_owned();
            Some((key["CreateIndex"].as_u64()?, Claimed { owner, session }))
        });
        Ok(claims.collect())
    }

    /// Deletes the key of a lock.
    pub(crate) fn delete(&self, lock: &str) -> io::Result<()> {
        let path = format!("/v1/kv/lock:{lock}/.lock");
        self.ask("DELETE", &path).map(drop)
    }

    /// Ends a session.
    pub(crate) fn destroy(&self, session: &str) -> io::Result<()> {
        let path = format!("/v1/session/destroy/{session}");
        self.ask("PUT", &path).map(drop)
    }

    /// How many sessions there are, but for those that remember claims which were withdrawn.
    pub(crate) fn sessions(&self) -> io::Result<u64> {
        let sessions = self.ask("GET", "/v1/session/list?consistent")?;
        let sessions = sessions.as_array().into_iter().flatten();
        let of_claims = sessions.filter(|session| session["Behavior"] != "delete");
        Ok(of_claims.count() as u64)
    }

    /// Whether this server answers, which needs a leader.
    pub(crate) fn is_well(&self, server: usize) -> bool {
        let path = "/v1/kv/none?keys&consistent";
        self.ask_one(self.ports[server], "GET", path).is_ok()
    }

    /// Asks the servers in turn until one answers.
    fn ask(&self, method: &str, path: &str) -> io::Result<Value> {
        let mut failure = io::Error::other("no server");
        for port in &self.ports {
            match self.ask_one(*port, method, path) {
                Ok(answer) => return Ok(answer),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn ask_one(&self, port: u16, method: &str, path: &str) -> io::Result<Value> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut stream = TcpStream::connect_timeout(&address, self.patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(self.patience))?;
        let request = format!("{method} {path} HTTP/1.0\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .ok_or_else(|| io::Error::other("no answer"))?;
        match head.split(' ').nth(1) {
            Some("200") => Ok(serde_json::from_str(body)?),
            // There is no such key.
            Some("404") => Ok(Value::Null),
            _ => Err(io::Error::other(body.to_owned())),
        }
    }
}
