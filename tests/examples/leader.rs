//! Processes that elect a leader, as a user runs them.

use lock_tests::server::Server;

use crate::example;

#[test]
fn a_leader_that_stops_dies_or_shuts_down_is_followed_in_a_later_term() {
    let server = Server::start();
    let mut leader = example::command("leader", Some(&server));
    // Far longer than a hand-over takes on a slow machine.
    leader.args(["--ttl", "4000"]);
    let lines = example::output(leader);
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    let seconds = |line: &str| -> f32 {
        let (_, rest) = line.split_once("after ").unwrap();
        rest.split_once(' ').unwrap().0.parse().unwrap()
    };
    for (line, how) in lines[1..].iter().zip(["stopped", "killed", "shut down"]) {
        assert!(
            line.contains(how) && line.contains("a later term"),
            "{line}"
        );
    }
    // Whoever is stopped or killed costs what is left of its lease; a shutdown costs nothing.
    assert!(seconds(lines[2]) > 2.0, "the control: {lines:?}");
    assert!(seconds(lines[3]) < 2.0, "{lines:?}");
    server.finish();
}
