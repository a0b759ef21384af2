//! `cargo run --release -p lock-model -- --clients N --faults F [--threads T] [--bug NAME]`: visits every state within the bound.

use std::process::ExitCode;
use std::time::Instant;

use lock_model::{Bug, Protocol};
use stateright::{Checker, Expectation, Model};

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// Whether every property holds.
fn run(mut arguments: impl Iterator<Item = String>) -> Result<bool, String> {
    let (mut clients, mut faults, mut threads, mut bug) = (3, 2, 2, None);
    while let Some(option) = arguments.next() {
        let value = arguments
            .next()
            .ok_or_else(|| format!("{option} needs a value"))?;
        let number = || {
            value
                .parse::<u8>()
                .map_err(|error| format!("{option} {value}: {error}"))
        };
        match option.as_str() {
            "--clients" => clients = usize::from(number()?),
            "--faults" => faults = number()?,
            "--threads" => threads = usize::from(number()?),
            "--bug" => bug = Some(find_bug(&value)?),
            _ => {
                return Err(format!(
                    "unknown option {option}: there are --clients, --faults, --threads and --bug"
                ));
            }
        }
    }
    let mut protocol = Protocol::new(clients, faults);
    protocol.bug = bug;

    let begun = Instant::now();
    let checker = protocol.checker().threads(threads).spawn_bfs().join();
    let mut holds = true;
    for property in lock_model::properties() {
        let found = checker.discovery(property.name);
        let kind = property.expectation;
        let right = found.is_none() == kind.discovery_is_failure();
        holds &= right;
        println!(
            "{} {:?}: {}",
            if right { "ok  " } else { "FAIL" },
            kind,
            property.name
        );
        if let Some(path) = found.filter(|_| !right || kind == Expectation::Sometimes) {
            for action in path.into_actions() {
                println!("       {action:?}");
            }
        }
    }
    println!(
        "{clients} clients, {faults} faults: {} states, {} transitions, depth {}, {:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        begun.elapsed().as_secs_f64()
    );
    Ok(holds)
}

fn find_bug(name: &str) -> Result<Bug, String> {
    let known = Bug::ALL.into_iter();
    known
        .clone()
        .find(|bug| format!("{bug:?}").eq_ignore_ascii_case(name))
        .ok_or_else(|| {
            let names: Vec<String> = known.map(|bug| format!("{bug:?}")).collect();
            format!("unknown bug {name}: there are {}", names.join(", "))
        })
}
