//! Wall clocks that can be moved under a running server.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::server::Options;

/// A clock that tells the true time until it is [shifted](Clock::shift).
#[derive(Debug)]
pub struct Clock {
    directory: TempDir,
}

impl Clock {
    /// Compiles the library that stands between a process and its clock, which takes a C compiler
    /// as `cc`.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Clock {
        let clock = Clock {
            directory: tempfile::tempdir().unwrap(),
        };
        let source = clock.directory.path().join("clock.c");
        fs::write(&source, include_str!("clock.c")).unwrap();
        let status = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(clock.library())
            .arg(source)
            .status()
            .expect("a C compiler is installed");
        assert!(status.success());
        clock.shift(0);
        clock
    }

    /// The options for a server that lives by this clock.
    pub fn server(&self) -> Options {
        let options = self.variables().into_iter();
        options.fold(Options::default(), |options, (name, value)| {
            options.env(name, &value)
        })
    }

    /// What a process that lives by this clock has in its environment.
    pub fn variables(&self) -> [(&'static str, PathBuf); 2] {
        [
            ("LD_PRELOAD", self.library()),
            ("CLOCK_SHIFT_FILE", self.file()),
        ]
    }

    /// Puts the clock so many seconds ahead of the true time, or behind.
    pub fn shift(&self, seconds: i64) {
        // Renamed into place, so that no reader sees half of it.
        let new = self.directory.path().join("new");
        fs::write(&new, seconds.to_string()).unwrap();
        fs::rename(new, self.file()).unwrap();
    }

    fn library(&self) -> PathBuf {
        self.directory.path().join("clock.so")
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("shift")
    }
}
