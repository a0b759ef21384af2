//! A job that many processes start at every tick, as a user runs it.

use lock_tests::server::Server;

use crate::example;

/// The numbers of the line that the example prints: ticks, processes, deaths, runs, ticks without a
/// run, and ticks with several.
fn run(more: &[&str]) -> [u64; 6] {
    let server = Server::start();
    let mut cron = example::command("cron", Some(&server));
    // Long enough that a slow machine is not late by a minimum hold.
    cron.args(["--ticks", "4", "--tick", "4000"]).args(more);
    let line = example::output(cron);
    let words = line.split(|c: char| !c.is_ascii_digit());
    let numbers: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
    server.finish();
    numbers.try_into().unwrap()
}

#[test]
fn a_job_runs_once_a_tick_though_two_processes_die_at_it() {
    assert_eq!(run(&[]), [4, 20, 2, 4, 0, 0]);
}

#[test]
fn without_the_minimum_hold_whoever_is_late_runs_it_again() {
    let [.., runs, _, several] = run(&["--without-minimum"]);
    assert!(runs > 4 && several > 0, "{runs} runs");
}
