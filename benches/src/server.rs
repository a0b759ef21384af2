//! The server under load, and what it counts.

use std::collections::BTreeMap;

use lock_tests::server::Server;
use redis::{Connection, cmd};

use crate::side::Failure;

/// A server: one of our own, or that of `--url`.
pub struct Target {
    url: String,
    connection: Connection,
    /// Ends when it is dropped.
    _own: Option<Server>,
}

/// What the server has counted since it started.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// By command: how often it was called, and the microseconds it took.
    commands: BTreeMap<String, (u64, u64)>,
    /// How often it read from a connection.
    pub reads: u64,
    /// Seconds on a processor.
    pub cpu_s: f64,
}

impl Target {
    pub fn open(url: Option<&str>) -> Result<Target, Failure> {
        let own = url.is_none().then(Server::start);
        let url = match (url, &own) {
            (Some(url), _) => url.to_owned(),
            (None, Some(server)) => server.url(),
            (None, None) => return Err("no server".into()),
        };
        Ok(Target {
            connection: redis::Client::open(url.as_str())?.get_connection()?,
            url,
            _own: own,
        })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    pub fn version(&mut self) -> Result<String, Failure> {
        let info: String = cmd("INFO").arg("server").query(&mut self.connection)?;
        let version = info
            .lines()
            .find_map(|line| line.strip_prefix("redis_version:"));
        Ok(version.unwrap_or("unknown").to_owned())
    }

    pub fn counts(&mut self) -> Result<Counts, Failure> {
        let mut info: String = cmd("INFO").arg("stats").query(&mut self.connection)?;
        info += &cmd("INFO")
            .arg("commandstats")
            .query::<String>(&mut self.connection)?;
        info += &cmd("INFO")
            .arg("cpu")
            .query::<String>(&mut self.connection)?;
        let mut counts = Counts::default();
        for line in info.lines() {
            if let Some(reads) = line.strip_prefix("total_reads_processed:") {
                counts.reads = reads.parse()?;
            } else if let Some((_, seconds)) = line
                .split_once(':')
                .filter(|(name, _)| ["used_cpu_sys", "used_cpu_user"].contains(name))
            {
                counts.cpu_s += seconds.parse::<f64>()?;
            } else if let Some((name, fields)) = line
                .strip_prefix("cmdstat_")
                .and_then(|line| line.split_once(':'))
            {
                let number = |field: &str| {
                    fields
                        .split(',')
                        .find_map(|pair| pair.strip_prefix(field)?.parse().ok())
                        .unwrap_or(0)
                };
                let entry = (number("calls="), number("usec="));
                counts.commands.insert(name.to_owned(), entry);
            }
        }
        Ok(counts)
    }
}

impl Counts {
    /// What has been counted since `earlier`.
    pub fn since(&self, earlier: &Counts) -> Counts {
        let commands = self.commands.iter().map(|(name, (calls, micros))| {
            let (calls_then, micros_then) = earlier.commands.get(name).copied().unwrap_or_default();
            (name.clone(), (calls - calls_then, micros - micros_then))
        });
        Counts {
            commands: commands.collect(),
            reads: self.reads - earlier.reads,
            cpu_s: self.cpu_s - earlier.cpu_s,
        }
    }

    /// The calls that clients sent, where scripts make the calls named in `called_by_scripts`, and the microseconds these took,
    /// scripts included. What the benchmark itself sends does not count.
    pub fn sent(&self, called_by_scripts: &[&str]) -> (u64, u64) {
        const OURS: [&str; 4] = ["info", "incr", "decr", "pexpire"];
        self.commands
            .iter()
            .filter(|(name, _)| {
                !OURS.contains(&name.as_str()) && !called_by_scripts.contains(&name.as_str())
            })
            .fold((0, 0), |(calls, micros), (_, (c, m))| {
                (calls + c, micros + m)
            })
    }
}
