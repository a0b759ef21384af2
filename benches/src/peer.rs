//! The peers that are not written in Rust: programs in Go that take the same jobs as the processes
//! of the other sides.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::report::{Outcome, median, ratios};
use crate::side::{Failure, Side};

/// Which part of the hand-offs of rslock says that it is set up wrongly.
const LEAST: f64 = 1.5;

/// A program, in the folder of its name.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    folder: &'static str,
    program: &'static OnceLock<Result<PathBuf, String>>,
}

/// The program of a side, if it is one in Go.
pub fn of(side: Side) -> Option<Peer> {
    static RUEIDISLOCK: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    static MUTEX: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    static API_LOCK: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    static REDSYNC: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let (folder, program) = match side {
        Side::Redsync => ("redsync", &REDSYNC),
        Side::Rueidislock => ("rueidislock", &RUEIDISLOCK),
        Side::Mutex | Side::EtcdRaw => ("etcd-mutex", &MUTEX),
        Side::ApiLock | Side::Bare => ("consul-lock", &API_LOCK),
        _ => return None,
    };
    Some(Peer { folder, program })
}

/// The program, built from its sources when it is first asked for.
pub fn program(peer: Peer) -> Result<PathBuf, Failure> {
    let built = peer.program.get_or_init(|| build(peer.folder));
    built.clone().map_err(Failure::from)
}

fn build(folder: &str) -> Result<PathBuf, String> {
    let program = std::env::current_exe()
        .map_err(|error| error.to_string())?
        .with_file_name(folder);
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/go/bin");
    let status = Command::new("go")
        .args(["build", "-buildvcs=false", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(sources)
        .env("PATH", path)
        .status();
    match status {
        Ok(status) if status.success() => Ok(program),
        Ok(_) => Err(format!("benches/{folder} does not build")),
        Err(error) => Err(format!("Go is not here: {error}")),
    }
}

/// A peer that is set up wrongly flatters us: on a hot key it is ahead of a peer that polls.
pub fn check(outcome: &Outcome) -> Result<(), Failure> {
    let find = |side: Side| outcome.iter().find(|(name, _)| name == side.name());
    let (Some((_, one)), Some((_, other))) = (find(Side::Rueidislock), find(Side::Rslock)) else {
        return Ok(());
    };
    let ratio = median(ratios(one, other, "handoffs_per_s").into_iter());
    match ratio >= LEAST {
        true => Ok(()),
        false => Err(format!(
            "rueidislock is set up wrongly: {ratio:.2} × rslock, and not {LEAST}"
        )
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Figures;

    #[test]
    fn a_peer_that_is_set_up_wrongly_fails_the_run() {
        let outcome = |rueidislock: f64| -> Outcome {
            [("rueidislock", rueidislock), ("rslock", 1_000.0)]
                .map(|(side, hand_offs)| {
                    let mut figures = Figures::default();
                    figures.set("handoffs_per_s", hand_offs);
                    (side.to_owned(), vec![figures])
                })
                .into()
        };
        assert!(check(&outcome(1_501.0)).is_ok());
        assert!(check(&outcome(1_499.0)).is_err());
        assert!(check(&outcome(f64::NAN)).is_err());
    }
}
