//! The same suite on a table that the saboteur which `SABOTAGE` names stands in front of.

use lock_conformance::saboteurs::{Sabotage, Sabotaged};

use crate::Table;

lock_conformance::conformance! { #[tokio::test(start_paused = true)] sabotaged_table() }

fn sabotaged_table() -> Sabotaged<Table> {
    let sabotage = match std::env::var("SABOTAGE") {
        Ok(name) => name.parse().expect("the name of a sabotage"),
        Err(_) => Sabotage::Sound,
    };
    Sabotaged::new(Table::default(), sabotage)
}
