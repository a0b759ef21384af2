//! B3: durations.

use super::*;

async fn accepted_wish(wish: fn(lock_runtime::Lock) -> lock_runtime::Lock) {
    let store = MemoryBackend::new();
    let locks = LockRuntime::backend(store.clone()).build().await.unwrap();
    let guard = wish(locks.lock("k")).acquire().await.unwrap();
    assert!(guard.is_held());
    guard.release().await.unwrap();
    assert!(store.is_idle());
}

/// What a lock can be asked for.
async fn refused_wish(wish: fn(lock_runtime::Lock) -> lock_runtime::Lock) {
    let store = MemoryBackend::new();
    let locks = LockRuntime::backend(store.clone()).build().await.unwrap();
    let error = wish(locks.lock("k")).acquire().await.unwrap_err();
    assert!(matches!(error, LockError::Config(_)), "{error}");
    assert!(
        error.to_string().contains('`'),
        "it names no setting: {error}"
    );
    assert!(store.is_idle());
}

cases! { refused_wish:
    no_ttl: |lock| lock.ttl(Duration::ZERO),
    a_ttl_of_a_nanosecond: |lock| lock.ttl(Duration::from_nanos(1)),
    a_ttl_of_a_millisecond: |lock| lock.ttl(ms(1)),
    a_ttl_below_ten_milliseconds: |lock| lock.ttl(Duration::from_micros(9_000)),
    a_ttl_beyond_a_day: |lock| lock.ttl(Duration::from_secs(86_401)),
    a_ttl_beyond_a_day_by_a_nanosecond: |lock| lock.ttl(Duration::from_nanos(86_400_000_000_001)),
    a_ttl_beyond_i64: |lock| lock.ttl(ms(u64::MAX)),
    the_longest_ttl: |lock| lock.ttl(Duration::MAX),
    a_renewal_without_pause: |lock| lock.renew(Duration::ZERO),
    a_renewal_every_nanosecond: |lock| lock.renew(Duration::from_nanos(1)),
    a_renewal_after_the_lease: |lock| lock.ttl(ms(100)).renew(ms(101)),
    a_renewal_at_the_end_of_the_lease: |lock| lock.ttl(ms(100)).renew(ms(100)),
    the_longest_renewal: |lock| lock.renew(Duration::MAX),
    a_hold_of_no_time: |lock| lock.max_hold(Duration::ZERO),
}

cases! { accepted_wish:
    the_shortest_ttl: |lock| lock.ttl(ms(10)),
    a_ttl_of_a_fraction_of_a_millisecond_more: |lock| lock.ttl(Duration::from_nanos(10_000_001)),
    a_ttl_of_a_day: |lock| lock.ttl(Duration::from_secs(86_400)),
    a_wait_of_a_nanosecond_on_a_free_lock: |lock| lock.wait(Duration::from_nanos(1)),
    the_longest_wait: |lock| lock.wait(Duration::MAX),
    the_longest_hold: |lock| lock.max_hold(Duration::MAX),
    a_hold_shorter_than_the_lease: |lock| lock.ttl(ms(60_000)).max_hold(ms(50)),
    a_renewal_every_millisecond: |lock| lock.renew(ms(1)),
    no_renewal: |lock| lock.renew(false),
}

/// What a lock may be asked for: its ttl, wait, period of renewal and longest hold.
type Wishes = [Option<Duration>; 4];

/// Whether a lock can be had for this: a ttl of 10 ms to a day in whole milliseconds, what is over
/// counted as one more; a renewal from 1 ms to half of the ttl; and a hold of any time at all.
fn is_valid([ttl, _, renew, hold]: Wishes) -> bool {
    const MILLI: u128 = 1_000_000;
    let ttl = ttl.unwrap_or(DEFAULT_TTL).as_nanos().div_ceil(MILLI);
    let may_renew = |renew: Duration| (MILLI..=ttl * MILLI / 2).contains(&renew.as_nanos());
    (10..=86_400_000).contains(&ttl)
        && renew.is_none_or(may_renew)
        && hold.is_none_or(|hold| hold > Duration::ZERO)
}

/// The ttl of a lock for which none is asked.
const DEFAULT_TTL: Duration = secs(30);

/// Durations of every size, and what is next to where they become valid.
fn durations() -> impl Strategy<Value = Duration> {
    let limits = [ms(1), ms(9), ms(10), DEFAULT_TTL / 2, secs(86_400)];
    let next = [-1_i64, 0, 1].map(|by| {
        limits.map(|limit| {
            let nanos = i64::try_from(limit.as_nanos()).unwrap();
            Duration::from_nanos((nanos + by).unsigned_abs())
        })
    });
    prop_oneof![
        any::<Duration>(),
        (0..40_000_000_u64).prop_map(Duration::from_nanos),
        (0..100_000_000_u64).prop_map(ms),
        prop::sample::select(next.concat()),
        prop::sample::select(vec![Duration::ZERO, Duration::MAX]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_duration_panics(wishes in prop::array::uniform4(prop::option::of(durations()))) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let locks = LockRuntime::in_memory().build().await.unwrap();
            let mut lock = locks.lock("k");
            let [ttl, wait, renew, hold] = wishes;
            if let Some(ttl) = ttl { lock = lock.ttl(ttl); }
            if let Some(wait) = wait { lock = lock.wait(wait); }
            if let Some(renew) = renew { lock = lock.renew(renew); }
            if let Some(hold) = hold { lock = lock.max_hold(hold); }
            let outcome = lock.acquire().await;
            prop_assert_eq!(outcome.is_ok(), is_valid(wishes), "{:?}", outcome.as_ref().err());
            match outcome {
                Ok(guard) => prop_assert!(guard.remaining() <= ttl.unwrap_or(DEFAULT_TTL) + ms(1)),
                Err(error) => prop_assert!(matches!(error, LockError::Config(_)), "{}", error),
            }
            Ok(())
        })?;
    }
}
