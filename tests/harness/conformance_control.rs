//! The control of the conformance suite: for each promise backends that break it, which the suite
//! must find.

use std::collections::HashSet;
use std::fs;

use lock_conformance::saboteurs::{Sabotage, of_promise};

lock_conformance::controls! {
    #[tokio::test(start_paused = true)]
    lock_tests::memory_store::MemoryStore::default()
}

macro_rules! names {
    ({} $($promise:ident)+) => {
        const PROMISES: &[&str] = &[$(stringify!($promise)),+];
    };
}

lock_conformance::for_each_promise! { names, {} }

#[test]
fn every_promise_is_mounted() {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../lock-conformance/src/promises"
    );
    let mut written = HashSet::new();
    for file in fs::read_dir(folder).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        let functions = text
            .lines()
            .filter_map(|line| line.strip_prefix("pub async fn ")?.split_once('<'));
        written.extend(functions.map(|(promise, _)| promise.to_owned()));
    }
    assert_eq!(written, PROMISES.iter().map(ToString::to_string).collect());
}

#[test]
fn every_saboteur_breaks_a_promise_and_every_promise_has_a_saboteur() {
    for promise in PROMISES {
        assert!(!of_promise(promise).is_empty(), "{promise}");
    }
    for sabotage in Sabotage::ALL {
        let broken: Vec<&str> = sabotage.promises().collect();
        assert_eq!(
            broken.is_empty(),
            *sabotage == Sabotage::Sound,
            "{sabotage}"
        );
        assert!(broken.iter().all(|promise| PROMISES.contains(promise)));
        assert_eq!(sabotage.to_string().parse(), Ok(*sabotage));
    }
    assert!("None".parse::<Sabotage>().is_err());
}
