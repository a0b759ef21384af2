//! Real Consul servers, one cluster for each test that needs one.
//!
//! A cluster has ports and a directory of its own, and ends with its value, by the ids of its
//! processes. Its sessions may have a ttl of one second, where ten are usual.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::etcd::write_certificates;
use crate::free_ports;

/// By when a server has done what it was told.
const DEADLINE: Duration = Duration::from_secs(60);

/// What may do everything, where there are tokens.
pub const MASTER: &str = "b1a4a1a0-0000-4000-8000-000000000001";

/// How to start a cluster.
#[derive(Clone, Debug, Default)]
pub struct Options {
    settings: Vec<(&'static str, Value)>,
    tls: bool,
    acl: bool,
}

impl Options {
    /// Sets something in the configuration of every agent.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: Value) -> Options {
        self.settings.push((name, value));
        self
    }

    /// Speaks TLS alone to clients with a certificate of its authority, on a port of its own.
    #[must_use]
    pub fn tls(mut self) -> Options {
        self.tls = true;
        self
    }

    /// Allows nothing to who has no token; [`MASTER`] is one for everything.
    #[must_use]
    pub fn acl(mut self) -> Options {
        self.acl = true;
        self
    }

    /// Starts so many servers, and waits until they have a leader.
    pub fn start(self, servers: usize) -> Cluster {
        let program = program("consul");
        // In memory, where there is such a place: each write of Consul waits for its disk.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let directory = directory.unwrap();
        if self.tls {
            write_certificates(directory.path());
        }
        // Another process may take a port between its choice and its use.
        for attempt in 0..5 {
            let mut cluster = Cluster {
                options: self.clone(),
                program: program.clone(),
                servers,
                agents: Vec::new(),
                directory: directory.path().join(attempt.to_string()),
                _parent: None,
            };
            let ports = free_ports(4 * servers);
            for ports in ports.chunks(4) {
                cluster.agents.push(Agent::at(ports));
            }
            for place in 0..servers {
                cluster.spawn(place);
            }
            if cluster.is_up() {
                cluster._parent = Some(directory);
                return cluster;
            }
            eprintln!("Consul does not start");
            cluster.show_logs();
        }
        panic!("Consul does not start; `scripts/consul` builds it");
    }
}

/// Running agents of a cluster, the servers first.
#[derive(Debug)]
pub struct Cluster {
    options: Options,
    program: PathBuf,
    servers: usize,
    agents: Vec<Agent>,
    directory: PathBuf,
    _parent: Option<TempDir>,
}

#[derive(Debug)]
struct Agent {
    /// For plain HTTP, as the tests themselves ask.
    http: u16,
    https: u16,
    lan: u16,
    rpc: u16,
    process: Option<Child>,
}

impl Agent {
    fn at(ports: &[u16]) -> Agent {
        Agent {
            http: ports[0],
            https: ports[1],
            lan: ports[2],
            rpc: ports[3],
            process: None,
        }
    }
}

impl Cluster {
    /// One server with nothing special about it.
    pub fn start() -> Cluster {
        Options::default().start(1)
    }

    /// The port for plain HTTP of an agent.
    pub fn port(&self, place: usize) -> u16 {
        self.agents[place].http
    }

    /// Where an agent is reached by clients.
    pub fn endpoint(&self, place: usize) -> String {
        let agent = &self.agents[place];
        match self.options.tls {
            true => format!("https://127.0.0.1:{}", agent.https),
            false => format!("http://127.0.0.1:{}", agent.http),
        }
    }

    /// Where the servers are reached by clients.
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.servers)
            .map(|place| self.endpoint(place))
            .collect()
    }

    /// The value of `LOCK_URL` that leads here.
    pub fn url(&self) -> String {
        let endpoints = self.endpoints();
        let hosts = endpoints
            .iter()
            .map(|endpoint| endpoint.split_once("://").unwrap().1);
        let scheme = if self.options.tls {
            "consul+https"
        } else {
            "consul"
        };
        format!("{scheme}://{}", hosts.collect::<Vec<_>>().join(","))
    }

    /// The path of a certificate or a key: `ca.pem`, `client.pem` or `client-key.pem`.
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.directory.parent().unwrap().join(name)
    }

    /// Asks an agent as an operator who may do everything: the status and the body of its answer.
    pub fn ask_of(
        &self,
        place: usize,
        method: &str,
        path: &str,
        body: &str,
    ) -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port(place)))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: consul\r\nX-Consul-Token: {MASTER}\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let invalid = || std::io::Error::other(format!("{method} {path}: {answer:?}"));
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(invalid)?;
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        Ok((status.ok_or_else(invalid)?, body.to_owned()))
    }

    /// The same of the first agent that can do it; the test fails if none does.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let agents = self.agents.iter().enumerate();
            for (place, _) in agents.filter(|(_, agent)| agent.process.is_some()) {
                if let Ok((200 | 404, answer)) = self.ask_of(place, method, path, body) {
                    return answer;
                }
            }
            assert!(
                Instant::now() < deadline,
                "{method} {path}: no agent does it"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn read(&self, path: &str) -> Value {
        match self.ask("GET", path, "") {
            nothing if nothing.is_empty() => Value::Null,
            text => serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")),
        }
    }

    /// The names of all keys.
    pub fn keys(&self) -> Vec<String> {
        let keys = self.read("/v1/kv/?keys&consistent");
        let keys = keys.as_array().cloned().unwrap_or_default();
        keys.iter()
            .map(|key| key.as_str().unwrap().to_owned())
            .collect()
    }

    /// The keys that claims have: all but the memory of those that were withdrawn.
    pub fn claims(&self) -> Vec<String> {
        let mut keys = self.keys();
        keys.retain(|key| !key.contains("%gone/"));
        keys
    }

    /// The claims that wait for a lock.
    pub fn waiters(&self, lock: &str) -> usize {
        let prefix = format!("{lock}/.queue/");
        let keys = self.keys();
        keys.iter().filter(|key| key.starts_with(&prefix)).count()
    }

    /// The sessions of the claims that wait for a lock; of one that has lost its session there is
    /// none.
    pub fn waiting_sessions(&self, lock: &str) -> Vec<String> {
        let keys = self.read(&format!("/v1/kv/{lock}/.queue/?recurse&consistent"));
        let keys = keys.as_array().cloned().unwrap_or_default();
        let sessions = keys.iter().filter_map(|key| key["Session"].as_str());
        sessions.map(str::to_owned).collect()
    }

    /// The index at which a key was last changed; 0 if it is not there.
    pub fn index(&self, key: &str) -> u64 {
        let found = self.read(&format!("/v1/kv/{key}?consistent"));
        found[0]["ModifyIndex"].as_u64().unwrap_or_default()
    }

    /// The session that holds a lock, and the value of its key.
    pub fn owner(&self, lock: &str) -> Option<(String, String)> {
        let found = self.read(&format!("/v1/kv/{lock}/.lock?consistent"));
        let found = found.get(0)?;
        let session = found.get("Session")?.as_str()?.to_owned();
        let value = found
            .get("Value")
            .and_then(Value::as_str)
            .unwrap_or_default();
        Some((session, decoded(value)))
    }

    /// The ids of all sessions, but for those that remember claims which were withdrawn.
    pub fn sessions(&self) -> Vec<String> {
        let sessions = self.read("/v1/session/list?consistent");
        let sessions = sessions.as_array().cloned().unwrap_or_default();
        let of_claims = sessions
            .iter()
            .filter(|session| session["Behavior"] != "delete");
        of_claims
            .map(|session| session["ID"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Makes a session as another program would.
    pub fn new_session(&self) -> String {
        let made = self.ask("PUT", "/v1/session/create", r#"{"NodeChecks": []}"#);
        let made: Value = serde_json::from_str(&made).unwrap();
        made["ID"].as_str().unwrap().to_owned()
    }

    /// Destroys a session, as an operator would.
    pub fn destroy(&self, session: &str) {
        self.ask("PUT", &format!("/v1/session/destroy/{session}"), "");
    }

    /// Frees a lock as if its session had ended, and its delay were over.
    pub fn unlock(&self, lock: &str) {
        if let Some((session, value)) = self.owner(lock) {
            let path = format!("/v1/kv/{lock}/.lock?release={session}");
            assert_eq!(self.ask("PUT", &path, &value).trim(), "true");
        }
    }

    /// Gives a lock from whoever holds it to a session of another program, in one step.
    pub fn pass_to_another(&self, lock: &str) {
        let (session, _) = self.owner(lock).expect("a holder");
        let op = |verb: &str, session: &str| {
            // The value says "another".
            let key = format!("{lock}/.lock");
            let kv = json!({"Verb": verb, "Key": key, "Value": "YW5vdGhlcg==", "Session": session});
            json!({ "KV": kv })
        };
        let ops = json!([op("unlock", &session), op("lock", &self.new_session())]);
        let answer = self.ask("PUT", "/v1/txn", &ops.to_string());
        assert!(answer.contains("\"Errors\":null"), "{answer}");
    }

    /// Puts a policy and a token for it there.
    pub fn grant(&self, name: &str, rules: &str) -> String {
        let policy = json!({"Name": name, "Rules": rules});
        self.ask("PUT", "/v1/acl/policy", &policy.to_string());
        let token = json!({"Policies": [{"Name": name}]});
        let made = self.ask("PUT", "/v1/acl/token", &token.to_string());
        let made: Value = serde_json::from_str(&made).unwrap();
        made["SecretID"].as_str().unwrap().to_owned()
    }

    /// The server that leads.
    pub fn leader(&self) -> usize {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            for place in 0..self.servers {
                if self.leads(place) {
                    return place;
                }
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("no server leads");
    }

    /// Whether a server that runs knows itself to lead.
    fn leads(&self, place: usize) -> bool {
        if self.agents[place].process.is_none() {
            return false;
        }
        let Ok((200, known)) = self.ask_of(place, "GET", "/v1/status/leader", "") else {
            return false;
        };
        known.trim() == format!("\"127.0.0.1:{}\"", self.agents[place].rpc)
    }

    /// The number of the process of an agent.
    pub fn process(&self, place: usize) -> u32 {
        self.agents[place].process.as_ref().unwrap().id()
    }

    /// Whether the process of an agent has ended.
    pub fn has_ended(&mut self, place: usize) -> bool {
        let process = self.agents[place].process.as_mut().unwrap();
        process.try_wait().unwrap().is_some()
    }

    /// Kills an agent, and waits for its end.
    pub fn kill(&mut self, place: usize) {
        let mut process = self.agents[place].process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Starts an agent again that was killed; it may not be up when this returns.
    pub fn revive(&mut self, place: usize) {
        self.spawn(place);
    }

    /// Starts an agent that is no server, and waits until it has a leader: where it is.
    pub fn add_client(&mut self) -> usize {
        self.agents.push(Agent::at(&free_ports(4)));
        let place = self.agents.len() - 1;
        self.spawn(place);
        let deadline = Instant::now() + DEADLINE;
        while !self.is_ready(place) {
            assert!(Instant::now() < deadline, "the agent finds no server");
            thread::sleep(Duration::from_millis(50));
        }
        place
    }

    /// Lets an agent leave the cluster, as an operator would, and waits for its end.
    pub fn leave(&mut self, place: usize) {
        let (status, _) = self.ask_of(place, "PUT", "/v1/agent/leave", "").unwrap();
        assert_eq!(status, 200);
        let deadline = Instant::now() + DEADLINE;
        while !self.has_ended(place) {
            assert!(Instant::now() < deadline, "the agent does not end");
            thread::sleep(Duration::from_millis(10));
        }
        self.agents[place].process = None;
    }

    /// Stops an agent where it stands, and waits until it does.
    pub fn pause(&self, place: usize) {
        self.signal(place, Signal::STOP);
        let deadline = Instant::now() + DEADLINE;
        while self.state(place) != Some('T') {
            assert!(Instant::now() < deadline, "the agent does not stop");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets an agent go on.
    pub fn resume(&self, place: usize) {
        self.signal(place, Signal::CONT);
    }

    /// `consul lock`, to be run with the rest of its arguments.
    pub fn lock_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["lock", &format!("-http-addr=127.0.0.1:{}", self.port(0))])
            .args(arguments);
        command
    }

    fn signal(&self, place: usize, signal: Signal) {
        let process = self.agents[place].process.as_ref().unwrap();
        kill_process(Pid::from_child(process), signal).unwrap();
    }

    fn state(&self, place: usize) -> Option<char> {
        let id = self.agents[place].process.as_ref()?.id();
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    fn log(&self, place: usize) -> PathBuf {
        self.directory.join(format!("agent{place}.log"))
    }

    /// Shows the last lines of each log, where something did not go as it should.
    fn show_logs(&self) {
        for place in 0..self.agents.len() {
            let log = fs::read_to_string(self.log(place)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(30)..].join("\n");
            eprintln!("the last of agent {place}:\n{last}");
        }
    }

    fn spawn(&mut self, place: usize) {
        fs::create_dir_all(&self.directory).unwrap();
        let agent = &self.agents[place];
        let is_server = place < self.servers;
        let servers = self.agents[..self.servers].iter();
        let join: Vec<String> = servers
            .map(|agent| format!("127.0.0.1:{}", agent.lan))
            .collect();
        let mut settings = json!({
            "node_name": format!("agent{place}"),
            "data_dir": self.directory.join(format!("agent{place}")),
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "server": is_server,
            "ports": {
                "http": agent.http,
                "https": if self.options.tls { i32::from(agent.https) } else { -1 },
                "serf_lan": agent.lan,
                "serf_wan": -1,
                "server": agent.rpc,
                "dns": -1,
                "grpc": -1,
            },
            "retry_join": join,
            "retry_interval": "200ms",
            "session_ttl_min": "1s",
            "performance": {"raft_multiplier": 1},
            "connect": {"enabled": false},
            // It would ask the internet whether there is a newer one.
            "disable_update_check": true,
            "log_level": "warn",
        });
        if is_server {
            settings["bootstrap_expect"] = json!(self.servers);
        }
        if self.options.tls {
            settings["verify_incoming_https"] = json!(true);
            settings["ca_file"] = json!(self.certificate("ca.pem"));
            settings["cert_file"] = json!(self.certificate("server.pem"));
            settings["key_file"] = json!(self.certificate("server-key.pem"));
        }
        if self.options.acl {
            let tokens = json!({"initial_management": MASTER, "agent": MASTER});
            settings["acl"] = json!({"enabled": true, "default_policy": "deny", "tokens": tokens});
        }
        for (name, value) in &self.options.settings {
            settings[*name] = value.clone();
        }
        let path = self.directory.join(format!("agent{place}.json"));
        fs::write(&path, settings.to_string()).unwrap();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log(place))
            .unwrap();
        let process = Command::new(&self.program)
            .args(["agent", "-config-file"])
            .arg(path)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.agents[place].process = Some(process);
    }

    /// Whether all servers take writes, before the deadline.
    fn is_up(&mut self) -> bool {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if (0..self.servers).any(|place| self.has_ended(place)) {
                return false;
            }
            if (0..self.servers).all(|place| self.is_ready(place)) {
                return true;
            }
            thread::sleep(Duration::from_millis(50));
        }
        false
    }

    /// Whether an agent can do what locks need: there is a leader, and it knows the agent's node.
    pub fn is_ready(&self, place: usize) -> bool {
        let body = r#"{"TTL": "10s", "NodeChecks": []}"#;
        let Ok((200, made)) = self.ask_of(place, "PUT", "/v1/session/create", body) else {
            return false;
        };
        let made: Value = serde_json::from_str(&made).unwrap();
        let id = made["ID"].as_str().unwrap();
        let gone = self.ask_of(place, "PUT", &format!("/v1/session/destroy/{id}"), "");
        matches!(gone, Ok((200, _)))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for agent in &mut self.agents {
            if let Some(process) = &mut agent.process {
                let _ = process.kill();
                let _ = process.wait();
            }
        }
        if thread::panicking() {
            self.show_logs();
        }
    }
}

/// What stands in base 64 for this text.
fn decoded(text: &str) -> String {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits = text.bytes().filter(|byte| *byte != b'=').map(digit);
    let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::new());
    for digit in digits {
        bits = bits << 6 | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `consul`, or `go-lock`, which takes locks by Go's `api.Lock`: what the variable
/// `LOCK_TEST_CONSUL` names the directory of, or what is built by Go if it has not been yet, which
/// takes minutes.
pub fn program(name: &str) -> PathBuf {
    if let Some(directory) = std::env::var_os("LOCK_TEST_CONSUL") {
        return PathBuf::from(directory).join(name);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut build = Command::new(root.join("scripts/consul"));
    let built = build.stdout(Stdio::null()).status();
    let built = built.expect("`scripts/consul` builds Consul");
    assert!(built.success(), "Consul does not build");
    std::path::absolute(root.join("target/servers").join(name)).unwrap()
}
