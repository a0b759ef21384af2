//! What a look at the machine shows.

use super::super::{Look, Pursued};
use super::bench::{Bench, ms};
use crate::claim::Renewed;

#[test]
fn a_look_shows_who_waits_and_how_far_the_claim_is() {
    let mut b = Bench::new();
    assert_eq!(b.key.look(), Look::default());
    b.joins();
    b.joins();
    let look = Look {
        waiting: 2,
        pursuit: Some(Pursued::Asking),
        ..Look::default()
    };
    assert_eq!(b.key.look(), look);
    b.not_known(1);
    assert_eq!(b.key.look().pursuit, Some(Pursued::Pausing));
    assert_eq!(Bench::queued().key.look().pursuit, Some(Pursued::Queued));
}

#[test]
fn a_hold_is_told_until_its_holder_gives_it_up() {
    let mut b = Bench::held();
    let (hold, granted) = (b.key.held(b.now).next().expect("a hold"), b.last_grant());
    let told = (granted.lease, granted.token, granted.since);
    assert_eq!((hold.lease, hold.token, hold.since), told);
    assert_eq!(b.key.holding(hold.lease, b.now), Some(hold));
    b.in_time();
    b.renewed(ms(1), Some(Renewed::lost()));
    assert_eq!(b.key.held(b.now).next(), None);
    assert_eq!(b.key.holding(hold.lease, b.now), Some(hold));
    let b = Bench::releasing();
    let given_up = b.last_grant().lease;
    assert_eq!(
        (b.key.held(b.now).next(), b.key.holding(given_up, b.now)),
        (None, None)
    );
}

#[test]
fn a_look_shows_leases_and_withdrawals() {
    let held = Look {
        held: 1,
        ..Look::default()
    };
    let mut b = Bench::held();
    assert_eq!(b.key.look(), held);
    b.in_time();
    b.renewed(ms(1), Some(Renewed::lost()));
    let ended = Look {
        ended: 1,
        ..Look::default()
    };
    assert_eq!(b.key.look(), ended);
    let releasing = Look {
        waiting: 1,
        pursuit: Some(Pursued::WithRelease),
        releasing: 1,
        ..Look::default()
    };
    assert_eq!(Bench::releasing().key.look(), releasing);
    let mut b = Bench::queued();
    b.leaves(1);
    let withdrawing = Look {
        withdrawing: 1,
        ..Look::default()
    };
    assert_eq!(b.key.look(), withdrawing);
}

#[test]
fn the_owners_are_those_of_claims_and_leases_and_of_what_is_withdrawn() {
    let mut b = Bench::held();
    b.in_time();
    b.renewed(ms(1), Some(Renewed::lost()));
    assert_eq!(b.key.pursued().next(), None);
    b.joins();
    b.leaves(2);
    b.not_known(4);
    b.joins();
    let owners: Vec<_> = b.key.owners().map(|owner| owner.as_str()).collect();
    assert_eq!(owners, ["w3", "w1", "w2"]);
    let pursued = b.key.pursued().next().expect("one waits");
    assert_eq!(pursued.as_str(), "w3");
}
