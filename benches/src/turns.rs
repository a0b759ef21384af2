//! Who is measured when: all sides in every round, in their order or in one drawn at random.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::load::Load;
use crate::report::{Figures, Outcome};
use crate::server::{Senders, Target};
use crate::side::{Failure, Side};

/// The longest turn, in seconds: the speed of a machine changes, and what is compared lies close
/// together.
pub const LONGEST: f64 = 0.25;

/// One row of a table.
pub struct Row {
    pub name: String,
    pub side: Side,
    pub load: Load,
}

/// Measures all of `rows` in each of so many rounds.
pub fn interleaved(
    rows: &[Row],
    rounds: usize,
    at_random: bool,
    target: &mut Target,
) -> Result<Outcome, Failure> {
    let mut senders: Vec<Senders> = Vec::new();
    for row in rows {
        senders.push(row.load.senders(row.side, target)?);
    }
    let mut outcome: Outcome = rows
        .iter()
        .map(|row| (row.name.clone(), Vec::new()))
        .collect();
    for round in 0..rounds {
        for index in order(rows.len(), at_random) {
            let Row { name, side, load } = &rows[index];
            eprintln!("{} round {} of {rounds}: {name}", load.name, round + 1);
            let figures = load.run(*side, &round.to_string(), &senders[index], target)?;
            outcome[index].1.push(figures);
        }
    }
    Ok(outcome)
}

fn order(count: usize, at_random: bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    if at_random {
        fastrand::shuffle(&mut order);
    }
    order
}

/// Runs the same command, one short round each, by this program and by another build of it, in
/// turns. What each has shown, by side: this one's first.
pub fn against(other: &Path, command: &[String], turns: usize) -> Result<[Outcome; 2], Failure> {
    let programs = [std::env::current_exe()?, other.to_owned()];
    let mut outcomes = [Outcome::new(), Outcome::new()];
    for turn in 0..turns {
        for index in order(programs.len(), true) {
            eprintln!(
                "turn {} of {turns}: {}",
                turn + 1,
                programs[index].display()
            );
            let run = Command::new(&programs[index])
                .args(command)
                .args(["--rounds", "1", "--json"])
                .output()?;
            if !run.status.success() {
                let errors = String::from_utf8_lossy(&run.stderr);
                return Err(format!("{}: {errors}", programs[index].display()).into());
            }
            for line in String::from_utf8(run.stdout)?.lines() {
                let line: serde_json::Map<String, Value> = serde_json::from_str(line)?;
                let side = line["side"].as_str().unwrap_or_default().to_owned();
                let mut figures = Figures::default();
                for (name, value) in &line {
                    if let Some(value) = value.as_f64() {
                        figures.set(name, value);
                    }
                }
                match outcomes[index].iter_mut().find(|(name, _)| *name == side) {
                    Some((_, rounds)) => rounds.push(figures),
                    None => outcomes[index].push((side, vec![figures])),
                }
            }
        }
    }
    Ok(outcomes)
}
