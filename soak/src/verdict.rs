//! What the logs of a run show.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use lock_tests::checker::{
    Check, Event, Fault, Limits, Nanos, Outcome, Report, Violation, What, check, read_logs,
};
use serde::Serialize;

use crate::effects::Effects;
use crate::fleet::is_of_other_version;
use crate::plan::Kind;
use crate::station::Left;
use crate::turn::Shape;

/// The latest that an acquire may return after its deadline, on a machine with more to do than it
/// can; later is stuck.
const STUCK: Nanos = 5_000_000_000;
/// The longest ttl of a key at the end: that of the fencing tokens.
const LONGEST_TTL_MS: u64 = 2 * 24 * 60 * 60 * 1_000;
/// How many violations of one run are worth reading.
const SHOWN: usize = 20;

/// The figures of a run; the last line of its output.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Figures {
    acquisitions: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    acquired_by_other_version: Option<usize>,
    faults: u64,
    fault_kinds: BTreeMap<Kind, u64>,
    stale_writes: usize,
    stale_writes_refused: usize,
    leases_lost: usize,
    overlapping_leases: usize,
    overlaps_excused: BTreeMap<Fault, usize>,
    /// Grants of claims that came when another stood in the queue, and how many of these overtook
    /// it.
    queue_orders: usize,
    overtaken_waiters: usize,
    overtakings_excused: BTreeMap<Fault, usize>,
    ok_after_loss: usize,
    stuck_waiters: usize,
    /// What each shape acquired.
    shapes: BTreeMap<&'static str, usize>,
    /// Keys that were to stay taken for a while, and those of them that did not.
    minimum_holds: usize,
    minimum_holds_broken: usize,
    minimum_holds_excused: BTreeMap<Fault, usize>,
    leaked_keys: usize,
    leaked_queue_entries: u64,
    leaked_subscriptions: u64,
    leaked_leases: u64,
    leaked_fds: u64,
    leaked_tasks: u64,
}

/// What came of a run.
pub(crate) struct Verdict {
    pub(crate) figures: Figures,
    /// What is wrong, in words.
    pub(crate) problems: Vec<String>,
    /// How late acquires returned after their deadlines, in milliseconds.
    pub(crate) late: Lateness,
    /// Which leases overlapped, and by which fault they may.
    pub(crate) overlaps: Vec<String>,
}

impl Verdict {
    /// Reads the logs in `directory`.
    pub(crate) fn reach(
        directory: &Path,
        calm_since: Nanos,
        left: &Left,
        mut problems: Vec<String>,
    ) -> io::Result<Verdict> {
        let mut events = read_logs(directory)?;
        add_unwritten(&mut events);
        let limits = Limits {
            wait_slack: STUCK,
            max_ttl_ms: LONGEST_TTL_MS,
        };
        let report = check(&events, &limits);
        let stale = stale_writes(&events);
        problems.extend(stale.iter().map(|(_, what)| what.clone()));
        problems.extend(report.violations.iter().map(ToString::to_string));
        problems.extend(dead_keys(&events, calm_since));
        for (key, ttl) in &left.keys {
            problems.push(format!("the key {key} is still there, for {ttl:?} ms"));
        }
        if left.leases > 0 {
            problems.push(format!("{} leases are still there", left.leases));
        }
        if report.acquisitions == 0 {
            problems.push("nothing was ever acquired".to_owned());
        }
        let kinds = Effects::tally(directory)?;
        Ok(Verdict {
            figures: figures(&events, &report, kinds, stale.len(), left),
            problems,
            late: Lateness::of(&events),
            overlaps: overlaps(&events, &report),
        })
    }

    /// Counts what processes of the other version acquired; there must be some of either.
    pub(crate) fn look_for_both_versions(&mut self, directory: &Path) -> io::Result<()> {
        let events = read_logs(directory)?;
        let acquired = |of_other: bool| {
            let by = events
                .iter()
                .filter(|event| is_of_other_version(event.process) == of_other);
            by.filter(|event| {
                matches!(
                    event.what,
                    What::Acquire {
                        outcome: Outcome::Ok,
                        ..
                    }
                )
            })
            .count()
        };
        let (own, other) = (acquired(false), acquired(true));
        self.figures.acquired_by_other_version = Some(other);
        if own == 0 || other == 0 {
            let what = format!("of two versions one acquired {own}, the other {other} times");
            self.problems.push(what);
        }
        Ok(())
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        if self.problems.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

fn figures(
    events: &[Event],
    report: &Report,
    fault_kinds: BTreeMap<Kind, u64>,
    stale_writes: usize,
    left: &Left,
) -> Figures {
    let mut figures = Figures {
        acquisitions: report.acquisitions,
        faults: fault_kinds.values().sum(),
        fault_kinds,
        stale_writes,
        overlapping_leases: report.count(Check::DisjointLeases),
        overlaps_excused: report.excused_by(Check::DisjointLeases),
        queue_orders: report.queue_orders,
        overtaken_waiters: report.count(Check::QueueOrder),
        overtakings_excused: report.excused_by(Check::QueueOrder),
        ok_after_loss: report.count(Check::NoOkAfterLoss),
        stuck_waiters: report.count(Check::BoundedWait),
        minimum_holds: report.minimum_holds,
        minimum_holds_broken: report.count(Check::MinimumHold),
        minimum_holds_excused: report.excused_by(Check::MinimumHold),
        leaked_keys: left.keys.len(),
        leaked_queue_entries: left.queued,
        leaked_subscriptions: left.subscriptions,
        leaked_leases: left.leases,
        ..Figures::default()
    };
    for event in events {
        match &event.what {
            What::Acquire {
                claim,
                outcome: Outcome::Ok,
                ..
            } => {
                if let Some(shape) = Shape::of_claim(claim) {
                    *figures.shapes.entry(shape.name()).or_default() += 1;
                }
            }
            What::Write {
                outcome: Outcome::Fail,
                ..
            } => figures.stale_writes_refused += 1,
            What::Body { lost: true, .. } => figures.leases_lost += 1,
            What::End(left) => {
                figures.leaked_fds += left.fds;
                figures.leaked_tasks += left.tasks;
            }
            _ => {}
        }
    }
    figures
}

/// Adds the writes that processes may have made and did not live to note.
fn add_unwritten(events: &mut Vec<Event>) {
    let mut killed = HashSet::new();
    let mut ended = HashSet::new();
    for event in events.iter() {
        match &event.what {
            What::Fault {
                fault: Fault::Killed,
            } => drop(killed.insert(event.process)),
            What::Write { claim, .. } | What::Release { claim, .. } => {
                ended.insert(claim.clone());
            }
            _ => {}
        }
    }
    let unwritten: Vec<Event> = events
        .iter()
        .filter(|event| killed.contains(&event.process))
        .filter_map(|event| match &event.what {
            What::Acquire {
                claim,
                token: Some(token),
                ..
            } if !ended.contains(claim) => Some(Event {
                what: What::Write {
                    claim: claim.clone(),
                    token: *token,
                    outcome: Outcome::Unknown,
                    seq: None,
                },
                ..event.clone()
            }),
            _ => None,
        })
        .collect();
    events.extend(unwritten);
}

/// The writes that the resource accepted after one of a claim that was made when theirs had been
/// granted already; their tokens are not looked at.
fn stale_writes(events: &[Event]) -> Vec<(Nanos, String)> {
    let mut granted: HashMap<&str, &Event> = HashMap::new();
    let mut written: HashMap<&str, Vec<(u64, &str)>> = HashMap::new();
    for event in events {
        match &event.what {
            What::Acquire {
                claim,
                outcome: Outcome::Ok,
                ..
            } => {
                granted.insert(claim, event);
            }
            What::Write {
                claim,
                outcome: Outcome::Ok,
                seq: Some(seq),
                ..
            } => {
                written.entry(&event.key).or_default().push((*seq, claim));
            }
            _ => {}
        }
    }
    let mut stale = Vec::new();
    for (key, mut writes) in written {
        writes.sort_unstable();
        let mut latest: Option<(&str, &Event)> = None;
        for (seq, claim) in writes {
            let Some(grant) = granted.get(claim).copied() else {
                continue;
            };
            match latest {
                Some((by, later)) if later.invoke > grant.returned => {
                    let what = format!(
                        "write {seq} to {key} by {claim} was accepted after one of {by}, which was granted later"
                    );
                    stale.push((seq, what));
                }
                Some((_, later)) if later.invoke >= grant.invoke => {}
                _ => latest = Some((claim, grant)),
            }
        }
    }
    stale
}

/// The leases that overlapped, each pair with the fault that permits it.
fn overlaps(events: &[Event], report: &Report) -> Vec<String> {
    let is_overlap =
        |(violation, _): &&(Violation, Fault)| violation.check == Check::DisjointLeases;
    let of_pair = |(violation, excuse): &(Violation, Fault)| {
        let (first, last) = (&violation.events[0], violation.events.last()?);
        let permits = |event: &&Event| {
            matches!(event.what, What::Fault { fault } if fault == *excuse)
                && (event.key == first.key || event.key == "*")
                && event.invoke <= last.returned
                && event.returned >= first.invoke
        };
        let fault = events.iter().find(permits)?;
        Some(format!("{violation}\n  permitted by {fault}"))
    };
    let overlaps = report.excused.iter().filter(is_overlap);
    overlaps.filter_map(of_pair).collect()
}

/// The keys that nobody could lock any more when the faults were over.
fn dead_keys(events: &[Event], calm_since: Nanos) -> Vec<String> {
    // Each has its counter at the end.
    let is_counted = |event: &&Event| matches!(event.what, What::Counter { .. });
    let mut dead: HashSet<String> = events
        .iter()
        .filter(is_counted)
        .map(|event| event.key.clone())
        .collect();
    for event in events.iter().filter(|event| event.returned > calm_since) {
        if let What::Acquire {
            outcome: Outcome::Ok,
            ..
        } = event.what
        {
            dead.remove(&event.key);
        }
    }
    let say = |key| format!("{key} could not be locked any more after the last fault");
    dead.into_iter().map(say).collect()
}

/// How late acquires returned that ended by their deadlines, in milliseconds.
pub(crate) struct Lateness {
    count: usize,
    p99: Nanos,
    longest: Nanos,
}

impl Lateness {
    fn of(events: &[Event]) -> Lateness {
        let mut deadlines = HashMap::new();
        let mut stopped: HashMap<u32, Vec<(Nanos, Nanos)>> = HashMap::new();
        for event in events {
            match &event.what {
                What::Ask { claim, wait } => {
                    deadlines.insert(claim.as_str(), event.invoke + wait);
                }
                What::Fault {
                    fault: Fault::Stopped,
                } => {
                    let span = (event.invoke, event.returned);
                    stopped.entry(event.process).or_default().push(span);
                }
                _ => {}
            }
        }
        let mut late: Vec<Nanos> = events
            .iter()
            .filter_map(|event| {
                match &event.what {
                    What::Acquire { claim, outcome, .. } if *outcome != Outcome::Ok => {
                        event.returned.checked_sub(*deadlines.get(claim.as_str())?)
                    }
                    _ => None,
                }
                .filter(|_| {
                    let spans = stopped.get(&event.process).map_or(&[][..], Vec::as_slice);
                    !spans
                        .iter()
                        .any(|(begin, end)| *begin < event.returned && *end > event.invoke)
                })
            })
            .collect();
        late.sort_unstable();
        let p99 = late.get(late.len() * 99 / 100).copied().unwrap_or(0);
        Lateness {
            count: late.len(),
            p99,
            longest: late.last().copied().unwrap_or(0),
        }
    }
}

impl fmt::Display for Lateness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} acquires ended by their deadline: p99 {} ms after it, longest {} ms",
            self.count,
            self.p99 / 1_000_000,
            self.longest / 1_000_000
        )
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.late)?;
        for overlap in &self.overlaps {
            writeln!(f, "OVERLAP {overlap}")?;
        }
        for problem in self.problems.iter().take(SHOWN) {
            writeln!(f, "VIOLATION {problem}")?;
        }
        if self.problems.len() > SHOWN {
            writeln!(f, "… and {} more", self.problems.len() - SHOWN)?;
        }
        let figures = serde_json::to_string(&self.figures).map_err(|_| fmt::Error)?;
        f.write_str(&figures)
    }
}
