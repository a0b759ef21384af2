//! Leases that go together keep every promise, whatever goes wrong.

use std::collections::BTreeMap;

use lock_simulation::{Fault, Plan, company, run};

/// How many events the machines are given, in all histories together.
const STEPS: u64 = 2_000_000;

#[test]
fn leases_that_go_together_keep_every_promise() {
    let mut faults = vec![0; Fault::ALL.len()];
    let mut granted: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut steps, mut joined, mut batches, mut stale_writes) = (0, 0, 0, 0);
    let (mut kept, mut kept_by_dead, mut made_up) = (0, 0, 0);
    let mut seed = 0;
    while steps < STEPS {
        seed += 1;
        let report = run(&Plan::company(seed), None);
        if let Some(violation) = &report.violation {
            panic!("seed {seed}: {violation}");
        }
        for (count, more) in faults.iter_mut().zip(&report.faults) {
            *count += more;
        }
        for (kind, count) in report.granted {
            *granted.entry(kind).or_default() += count;
        }
        steps += report.steps;
        joined += report.joined;
        batches += report.batches;
        stale_writes += report.stale_writes;
        kept += report.kept;
        kept_by_dead += report.kept_by_dead;
        made_up += report.made_up;
    }
    println!(
        "{seed} histories, {steps} steps, {granted:?}, {joined} joined, {batches} batches, \
         {stale_writes} stale writes, {kept} kept, {kept_by_dead} by the dead, {made_up} made up"
    );
    assert!(
        granted.len() == 4 && granted.values().all(|count| *count > 1_000),
        "{granted:?}"
    );
    assert!(joined > 1_000 && batches > 1_000, "{joined}, {batches}");
    assert!(
        stale_writes > 100 && made_up > 200,
        "{stale_writes}, {made_up}"
    );
    assert!(kept > 1_000 && kept_by_dead > 100, "{kept}, {kept_by_dead}");
    let faults = Fault::ALL.iter().zip(faults);
    let rare: Vec<_> = faults.filter(|(_, count)| *count < 100).collect();
    assert!(rare.is_empty(), "faults that hardly happened: {rare:?}");
}

/// Where nothing else goes wrong, who was handed a lease and did not hear of it asks within a
/// heartbeat. That is looked at whenever time passes, and with it that everybody is told in time.
#[test]
fn who_does_not_hear_of_a_lease_has_it_within_a_heartbeat() {
    let (mut lost, mut made_up) = (0, 0);
    for seed in 1..=20 {
        let plan = Plan {
            only: Some(Fault::NewsLost),
            ..Plan::company(seed)
        };
        let report = run(&plan, None);
        if let Some(violation) = &report.violation {
            panic!("seed {seed}: {violation}");
        }
        lost += report.faults[Fault::NewsLost as usize];
        made_up += report.made_up;
    }
    println!("{lost} news lost, {made_up} made up for");
    assert!(lost > 1_000 && made_up > 500, "{lost}, {made_up}");
}

/// In a world in which questions overtake each other.
#[test]
fn leases_that_go_together_need_no_order_of_questions() {
    let mut granted = BTreeMap::new();
    let (mut joined, mut batches, mut faults, mut deaths) = (0, 0, 0, 0);
    for seed in 0..60 {
        let outcomes = company::run(seed, 10_000);
        assert!(
            outcomes.violation.is_none(),
            "seed {seed}: {:?}",
            outcomes.violation
        );
        for (kind, count) in outcomes.granted {
            *granted.entry(kind).or_insert(0) += count;
        }
        joined += outcomes.joined;
        batches += outcomes.batches;
        faults += outcomes.faults;
        deaths += outcomes.deaths;
    }
    println!("{granted:?}, {joined} joined, {batches} batches, {faults} faults, {deaths} deaths");
    assert!(
        granted.len() == 4 && granted.values().all(|count| *count > 1_000),
        "{granted:?}"
    );
    assert!(
        joined > 1_000 && batches > 1_000,
        "{joined} joined, {batches} batches"
    );
    assert!(
        faults > 1_000 && deaths > 50,
        "{faults} faults, {deaths} deaths"
    );
}
