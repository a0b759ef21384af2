//! Real Redis servers, one for each test that needs one.
//!
//! A server has a port and a directory of its own, keeps nothing on disk unless told to, and ends
//! with the value that started it. Before that, it is searched for keys that would stay for ever: a
//! lock must leave none.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use redis::{Connection, FromRedisValue};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::free_ports;

/// By when a server has done what it was told.
const DEADLINE: Duration = Duration::from_secs(30);

/// How to start a server: `redis-server`, or what the variable `LOCK_TEST_SERVER` names.
#[derive(Clone, Debug)]
pub struct Options {
    program: String,
    arguments: Vec<String>,
    environment: Vec<(String, PathBuf)>,
    password: Option<String>,
    tls: Option<Tls>,
}

/// How a server speaks TLS.
#[derive(Clone, Debug)]
enum Tls {
    /// With a certificate of an authority of its own.
    Own,
    /// With the certificates of another server, which are in this directory.
    Of(PathBuf),
}

/// What the files of certificates are called.
const CERTIFICATES: [&str; 5] = ["cert", "key", "ca-cert", "client-cert", "client-key"];

impl Default for Options {
    fn default() -> Options {
        Options {
            program: std::env::var("LOCK_TEST_SERVER")
                .unwrap_or_else(|_| "redis-server".to_owned()),
            arguments: Vec::new(),
            environment: Vec::new(),
            password: None,
            tls: None,
        }
    }
}

impl Options {
    /// Runs another program than `redis-server`, such as `valkey-server`.
    #[must_use]
    pub fn program(mut self, program: &str) -> Options {
        self.program = program.to_owned();
        self
    }

    /// Adds arguments of `redis-server`, such as `["--maxmemory", "2mb"]`.
    #[must_use]
    pub fn with<const N: usize>(mut self, arguments: [&str; N]) -> Options {
        self.arguments.extend(arguments.map(str::to_owned));
        self
    }

    /// Sets a variable of the environment of the process to a path.
    #[must_use]
    pub fn env(mut self, name: &str, path: &Path) -> Options {
        self.environment.push((name.to_owned(), path.to_owned()));
        self
    }

    /// Wants this password from everybody.
    #[must_use]
    pub fn password(mut self, password: &str) -> Options {
        self.password = Some(password.to_owned());
        self.with(["--requirepass", password])
    }

    /// Listens for TLS as well, with a certificate of an authority of its own.
    #[must_use]
    pub fn tls(mut self) -> Options {
        self.tls = Some(Tls::Own);
        self
    }

    /// Listens for TLS as well, with the certificates of `other`.
    #[must_use]
    pub fn tls_of(mut self, other: &Server) -> Options {
        self.tls = Some(Tls::Of(other.directory.path().to_owned()));
        self
    }

    /// Starts the server and waits until it answers.
    pub fn start(self) -> Server {
        let directory = tempfile::tempdir().unwrap();
        let authority = self.tls.as_ref().map(|tls| {
            match tls {
                Tls::Own => write_certificates(directory.path()),
                Tls::Of(other) => {
                    for name in CERTIFICATES {
                        fs::copy(other.join(name), directory.path().join(name)).unwrap();
                    }
                }
            }
            fs::read_to_string(directory.path().join("ca-cert")).unwrap()
        });
        let mut server = Server {
            options: self,
            port: 0,
            tls_port: 0,
            authority,
            directory,
            process: None,
            paused: false,
            forgiven: Mutex::default(),
        };
        // Another process may take a port between its choice and its use.
        for _ in 0..20 {
            let ports = free_ports(2);
            (server.port, server.tls_port) = (ports[0], ports[1]);
            if server.try_start() {
                return server;
            }
        }
        panic!("redis-server does not start:\n{}", server.log());
    }
}

/// A running `redis-server`; dropping it ends the process.
#[derive(Debug)]
pub struct Server {
    options: Options,
    port: u16,
    tls_port: u16,
    /// The certificate of the authority, in PEM format.
    authority: Option<String>,
    directory: TempDir,
    process: Option<Child>,
    paused: bool,
    /// Keys without a ttl that the test itself has made.
    forgiven: Mutex<Vec<String>>,
}

impl Server {
    /// A server with nothing special about it.
    pub fn start() -> Server {
        Options::default().start()
    }

    /// Where it listens, without a password.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Where it listens for TLS.
    pub fn tls_url(&self) -> String {
        format!("rediss://localhost:{}", self.tls_port)
    }

    /// Where it listens on a unix socket.
    pub fn unix_url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The certificate to trust for [`tls_url`](Server::tls_url), in PEM format.
    pub fn authority(&self) -> &str {
        self.authority.as_deref().expect("started with `tls`")
    }

    /// The files of a certificate for clients that the authority vouches for, and of its key.
    pub fn client_certificate(&self) -> [PathBuf; 2] {
        ["client-cert", "client-key"].map(|name| self.directory.path().join(name))
    }

    /// The file of [`authority`](Server::authority).
    pub fn authority_file(&self) -> PathBuf {
        self.directory.path().join("ca-cert")
    }

    /// The port for TLS.
    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection beside those of the lock, allowed to do everything.
    pub fn client(&self) -> Connection {
        self.try_client().unwrap()
    }

    /// Runs one command.
    pub fn run<T: FromRedisValue>(&self, command: &[&str]) -> T {
        let mut words = command.iter();
        let mut cmd = redis::cmd(words.next().expect("a command has a name"));
        for word in words {
            cmd.arg(word);
        }
        cmd.query(&mut self.client()).unwrap()
    }

    /// Stops the process where it stands; it keeps its connections and answers nothing.
    pub fn pause(&mut self) {
        self.signal(Signal::STOP);
        self.paused = true;
    }

    /// Lets a paused process go on.
    pub fn resume(&mut self) {
        self.signal(Signal::CONT);
        self.paused = false;
    }

    /// Kills the process at once, as a crash would.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the server runs");
        process.kill().unwrap();
        process.wait().unwrap();
        self.paused = false;
    }

    /// Whether the process has ended, by whoever killed it. From then on it is one that was killed.
    pub fn has_ended(&mut self) -> bool {
        let ended = self.process().try_wait().unwrap().is_some();
        if ended {
            self.process = None;
        }
        ended
    }

    /// Starts a killed server again, on the same port.
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "the server still runs");
        let deadline = Instant::now() + DEADLINE;
        while !self.try_start() {
            assert!(
                Instant::now() < deadline,
                "redis-server does not start again:\n{}",
                self.log()
            );
        }
    }

    /// Takes away the directory into which it saves.
    pub fn lose_disk(&self) {
        fs::remove_dir_all(self.data()).unwrap();
    }

    /// The append-only file that grows, of a server that keeps one.
    pub fn append_only_file(&self) -> PathBuf {
        let files = fs::read_dir(self.data().join("appendonlydir")).unwrap();
        let mut paths = files.map(|file| file.unwrap().path());
        paths
            .find(|path| path.to_string_lossy().ends_with(".incr.aof"))
            .expect("it keeps one")
    }

    /// Everything that clients send from now on.
    pub fn monitor(&self) -> Monitor {
        Monitor::start(self)
    }

    /// Says that a key without a ttl is the test's own.
    pub fn forgive(&self, key: &str) {
        self.forgiven().push(key.to_owned());
    }

    /// The keys that would stay for ever.
    pub fn leaked_keys(&self) -> Vec<String> {
        self.try_leaked_keys().unwrap()
    }

    /// Searches the server for leaked keys, and ends it.
    pub fn finish(self) {
        // Its drop would be silent about a server that cannot be asked.
        self.assert_clean(self.leaked_keys());
    }

    fn try_start(&mut self) -> bool {
        self.spawn();
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if self.process().try_wait().unwrap().is_some() {
                break;
            }
            if self.answers() {
                return true;
            }
            thread::sleep(Duration::from_millis(2));
        }
        self.kill();
        false
    }

    fn spawn(&mut self) {
        fs::create_dir_all(self.data()).unwrap();
        let mut command = Command::new(&self.options.program);
        command
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(self.data())
            .arg("--unixsocket")
            .arg(self.socket());
        if self.options.tls.is_some() {
            command
                .args(["--tls-port", &self.tls_port.to_string()])
                .args(["--tls-auth-clients", "no"]);
            for name in ["cert", "key", "ca-cert"] {
                command
                    .arg(format!("--tls-{name}-file"))
                    .arg(self.directory.path().join(name));
            }
        }
        let log = File::create(self.directory.path().join("log")).unwrap();
        let process = command
            .args(&self.options.arguments)
            .envs(
                self.options
                    .environment
                    .iter()
                    .map(|(name, path)| (name, path)),
            )
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.process = Some(process.unwrap_or_else(|error| {
            panic!(
                "{} cannot be run ({error}); `scripts/test` installs redis-server where it is missing",
                self.options.program
            )
        }));
    }

    /// Whether our process answers, and not another one that was faster to take the port.
    fn answers(&mut self) -> bool {
        let Ok(mut client) = self.try_client() else {
            return false;
        };
        let info: redis::RedisResult<String> = redis::cmd("INFO").arg("server").query(&mut client);
        let pid = format!("process_id:{}\r\n", self.process().id());
        info.is_ok_and(|info| info.contains(&pid))
    }

    fn try_client(&self) -> redis::RedisResult<Connection> {
        let credentials = match &self.options.password {
            Some(password) => format!(":{password}@"),
            None => String::new(),
        };
        let url = format!("redis://{credentials}127.0.0.1:{}", self.port);
        let client = redis::Client::open(url)?.get_connection_with_timeout(DEADLINE)?;
        client.set_read_timeout(Some(DEADLINE))?;
        Ok(client)
    }

    fn try_leaked_keys(&self) -> redis::RedisResult<Vec<String>> {
        let mut client = self.try_client()?;
        let databases: String = redis::cmd("INFO").arg("keyspace").query(&mut client)?;
        let mut leaked = Vec::new();
        for line in databases.lines() {
            let number = line
                .strip_prefix("db")
                .and_then(|line| line.split(':').next());
            let Some(number) = number else { continue };
            redis::cmd("SELECT").arg(number).exec(&mut client)?;
            let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut client)?;
            for key in keys {
                let ttl: i64 = redis::cmd("PTTL").arg(&key).query(&mut client)?;
                if ttl == -1 && !self.forgiven().contains(&key) {
                    leaked.push(key);
                }
            }
        }
        Ok(leaked)
    }

    fn assert_clean(&self, leaked: Vec<String>) {
        assert!(leaked.is_empty(), "keys without a ttl are left: {leaked:?}");
    }

    fn signal(&mut self, signal: Signal) {
        let pid = i32::try_from(self.process().id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    fn process(&mut self) -> &mut Child {
        self.process.as_mut().expect("the server runs")
    }

    fn forgiven(&self) -> MutexGuard<'_, Vec<String>> {
        self.forgiven.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.process.is_none() {
            return;
        }
        if self.paused {
            self.resume();
        }
        let leaked = if thread::panicking() {
            Vec::new()
        } else {
            self.try_leaked_keys().unwrap_or_default()
        };
        self.kill();
        self.assert_clean(leaked);
    }
}

/// A listener to `MONITOR`.
pub struct Monitor {
    lines: Arc<Mutex<Vec<String>>>,
    stream: TcpStream,
}

/// A PING with a number ends a greeting, or looks whether a connection is alive.
const GREETINGS: [&str; 5] = [
    "\"CLIENT\" \"SETINFO\"",
    "\"HELLO\"",
    "\"SCRIPT\" \"LOAD\"",
    "\"PING\" \"",
    "\"SUBSCRIBE\"",
];

impl Monitor {
    fn start(server: &Server) -> Monitor {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
        if let Some(password) = &server.options.password {
            write!(stream, "AUTH {password}\r\n").unwrap();
        }
        stream.write_all(b"MONITOR\r\n").unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (seen, reader) = (Arc::clone(&lines), stream.try_clone().unwrap());
        thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                seen.lock().unwrap().push(line);
            }
        });
        let monitor = Monitor { lines, stream };
        monitor.wait_for(|line| line == "+OK");
        monitor
    }

    /// What clients have sent up to now; what scripts did is left out, and the greetings of new
    /// connections.
    pub fn commands(&self, server: &Server) -> Vec<String> {
        let mut lines = self.lines(server);
        lines.retain(|line| {
            // What a connection sends to greet the server.
            let greets = GREETINGS.iter().any(|greeting| line.contains(greeting));
            line.contains("[0 ") && !line.contains("[0 lua]") && !greets
        });
        lines
    }

    /// What the server has done up to now: all that clients sent, and what scripts did of it.
    pub fn lines(&self, server: &Server) -> Vec<String> {
        let marker = format!("seen up to {:?}", Instant::now());
        server.run::<String>(&["ECHO", &marker]);
        let end = self.wait_for(|line| line.contains(&marker));
        let lines = self.lines.lock().unwrap();
        let lines = lines[..end].iter();
        let others = lines.filter(|line| !line.contains("seen up to"));
        others.cloned().collect()
    }

    fn wait_for(&self, wanted: impl Fn(&str) -> bool) -> usize {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let found = self
                .lines
                .lock()
                .unwrap()
                .iter()
                .position(|line| wanted(line));
            if let Some(found) = found {
                return found;
            }
            assert!(Instant::now() < deadline, "MONITOR shows nothing");
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

/// Makes an authority, a certificate for `localhost` and one for clients.
fn write_certificates(directory: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Who has the name of the issuer passes for one that vouches for itself.
    let name = |params: &mut CertificateParams, name: &str| {
        params.distinguished_name.push(DnType::CommonName, name);
    };
    name(&mut authority, "authority");
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();

    let key = KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let certificate = CertificateParams::new(names)
        .unwrap()
        .signed_by(&key, &authority)
        .unwrap();

    let client_key = KeyPair::generate().unwrap();
    let mut client = CertificateParams::new(Vec::new()).unwrap();
    name(&mut client, "client");
    let client = client.signed_by(&client_key, &authority).unwrap();

    let write = |name: &str, text: &str| fs::write(directory.join(name), text).unwrap();
    write("cert", &certificate.pem());
    write("key", &key.serialize_pem());
    write("ca-cert", &authority.pem());
    write("client-cert", &client.pem());
    write("client-key", &client_key.serialize_pem());
}
