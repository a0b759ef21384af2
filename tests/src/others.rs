//! Programs that take locks by libraries of other languages. What they need is fetched by the
//! clients of their own registries, into `target/servers`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use crate::faults::DEADLINE;

/// One at a time fetches, of all threads of a test.
static FETCHING: Mutex<()> = Mutex::new(());

/// The program in `tests/servers/<name>`, which is built by Go if it has not been yet.
pub fn go_program(name: &str) -> PathBuf {
    let program = target(name);
    run(Command::new("go")
        // A checkout of somebody else's would be refused.
        .args(["build", "-trimpath", "-buildvcs=false", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(source(name)));
    program
}

fn run(command: &mut Command) {
    let status = command.status();
    let status = status.unwrap_or_else(|error| {
        panic!("{command:?} cannot be run ({error}); `scripts/needs` installs what is missing")
    });
    assert!(status.success(), "{command:?} ended with {status}");
}

/// Where it is built, or what it needs is.
fn target(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/servers");
    fs::create_dir_all(&target).unwrap();
    std::path::absolute(target.join(name)).unwrap()
}

/// The source of a program.
fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("servers")
        .join(name)
}

/// redsync, of Go.
pub fn redsync() -> Command {
    let _fetching = FETCHING.lock().unwrap_or_else(PoisonError::into_inner);
    Command::new(go_program("redsync"))
}

/// node-redlock, of Node.
pub fn node_redlock() -> Command {
    let _fetching = FETCHING.lock().unwrap_or_else(PoisonError::into_inner);
    let place = target("node-redlock");
    let lock = |directory: &Path| fs::read(directory.join("package-lock.json")).ok();
    fs::create_dir_all(&place).unwrap();
    let is_there = place.join("node_modules/.package-lock.json").exists();
    if !is_there || lock(&place) != lock(&source("node-redlock")) {
        for file in ["package.json", "package-lock.json"] {
            fs::copy(source("node-redlock").join(file), place.join(file)).unwrap();
        }
        run(Command::new("npm")
            .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
            .stdout(Stdio::null())
            .current_dir(&place));
    }
    fs::copy(
        source("node-redlock").join("main.js"),
        place.join("main.js"),
    )
    .unwrap();
    let mut command = Command::new("node");
    command.arg(place.join("main.js"));
    command
}

/// pottery, of Python.
pub fn pottery() -> Command {
    let _fetching = FETCHING.lock().unwrap_or_else(PoisonError::into_inner);
    let place = target("pottery");
    let python = place.join("bin/python");
    let known = place.join("requirements.txt");
    let wanted = source("pottery").join("requirements.txt");
    if fs::read(&known).ok() != fs::read(&wanted).ok() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&place));
        run(Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--requirement"])
            .arg(&wanted));
        fs::copy(&wanted, &known).unwrap();
    }
    let mut command = Command::new(python);
    command.arg(source("pottery").join("main.py"));
    command
}

/// A process that does what it is told by the line.
pub struct Other {
    child: Child,
    stdin: ChildStdin,
    lines: mpsc::Receiver<String>,
}

impl Other {
    /// Starts it.
    pub fn start(mut command: Command) -> Other {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Other {
            stdin: child.stdin.take().unwrap(),
            child,
            lines,
        }
    }

    /// Tells it `command`; what it answers.
    pub fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.line()
    }

    /// Tells it `command`.
    pub fn tell(&mut self, command: &str) {
        writeln!(self.stdin, "{command}").unwrap();
    }

    /// Waits for its next line.
    pub fn line(&mut self) -> String {
        self.line_within(DEADLINE)
    }

    /// The same, for so long.
    pub fn line_within(&mut self, time: Duration) -> String {
        let line = self.lines.recv_timeout(time).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // One that has ended cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
