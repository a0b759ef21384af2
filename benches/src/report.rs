//! What is printed: medians over the rounds, as a table or as lines of JSON.

use serde::Serialize;

/// What one round, or the median of all, has shown of one side.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Figures {
    /// Served sections a second.
    pub per_s: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
    pub mean_us: f64,
    /// Commands that clients sent for each hand-off where the lock is shared, else for each pair of acquire and release.
    pub commands_per_op: f64,
    /// Microseconds that the server spent in these commands.
    pub server_us_per_op: f64,
    /// Microseconds on a processor, of the server and of the clients.
    pub server_cpu_us_per_op: f64,
    pub client_cpu_us_per_op: f64,
    pub jain: f64,
    pub handoffs_per_s: f64,
    pub violations: f64,
    /// Commands that clients sent in a second, for each of their processes.
    pub commands_per_s: f64,
}

#[derive(Serialize)]
struct Line<'a> {
    workload: &'a str,
    side: &'a str,
    #[serde(flatten)]
    figures: Figures,
}

/// The median of each figure on its own; of the violations the sum.
pub fn medians(rounds: &[Figures]) -> Figures {
    let of = |figure: fn(&Figures) -> f64| median(rounds.iter().map(figure));
    Figures {
        per_s: of(|f| f.per_s),
        p50_us: of(|f| f.p50_us),
        p99_us: of(|f| f.p99_us),
        max_us: of(|f| f.max_us),
        mean_us: of(|f| f.mean_us),
        commands_per_op: of(|f| f.commands_per_op),
        server_us_per_op: of(|f| f.server_us_per_op),
        server_cpu_us_per_op: of(|f| f.server_cpu_us_per_op),
        client_cpu_us_per_op: of(|f| f.client_cpu_us_per_op),
        jain: of(|f| f.jain),
        handoffs_per_s: of(|f| f.handoffs_per_s),
        violations: rounds.iter().map(|f| f.violations).sum(),
        commands_per_s: of(|f| f.commands_per_s),
    }
}

/// The middle one, or the mean of the two in the middle.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().saturating_sub(1) / 2, values.len() / 2);
    match values.get(low..=high) {
        Some(middle) => middle.iter().sum::<f64>() / middle.len() as f64,
        None => f64::NAN,
    }
}

/// The median, over the rounds, of what `figure` of `one` is relative to that of `other` in the same round.
fn ratio(one: &[Figures], other: &[Figures], figure: fn(&Figures) -> f64) -> f64 {
    median(
        one.iter()
            .zip(other)
            .map(|(one, other)| figure(one) / figure(other)),
    )
}

/// One JSON line per side.
pub fn json(workload: &str, sides: &[(&str, Vec<Figures>)]) {
    for (side, rounds) in sides {
        let figures = medians(rounds);
        let line = Line {
            workload,
            side,
            figures,
        };
        println!(
            "{}",
            serde_json::to_string(&line).expect("figures are numbers")
        );
    }
}

/// A table in Markdown; ratios to the side `raw`, round by round, where there is one.
pub fn table(sides: &[(&str, Vec<Figures>)]) {
    let raw = sides
        .iter()
        .find(|(side, _)| *side == "raw")
        .map(|(_, rounds)| rounds);
    println!(
        "| side | per s | × raw | hand-offs/s | × raw | p50 µs | × raw | p99 µs | max µs | mean µs | commands/op | commands/s a process | server µs/op | server CPU µs/op | client CPU µs/op | Jain | violations |"
    );
    println!("|---|{}", "--:|".repeat(16));
    for (side, rounds) in sides {
        let m = medians(rounds);
        let by = |figure: fn(&Figures) -> f64| {
            raw.map_or_else(String::new, |raw| number(ratio(rounds, raw, figure), 2))
        };
        let cells = [
            number(m.per_s, 0),
            by(|f| f.per_s),
            number(m.handoffs_per_s, 0),
            by(|f| f.handoffs_per_s),
            number(m.p50_us, 1),
            by(|f| f.p50_us),
            number(m.p99_us, 0),
            number(m.max_us, 0),
            number(m.mean_us, 1),
            number(m.commands_per_op, 2),
            number(m.commands_per_s, 2),
            number(m.server_us_per_op, 1),
            number(m.server_cpu_us_per_op, 1),
            number(m.client_cpu_us_per_op, 1),
            number(m.jain, 3),
            number(m.violations, 0),
        ];
        println!("| {side} | {} |", cells.join(" | "));
    }
}

/// With so many digits after the point; empty where there was nothing to divide by.
fn number(value: f64, digits: usize) -> String {
    if value.is_finite() {
        format!("{value:.digits$}")
    } else {
        String::new()
    }
}
