//! Real etcd servers, one cluster for each test that needs one.
//!
//! A cluster has ports and a directory of its own, and ends with its value, by the ids of its
//! processes. Its elections take a tenth of a second, so that a lease may live for one second.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::etcd_peers::Peers;
use crate::free_ports;

/// By when a server has done what it was told.
const DEADLINE: Duration = Duration::from_secs(30);

/// How to start a cluster: of `etcd`, or what the variable `LOCK_TEST_ETCD` names.
#[derive(Clone, Debug, Default)]
pub struct Options {
    arguments: Vec<String>,
    election: Option<Duration>,
    tls: bool,
    is_cuttable: bool,
}

impl Options {
    /// Adds arguments of `etcd`.
    #[must_use]
    pub fn with<const N: usize>(mut self, arguments: [&str; N]) -> Options {
        self.arguments.extend(arguments.map(str::to_owned));
        self
    }

    /// Elects a leader after so long, and grants leases of one and a half times that.
    #[must_use]
    pub fn election(mut self, timeout: Duration) -> Options {
        self.election = Some(timeout);
        self
    }

    /// Speaks TLS alone, to clients with a certificate of its authority alone.
    #[must_use]
    pub fn tls(mut self) -> Options {
        self.tls = true;
        self
    }

    /// Lets members be [cut off](Cluster::cut_off) from one another.
    #[must_use]
    pub fn cuttable(mut self) -> Options {
        self.is_cuttable = true;
        self
    }

    /// Starts so many members, and waits until they have a leader.
    pub fn start(self, members: usize) -> Cluster {
        // In memory, where there is such a place: each write of etcd waits for its disk.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let directory = directory.unwrap();
        if self.tls {
            write_certificates(directory.path());
        }
        // Another process may take a port between its choice and its use.
        for _ in 0..5 {
            let mut cluster = Cluster {
                options: self.clone(),
                members: (0..members).map(|_| Member::default()).collect(),
                directory: tempfile::tempdir_in(directory.path()).unwrap(),
                certificates: directory.path().to_owned(),
                peers: None,
                _parent: None,
            };
            let ports = free_ports(2 * members);
            for (member, ports) in cluster.members.iter_mut().zip(ports.chunks(2)) {
                (member.client, member.peer) = (ports[0], ports[1]);
            }
            if self.is_cuttable {
                let ports: Vec<u16> = cluster.members.iter().map(|member| member.peer).collect();
                cluster.peers = Some(Peers::to(&ports));
            }
            for place in 0..members {
                cluster.spawn(place);
            }
            if cluster.is_up() {
                cluster._parent = Some(directory);
                return cluster;
            }
        }
        panic!("etcd does not start; `scripts/needs` installs it");
    }
}

/// Running members of a cluster.
#[derive(Debug)]
pub struct Cluster {
    options: Options,
    members: Vec<Member>,
    directory: TempDir,
    certificates: PathBuf,
    peers: Option<Peers>,
    _parent: Option<TempDir>,
}

#[derive(Debug, Default)]
struct Member {
    client: u16,
    peer: u16,
    process: Option<Child>,
}

impl Cluster {
    /// One member with nothing special about it.
    pub fn start() -> Cluster {
        Options::default().start(1)
    }

    /// The port for clients of a member.
    pub fn port(&self, member: usize) -> u16 {
        self.members[member].client
    }

    /// Where the members are reached.
    pub fn endpoints(&self) -> Vec<String> {
        let scheme = if self.options.tls { "https" } else { "http" };
        let members = self.members.iter();
        members
            .map(|member| format!("{scheme}://127.0.0.1:{}", member.client))
            .collect()
    }

    /// The value of `LOCK_URL` that leads here.
    pub fn url(&self) -> String {
        let members: Vec<String> = self
            .members
            .iter()
            .map(|member| format!("127.0.0.1:{}", member.client))
            .collect();
        let scheme = if self.options.tls { "etcds" } else { "etcd" };
        format!("{scheme}://{}", members.join(","))
    }

    /// The path of a certificate or a key: `ca.pem`, `client.pem` or `client-key.pem`.
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.certificates.join(name)
    }

    /// What `etcdctl` prints; the test fails if it does.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        self.try_ctl(arguments)
            .unwrap_or_else(|error| panic!("etcdctl {arguments:?}: {error}"))
    }

    /// What `etcdctl` prints, or says is wrong.
    pub fn try_ctl(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.command(arguments).output().unwrap();
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// `etcdctl`, to be run with all members.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("etcdctl");
        command
            .env("ETCDCTL_API", "3")
            .env("ETCDCTL_ENDPOINTS", self.endpoints().join(","))
            .args(["--command-timeout=10s", "--dial-timeout=2s"])
            .args(arguments);
        if self.options.tls {
            for (argument, name) in [
                ("--cacert", "ca.pem"),
                ("--cert", "client.pem"),
                ("--key", "client-key.pem"),
            ] {
                command.arg(argument).arg(self.certificate(name));
            }
        }
        command
    }

    /// The names of all keys.
    pub fn keys(&self) -> Vec<String> {
        let keys = self.ctl(&["get", "", "--from-key", "--keys-only"]);
        let keys = keys.lines().filter(|key| !key.is_empty());
        keys.map(str::to_owned).collect()
    }

    /// The keys that claims have: all but the memory of those that were withdrawn.
    pub fn claims(&self) -> Vec<String> {
        let mut keys = self.keys();
        keys.retain(|key| !key.contains("%gone/"));
        keys
    }

    /// The key of the oldest claim of a lock, and its lease.
    pub fn owner(&self, lock: &str) -> Option<(String, i64)> {
        let range = format!("{lock}/");
        let arguments = [
            "get",
            &range,
            "--prefix",
            "--sort-by=CREATE",
            "--limit=1",
            "-w=fields",
        ];
        let found = self.ctl(&arguments);
        let field = |name: &str| {
            let line = found
                .lines()
                .find(|line| line.starts_with(&format!("\"{name}\"")));
            Some(line?.split_once(" : ")?.1.trim_matches('"').to_owned())
        };
        Some((field("Key")?, field("Lease")?.parse().unwrap()))
    }

    /// The ids of all leases, in hexadecimal digits.
    pub fn leases(&self) -> Vec<String> {
        let leases = self.ctl(&["lease", "list"]);
        let leases = leases.lines().skip(1).filter(|line| !line.is_empty());
        leases.map(str::to_owned).collect()
    }

    /// The version that `etcdctl` tells of the first member.
    pub fn version(&self) -> String {
        // The columns are: endpoint, id, version, ….
        let status = self.ctl(&["endpoint", "status", "-w=simple"]);
        let version = status.split(", ").nth(2);
        version.unwrap_or("unknown").to_owned()
    }

    /// What a member counts, in the format of Prometheus.
    pub fn metrics(&self, place: usize) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port(place))).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let request = "GET /metrics HTTP/1.0\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut metrics = String::new();
        stream.read_to_string(&mut metrics).unwrap();
        metrics
    }

    /// How many calls of a method a member has answered.
    pub fn answered(&self, place: usize, method: &str) -> u64 {
        let of_method = format!("grpc_method=\"{method}\"");
        self.metrics(place)
            .lines()
            .filter(|line| line.starts_with("grpc_server_handled_total{"))
            .filter(|line| line.contains(&of_method))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64)
            .sum()
    }

    /// The member that leads.
    pub fn leader(&self) -> usize {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            for place in 0..self.members.len() {
                if self.leads(place) {
                    return place;
                }
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("no member leads");
    }

    /// Whether a member says that it leads.
    pub fn leads(&self, place: usize) -> bool {
        let port = self.members[place].client;
        let endpoint = format!("http://127.0.0.1:{port}");
        let arguments = ["--command-timeout=1s", "endpoint", "status", "-w=simple"];
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={endpoint}"))
            .args(arguments)
            .output()
            .unwrap();
        // The columns are: endpoint, id, version, size, is leader, ….
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split(", ").nth(4) == Some("true")
    }

    /// The number of the process of a member.
    pub fn process(&self, place: usize) -> u32 {
        self.members[place].process.as_ref().unwrap().id()
    }

    /// Whether the process of a member has ended.
    pub fn has_ended(&mut self, place: usize) -> bool {
        let process = self.members[place].process.as_mut().unwrap();
        process.try_wait().unwrap().is_some()
    }

    /// Kills a member, and waits for its end.
    pub fn kill(&mut self, place: usize) {
        let mut process = self.members[place].process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Starts a member again that was killed; it may not be up when this returns.
    pub fn revive(&mut self, place: usize) {
        self.spawn(place);
    }

    /// Cuts a member off from the others, which goes on to answer its clients, or nobody any more.
    pub fn cut_off(&self, member: Option<usize>) {
        let peers = self.peers.as_ref();
        peers.expect("it was not started so").cut(member);
    }

    /// Puts the only member back to what a snapshot holds that `etcdctl snapshot save` wrote, as an
    /// operator would. It may not be up when this returns.
    pub fn restore(&mut self, snapshot: &Path) {
        self.kill(0);
        let data = self.directory.path().join("m0");
        std::fs::remove_dir_all(&data).unwrap();
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["snapshot", "restore", "--name=m0"])
            .arg(snapshot)
            .arg(format!("--initial-cluster=m0={}", self.advertised(0)))
            .arg(format!(
                "--initial-advertise-peer-urls={}",
                self.advertised(0)
            ))
            .arg("--data-dir")
            .arg(&data)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{errors}");
        self.spawn(0);
    }

    /// Stops a member where it stands, and waits until it does.
    pub fn pause(&self, place: usize) {
        self.signal(place, Signal::STOP);
        let deadline = Instant::now() + DEADLINE;
        while self.state(place) != Some('T') {
            assert!(Instant::now() < deadline, "the member does not stop");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets a member go on.
    pub fn resume(&self, place: usize) {
        self.signal(place, Signal::CONT);
    }

    fn signal(&self, place: usize, signal: Signal) {
        let process = self.members[place].process.as_ref().unwrap();
        kill_process(Pid::from_child(process), signal).unwrap();
    }

    fn state(&self, place: usize) -> Option<char> {
        let id = self.members[place].process.as_ref()?.id();
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    fn spawn(&mut self, place: usize) {
        let all: Vec<String> = self
            .members
            .iter()
            .enumerate()
            .map(|(place, _)| format!("m{place}={}", self.advertised(place)))
            .collect();
        let election = self.options.election.unwrap_or(Duration::from_millis(500));
        let member = &self.members[place];
        let scheme = if self.options.tls { "https" } else { "http" };
        let client = format!("{scheme}://127.0.0.1:{}", member.client);
        let peer = format!("http://127.0.0.1:{}", member.peer);
        let program = std::env::var("LOCK_TEST_ETCD").unwrap_or_else(|_| "etcd".to_owned());
        let mut command = Command::new(program);
        command
            .args(["--name", &format!("m{place}")])
            .arg("--data-dir")
            .arg(self.directory.path().join(format!("m{place}")))
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &self.advertised(place),
            ])
            .args(["--initial-cluster", &all.join(",")])
            .args(["--initial-cluster-state", "new"])
            .args([
                "--heartbeat-interval",
                &(election.as_millis() / 10).to_string(),
            ])
            .args(["--election-timeout", &election.as_millis().to_string()])
            .args(&self.options.arguments);
        if self.options.tls {
            command.arg("--client-cert-auth");
            for (argument, name) in [
                ("--trusted-ca-file", "ca.pem"),
                ("--cert-file", "server.pem"),
                ("--key-file", "server-key.pem"),
            ] {
                command.arg(argument).arg(self.certificate(name));
            }
        }
        let log = self.directory.path().join(format!("m{place}.log"));
        let log = File::options().create(true).append(true).open(log).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let process = command.spawn();
        let process = process.expect("etcd is missing; `scripts/needs` installs it");
        if let Some(peers) = &self.peers {
            peers.is_process(place, process.id());
        }
        self.members[place].process = Some(process);
    }

    /// Where the others find a member.
    fn advertised(&self, place: usize) -> String {
        let own = self.members[place].peer;
        let port = self.peers.as_ref().map_or(own, |peers| peers.port(place));
        format!("http://127.0.0.1:{port}")
    }

    /// Whether the cluster takes writes, before the deadline.
    fn is_up(&mut self) -> bool {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            for member in &mut self.members {
                let process = member.process.as_mut().unwrap();
                if process.try_wait().unwrap().is_some() {
                    return false;
                }
            }
            let health = self.try_ctl(&["endpoint", "health"]);
            if health.is_ok() {
                return true;
            }
            thread::sleep(Duration::from_millis(50));
        }
        false
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(process) = &mut member.process {
                let _ = process.kill();
                let _ = process.wait();
            }
        }
    }
}

/// Writes an authority, and the certificates of a server and of a client that it has signed.
pub(crate) fn write_certificates(directory: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(directory.join("ca.pem"), authority.pem()).unwrap();
    for name in ["server", "client"] {
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(names).unwrap();
        parameters
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let certificate = parameters.signed_by(&key, &authority).unwrap();
        std::fs::write(directory.join(format!("{name}.pem")), certificate.pem()).unwrap();
        let key_path = directory.join(format!("{name}-key.pem"));
        std::fs::write(key_path, key.serialize_pem()).unwrap();
    }
}
