//! A look at an etcd from outside, by its JSON gateway: as quick as a client of its own, where
//! `etcdctl` would start a process for each question.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// Asks the members one after the other, each for a short time.
pub(crate) struct EtcdAdmin {
    ports: Vec<u16>,
    patience: Duration,
}

/// A claim in etcd.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) key: String,
    pub(crate) lease: i64,
}

impl EtcdAdmin {
    pub(crate) fn new(ports: Vec<u16>, patience: Duration) -> EtcdAdmin {
        EtcdAdmin { ports, patience }
    }

    /// The claims of a lock, the oldest first.
    pub(crate) fn claims(&self, lock: &str) -> io::Result<Vec<Found>> {
        self.range(&format!("lock:{lock}/"), &format!("lock:{lock}0"))
    }

    /// All keys of locks, and those of claims that were withdrawn.
    pub(crate) fn all(&self) -> io::Result<Vec<Found>> {
        self.range("lock:", "lock;")
    }

    fn range(&self, from: &str, to: &str) -> io::Result<Vec<Found>> {
        let question = json!({
            "key": STANDARD.encode(from),
            "range_end": STANDARD.encode(to),
            "sort_target": "CREATE",
            "sort_order": "ASCEND",
        });
        let answer = self.ask("kv/range", &question)?;
        let found = answer["kvs"].as_array().into_iter().flatten();
        found
            .map(|it| {
                Some(Found {
                    key: text(&it["key"])?,
                    lease: number(&it["lease"]),
                })
            })
            .collect::<Option<_>>()
            .ok_or_else(|| io::Error::other("a key that is no text"))
    }

    /// Deletes a key. Whether it was there.
    pub(crate) fn delete(&self, key: &str) -> io::Result<bool> {
        let answer = self.ask("kv/deleterange", &json!({ "key": STANDARD.encode(key) }))?;
        Ok(number(&answer["deleted"]) > 0)
    }

    /// Ends a lease.
    pub(crate) fn revoke(&self, lease: i64) -> io::Result<()> {
        self.ask("lease/revoke", &json!({ "ID": lease.to_string() }))
            .map(drop)
    }

    /// The leases that live.
    pub(crate) fn leases(&self) -> io::Result<Vec<i64>> {
        let answer = self.ask("lease/leases", &json!({}))?;
        let leases = answer["leases"].as_array().into_iter().flatten();
        Ok(leases.map(|lease| number(&lease["ID"])).collect())
    }

    /// Forgets all revisions before the present one.
    pub(crate) fn compact(&self) -> io::Result<()> {
        let answer = self.ask("kv/range", &json!({ "key": STANDARD.encode("none") }))?;
        let revision = number(&answer["header"]["revision"]);
        self.ask(
            "kv/compaction",
            &json!({ "revision": revision.to_string() }),
        )
        .map(drop)
    }

    /// How many watchers a member has.
    pub(crate) fn watchers(&self, member: usize) -> io::Result<u64> {
        let metrics = self.exchange(self.ports[member], "GET /metrics HTTP/1.0\r\n\r\n")?;
        let name = "etcd_debugging_mvcc_watcher_total ";
        let count = metrics.lines().find_map(|line| line.strip_prefix(name));
        let count = count.and_then(|count| count.trim().parse::<f64>().ok());
        count
            .map(|count| count as u64)
            .ok_or_else(|| io::Error::other("no count of watchers"))
    }

    /// Whether this member answers, which needs a leader.
    pub(crate) fn is_well(&self, member: usize) -> bool {
        let question = json!({ "key": STANDARD.encode("none") });
        self.ask_one(self.ports[member], "kv/range", &question)
            .is_ok()
    }

    /// Whether this member says that it leads.
    pub(crate) fn leads(&self, member: usize) -> bool {
        let status = self.ask_one(self.ports[member], "maintenance/status", &json!({}));
        status.is_ok_and(|status| {
            let leader = number(&status["leader"]);
            leader != 0 && leader == number(&status["header"]["member_id"])
        })
    }

    /// Asks the members in turn until one answers.
    fn ask(&self, path: &str, question: &Value) -> io::Result<Value> {
        let mut failure = io::Error::other("no member");
        for port in &self.ports {
            match self.ask_one(*port, path, question) {
                Ok(answer) => return Ok(answer),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn ask_one(&self, port: u16, path: &str, question: &Value) -> io::Result<Value> {
        let body = question.to_string();
        let length = body.len();
        let request = format!("POST /v3/{path} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}");
        let answer = self.exchange(port, &request)?;
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .ok_or_else(|| io::Error::other("no answer"))?;
        if !head
            .lines()
            .next()
            .is_some_and(|line| line.contains(" 200 "))
        {
            return Err(io::Error::other(body.to_owned()));
        }
        Ok(serde_json::from_str(body)?)
    }

    fn exchange(&self, port: u16, request: &str) -> io::Result<String> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut stream = TcpStream::connect_timeout(&address, self.patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(self.patience))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

fn text(value: &Value) -> Option<String> {
    let bytes = STANDARD.decode(value.as_str()?).ok()?;
    String::from_utf8(bytes).ok()
}

/// A number of 64 bits, with a sign or without, which JSON has as a text; what is zero is left out.
fn number(value: &Value) -> i64 {
    let Some(text) = value.as_str() else {
        return 0;
    };
    let unsigned = || text.parse::<u64>().map(u64::cast_signed);
    text.parse().or_else(|_| unsigned()).unwrap_or(0)
}
