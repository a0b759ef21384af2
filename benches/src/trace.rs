//! The system calls of processes under load, as `strace` counts them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::side::Failure;

/// A running `strace`.
pub struct Trace {
    strace: Child,
    output: PathBuf,
}

impl Trace {
    /// Returns when every thread of the processes `workers` is traced.
    pub fn start(workers: &[u32], directory: &Path) -> Result<Trace, Failure> {
        let output = directory.join("calls");
        let mut command = Command::new("strace");
        command.args(["-f", "-c", "-qq", "-o"]).arg(&output);
        for worker in workers {
            command.arg("-p").arg(worker.to_string());
        }
        let strace = command
            .spawn()
            .map_err(|error| format!("system calls are counted by strace: {error}"))?;
        let mut trace = Trace { strace, output };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !workers.iter().all(|worker| is_traced(*worker)) {
            if trace.strace.try_wait()?.is_some() || Instant::now() > deadline {
                return Err("strace may not trace the processes under load".into());
            }
            sleep(Duration::from_millis(1));
        }
        Ok(trace)
    }

    /// The calls since then: all of them as `system_calls`, and by name.
    pub fn finish(mut self) -> Result<BTreeMap<String, u64>, Failure> {
        let id = Pid::from_child(&self.strace);
        kill_process(id, Signal::INT)?;
        self.strace.wait()?;
        counted(&fs::read_to_string(&self.output)?)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // Nothing is left of it after `finish`.
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

/// Whether all threads of a process are traced.
fn is_traced(process: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else {
        return false;
    };
    threads.flatten().all(|thread| {
        fs::read_to_string(thread.path().join("status"))
            .is_ok_and(|status| !status.contains("TracerPid:\t0\n"))
    })
}

/// What the summary says: columns of share, seconds, microseconds a call, calls, perhaps errors,
/// and the name.
fn counted(summary: &str) -> Result<BTreeMap<String, u64>, Failure> {
    let mut calls = BTreeMap::new();
    for line in summary.lines() {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [share, _, _, count, .., name] = fields[..] else {
            continue;
        };
        if share.parse::<f64>().is_ok() && name != "total" {
            let count: u64 = count.parse()?;
            *calls.entry("system_calls".to_owned()).or_default() += count;
            calls.insert(format!("call_{name}"), count);
        }
    }
    match calls.is_empty() {
        true => Err("strace has counted nothing".into()),
        false => Ok(calls),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_of_a_summary_are_those_of_its_rows() {
        let summary = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 66.67    0.002000           2      1000        12 futex
 33.33    0.001000           4       250           epoll_wait
------ ----------- ----------- --------- --------- ----------------
100.00    0.003000           2      1250        12 total
";
        let calls = counted(summary).unwrap();
        assert_eq!(
            (
                calls["system_calls"],
                calls["call_futex"],
                calls["call_epoll_wait"]
            ),
            (1250, 1000, 250)
        );
        assert!(counted("strace: Process 1 attached\n").is_err());
    }
}
