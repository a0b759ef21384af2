//! The least that a lock on Consul is: a key that is locked by a session and deleted, by a client
//! that knows nothing else. It does not wait, and nobody hears of an end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lock_peers::Failure;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// The connections of one process, each with a session of its own, as each claim has one.
pub struct Bare {
    address: String,
    ttl: Duration,
    idle: Mutex<Vec<Line>>,
}

struct Line {
    stream: BufReader<TcpStream>,
    session: String,
}

/// A lock that is held.
pub struct Held {
    bare: Arc<Bare>,
    line: Line,
    path: String,
}

impl Bare {
    pub fn new(url: &str, ttl: Duration) -> Bare {
        Bare {
            ttl,
            address: url.trim_start_matches("consul://").to_owned(),
            idle: Mutex::default(),
        }
    }

    /// Takes a lock that is free.
    pub async fn acquire(self: &Arc<Bare>, key: &str) -> Result<Held, Failure> {
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let mut line = match idle {
            Some(line) => line,
            None => self.open().await?,
        };
        let path = format!("/v1/kv/lock:{key}/.lock");
        let take = format!("{path}?acquire={}", line.session);
        match line.ask("PUT", &take, "bare").await?.trim() {
            "true" => Ok(Held {
                bare: Arc::clone(self),
                line,
                path,
            }),
            _ => Err("the lock is not free".into()),
        }
    }

    async fn open(&self) -> Result<Line, Failure> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let mut line = Line {
            stream: BufReader::new(stream),
            session: String::new(),
        };
        let session = format!(r#"{{"TTL": "{}s", "NodeChecks": []}}"#, self.ttl.as_secs());
        let made = line.ask("PUT", "/v1/session/create", &session).await?;
        let made: Value = serde_json::from_str(&made)?;
        let id = made["ID"].as_str().ok_or("Consul made no session")?;
        line.session = id.to_owned();
        Ok(line)
    }
}

impl Held {
    pub async fn release(mut self) -> Result<(), Failure> {
        let deleted = self.line.ask("DELETE", &self.path, "").await?;
        let mut idle = self
            .bare
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        idle.push(self.line);
        match deleted.trim() {
            "true" => Ok(()),
            _ => Err("the lock was not deleted".into()),
        }
    }
}

impl Line {
    async fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<String, Failure> {
        let length = body.len();
        let question = format!(
            "{method} {path} HTTP/1.1\r\nHost: consul\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        self.stream.write_all(question.as_bytes()).await?;
        let (mut length, mut status) = (0, String::new());
        self.stream.read_line(&mut status).await?;
        loop {
            let mut header = String::new();
            self.stream.read_line(&mut header).await?;
            let Some((name, value)) = header.trim().split_once(':') else {
                break;
            };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        match status.contains(" 200 ") {
            true => Ok(String::from_utf8(body)?),
            false => Err(format!("{method} {path}: {}", status.trim()).into()),
        }
    }
}
