//! The server under load, and what it counts: a Redis, an etcd or a Consul.

use std::collections::BTreeMap;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use lock_tests::consul::{self, Options};
use lock_tests::etcd::Cluster;
use lock_tests::server::Server;
use redis::{Connection, ConnectionAddr, IntoConnectionInfo, Value, cmd};
use serde_json::json;

use crate::nodes::Nodes;
use crate::proxy::Proxy;
use crate::side::{Failure, Side};

/// What the benchmark itself sends while it counts.
const OUR_OWN: [&str; 4] = ["info", "incr", "decr", "getex"];

/// What ends a [`Watch`].
const END: &str = "bench:end";

/// A server: one of our own, or that of `--url`.
pub struct Target {
    /// Where the clients find it.
    url: String,
    store: Store,
}

enum Store {
    Redis(Redis),
    Etcd(Cluster),
    Consul(consul::Cluster),
}

/// Which store the locks are in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    #[default]
    Redis,
    /// One member of our own.
    Etcd,
    /// One server of our own, which lets all clients together have 2,000 connections.
    Consul,
}

struct Redis {
    /// Where it is.
    direct: String,
    connection: Connection,
    proxy: Option<Proxy>,
    /// Those that vote with it.
    nodes: Option<Box<Nodes>>,
    /// Ends when it is dropped.
    _own: Option<Box<Server>>,
}

/// What the server has counted since it started.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// By command: how often it was called, and the microseconds it took.
    commands: BTreeMap<String, (u64, u64)>,
    /// How often it read from a connection: messages, where each waits for the answer to the one
    /// before.
    pub reads: u64,
    /// Seconds on a processor.
    pub cpu_s: f64,
}

impl Target {
    /// With `delay`, the clients reach it through a proxy that adds so much each way.
    pub fn open(url: Option<&str>, delay: Option<Duration>) -> Result<Target, Failure> {
        let own = url.is_none().then(Server::start);
        let direct = match (url, &own) {
            (Some(url), _) => url.to_owned(),
            (None, Some(server)) => server.url(),
            (None, None) => return Err("no server".into()),
        };
        let (mut url, mut proxy) = (direct.clone(), None);
        if let Some(delay) = delay {
            let ConnectionAddr::Tcp(host, port) =
                direct.as_str().into_connection_info()?.addr().clone()
            else {
                return Err("a delay needs plain TCP".into());
            };
            let between = Proxy::start((host.as_str(), port), delay)?;
            url = direct.replace(
                &format!("{host}:{port}"),
                &format!("127.0.0.1:{}", between.port()),
            );
            if url == direct {
                return Err("a delay needs an URL with a port".into());
            }
            between.calibrate(&direct)?;
            proxy = Some(between);
        }
        Ok(Target {
            url,
            store: Store::Redis(Redis {
                connection: redis::Client::open(direct.as_str())?.get_connection()?,
                direct,
                proxy,
                nodes: None,
                _own: own.map(Box::new),
            }),
        })
    }

    /// Five servers, of which a majority holds the locks. What is counted is of the first.
    pub fn open_nodes() -> Result<Target, Failure> {
        let mut target = Target::open(None, None)?;
        let nodes = Nodes::start(&target.url);
        target.redis()?.nodes = Some(Box::new(nodes));
        Ok(target)
    }

    /// An etcd of our own.
    pub fn etcd() -> Target {
        let cluster = Cluster::start();
        Target {
            url: cluster.url(),
            store: Store::Etcd(cluster),
        }
    }

    /// A Consul of our own.
    pub fn consul() -> Target {
        let cluster = Options::default()
            .with("limits", json!({"http_max_conns_per_client": 2_000}))
            .with(
                "telemetry",
                json!({"prometheus_retention_time": "24h", "disable_hostname": true}),
            )
            .start(1);
        Target {
            url: cluster.url(),
            store: Store::Consul(cluster),
        }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where `side` finds its servers.
    pub fn urls(&self, side: Side) -> String {
        match &self.store {
            Store::Redis(Redis {
                nodes: Some(nodes), ..
            }) => nodes.urls(side),
            _ => self.url.clone(),
        }
    }

    pub fn kind(&self) -> Kind {
        match self.store {
            Store::Redis(_) => Kind::Redis,
            Store::Etcd(_) => Kind::Etcd,
            Store::Consul(_) => Kind::Consul,
        }
    }

    fn redis(&mut self) -> Result<&mut Redis, Failure> {
        match &mut self.store {
            Store::Redis(redis) => Ok(redis),
            Store::Etcd(_) | Store::Consul(_) => Err("this is measured on Redis alone".into()),
        }
    }

    pub fn connection(&mut self) -> Result<&mut Connection, Failure> {
        Ok(&mut self.redis()?.connection)
    }

    /// What the delay came to, if there is one.
    pub fn reached(&self) -> Result<Option<String>, Failure> {
        let Store::Redis(Redis {
            proxy: Some(proxy),
            direct,
            ..
        }) = &self.store
        else {
            return Ok(None);
        };
        proxy.reached(direct).map(Some)
    }

    pub fn version(&mut self) -> Result<String, Failure> {
        if let Store::Etcd(cluster) = &self.store {
            return Ok(format!("etcd {}", cluster.version()));
        }
        if let Store::Consul(cluster) = &self.store {
            let (_, about) = cluster.ask_of(0, "GET", "/v1/agent/self", "")?;
            let about: serde_json::Value = serde_json::from_str(&about)?;
            let version = &about["Config"]["Version"];
            let version = version.as_str().ok_or("Consul tells no version")?;
            return Ok(format!("Consul {version}"));
        }
        let info: String = cmd("INFO").arg("server").query(self.connection()?)?;
        let field = |name| info.lines().find_map(|line| line.strip_prefix(name));
        let redis = || Some(format!("Redis {}", field("redis_version:")?));
        let valkey = field("valkey_version:").map(|version| format!("Valkey {version}"));
        Ok(valkey
            .or_else(redis)
            .unwrap_or_else(|| "unknown".to_owned()))
    }

    pub fn counts(&mut self) -> Result<Counts, Failure> {
        let connection = match &mut self.store {
            Store::Redis(redis) => &mut redis.connection,
            Store::Etcd(cluster) => return counts_of_etcd(&cluster.metrics(0)),
            Store::Consul(cluster) => return counts_of_consul(cluster),
        };
        let mut info = String::new();
        for section in ["stats", "commandstats", "cpu"] {
            info += &cmd("INFO").arg(section).query::<String>(connection)?;
        }
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

    /// Watches every command from now on. On etcd and Consul clients alone send commands.
    pub fn watch(&mut self) -> Result<Watch, Failure> {
        if self.kind() != Kind::Redis {
            return Ok(Watch(thread::spawn(|| Ok(Senders::default()))));
        }
        let direct = self.redis()?.direct.as_str();
        let mut monitor = redis::Client::open(direct)?.get_connection()?;
        monitor.send_packed_command(&cmd("MONITOR").get_packed_command())?;
        monitor.recv_response()?;
        Ok(Watch(thread::spawn(move || {
            let mut senders = Senders::default();
            loop {
                match monitor.recv_response()? {
                    Value::SimpleString(line) if line.ends_with(&format!("\"{END}\"")) => {
                        return Ok(senders);
                    }
                    Value::SimpleString(line) => senders.note(&line),
                    other => return Err(format!("no line of MONITOR: {other:?}").into()),
                }
            }
        })))
    }

    /// Who has sent the commands since [`watch`](Target::watch).
    pub fn watched(&mut self, watch: Watch) -> Result<Senders, Failure> {
        if self.kind() == Kind::Redis {
            cmd("ECHO").arg(END).exec(self.connection()?)?;
        }
        watch.0.join().map_err(|_| "the watch has panicked")?
    }
}

/// What the metrics of etcd have counted: messages by the method that they call, those within
/// streams as well.
fn counts_of_etcd(metrics: &str) -> Result<Counts, Failure> {
    let mut counts = Counts::default();
    for line in metrics.lines() {
        let Some((name, value)) = line.rsplit_once(' ') else {
            continue;
        };
        if name == "process_cpu_seconds_total" {
            counts.cpu_s = value.parse()?;
        } else if name.starts_with("grpc_server_msg_received_total{") {
            let method = name.split("grpc_method=\"").nth(1);
            let method = method.and_then(|rest| rest.split('"').next());
            let method = method.ok_or("a metric of etcd names no method")?;
            let (calls, _) = counts.commands.entry(method.to_owned()).or_default();
            *calls += value.parse::<f64>()? as u64;
        }
    }
    Ok(counts)
}

/// What the metrics of Consul have counted: questions by their method and path.
fn counts_of_consul(cluster: &consul::Cluster) -> Result<Counts, Failure> {
    let metrics = "/v1/agent/metrics?format=prometheus";
    let (status, metrics) = cluster.ask_of(0, "GET", metrics, "")?;
    if status != 200 {
        return Err("Consul tells no metrics".into());
    }
    let mut counts = Counts::default();
    for line in metrics.lines() {
        let Some((name, value)) = line.rsplit_once(' ') else {
            continue;
        };
        if name == "process_cpu_seconds_total" {
            counts.cpu_s = value.parse()?;
            continue;
        }
        let Some(labels) = name.strip_prefix("consul_api_http_count{method=\"") else {
            continue;
        };
        let question = labels.trim_end_matches("\"}").replace("\",path=\"", " ");
        // What the benchmark asks itself.
        if !question.contains("agent_metrics") {
            let calls = value.parse::<f64>()? as u64;
            counts.commands.insert(question, (calls, 0));
        }
    }
    Ok(counts)
}

/// A thread that reads what MONITOR shows.
pub struct Watch(JoinHandle<Result<Senders, Failure>>);

/// By command: how often clients have sent it, and how often scripts have called it.
#[derive(Clone, Debug, Default)]
pub struct Senders(BTreeMap<String, (u64, u64)>);

impl Senders {
    /// Counts a line such as `1339518083.107412 [0 127.0.0.1:60866] "get" "key"`; a script is
    /// called `lua` there.
    fn note(&mut self, line: &str) {
        let Some((source, command)) = line.split_once("] \"") else {
            return;
        };
        let name = command.split('"').next().unwrap_or_default();
        let (clients, scripts) = self.0.entry(name.to_ascii_lowercase()).or_default();
        *(if source.ends_with(" lua") {
            scripts
        } else {
            clients
        }) += 1;
    }

    /// Which share of the calls of `command` clients have sent. A command that did not come up is
    /// one of theirs.
    fn share(&self, command: &str) -> f64 {
        let name = command.split('|').next().unwrap_or_default();
        match self.0.get(name) {
            Some((clients, scripts)) => *clients as f64 / (clients + scripts) as f64,
            None => 1.0,
        }
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
            // Less the three of the benchmark that lie between.
            reads: (self.reads - earlier.reads).saturating_sub(3),
            cpu_s: self.cpu_s - earlier.cpu_s,
        }
    }

    /// How often `command` was called.
    pub fn calls(&self, command: &str) -> u64 {
        self.commands.get(command).map_or(0, |(calls, _)| *calls)
    }

    /// The calls that clients sent, and the microseconds these took, what they called included.
    /// What the benchmark itself sends does not count.
    pub fn sent(&self, senders: &Senders) -> (f64, f64) {
        let theirs = self
            .commands
            .iter()
            .filter(|(name, _)| !OUR_OWN.contains(&name.as_str()));
        theirs.fold((0.0, 0.0), |(calls, micros), (name, (c, m))| {
            let share = senders.share(name);
            // EXEC takes the time of the commands that it runs, which count by themselves.
            let time = if name == "exec" {
                0.0
            } else {
                *m as f64 * share
            };
            (calls + *c as f64 * share, micros + time)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_clients_and_scripts_call_is_told_apart_by_count() {
        let mut senders = Senders::default();
        for line in [
            r#"1.2 [0 127.0.0.1:6] "SET" "a] \"b" "1""#,
            r#"1.2 [0 127.0.0.1:6] "evalsha" "f" "0""#,
            r#"1.2 [0 lua] "set" "a" "1""#,
            r#"1.2 [0 lua] "set" "a" "1""#,
            r#"1.2 [0 lua] "set" "a" "1""#,
            r#"1.2 [0 lua] "get" "a""#,
        ] {
            senders.note(line);
        }
        let commands = [
            ("set", 400, 800),
            ("get", 100, 50),
            ("evalsha", 100, 900),
            ("info", 3, 500),
            ("exec", 7, 70),
        ];
        let counts = Counts {
            commands: commands
                .map(|(name, calls, micros)| (name.to_owned(), (calls, micros)))
                .into(),
            ..Counts::default()
        };
        assert_eq!(counts.sent(&senders), (100.0 + 100.0 + 7.0, 200.0 + 900.0));
    }

    #[test]
    fn what_etcd_counts_are_the_messages_of_every_method() {
        let mut target = Target::etcd();
        let before = target.counts().unwrap();
        let Store::Etcd(cluster) = &target.store else {
            panic!("it is an etcd");
        };
        for _ in 0..3 {
            cluster.ctl(&["put", "key", "value"]);
        }
        let counts = target.counts().unwrap().since(&before);
        assert_eq!((counts.calls("Put"), counts.calls("Txn")), (3, 0));
        assert_eq!(counts.sent(&Senders::default()).0, 3.0);
    }

    #[test]
    fn what_consul_counts_are_the_questions_by_their_paths() {
        let mut target = Target::consul();
        let before = target.counts().unwrap();
        let Store::Consul(cluster) = &target.store else {
            panic!("it is a Consul");
        };
        for _ in 0..3 {
            cluster.ask("PUT", "/v1/kv/key", "value");
        }
        let counts = target.counts().unwrap().since(&before);
        assert_eq!(
            (counts.calls("PUT v1_kv_"), counts.calls("PUT v1_txn")),
            (3, 0)
        );
        assert_eq!(counts.sent(&Senders::default()).0, 3.0);
    }

    #[test]
    fn what_a_script_calls_is_no_command_of_a_client() {
        let mut target = Target::open(None, None).unwrap();
        let watch = target.watch().unwrap();
        let before = target.counts().unwrap();
        let own = target.connection().unwrap();
        for _ in 0..10 {
            cmd("SET").arg("key").arg(1).exec(own).unwrap();
            let script = "redis.call('SET', KEYS[1], 2) return redis.call('DEL', KEYS[1])";
            cmd("EVAL").arg(script).arg(1).arg("key").exec(own).unwrap();
        }
        let counts = target.counts().unwrap().since(&before);
        let senders = target.watched(watch).unwrap();
        assert_eq!((counts.calls("set"), counts.calls("del")), (20, 10));
        assert_eq!(counts.sent(&senders).0, 20.0);
        assert_eq!(counts.reads, 20);
    }
}
