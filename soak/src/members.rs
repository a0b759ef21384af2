//! What the stores of several members have in common: the ways of clients to them, and how what
//! goes wrong with them is seen and noted.

use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use lock_tests::faults::pipe::Pipe;

use crate::plan::Step;
use crate::station::Left;

/// How long to look for the effect of a fault.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long what is left may take to go.
const REST: Duration = Duration::from_secs(90);

/// What leads clients to each of the members.
pub(crate) struct Ways(Vec<Pipe>);

impl Ways {
    pub(crate) fn to(ports: &[u16]) -> Ways {
        Ways(ports.iter().map(|port| Pipe::to(*port)).collect())
    }

    /// Where clients connect, with commas between.
    pub(crate) fn endpoints(&self) -> String {
        let endpoints: Vec<String> = self.0.iter().map(Pipe::endpoint).collect();
        endpoints.join(",")
    }

    pub(crate) fn open(&self) {
        self.0.iter().for_each(Pipe::open);
    }

    /// Cuts all of them for a while. Whether clients came back.
    pub(crate) fn cut(&self, step: &Step) -> io::Result<bool> {
        let before = self.connections();
        self.0.iter().for_each(Pipe::cut);
        sleep(step.length);
        self.open();
        comes_true(|| Ok(self.connections() > before))
    }

    /// Holds back all that goes through. Whether something did.
    pub(crate) fn hold(&self, step: &Step) -> bool {
        let before = self.held();
        self.0.iter().for_each(Pipe::hold);
        sleep(step.length);
        self.held() > before
    }

    fn connections(&self) -> u64 {
        self.0.iter().map(Pipe::connections).sum()
    }

    fn held(&self) -> u64 {
        self.0.iter().map(Pipe::held).sum()
    }
}

/// Waits for `condition`, as long as it may take.
pub(crate) fn comes_true(mut condition: impl FnMut() -> io::Result<bool>) -> io::Result<bool> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if condition()? {
            return Ok(true);
        }
        sleep(Duration::from_millis(5));
    }
    Ok(false)
}

/// What is left, after waiting for it to go.
pub(crate) fn leftovers(look: impl Fn() -> io::Result<Left>) -> io::Result<Left> {
    let deadline = Instant::now() + REST;
    loop {
        match look() {
            Ok(left) if left.is_nothing() => return Ok(left),
            // A member that has much to do may answer the next time.
            outcome if Instant::now() > deadline => return outcome,
            _ => sleep(Duration::from_millis(50)),
        }
    }
}
