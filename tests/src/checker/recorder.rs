//! Logs on disk: one JSON object a line.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use rustix::time::{ClockId, clock_gettime};

use super::event::{Event, Nanos, What};

/// The present instant.
pub fn now() -> Nanos {
    let time = clock_gettime(ClockId::Monotonic);
    // The clock starts at zero when the machine does.
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Appends the events of one process to a file.
///
/// Every event is one `write` of one line, so that a process that is killed leaves all it recorded,
/// and at most a torn last line. May be shared by threads.
#[derive(Debug)]
pub struct Recorder {
    process: u32,
    file: File,
}

impl Recorder {
    /// Opens the log of this process.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Recorder> {
        Recorder::open_for(path, std::process::id())
    }

    /// Opens a log in the name of `process`.
    pub fn open_for(path: impl AsRef<Path>, process: u32) -> io::Result<Recorder> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Recorder { process, file })
    }

    /// Records `what` happened to `key` from `invoke` until now.
    pub fn record(&self, key: &str, invoke: Nanos, what: What) -> io::Result<()> {
        self.append(&Event {
            process: self.process,
            key: key.to_owned(),
            invoke,
            returned: now(),
            what,
        })
    }

    /// Records `event` as it is: for what was done to another process.
    pub fn append(&self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        (&self.file).write_all(&line)
    }
}

/// The events in a log.
///
/// A last line without its end is what a killed process leaves: it is left out. Any other line that
/// is no event is an error.
pub fn read_log(path: impl AsRef<Path>) -> io::Result<Vec<Event>> {
    let text = std::fs::read_to_string(&path)?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |(number, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| {
            let place = format!("{}:{}", path.as_ref().display(), number + 1);
            io::Error::new(io::ErrorKind::InvalidData, format!("{place}: {error}"))
        })
    };
    whole.lines().enumerate().map(parse).collect()
}

/// The events in all logs of a directory, the files that end in `.jsonl`.
pub fn read_logs(directory: impl AsRef<Path>) -> io::Result<Vec<Event>> {
    let mut events = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "jsonl")
        {
            events.extend(read_log(path)?);
        }
    }
    Ok(events)
}
