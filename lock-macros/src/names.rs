//! The names of the arguments, and what else they are called.

use syn::{Expr, Lit};

use crate::spelling::closest;
use crate::values::bare;

/// Every argument, with an example of its use.
const KNOWN: [(&str, &str); 18] = [
    ("key", r#"key = "coupon:<id>""#),
    ("keys", r#"keys = ["account:<from>", "account:<to>"]"#),
    ("ttl", r#"ttl = "5s""#),
    ("wait", r#"wait = "2s""#),
    ("renew", r#"renew = "500ms""#),
    ("max_hold", r#"max_hold = "1m""#),
    ("min_hold", r#"min_hold = "55s""#),
    ("mode", "mode = shared"),
    ("permits", "permits = 5"),
    ("shards", "shards = 16"),
    ("once_per", r#"once_per = "1h""#),
    ("on_lost", "on_lost = cancel"),
    ("on_taken", "on_taken = skip"),
    ("on_error", "on_error = path::to::function"),
    ("guard", "guard = lock"),
    ("name", r#"name = "coupon""#),
    ("runtime", "runtime = locks"),
    ("crate", "crate = lock_runtime"),
];

/// What other lock libraries call our arguments.
const ELSEWHERE: [(&str, &[&str]); 16] = [
    ("key", &["resource", "lock", "lock_key", "id"]),
    ("keys", &["names", "resources", "lock_keys"]),
    (
        "ttl",
        &[
            "expire",
            "expires",
            "expiry",
            "expiration",
            "px",
            "ex",
            "lease",
            "lease_time",
            "duration",
            "hold",
            "lock_at_most_for",
            "at_most",
        ],
    ),
    (
        "wait",
        &[
            "timeout",
            "acquire_timeout",
            "blocking_timeout",
            "wait_time",
            "wait_timeout",
            "max_wait",
        ],
    ),
    (
        "renew",
        &[
            "heartbeat",
            "watchdog",
            "extend",
            "auto_renew",
            "renew_every",
            "renewal",
        ],
    ),
    (
        "max_hold",
        &["max_time", "max_duration", "hold_limit", "limit"],
    ),
    (
        "min_hold",
        &["lock_at_least_for", "at_least", "min_duration", "cooldown"],
    ),
    (
        "mode",
        &[
            "lock_type",
            "read",
            "rw",
            "shared",
            "read_write",
            "exclusive",
            "kind",
        ],
    ),
    (
        "permits",
        &[
            "concurrency",
            "max_count",
            "max_concurrent",
            "max_concurrency",
            "semaphore",
            "count",
            "max_parallel",
            "slots",
        ],
    ),
    (
        "shards",
        &["segments", "stripes", "buckets", "partitions", "parts"],
    ),
    (
        "once_per",
        &[
            "run_at_most_once_per",
            "at_most_once_per",
            "once_every",
            "unique_for",
            "period",
        ],
    ),
    (
        "on_taken",
        &[
            "skip_if_locked",
            "skip",
            "on_busy",
            "on_conflict",
            "on_contention",
            "if_locked",
            "if_taken",
        ],
    ),
    (
        "on_error",
        &["error", "map_err", "fallback", "on_busy_return"],
    ),
    ("guard", &["handle", "lease_guard"]),
    ("name", &["label", "metric", "metrics_name", "span"]),
    (
        "runtime",
        &["rt", "client", "redis", "pool", "store", "backend", "locks"],
    ),
];

pub(crate) fn example(name: &str) -> Option<&'static str> {
    let known = KNOWN.iter().find(|(known, _)| *known == name);
    known.map(|(_, example)| *example)
}

pub(crate) fn unknown(name: &str, value: Option<&Expr>) -> String {
    if name == "locks" && matches!(value, Some(Expr::Array(_))) {
        return format!("unknown argument `{name}`; it is called `keys` here");
    }
    if name == "limit" && value.is_some_and(is_number) {
        return format!("unknown argument `{name}`; it is called `permits` here");
    }
    let elsewhere = ELSEWHERE.iter().find(|(_, others)| others.contains(&name));
    if let Some((ours, _)) = elsewhere {
        return format!("unknown argument `{name}`; it is called `{ours}` here");
    }
    let names = KNOWN.map(|(known, _)| known);
    match closest(name, names) {
        Some(close) => format!("unknown argument `{name}`; did you mean `{close}`?"),
        None => format!(
            "unknown argument `{name}`; there are `{}`",
            names.join("`, `")
        ),
    }
}

fn is_number(value: &Expr) -> bool {
    matches!(bare(value), Expr::Lit(lit) if matches!(lit.lit, Lit::Int(_)))
}
