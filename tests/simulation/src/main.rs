//! `cargo run -p lock-simulation -- [--seed N] [--steps N] [--trace] [--company]`: lets histories
//! happen, from the seed on, until as many steps were made; `--trace` tells the first; `--company`:
//! those of one key that is wanted in every mode.
//!
//! With `--callers 2,1 [--faults N]` every state is visited that so many callers of each process
//! can reach.

use std::process::ExitCode;
use std::time::Instant;

use lock_simulation::explore::Bound;
use lock_simulation::{Fault, Plan, Report, Rows, run};
use stateright::{Checker, Model};

fn main() -> ExitCode {
    match simulate(std::env::args().skip(1)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// Whether every promise held.
fn simulate(mut arguments: impl Iterator<Item = String>) -> Result<bool, String> {
    let (mut seed, mut steps, mut is_traced) = (1, 1_000_000, false);
    let (mut callers, mut faults) = (Vec::new(), 1);
    let mut plan: fn(u64) -> Plan = Plan::new;
    while let Some(option) = arguments.next() {
        if option == "--trace" {
            is_traced = true;
            continue;
        }
        if option == "--company" {
            plan = Plan::company;
            continue;
        }
        let value = arguments
            .next()
            .ok_or_else(|| format!("{option} needs a value"))?;
        #[cfg(lock_mistakes)]
        if option == "--mistake" {
            make(&value)?;
            continue;
        }
        let numbers: Result<Vec<u64>, _> = value.split(',').map(str::parse).collect();
        let numbers = numbers.map_err(|error| format!("{option} {value}: {error}"))?;
        match (option.as_str(), &numbers[..]) {
            ("--seed", [number]) => seed = *number,
            ("--steps", [number]) => steps = *number,
            ("--faults", [number]) => faults = *number,
            ("--callers", _) => callers = numbers,
            _ => return Err(format!("unknown option {option} {value}")),
        }
    }
    if !callers.is_empty() {
        return Ok(explore(&callers, faults));
    }
    if is_traced {
        let report = run(&plan(seed), Some(&mut |line| println!("{line}")));
        return Ok(summary(&report));
    }
    let begun = Instant::now();
    let (mut rows, mut faults) = (Rows::default(), vec![0; Fault::ALL.len()]);
    let (mut made, mut histories, mut grants, mut stale) = (0, 0, 0, 0);
    let mut holds = true;
    while made < steps && holds {
        let report = run(&plan(seed), None);
        rows.add(&report.rows);
        for (count, more) in faults.iter_mut().zip(&report.faults) {
            *count += more;
        }
        made += report.steps;
        histories += 1;
        grants += report.grants;
        stale += report.stale_writes;
        holds = report.violation.is_none();
        if !holds {
            summary(&report);
        }
        seed += 1;
    }
    for (state, event, count) in rows.iter() {
        println!("{count:>9}  {state} | {event}");
    }
    for (fault, count) in Fault::ALL.iter().zip(&faults) {
        println!("{count:>9}  {}", fault.text());
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{histories} histories, {made} steps, {seconds:.1} s");
    println!("{grants} grants, {stale} stale writes refused");
    Ok(holds)
}

/// Visits every state. Whether every promise held.
fn explore(callers: &[u64], faults: u64) -> bool {
    let callers: Vec<usize> = callers.iter().map(|number| *number as usize).collect();
    let bound = Bound::new(&callers, u8::try_from(faults).unwrap_or(u8::MAX));
    let begun = Instant::now();
    let checker = bound.clone().checker().threads(2).spawn_dfs().join();
    let broken = bound.broken(checker.discoveries());
    println!("{}", broken.as_deref().unwrap_or("every promise holds"));
    let (states, seconds) = (checker.unique_state_count(), begun.elapsed().as_secs());
    println!("{states} states, {seconds} s");
    broken.is_none()
}

/// Makes the mistake with this name.
#[cfg(lock_mistakes)]
fn make(name: &str) -> Result<(), String> {
    use lock_protocol::mistakes::{self, Mistake};

    let mut known = Mistake::ALL.iter();
    let mistake = known.find(|mistake| format!("{mistake:?}") == name);
    let mistake = mistake.ok_or_else(|| format!("unknown mistake {name}: {:?}", Mistake::ALL))?;
    mistakes::make(Some(*mistake));
    Ok(())
}

/// Prints what came of a history. Whether every promise held.
fn summary(report: &Report) -> bool {
    let Report {
        seed, steps, time, ..
    } = report;
    println!("seed {seed}: {steps} steps in {time:.1?} of its own time");
    if let Some(violation) = &report.violation {
        println!("seed {seed}: BROKEN {violation}");
    }
    report.violation.is_none()
}
