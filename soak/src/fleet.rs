//! The processes of a run.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use lock_tests::checker::{Event, Fault, Nanos, Recorder, What, now};
use rustix::process::{Pid, Signal, kill_process};

use crate::worker::Orders;

/// This program, also when it has been replaced by a newer build meanwhile.
pub(crate) const OWN_PROGRAM: &str = "/proc/self/exe";

/// As many processes as were asked for, whatever happens to them.
pub(crate) struct Fleet {
    orders: Orders,
    /// Another version of this program, which every second process is of.
    other: Option<PathBuf>,
    processes: Vec<Process>,
    /// Ended without having been told to.
    pub(crate) crashed: Vec<String>,
}

struct Process {
    number: u32,
    child: Child,
}

impl Fleet {
    pub(crate) fn start(orders: Orders, count: usize, other: Option<PathBuf>) -> io::Result<Fleet> {
        let mut fleet = Fleet {
            orders,
            other,
            processes: Vec::new(),
            crashed: Vec::new(),
        };
        for _ in 0..count {
            fleet.add()?;
        }
        Ok(fleet)
    }

    fn add(&mut self) -> io::Result<()> {
        self.orders.number += 1;
        let orders = serde_json::to_string(&self.orders)?;
        let number = self.orders.number;
        let other = self
            .other
            .as_deref()
            .filter(|_| is_of_other_version(number));
        let child = Command::new(other.unwrap_or(Path::new(OWN_PROGRAM)))
            .args(["worker", &orders])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        self.processes.push(Process { number, child });
        Ok(())
    }

    /// The processes that run, by the ids that owner tokens name them by.
    pub(crate) fn pids(&self) -> HashSet<u32> {
        self.processes
            .iter()
            .map(|process| process.child.id())
            .collect()
    }

    /// Notes the processes that have ended, and puts others in their places.
    pub(crate) fn look(&mut self) -> io::Result<()> {
        let mut ended = Vec::new();
        for (index, process) in self.processes.iter_mut().enumerate() {
            if let Some(status) = process.child.try_wait()? {
                let what = format!("process {} ended by itself: {status}", process.number);
                self.crashed.push(what);
                ended.push(index);
            }
        }
        for index in ended.into_iter().rev() {
            self.processes.remove(index);
            self.add()?;
        }
        Ok(())
    }

    /// Stops a process where it stands. `false` if there is none with this id.
    pub(crate) fn stop(&mut self, pid: u32) -> io::Result<bool> {
        if !self.pids().contains(&pid) {
            return Ok(false);
        }
        signal(pid, Signal::STOP)?;
        // A machine with more to do than it can takes its time.
        let deadline = Instant::now() + Duration::from_secs(30);
        while state(pid) != Some('T') && Instant::now() < deadline {
            sleep(Duration::from_millis(1));
        }
        let stands_still = state(pid) == Some('T');
        if !stands_still {
            // Or it would stand still later, and for ever.
            signal(pid, Signal::CONT)?;
        }
        Ok(stands_still)
    }

    /// Lets a stopped process go on.
    pub(crate) fn go_on(&self, pid: u32, since: Nanos, log: &Recorder) -> io::Result<()> {
        signal(pid, Signal::CONT)?;
        self.record(pid, since, Fault::Stopped, log)
    }

    /// Kills a process.
    pub(crate) fn kill(&mut self, pid: u32, since: Nanos, log: &Recorder) -> io::Result<()> {
        let process = self
            .processes
            .iter_mut()
            .find(|process| process.child.id() == pid);
        if let Some(process) = process {
            process.child.kill()?;
            process.child.wait()?;
        }
        self.record(pid, since, Fault::Killed, log)
    }

    /// Puts another process in the place of one that was killed, of one version or the other.
    pub(crate) fn replace(&mut self, pid: u32) -> io::Result<()> {
        self.processes.retain(|process| process.child.id() != pid);
        self.add()
    }

    fn record(&self, pid: u32, since: Nanos, fault: Fault, log: &Recorder) -> io::Result<()> {
        let process = self
            .processes
            .iter()
            .find(|process| process.child.id() == pid);
        log.append(&Event {
            process: process.map_or(0, |process| process.number),
            key: "*".to_owned(),
            invoke: since,
            returned: now(),
            what: What::Fault { fault },
        })
    }

    /// Tells all processes to end, and waits for them, for so long at the most.
    pub(crate) fn end(mut self, within: Duration) -> io::Result<Vec<String>> {
        self.look()?;
        for process in &mut self.processes {
            drop(process.child.stdin.take());
        }
        let deadline = Instant::now() + within;
        for Process { number, child } in &mut self.processes {
            let status = loop {
                match child.try_wait()? {
                    Some(status) => break Some(status),
                    None if Instant::now() > deadline => break None,
                    None => sleep(Duration::from_millis(10)),
                }
            };
            match status {
                Some(status) if status.success() => {}
                Some(status) => self
                    .crashed
                    .push(format!("process {number} ended: {status}")),
                None => self.crashed.push(format!("process {number} does not end")),
            }
        }
        Ok(std::mem::take(&mut self.crashed))
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // One that has ended cannot be killed.
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}

/// Whether the process with this number is of the other version, if there is one.
pub(crate) fn is_of_other_version(number: u32) -> bool {
    number.is_multiple_of(2)
}

/// The process that made an owner token, which names it at the end: `…/lr-<random>-<pid>-<claim>`.
pub(crate) fn pid_of(owner: &str) -> Option<u32> {
    let mut parts = owner.rsplit_once("/lr-")?.1.split('-');
    u32::from_str_radix(parts.nth(1)?, 16).ok()
}

fn signal(pid: u32, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("no process id"))?;
    Ok(kill_process(pid, signal)?)
}

/// The state in which the kernel has a process.
pub(crate) fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_token_names_its_process() {
        let token = lock_runtime::backend::OwnerToken::unique("any/lr-thing");
        assert_eq!(pid_of(token.as_str()), Some(std::process::id()));
        assert_eq!(pid_of("another library's"), None);
    }
}
