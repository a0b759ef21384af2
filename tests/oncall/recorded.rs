//! What a recorder for tests has seen of the metrics.

use metrics_util::debugging::{DebugValue, Snapshotter};

/// A metric with its labels, and its value.
pub(crate) type Seen = (String, DebugValue);

/// The metrics, each as `name{label=value,…}`.
pub(crate) fn seen(snapshotter: &Snapshotter) -> Vec<Seen> {
    let all = snapshotter.snapshot().into_vec().into_iter();
    let seen = all.map(|(key, _, _, value)| {
        let (_, key) = key.into_parts();
        let labels = key.labels();
        let labels = labels.map(|label| format!("{}={}", label.key(), label.value()));
        let mut labels: Vec<_> = labels.collect();
        labels.sort();
        (format!("{}{{{}}}", key.name(), labels.join(",")), value)
    });
    seen.collect()
}

/// What it is by now; of a second look, by how much it has changed since the first.
pub(crate) fn count(seen: &[Seen], name: &str) -> i64 {
    let found = seen.iter().find(|(own, _)| own == name);
    match found.map(|(_, value)| value) {
        Some(DebugValue::Counter(count)) => i64::try_from(*count).unwrap(),
        Some(DebugValue::Histogram(values)) => i64::try_from(values.len()).unwrap(),
        Some(DebugValue::Gauge(value)) => value.0.round() as i64,
        None => panic!("{name} is not among {seen:?}"),
    }
}
