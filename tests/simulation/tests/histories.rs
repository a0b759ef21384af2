//! Histories by chance, in which every promise must hold.

use lock_simulation::{Fault, Plan, Report, Rows, run};

/// How many events the machines are given, in all histories together.
const STEPS: u64 = 4_000_000;

/// What each row of the table, and each fault, must have been seen.
const ROW: u64 = 100;
const FAULT: u64 = 1_000;

#[test]
fn every_promise_holds_in_millions_of_steps() {
    let mut rows = Rows::default();
    let mut faults = vec![0; Fault::ALL.len()];
    let (mut steps, mut grants, mut stale_writes) = (0, 0, 0);
    let (mut kept, mut kept_by_dead) = (0, 0);
    let mut seed = 0;
    while steps < STEPS {
        seed += 1;
        let report = run(&Plan::new(seed), None);
        if let Some(violation) = &report.violation {
            panic!("seed {seed}: {violation}");
        }
        rows.add(&report.rows);
        for (count, more) in faults.iter_mut().zip(&report.faults) {
            *count += more;
        }
        steps += report.steps;
        grants += report.grants;
        stale_writes += report.stale_writes;
        kept += report.kept;
        kept_by_dead += report.kept_by_dead;
    }
    for (state, event, count) in rows.iter() {
        println!("{count:>9}  {state} | {event}");
    }
    for (fault, count) in Fault::ALL.iter().zip(&faults) {
        println!("{count:>9}  {}", fault.text());
    }
    println!(
        "{seed} histories, {steps} steps, {grants} grants, {stale_writes} stale writes refused, \
         {kept} keys kept, {kept_by_dead} by a process that died"
    );

    let rare: Vec<_> = rows.iter().filter(|(.., count)| *count < ROW).collect();
    assert!(rare.is_empty(), "rows that were hardly taken: {rare:?}");
    let faults = Fault::ALL.iter().zip(faults);
    let rare: Vec<_> = faults.filter(|(_, count)| *count < FAULT).collect();
    assert!(rare.is_empty(), "faults that hardly happened: {rare:?}");
    // The fence was needed.
    assert!(stale_writes > 1_000, "{stale_writes}");
    assert!(
        kept > 10_000 && kept_by_dead > 1_000,
        "{kept}, {kept_by_dead}"
    );
}

fn history(seed: u64) -> (String, Report) {
    let mut plan = Plan::new(seed);
    plan.steps = 3_000;
    let mut text = String::new();
    let report = run(
        &plan,
        Some(&mut |line| {
            text.push_str(line);
            text.push('\n');
        }),
    );
    (text, report)
}

#[test]
fn a_seed_is_a_history_byte_for_byte() {
    for seed in 1..=5 {
        let (first, one) = history(seed);
        let (second, other) = history(seed);
        assert!(one.steps >= 3_000 && first.lines().count() > 3_000);
        assert!(first == second, "seed {seed} gave two histories");
        assert_eq!((one.steps, one.grants), (other.steps, other.grants));
        // The control: another seed is another one.
        assert_ne!(first, history(seed + 100).0);
    }
}

#[test]
fn a_history_is_the_same_whether_it_is_told_or_not() {
    let mut plan = Plan::new(7);
    plan.steps = 3_000;
    let untold = run(&plan, None);
    let (_, told) = history(7);
    assert_eq!((untold.steps, untold.time), (told.steps, told.time));
    assert_eq!((untold.rows, untold.faults), (told.rows, told.faults));
}

#[test]
fn more_processes_callers_and_keys_keep_the_promises_as_well() {
    for seed in 1..=5 {
        let plan = Plan {
            processes: 5,
            callers: 6,
            keys: 3,
            ..Plan::new(seed)
        };
        let report = run(&plan, None);
        assert!(report.violation.is_none(), "{report:?}");
    }
}

#[test]
fn the_rows_that_are_counted_are_those_of_the_table() {
    let source = include_str!("../../../lock-protocol/src/machine/mod.rs");
    let lines = source
        .lines()
        .filter_map(|line| line.strip_prefix("//! | "));
    let cells = lines.map(|line| line.split(" | ").map(str::trim).collect::<Vec<_>>());
    let table: Vec<(String, String)> = cells
        .filter(|cells| cells[0] != "state")
        .map(|cells| (cells[0].to_string(), cells[1].to_string()))
        .collect();
    let rows = Rows::default();
    let counted: Vec<(String, String)> = rows
        .iter()
        .map(|(state, event, _)| (state.to_string(), event.to_string()))
        .collect();
    for row in &table {
        assert!(counted.contains(row), "{row:?} is not counted");
    }
    for row in &counted {
        assert!(table.contains(row), "{row:?} is not in the table");
    }
}
