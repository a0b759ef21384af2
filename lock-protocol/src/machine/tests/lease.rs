//! When leases are renewed, and how long the answer is waited for.

use core::time::Duration;

use super::super::Event;
use super::super::lease::{jittered, on_grid};
use super::bench::{Bench, CHANCE, TTL, ms};
use crate::claim::Holder;
use crate::terms::Terms;
use crate::time::Instant;

fn at(millis: u64) -> Instant {
    Instant::from_nanos(0) + ms(millis)
}

#[test]
fn renewals_fall_on_a_grid_of_powers_of_two_milliseconds() {
    // A quarter of the period is 2.5 s, and the power of two below it 2.048 s.
    assert_eq!(on_grid(at(1_000_000), ms(10_000)), at(493 * 2_048));
    assert_eq!(on_grid(at(0), ms(2_048)), at(2_048));
    // What is shorter than the grid is not rounded.
    assert_eq!(on_grid(at(1_001), ms(3)), at(1_004));
}

#[test]
fn renewals_are_a_quarter_of_their_period_early_at_most() {
    for period in [3, 4, 5, 7, 8, 100, 999, 10_000, 86_400_000] {
        for sent in (0..1_000).map(|step| 1_000_000 + step * 37) {
            let due = on_grid(at(sent), ms(period));
            let earliest = at(sent) + ms(period) * 3 / 4;
            assert!(
                earliest <= due && due <= at(sent + period),
                "{sent} {period}"
            );
        }
    }
}

#[test]
fn a_pause_is_spread_over_its_second_half() {
    assert_eq!(jittered(ms(100), 0), ms(50));
    assert_eq!(jittered(ms(100), u32::MAX), ms(100));
    let middle = jittered(ms(100), CHANCE);
    assert!((ms(74)..=ms(75)).contains(&middle), "{middle:?}");
    assert_eq!(
        jittered(Duration::MAX, 0).as_nanos(),
        u128::from(u64::MAX / 2)
    );
}

#[test]
fn a_renewal_is_waited_for_no_longer_than_leaves_time_for_others() {
    let mut b = Bench::new();
    b.joins_with(Terms::new(ms(2_000)));
    b.granted(1, 100);
    let lease = b.last_grant().lease;
    let patience = |b: &Bench| {
        let renewal = b.key.renewal(&b.rules, lease, b.now);
        renewal.expect("it is held").1
    };
    // A quarter of the ttl, or a third of what is left.
    assert_eq!(patience(&b), ms(500));
    b.pass(ms(1_978 - 300));
    assert_eq!(patience(&b), ms(100));
    b.pass(ms(297));
    assert_eq!(patience(&b), ms(2));
}

/// The pause after a renewal that was not answered.
fn pause_after_failure(b: &mut Bench) -> Duration {
    b.takes(1);
    assert_eq!(b.in_time(), ["renew w1"]);
    b.renewed(ms(0), None);
    b.wants_time_in().expect("it is renewed")
}

#[test]
fn a_renewal_that_is_not_answered_is_repeated_after_half_a_period_at_most() {
    let mut b = Bench::new();
    b.joins_with(Terms {
        renew: Some(ms(400)),
        ..Terms::new(TTL)
    });
    b.granted(1, 100);
    let pause = pause_after_failure(&mut b);
    assert!((ms(100)..=ms(200)).contains(&pause), "{pause:?}");
}

#[test]
fn an_extension_that_is_not_answered_is_repeated_after_a_twentieth_of_the_ttl_at_most() {
    let mut b = Bench::new();
    b.rules.grace = ms(4_000);
    b.joins_with(Terms::new(ms(4_000)));
    b.queued_behind(1, Holder::of_ours(TTL));
    b.handed_over("w1", 100, ms(0));
    let pause = pause_after_failure(&mut b);
    assert!((ms(100)..=ms(200)).contains(&pause), "{pause:?}");
}

#[test]
fn a_renewal_that_is_not_answered_is_repeated_several_times_before_the_end() {
    let mut b = Bench::queued();
    b.handed_over("w1", 100, ms(0));
    // A quarter of the 488 ms that are left.
    assert_eq!(pause_after_failure(&mut b), ms(122));
}

#[test]
fn a_lease_is_not_renewed_before_its_time() {
    let mut b = Bench::held();
    let pause = b.wants_time_in().expect("it is renewed");
    assert!(b.after(pause - ms(1)).is_empty());
    assert_eq!(b.after(ms(1)), ["renew w1"]);
    // Once.
    assert!(b.on(Event::Time).is_empty());
}
