//! What is printed: medians over the rounds, as a table or as lines of JSON, and ratios with
//! intervals.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;

/// What one round, or the median of all, has shown of one side: figures by their names in the JSON.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Figures(BTreeMap<String, Option<f64>>);

/// What was measured, by name, round by round.
pub type Outcome = Vec<(String, Vec<Figures>)>;

impl Figures {
    /// Notes `value`, unless there was nothing to divide by.
    pub fn set(&mut self, name: &str, value: f64) {
        let value = value.is_finite().then_some(value);
        self.0.insert(name.to_owned(), value);
    }

    /// The figure, or NaN.
    pub fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().flatten().unwrap_or(f64::NAN)
    }
}

/// The median of each figure on its own; of the violations the sum.
pub fn medians(rounds: &[Figures]) -> Figures {
    let mut all = Figures::default();
    for name in rounds.iter().flat_map(|figures| figures.0.keys()) {
        let values = rounds.iter().map(|figures| figures.get(name));
        let value = match name.as_str() {
            "violations" => values.sum(),
            _ => median(values),
        };
        all.set(name, value);
    }
    all
}

/// The middle one, or the mean of the two in the middle; what is no number does not count.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().saturating_sub(1) / 2, values.len() / 2);
    match values.get(low..=high) {
        Some(middle) => middle.iter().sum::<f64>() / middle.len() as f64,
        None => f64::NAN,
    }
}

/// What the figure `name` of `one` is relative to that of `other`, round by round.
pub fn ratios(one: &[Figures], other: &[Figures], name: &str) -> Vec<f64> {
    one.iter()
        .zip(other)
        .map(|(one, other)| one.get(name) / other.get(name))
        .filter(|ratio| ratio.is_finite())
        .collect()
}

/// The figures in the order of the table: title, name, digits.
const COLUMNS: [(&str, &str, usize, Ratio); 28] = [
    ("per s", "per_s", 0, Ratio::Everywhere),
    ("hand-offs/s", "handoffs_per_s", 0, Ratio::Everywhere),
    ("p50 µs", "p50_us", 1, Ratio::Everywhere),
    ("p99 µs", "p99_us", 0, Ratio::Nowhere),
    ("max µs", "max_us", 0, Ratio::Nowhere),
    ("mean µs", "mean_us", 1, Ratio::Nowhere),
    ("p99/mean", "p99_by_mean", 1, Ratio::Nowhere),
    ("Jain", "jain", 3, Ratio::Nowhere),
    ("commands/op", "commands_per_op", 2, Ratio::Nowhere),
    ("messages/op", "messages_per_op", 2, Ratio::Nowhere),
    ("txns/op", "txns_per_op", 2, Ratio::Nowhere),
    ("ranges/op", "ranges_per_op", 2, Ratio::Nowhere),
    ("grants/op", "grants_per_op", 2, Ratio::Nowhere),
    ("keep-alives/op", "keep_alives_per_op", 2, Ratio::Nowhere),
    ("watches/op", "watches_per_op", 2, Ratio::Nowhere),
    ("sessions/op", "sessions_per_op", 2, Ratio::Nowhere),
    ("renewals/op", "renewals_per_op", 2, Ratio::Nowhere),
    ("ends/op", "ends_per_op", 2, Ratio::Nowhere),
    ("reads/op", "reads_per_op", 2, Ratio::Nowhere),
    ("writes/op", "writes_per_op", 2, Ratio::Nowhere),
    ("commands/s a process", "commands_per_s", 2, Ratio::Nowhere),
    ("server µs/op", "server_us_per_op", 1, Ratio::Nowhere),
    (
        "server CPU µs/op",
        "server_cpu_us_per_op",
        1,
        Ratio::Everywhere,
    ),
    (
        "client CPU µs/op",
        "client_cpu_us_per_op",
        1,
        Ratio::InTurns,
    ),
    ("switches/op", "switches_per_op", 2, Ratio::InTurns),
    ("allocations/op", "allocations_per_op", 2, Ratio::InTurns),
    ("system calls/op", "system_calls_per_op", 2, Ratio::InTurns),
    ("violations", "violations", 0, Ratio::Nowhere),
];

/// Where a figure is told as a ratio.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ratio {
    Nowhere,
    InTurns,
    Everywhere,
}

/// One JSON line for each side.
pub fn json(workload: &str, outcome: &Outcome) {
    for (side, rounds) in outcome {
        let mut line = json!({"workload": workload, "side": side});
        if let (Some(line), Ok(serde_json::Value::Object(figures))) =
            (line.as_object_mut(), serde_json::to_value(medians(rounds)))
        {
            line.extend(figures);
        }
        println!("{line}");
    }
}

/// A table in Markdown; ratios to `bases`, round by round. Columns without a figure are left out.
pub fn table(outcome: &Outcome, bases: &[&(String, Vec<Figures>)]) {
    let sides: Vec<_> = outcome
        .iter()
        .map(|(side, rounds)| (side, rounds, medians(rounds)))
        .collect();
    let mut columns = Vec::new();
    for (title, name, digits, ratio) in COLUMNS {
        if sides.iter().all(|(_, _, m)| m.get(name).is_nan()) {
            continue;
        }
        let of = |cell: &dyn Fn(&[Figures], &Figures) -> f64, digits| {
            let cells = sides
                .iter()
                .map(|(_, rounds, m)| number(cell(rounds, m), digits));
            cells.collect::<Vec<_>>()
        };
        columns.push((title.to_owned(), of(&|_, m| m.get(name), digits)));
        for (base, others) in bases.iter().filter(|_| ratio == Ratio::Everywhere) {
            let ratio =
                |rounds: &[Figures], _: &Figures| median(ratios(rounds, others, name).into_iter());
            columns.push((format!("× {base}"), of(&ratio, 2)));
        }
    }
    let titles: Vec<_> = columns.iter().map(|(title, _)| title.as_str()).collect();
    println!("| side | {} |", titles.join(" | "));
    println!("|---|{}", "--:|".repeat(columns.len()));
    for (index, (side, ..)) in sides.iter().enumerate() {
        let cells: Vec<_> = columns
            .iter()
            .map(|(_, cells)| cells[index].as_str())
            .collect();
        println!("| {side} | {} |", cells.join(" | "));
    }
    processes(&sides);
}

/// What each process had, where their numbers of tasks differ.
fn processes(sides: &[(&String, &Vec<Figures>, Figures)]) {
    const EACH: [(&str, usize); 5] = [
        ("tasks", 0),
        ("per_s", 0),
        ("mean_us", 1),
        ("p99_by_mean", 1),
        ("jain", 3),
    ];
    for (side, _, figures) in sides {
        for process in 0.. {
            let of = |name: &str| figures.get(&format!("process_{process}_{name}"));
            if of("tasks").is_nan() {
                break;
            }
            if process == 0 {
                println!("\n| {side}: process | tasks | per s | mean µs | p99/mean | Jain |");
                println!("|---|{}", "--:|".repeat(EACH.len()));
            }
            let cells = EACH.map(|(name, digits)| number(of(name), digits));
            println!("| {process} | {} |", cells.join(" | "));
        }
    }
}

/// Every figure that is compared, of each side over its base, with the interval in which the centre
/// lies. The centre counts.
pub fn compared<'a>(
    workload: &str,
    pairs: impl Iterator<Item = (&'a str, &'a [Figures], &'a str, &'a [Figures])>,
    as_json: bool,
) {
    if !as_json {
        println!("\n| ratio | of | turns | centre [95 %] |\n|---|---|--:|--:|");
    }
    for (side, rounds, base, others) in pairs {
        for (title, name, _, ratio) in COLUMNS {
            let values = ratios(rounds, others, name);
            if values.is_empty() || ratio == Ratio::Nowhere {
                continue;
            }
            let [centre, low, high] = interval(&values);
            if as_json {
                println!(
                    "{}",
                    json!({"workload": workload, "side": side, "base": base, "figure": name, "turns": values.len(),
                        "centre": centre, "low": low, "high": high})
                );
            } else {
                println!(
                    "| {side} / {base} | {title} | {} | {centre:.3} [{low:.3}, {high:.3}] |",
                    values.len()
                );
            }
        }
    }
}

/// The median, and between which two values 95 of 100 medians of samples of `values` lie.
fn interval(values: &[f64]) -> [f64; 3] {
    const SAMPLES: usize = 2_000;
    let of_sample = |_| {
        median(
            values
                .iter()
                .map(|_| values[fastrand::usize(..values.len())]),
        )
    };
    let mut medians: Vec<f64> = (0..SAMPLES).map(of_sample).collect();
    medians.sort_by(f64::total_cmp);
    [
        median(values.iter().copied()),
        medians[SAMPLES / 40],
        medians[SAMPLES - SAMPLES / 40 - 1],
    ]
}

/// With so many digits after the point; empty where there was nothing to divide by.
fn number(value: f64, digits: usize) -> String {
    if value.is_finite() {
        format!("{value:.digits$}")
    } else {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_encloses_the_centre_and_narrows_with_more_turns() {
        let turns = |count: usize| -> Vec<f64> {
            (0..count)
                .map(|turn| 1.5 + (turn % 10) as f64 / 10.0)
                .collect()
        };
        let width = |[centre, low, high]: [f64; 3]| {
            assert!(low <= centre && centre <= high, "{low} {centre} {high}");
            assert!((1.8..=2.1).contains(&centre), "{centre}");
            high - low
        };
        assert!(width(interval(&turns(1_000))) < width(interval(&turns(10))));
    }

    #[test]
    fn a_ratio_is_taken_within_a_turn_and_not_of_two_medians() {
        let of = |values: [f64; 3]| {
            values.map(|value| {
                let mut figures = Figures::default();
                figures.set("per_s", value);
                figures
            })
        };
        // The machine was ten times as fast in one turn, and half as fast in another.
        let (one, other) = (of([20.0, 200.0, 12.0]), of([10.0, 100.0, 6.0]));
        assert_eq!(ratios(&one, &other, "per_s"), [2.0, 2.0, 2.0]);
        assert!(ratios(&one, &other, "p50_us").is_empty());
    }
}
