//! H12: fork; suspension of the machine.

use super::*;

/// The parts of the owner token in `answer`: a text, what is random, the process id and the count.
fn parts<'a>(answer: &'a str, who: &str) -> Vec<&'a str> {
    let token = answer.strip_prefix(who).expect(answer);
    let parts: Vec<_> = token.split("-").collect();
    assert_eq!(parts.len(), 4, "{token}");
    parts
}

const FORKER: &str = env!("CARGO_BIN_EXE_forker");

#[tokio::test]
async fn a_forked_child_neither_owns_nor_releases_the_locks_of_its_parent() {
    let server = Server::start();
    let mut process = Process::start(FORKER, &server.url()).await;
    let owners = || ["dropped", "kept"].map(|key| owner(&server, key));
    let before = owners();
    assert!(before.iter().all(Option::is_some), "{before:?}");

    let child = process.hear().await;
    for answer in ["runs out", "taken", "taken", "refused"] {
        assert_eq!(process.hear().await, answer);
    }
    assert_eq!(owners(), before);
    let parent = process.ask("go on").await;
    for answer in ["held", "released", "held", "released"] {
        assert_eq!(process.hear().await, answer);
    }

    // The copy would have made the same token but for the process id.
    let (child, parent) = (parts(&child, "child "), parts(&parent, "parent "));
    assert_eq!((&child[..2], &child[3..]), (&parent[..2], &parent[3..]));
    assert_ne!(child[2], parent[2]);
    nothing_left(&server).await;
}
