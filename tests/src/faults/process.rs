//! Processes that hold and wait for locks, to be stopped and killed.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::{DEADLINE, eventually};

/// A running `holder`; it is killed with its value.
#[derive(Debug)]
pub struct Process {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts the program at `path`, which is `env!("CARGO_BIN_EXE_holder")`, with the server at `url`.
    pub async fn start(path: &str, url: &str) -> Process {
        let mut child = Command::new(path)
            .arg(url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut process = Process {
            orders: child.stdin.take().unwrap(),
            answers: BufReader::new(child.stdout.take().unwrap()).lines(),
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
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Asks it to end, as an operator would.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) {
        timeout(DEADLINE, self.child.wait())
            .await
            .expect("the process does not end")
            .unwrap();
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().expect("the process runs")).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// The state in which the kernel has it.
    fn state(&self) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()?)).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }
}

/// The number behind `held` or `began`.
pub fn token(answer: &str) -> u64 {
    let (word, number) = answer.split_once(' ').unwrap_or((answer, ""));
    assert!(word == "held" || word == "began", "{answer}");
    number.parse().unwrap()
}
