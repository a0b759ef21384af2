//! What is in `ops/` fits what the library tells.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use lock_runtime::observe::METRICS;
use serde_json::Value;

fn ops(name: &str) -> PathBuf {
    let ops = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../ops");
    ops.join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(ops(name)).unwrap()
}

/// The metrics that a text names, without what an exporter puts behind the name of a histogram.
fn named(text: &str) -> BTreeSet<String> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c: char| !is_of_name(c));
    let words = words.filter(|word| word.starts_with("distributed_lock_"));
    let names = words.map(|word| {
        let suffixes = ["_bucket", "_count", "_sum"];
        let bare = suffixes.iter().find_map(|suffix| word.strip_suffix(suffix));
        bare.unwrap_or(word).to_owned()
    });
    names.collect()
}

#[test]
fn the_dashboard_shows_every_metric_and_no_other() {
    let dashboard: Value = serde_json::from_str(&text("grafana.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array());
    let mut shown = BTreeSet::new();
    for target in targets.flatten() {
        let names = named(target["expr"].as_str().unwrap());
        assert_eq!(names.len(), 1, "{target}");
        shown.extend(names);
    }
    let all: BTreeSet<String> = METRICS.map(str::to_owned).into();
    assert_eq!(shown, all);
}

#[test]
fn alerts_are_about_metrics_that_there_are() {
    let named = named(&text("alerts.yml"));
    assert!(named.len() > 4, "{named:?}");
    let unknown: Vec<_> = named
        .iter()
        .filter(|name| !METRICS.contains(&name.as_str()))
        .collect();
    // That of the group.
    assert!(unknown.is_empty(), "{unknown:?}");
}

fn promtool(arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new("promtool");
    let output = command.args(arguments).current_dir(ops("")).output();
    let output = output.expect("`scripts/needs` installs promtool");
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[test]
fn each_alert_fires_when_it_has_to_and_is_silent_else() {
    let (is_right, said) = promtool(&["check", "rules", "alerts.yml"]);
    assert!(is_right && said.contains("6 rules found"), "{said}");
    let (passes, said) = promtool(&["test", "rules", "alerts_test.yml"]);
    assert!(passes, "{said}");
    let cases = text("alerts_test.yml");
    for alert in text("alerts.yml")
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
    {
        let of_alert = cases.matches(&format!("alertname: {alert}\n")).count();
        assert!(of_alert >= 1, "{alert} has no case");
    }

    // The control: with another threshold, the cases fail.
    let wrong = tempfile::tempdir().unwrap();
    for (name, from, to) in [
        ("alerts.yml", "> 600", "> 700"),
        ("alerts.yml", "> 0.01", "> 0.1"),
        ("alerts.yml", "< 1\n", "< 2\n"),
    ] {
        let changed = text(name).replace(from, to);
        assert_ne!(changed, text(name), "{from}");
        std::fs::write(wrong.path().join(name), changed).unwrap();
        std::fs::write(wrong.path().join("alerts_test.yml"), &cases).unwrap();
        let cases = wrong.path().join("alerts_test.yml");
        let (passes, _) = promtool(&["test", "rules", cases.to_str().unwrap()]);
        assert!(!passes, "nothing notices {to}");
    }
}
