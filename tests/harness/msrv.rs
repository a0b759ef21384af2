//! The oldest Rust that we declare is one that our dependencies work with.
//! (`clippy::incompatible_msrv` looks at our own code.)

use std::collections::{HashMap, HashSet};
use std::process::Command;

use serde::Deserialize;

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    rust_version: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    kind: Option<String>,
}

impl Dependency {
    fn is_for_users(&self) -> bool {
        let dev = |kind: &Kind| kind.kind.as_deref() == Some("dev");
        !self.dep_kinds.iter().all(dev)
    }
}

fn metadata() -> Metadata {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--all-features"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What `1.89` or `1.89.0` says.
fn version(text: &str) -> Vec<u32> {
    let mut numbers: Vec<u32> = text.split('.').map(|part| part.parse().unwrap()).collect();
    numbers.resize(3, 0);
    numbers
}

#[test]
fn no_dependency_of_users_needs_a_newer_rust_than_we_declare() {
    let Metadata { packages, resolve } = metadata();
    let packages: HashMap<&str, &Package> = packages
        .iter()
        .map(|package| (&*package.id, package))
        .collect();
    let nodes: HashMap<&str, &Node> = resolve.nodes.iter().map(|node| (&*node.id, node)).collect();
    let root = packages
        .values()
        .find(|package| package.name == "lock-runtime")
        .unwrap();
    let declared = version(root.rust_version.as_ref().unwrap());

    let (mut open, mut seen) = (vec![&*root.id], HashSet::new());
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        let package = packages[id];
        if let Some(needed) = &package.rust_version {
            assert!(
                version(needed) <= declared,
                "{} needs Rust {needed}",
                package.name
            );
        }
        let deps = nodes[id].deps.iter().filter(|dep| dep.is_for_users());
        open.extend(deps.map(|dep| &*dep.pkg));
    }
    // The walk has gone where it should: through the attribute and the client of Redis.
    let names: HashSet<&str> = seen.iter().map(|id| &*packages[id].name).collect();
    assert!(
        names.contains("syn") && names.contains("redis"),
        "{names:?}"
    );
}
