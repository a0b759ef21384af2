//! Leases that go together keep every promise, whatever a network does to them.

use lock_simulation::company::run;

#[test]
fn leases_that_go_together_keep_every_promise() {
    let mut granted = std::collections::BTreeMap::new();
    let (mut joined, mut batches, mut faults, mut deaths) = (0, 0, 0, 0);
    for seed in 0..60 {
        let outcomes = run(seed, 10_000);
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
