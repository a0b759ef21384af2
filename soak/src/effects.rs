//! Faults that have taken effect.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use lock_tests::checker::{Event, Fault, Nanos, Recorder, What, now};

use crate::plan::Kind;

/// Notes the effects of faults, each a line of a file, so that a process that is killed keeps what
/// it noted.
#[derive(Debug)]
pub(crate) struct Effects(File);

impl Effects {
    pub(crate) fn open(directory: &Path, name: &str) -> io::Result<Effects> {
        let path = directory.join(name).with_extension("effects");
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Effects(file))
    }

    /// A fault has been seen to take effect.
    pub(crate) fn note(&self, kind: Kind, on_what: &str) {
        let line = format!("{kind} {on_what} {}\n", now());
        // Without its log a run proves nothing.
        (&self.0)
            .write_all(line.as_bytes())
            .expect("the effects can be noted");
    }

    /// How many effects of each kind the files in `directory` hold.
    pub(crate) fn tally(directory: &Path) -> io::Result<BTreeMap<Kind, u64>> {
        let mut tally = BTreeMap::new();
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path
                .extension()
                .is_none_or(|extension| extension != "effects")
            {
                continue;
            }
            for line in std::fs::read_to_string(path)?.lines() {
                if let Some(kind) = line.split(' ').next().and_then(Kind::parse) {
                    *tally.entry(kind).or_default() += 1;
                }
            }
        }
        Ok(tally)
    }
}

/// Notes that a fault since then cost the waiters for these keys their places, which they may find
/// out until `aftermath` has passed.
pub(crate) fn note_lost_places(
    log: &Recorder,
    keys: impl IntoIterator<Item = String>,
    since: Nanos,
    aftermath: Duration,
) -> io::Result<()> {
    let until = now() + u64::try_from(aftermath.as_nanos()).unwrap_or_default();
    for key in keys {
        log.append(&Event {
            process: 0,
            key,
            invoke: since,
            returned: until,
            what: What::Fault {
                fault: Fault::PlaceLost,
            },
        })?;
    }
    Ok(())
}
