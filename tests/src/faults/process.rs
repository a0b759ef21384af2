//! Processes that hold and wait for locks, to be stopped and killed.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::time::timeout;

use super::clock::Clock;
use super::{DEADLINE, eventually};

/// A running `holder`; it is killed with its value.
///
/// Not a child of tokio's, which would have the test told by a signal that it has ended: that
/// interrupts whatever the test reads.
#[derive(Debug)]
pub struct Process {
    child: Child,
    orders: Sender,
    answers: Lines<BufReader<Receiver>>,
}

impl Process {
    /// Starts the program at `path`, which is `env!("CARGO_BIN_EXE_holder")`, with the server at
    /// `url`.
    pub async fn start(path: &str, url: &str) -> Process {
        Process::spawn(Command::new(path).arg(url)).await
    }

    /// The same, with this wall clock.
    pub async fn start_with(clock: &Clock, path: &str, url: &str) -> Process {
        let mut command = Command::new(path);
        Process::spawn(command.arg(url).envs(clock.variables())).await
    }

    async fn spawn(command: &mut Command) -> Process {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = OwnedFd::from(child.stdin.take().unwrap());
        let answers = OwnedFd::from(child.stdout.take().unwrap());
        let mut process = Process {
            orders: Sender::from_owned_fd(orders).unwrap(),
            answers: BufReader::new(Receiver::from_owned_fd(answers).unwrap()).lines(),
            child,
        };
        assert_eq!(process.hear().await, "ready");
        process
    }

    /// Gives an order.
    pub async fn tell(&mut self, order: &str) {
        self.orders
            .write_all(format!("{order}\n").as_bytes())
            .await
            .unwrap();
    }

    /// The next answer.
    pub async fn hear(&mut self) -> String {
        self.hear_within(DEADLINE).await
    }

    /// The next answer, to an order that takes its time.
    pub async fn hear_within(&mut self, time: Duration) -> String {
        let line = timeout(time, self.answers.next_line()).await;
        line.expect("the process says nothing")
            .unwrap()
            .expect("the process has ended")
    }

    /// Gives an order and returns the answer.
    pub async fn ask(&mut self, order: &str) -> String {
        self.tell(order).await;
        self.hear().await
    }

    /// Stops the process where it stands, and waits until it does.
    pub async fn pause(&self) {
        self.signal(Signal::STOP);
        eventually("the process is stopped", || self.state() == Some('T')).await;
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills it, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end, as an operator would.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) {
        eventually("the process ends", || {
            self.child.try_wait().unwrap().is_some()
        })
        .await;
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    fn state(&self) -> Option<char> {
        state(format!("/proc/{}", self.child.id()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The state in which the kernel has the process or thread with the directory `proc`; `None` if
/// there is none.
pub fn state(proc: impl AsRef<Path>) -> Option<char> {
    let stat = fs::read_to_string(proc.as_ref().join("stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// The number behind `held` or `began`.
pub fn token(answer: &str) -> u64 {
    let (word, number) = answer.split_once(' ').unwrap_or((answer, ""));
    assert!(word == "held" || word == "began", "{answer}");
    number.parse().unwrap()
}
