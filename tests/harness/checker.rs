//! The checker against seeded violations: each kind is found, and nothing but that kind.

use lock_tests::checker::{
    Check, Company, Event, Fault, Leftovers, Limits, Outcome, Place, Recorder, Report, What, check,
    now, read_log, read_logs,
};

fn event(process: u32, key: &str, span: (u64, u64), what: What) -> Event {
    Event {
        process,
        key: key.to_owned(),
        invoke: span.0,
        returned: span.1,
        what,
    }
}

fn granted(claim: &str, span: (u64, u64), token: u64, deadline: u64) -> Event {
    let what = What::Acquire {
        claim: claim.into(),
        outcome: Outcome::Ok,
        token: Some(token),
        deadline: Some(deadline),
    };
    event(1, "k", span, what)
}

/// A lease of this kind, with the event that tells so.
fn together(claim: &str, company: Company, span: (u64, u64), token: u64, end: u64) -> [Event; 2] {
    let what = What::Together {
        claim: claim.into(),
        company,
    };
    [granted(claim, span, token, end), event(1, "k", span, what)]
}

fn refused(claim: &str, span: (u64, u64), outcome: Outcome) -> Event {
    let what = What::Acquire {
        claim: claim.into(),
        outcome,
        token: None,
        deadline: None,
    };
    event(1, "k", span, what)
}

fn released(claim: &str, span: (u64, u64), outcome: Outcome) -> Event {
    let claim = claim.into();
    event(1, "k", span, What::Release { claim, outcome })
}

fn renewed(claim: &str, span: (u64, u64), deadline: u64) -> Event {
    let what = What::Renew {
        claim: claim.into(),
        outcome: Outcome::Ok,
        deadline: Some(deadline),
    };
    event(1, "k", span, what)
}

fn wrote(claim: &str, token: u64, outcome: Outcome, seq: Option<u64>) -> Event {
    let claim = claim.into();
    let what = What::Write {
        claim,
        token,
        outcome,
        seq,
    };
    event(1, "k", (0, 1), what)
}

fn queued(process: u32, claim: &str, place: Place, span: (u64, u64)) -> Event {
    let claim = claim.into();
    event(process, "k", span, What::Queued { claim, place })
}

fn served(process: u32, claim: &str, span: (u64, u64), token: u64) -> Event {
    let claim = claim.into();
    event(process, "k", span, What::Served { claim, token })
}

fn ask(claim: &str, at: u64, wait: u64) -> Event {
    let claim = claim.into();
    event(1, "k", (at, at), What::Ask { claim, wait })
}

fn body(claim: &str, span: (u64, u64), ok: bool, lost: bool) -> Event {
    let claim = claim.into();
    event(1, "k", span, What::Body { claim, ok, lost })
}

fn fault(process: u32, key: &str, span: (u64, u64), fault: Fault) -> Event {
    event(process, key, span, What::Fault { fault })
}

fn report(events: &[Event]) -> Report {
    let limits = Limits {
        wait_slack: 10,
        max_ttl_ms: 1000,
    };
    check(events, &limits)
}

/// The log breaks `check`, once, and nothing else; of its events those at `shown` show it.
fn breaks(expected: Check, events: &[Event], shown: &[usize]) {
    let report = report(events);
    assert_eq!(report.broken(), [expected], "{report}");
    assert_eq!(report.violations.len(), 1, "{report}");
    for i in shown {
        let of = &report.violations[0].events;
        assert!(of.contains(&events[*i]), "{report}");
    }
}

fn clean(events: &[Event]) {
    let report = report(events);
    assert!(report.violations.is_empty(), "{report}");
    assert!(report.excused.is_empty());
}

#[test]
fn c1_a_token_given_twice_is_found() {
    breaks(
        Check::UniqueTokens,
        &[
            granted("a", (0, 10), 5, 20),
            granted("b", (30, 40), 5, 50),
            granted("c", (60, 70), 6, 80),
        ],
        &[0, 1],
    );
}

#[test]
fn c1_keys_have_tokens_of_their_own() {
    let mut other = granted("b", (30, 40), 5, 50);
    other.key = "another".into();
    clean(&[granted("a", (0, 10), 5, 20), other]);
}

#[test]
fn c2_a_smaller_token_for_a_later_claim_is_found() {
    breaks(
        Check::RealTimeOrder,
        &[granted("a", (0, 10), 5, 20), granted("b", (30, 40), 4, 50)],
        &[0, 1],
    );
}

#[test]
fn c2_concurrent_claims_may_be_granted_in_either_order() {
    clean(&[granted("a", (0, 90), 5, 95), granted("b", (30, 40), 4, 50)]);
}

#[test]
fn c2_a_claim_whose_answer_was_lost_constrains_nothing() {
    clean(&[
        granted("a", (0, 10), 5, 20),
        refused("b", (12, 15), Outcome::Unknown),
        refused("c", (13, 17), Outcome::Fail),
        granted("d", (30, 40), 7, 50),
    ]);
}

#[test]
fn c3_a_reentry_with_another_token_is_found() {
    let reenter = |token| {
        let claim = "a".into();
        event(1, "k", (12, 13), What::Reenter { claim, token })
    };
    breaks(
        Check::ReentryKeepsToken,
        &[granted("a", (0, 10), 5, 20), reenter(6)],
        &[0, 1],
    );
    clean(&[granted("a", (0, 10), 5, 20), reenter(5)]);
}

#[test]
fn c4_an_accepted_stale_write_is_found() {
    breaks(
        Check::FencedResource,
        &[
            wrote("a", 5, Outcome::Ok, Some(1)),
            wrote("b", 6, Outcome::Ok, Some(2)),
            wrote("a", 5, Outcome::Ok, Some(3)),
            wrote("b", 6, Outcome::Ok, Some(4)),
        ],
        &[1, 2],
    );
}

#[test]
fn c4_two_writers_with_one_token_are_found() {
    breaks(
        Check::FencedResource,
        &[
            wrote("a", 5, Outcome::Ok, Some(1)),
            wrote("b", 5, Outcome::Ok, Some(2)),
        ],
        &[0, 1],
    );
}

#[test]
fn c4_refused_stale_writes_and_repeated_ones_of_the_holder_are_no_violation() {
    clean(&[
        wrote("a", 5, Outcome::Ok, Some(1)),
        wrote("b", 6, Outcome::Ok, Some(2)),
        wrote("a", 5, Outcome::Fail, None),
        wrote("a", 5, Outcome::Unknown, None),
        wrote("b", 6, Outcome::Ok, Some(3)),
    ]);
}

#[test]
fn c5_overlapping_leases_are_found() {
    breaks(
        Check::DisjointLeases,
        &[granted("a", (0, 10), 5, 60), granted("b", (30, 40), 6, 90)],
        &[0, 1],
    );
}

#[test]
fn c5_leases_that_go_together_are_no_overlap() {
    let shared = |claim| together(claim, Company::Shared, (0, 10), 5, 60);
    clean(&[shared("a"), shared("b")].concat());
    // The permits of one lease may be passed on when later ones have been granted already.
    let permit = |claim, span, token| {
        let company = Company::Permits { take: 1, of: 3 };
        together(claim, company, span, token, 60)
    };
    let permits = [
        permit("a", (0, 10), 5),
        permit("b", (20, 30), 15),
        permit("c", (40, 50), 6),
    ];
    clean(&permits.concat());
    let shards = [
        together("a", Company::Shard(0), (0, 10), 5, 60),
        together("b", Company::Shard(1), (20, 30), 6, 60),
    ];
    clean(&shards.concat());
}

#[test]
fn c5_leases_of_two_kinds_are_an_overlap() {
    let reader = together("a", Company::Shared, (0, 10), 5, 60);
    let writer = [granted("b", (30, 40), 6, 90)];
    let both = [&reader[..], &writer].concat();
    breaks(Check::DisjointLeases, &both, &[0, 2]);
    let permit = together("b", Company::Permits { take: 1, of: 3 }, (30, 40), 6, 90);
    breaks(Check::DisjointLeases, &[reader, permit].concat(), &[0, 2]);
}

#[test]
fn c5_more_permits_than_there_are_and_a_shard_given_twice_are_found() {
    let permits = |claim, take, span, token| {
        together(claim, Company::Permits { take, of: 3 }, span, token, 60)
    };
    let many = [permits("a", 2, (0, 10), 5), permits("b", 2, (20, 30), 6)];
    breaks(Check::DisjointLeases, &many.concat(), &[0, 2]);
    let shard = |claim, span, token| together(claim, Company::Shard(3), span, token, 60);
    let twice = [shard("a", (0, 10), 5), shard("b", (20, 30), 6)];
    breaks(Check::DisjointLeases, &twice.concat(), &[0, 2]);
}

#[test]
fn c1_and_c2_hold_between_those_that_exclude_each_other() {
    // A writer between two readers has a token of its own, and no later reader an earlier one.
    let reader = together("a", Company::Shared, (0, 10), 5, 20);
    let writer = [granted("b", (30, 40), 5, 50)];
    let same = [&reader[..], &writer].concat();
    breaks(Check::UniqueTokens, &same, &[0, 2]);
    let writer = [granted("b", (30, 40), 6, 50)];
    let late = together("c", Company::Shared, (60, 70), 5, 80);
    let falling = [&reader[..], &writer, &late].concat();
    breaks(Check::RealTimeOrder, &falling, &[2, 3]);
}

#[test]
fn c5_a_lease_lasts_as_long_as_it_was_renewed() {
    breaks(
        Check::DisjointLeases,
        &[
            granted("a", (0, 10), 5, 20),
            renewed("a", (15, 16), 60),
            granted("b", (30, 40), 6, 90),
        ],
        &[0, 2],
    );
}

#[test]
fn c5_a_grant_in_front_of_a_valid_earlier_one_is_found_though_that_was_answered_later() {
    // `a` was granted before `b`, as the tokens say, and held until 60: `b` cannot have been
    // granted by 40.
    breaks(
        Check::DisjointLeases,
        &[granted("a", (0, 50), 5, 60), granted("b", (30, 40), 6, 45)],
        &[0, 1],
    );
}

#[test]
fn c5_a_long_lease_is_seen_behind_a_short_one() {
    breaks(
        Check::DisjointLeases,
        &[
            granted("a", (0, 10), 5, 100),
            released("a", (20, 25), Outcome::Unknown),
            granted("b", (12, 30), 6, 200),
            granted("c", (50, 60), 7, 70),
        ],
        &[2, 3],
    );
}

#[test]
fn c5_a_lease_ends_when_its_release_is_sent_whatever_became_of_that() {
    for outcome in [Outcome::Ok, Outcome::Fail, Outcome::Unknown] {
        clean(&[
            granted("a", (0, 10), 5, 60),
            released("a", (20, 45), outcome),
            granted("b", (21, 40), 6, 90),
        ]);
    }
}

#[test]
fn c5_lost_data_excuses_an_overlap_only_during_the_lease_and_for_its_key() {
    let overlap = [granted("a", (10, 20), 5, 60), granted("b", (30, 40), 6, 90)];
    let with = |fault: Event| report(&[&overlap[..], &[fault]].concat());

    let excused = with(fault(0, "*", (25, 26), Fault::DataLoss));
    assert!(excused.violations.is_empty(), "{excused}");
    assert_eq!(
        excused.excused_by(Check::DisjointLeases),
        [(Fault::DataLoss, 1)].into()
    );
    for no_excuse in [
        fault(0, "*", (0, 5), Fault::DataLoss),
        fault(0, "*", (50, 55), Fault::DataLoss),
        fault(0, "another", (25, 26), Fault::DataLoss),
        fault(1, "k", (25, 26), Fault::Stopped),
        fault(0, "k", (25, 26), Fault::PlaceLost),
        fault(1, "k", (25, 26), Fault::Other),
    ] {
        let report = with(no_excuse);
        assert_eq!(report.broken(), [Check::DisjointLeases], "{report}");
    }
}

#[test]
fn c6_a_lost_and_an_uncounted_increment_are_found() {
    let counter = |value| event(0, "k", (9, 9), What::Counter { value });
    let writes = [
        wrote("a", 5, Outcome::Ok, None),
        wrote("b", 6, Outcome::Unknown, None),
        wrote("c", 7, Outcome::Fail, None),
        wrote("d", 8, Outcome::Ok, None),
    ];
    let with = |value| [&writes[..], &[counter(value)]].concat();
    breaks(Check::CounterSum, &with(1), &[4]);
    clean(&with(2));
    clean(&with(3));
    breaks(Check::CounterSum, &with(4), &[4]);
}

#[test]
fn c6_two_increments_of_one_value_are_found() {
    breaks(
        Check::CounterSum,
        &[
            wrote("a", 5, Outcome::Ok, Some(1)),
            wrote("a", 5, Outcome::Ok, Some(1)),
        ],
        &[0, 1],
    );
}

#[test]
fn c7_a_body_that_ends_well_after_its_lease_is_found() {
    let lease = granted("a", (0, 10), 5, 60);
    let renewal = renewed("a", (40, 50), 90);
    breaks(
        Check::NoOkAfterLoss,
        &[lease.clone(), body("a", (61, 65), true, false)],
        &[1],
    );
    clean(&[lease.clone(), body("a", (61, 65), true, true)]);
    clean(&[lease.clone(), body("a", (61, 65), false, false)]);
    clean(&[lease.clone(), body("a", (59, 65), true, false)]);
    clean(&[lease, renewal, body("a", (61, 65), true, false)]);
}

#[test]
fn c8_whatever_is_left_behind_is_found() {
    let end = |left: Leftovers| event(0, "*", (99, 99), What::End(left));
    let none = Leftovers::default;
    let key = |ttl| vec![("lock:k".to_owned(), ttl)];
    clean(&[end(none())]);
    clean(&[end(Leftovers {
        keys: key(Some(1000)),
        ..none()
    })]);
    for left in [
        Leftovers {
            keys: key(None),
            ..none()
        },
        Leftovers {
            keys: key(Some(1001)),
            ..none()
        },
        Leftovers {
            queued: 1,
            ..none()
        },
        Leftovers { tasks: 1, ..none() },
        Leftovers {
            subscriptions: 1,
            ..none()
        },
        Leftovers { fds: 1, ..none() },
    ] {
        breaks(Check::CleanEnd, &[end(left)], &[0]);
    }
}

#[test]
fn c9_an_overtaken_waiter_is_found_in_the_store_and_within_a_process() {
    breaks(
        Check::QueueOrder,
        &[
            queued(1, "a", Place::Store, (0, 2)),
            queued(2, "b", Place::Store, (3, 5)),
            served(2, "b", (3, 20), 7),
            served(1, "a", (0, 30), 8),
        ],
        &[0, 1, 2, 3],
    );
    breaks(
        Check::QueueOrder,
        &[
            queued(1, "a", Place::Process, (0, 2)),
            queued(1, "b", Place::Process, (3, 5)),
            granted("b", (3, 20), 7, 25),
            granted("a", (0, 30), 8, 60),
        ],
        &[0, 1, 2, 3],
    );
}

#[test]
fn c9_a_newcomer_that_never_waited_overtakes_too() {
    breaks(
        Check::QueueOrder,
        &[
            queued(1, "a", Place::Store, (0, 2)),
            served(2, "b", (3, 20), 7),
            served(1, "a", (0, 30), 8),
        ],
        &[0, 1, 2],
    );
}

#[test]
fn c9_claims_that_queued_at_the_same_time_or_in_different_queues_have_no_order() {
    clean(&[
        queued(1, "a", Place::Store, (0, 4)),
        queued(2, "b", Place::Store, (3, 5)),
        served(2, "b", (3, 20), 7),
        served(1, "a", (0, 30), 8),
    ]);
    clean(&[
        queued(1, "a", Place::Process, (0, 2)),
        queued(2, "b", Place::Store, (3, 5)),
        served(2, "b", (3, 20), 7),
        granted("a", (0, 30), 8, 60),
    ]);
}

#[test]
fn c9_who_gave_up_or_lost_its_place_by_a_fault_may_be_overtaken() {
    clean(&[
        queued(1, "a", Place::Process, (0, 2)),
        queued(1, "b", Place::Process, (3, 5)),
        refused("a", (0, 10), Outcome::Fail),
        granted("b", (3, 20), 7, 25),
    ]);
    let overtaken = [
        queued(1, "a", Place::Store, (0, 2)),
        queued(2, "b", Place::Store, (3, 5)),
        served(2, "b", (3, 20), 7),
        served(1, "a", (0, 30), 8),
    ];
    let with = |fault: Event| report(&[&overtaken[..], &[fault]].concat());
    for excuse in [
        fault(1, "*", (6, 9), Fault::Stopped),
        fault(1, "*", (6, 9), Fault::Disconnected),
        fault(0, "k", (6, 9), Fault::DataLoss),
        fault(0, "k", (6, 9), Fault::PlaceLost),
    ] {
        let report = with(excuse);
        assert!(report.violations.is_empty(), "{report}");
        assert_eq!(report.excused.len(), 1);
    }
    for no_excuse in [
        fault(2, "*", (6, 9), Fault::Stopped),
        fault(1, "*", (31, 39), Fault::Stopped),
    ] {
        assert_eq!(with(no_excuse).broken(), [Check::QueueOrder]);
    }
}

#[test]
fn c9_an_excused_waiter_does_not_hide_one_that_is_not() {
    let report = report(&[
        queued(1, "a", Place::Store, (0, 2)),
        queued(3, "c", Place::Store, (0, 2)),
        fault(3, "*", (6, 9), Fault::Stopped),
        queued(2, "b", Place::Store, (3, 5)),
        served(2, "b", (3, 20), 7),
        served(1, "a", (0, 30), 8),
        served(3, "c", (0, 40), 9),
    ]);
    assert_eq!(report.broken(), [Check::QueueOrder]);
    assert_eq!(report.excused.len(), 1);
}

#[test]
fn c9_an_order_counts_as_checked_where_somebody_was_there_to_be_overtaken() {
    let in_order = [
        queued(1, "a", Place::Store, (0, 2)),
        queued(2, "b", Place::Store, (3, 5)),
        served(1, "a", (0, 20), 7),
        served(2, "b", (3, 30), 8),
        // Nobody waits any more.
        served(1, "c", (35, 40), 9),
    ];
    clean(&in_order);
    assert_eq!(report(&in_order).queue_orders, 1);
    let lost = fault(0, "k", (6, 9), Fault::PlaceLost);
    let report = report(&[&in_order[..], &[lost]].concat());
    assert_eq!(report.queue_orders, 0);
}

#[test]
fn c10_a_late_and_a_missing_return_are_found() {
    breaks(
        Check::BoundedWait,
        &[ask("a", 0, 50), refused("a", (0, 61), Outcome::Fail)],
        &[0, 1],
    );
    breaks(
        Check::BoundedWait,
        &[ask("a", 0, 50), refused("b", (0, 61), Outcome::Fail)],
        &[0],
    );
    clean(&[ask("a", 0, 50), refused("a", (0, 60), Outcome::Fail)]);
    clean(&[ask("a", 20, 50), refused("b", (0, 61), Outcome::Fail)]);
}

#[test]
fn c10_time_in_which_the_process_stood_still_does_not_count() {
    let late = [ask("a", 0, 50), refused("a", (0, 70), Outcome::Fail)];
    let stopped = |process, span| {
        let fault = fault(process, "*", span, Fault::Stopped);
        [&late[..], &[fault]].concat()
    };
    clean(&stopped(1, (20, 30)));
    breaks(Check::BoundedWait, &stopped(1, (20, 29)), &[0, 1]);
    breaks(Check::BoundedWait, &stopped(2, (20, 30)), &[0, 1]);
}

#[test]
fn c10_a_killed_process_returns_nothing() {
    let end = refused("b", (0, 90), Outcome::Fail);
    clean(&[
        ask("a", 0, 50),
        fault(1, "*", (20, 21), Fault::Killed),
        end.clone(),
    ]);
    breaks(
        Check::BoundedWait,
        &[ask("a", 0, 50), fault(2, "*", (20, 21), Fault::Killed), end],
        &[0],
    );
}

fn kept(claim: &str, span: (u64, u64), until: u64) -> Event {
    let claim = claim.to_owned();
    event(1, "k", span, What::Keep { claim, until })
}

#[test]
fn c11_a_key_that_is_granted_while_it_is_to_stay_taken_is_found() {
    let log = [
        granted("a", (0, 10), 1, 50),
        kept("a", (10, 11), 100),
        released("a", (20, 25), Outcome::Ok),
        granted("b", (60, 99), 2, 150),
    ];
    breaks(Check::MinimumHold, &log, &[0, 1, 3]);
    // One that is granted behind that, and answered before.
    let hidden = [
        log[0].clone(),
        log[1].clone(),
        log[2].clone(),
        granted("b", (101, 200), 2, 201),
        granted("c", (60, 90), 3, 95),
    ];
    let found = report(&hidden);
    assert_eq!(found.count(Check::MinimumHold), 1, "{found}");
}

#[test]
fn c11_a_grant_after_the_time_is_over_or_before_the_hold_is_no_violation() {
    let log = [
        granted("z", (0, 5), 1, 6),
        granted("a", (10, 20), 2, 50),
        kept("a", (20, 21), 100),
        released("a", (30, 35), Outcome::Ok),
        granted("b", (60, 100), 3, 150),
    ];
    clean(&log);
    assert_eq!(report(&log).minimum_holds, 1);
    // Nor where the store lost what it knew.
    let lost = [
        log[1].clone(),
        log[2].clone(),
        log[3].clone(),
        fault(0, "k", (40, 41), Fault::DataLoss),
        granted("b", (60, 70), 3, 150),
    ];
    let found = report(&lost);
    assert_eq!(
        (found.violations.len(), found.excused.len()),
        (0, 1),
        "{found}"
    );
}

#[test]
fn every_violation_of_a_log_is_named_with_its_check() {
    let report = report(&[granted("a", (0, 10), 5, 60), granted("b", (30, 40), 6, 90)]);
    let text = report.to_string();
    assert!(text.contains("C5 DisjointLeases"), "{text}");
    assert!(text.contains(r#""claim":"b""#), "{text}");
    assert_eq!(Check::ALL[9].to_string(), "C10 BoundedWait");
}

#[test]
fn what_is_recorded_is_read_back_by_others_and_a_torn_last_line_is_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let recorded = [
        granted("a", (0, 10), 5, 60),
        body("a", (20, 21), true, false),
        event(
            7,
            "*",
            (99, 99),
            What::End(Leftovers {
                keys: vec![("lock:k:fence".into(), Some(5))],
                ..Leftovers::default()
            }),
        ),
        fault(3, "*", (6, 9), Fault::DataLoss),
    ];
    let path = directory.path().join("7.jsonl");
    let recorder = Recorder::open_for(&path, 7).unwrap();
    for event in &recorded {
        recorder.append(event).unwrap();
    }
    assert_eq!(read_log(&path).unwrap(), recorded);

    let mut torn = std::fs::read(&path).unwrap();
    torn.truncate(torn.len() - 3);
    std::fs::write(&path, &torn).unwrap();
    assert_eq!(read_log(&path).unwrap(), recorded[..3]);
    assert_eq!(read_logs(directory.path()).unwrap(), recorded[..3]);

    torn.splice(0..1, *b"x");
    std::fs::write(&path, &torn).unwrap();
    let error = read_log(&path).unwrap_err().to_string();
    assert!(error.contains("7.jsonl:1"), "{error}");
}

#[test]
fn a_recorder_stamps_its_process_and_the_clock_that_all_share() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log.jsonl");
    let before = now();
    let recorder = Recorder::open(&path).unwrap();
    recorder
        .record("k", before, What::Counter { value: 3 })
        .unwrap();
    let events = read_log(&path).unwrap();
    assert_eq!(events[0].process, std::process::id());
    assert_eq!(events[0].invoke, before);
    assert!((before..=now()).contains(&events[0].returned));
}
