//! The race of the coupons, as a user runs it.

use crate::example;

use lock_tests::etcd::Options;
use lock_tests::server::Server;
use serde::Deserialize;

#[derive(Deserialize)]
struct Given {
    without_lock: usize,
    with_lock: usize,
}

fn race(server: Option<&Server>) -> Given {
    run(example::command("coupon", server))
}

fn run(mut race: std::process::Command) -> Given {
    race.args(["--processes", "4", "--json"]);
    let output = example::output(race);
    serde_json::from_str(output.lines().last().unwrap()).unwrap()
}

fn assert_needed_and_kept(given: &Given) {
    assert!(given.without_lock > 10, "this race needs no lock");
    assert_eq!(given.with_lock, 10);
}

#[test]
fn in_memory_ten_coupons_are_given_with_the_lock_and_more_without() {
    assert_needed_and_kept(&race(None));
}

#[test]
fn processes_on_redis_give_ten_coupons_with_the_lock_and_more_without() {
    let server = Server::start();
    assert_needed_and_kept(&race(Some(&server)));
    server.finish();
}

/// Three members, of which the leader is killed after a quarter of the claims.
#[test]
fn processes_on_etcd_give_ten_coupons_although_the_leader_is_killed() {
    let mut cluster = Options::default().start(3);
    let leader = cluster.leader();
    let mut race = example::command("coupon", None);
    race.env("LOCK_URL", cluster.url());
    race.args(["--kill", &cluster.process(leader).to_string()]);
    assert_needed_and_kept(&run(race));
    assert!(cluster.has_ended(leader), "the leader has been killed");
    assert_ne!(cluster.leader(), leader);
}
