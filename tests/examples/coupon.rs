//! The race of the coupons, as a user runs it.

use lock_tests::consul;
use lock_tests::etcd::Options;
use lock_tests::redlock_store::five;
use lock_tests::server::Server;
use serde::Deserialize;

use crate::example;

#[derive(Deserialize)]
struct Given {
    without_lock: usize,
    with_lock: usize,
    after_kill: usize,
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

/// Five servers, of which two that had voted are killed after a quarter of the claims.
#[test]
fn processes_on_several_servers_give_ten_coupons_although_two_that_voted_are_killed() {
    let mut servers = five();
    let hosts = servers.iter().map(|s| format!("127.0.0.1:{}", s.port()));
    let hosts = hosts.collect::<Vec<_>>().join(",");
    let mut race = example::command("coupon", None);
    let url = format!("redis+redlock://{hosts}?restart_delay=0s");
    race.env("LOCK_URL", url).arg("--kill");
    race.args(["--claims", "400"]);
    let given = run(race);
    assert_needed_and_kept(&given);
    assert_eq!(given.after_kill, 300);
    let ended = servers
        .iter_mut()
        .filter_map(|server| server.has_ended().then_some(()));
    assert_eq!(ended.count(), 2, "two have been killed");
}

/// Three servers, of which the leader is killed after a quarter of the claims.
#[test]
fn processes_on_consul_give_ten_coupons_although_the_leader_is_killed() {
    let mut cluster = consul::Options::default().start(3);
    let leader = cluster.leader();
    let mut race = example::command("coupon", None);
    race.env("LOCK_URL", cluster.url());
    race.args(["--kill", &cluster.process(leader).to_string()]);
    assert_needed_and_kept(&run(race));
    assert!(cluster.has_ended(leader), "the leader has been killed");
    assert_ne!(cluster.leader(), leader);
}
