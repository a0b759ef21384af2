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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_duration_panics(ttl in any::<Duration>(), wait in any::<Duration>(), renew in any::<Duration>(), hold in any::<Duration>(), which in 0..16_u8) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let locks = LockRuntime::in_memory().build().await.unwrap();
            let mut lock = locks.lock("k");
            if which & 1 != 0 { lock = lock.ttl(ttl); }
            if which & 2 != 0 { lock = lock.wait(wait); }
            if which & 4 != 0 { lock = lock.renew(renew); }
            if which & 8 != 0 { lock = lock.max_hold(hold); }
            match lock.acquire().await {
                Ok(guard) => {
                    prop_assert!(guard.remaining() <= lock_runtime::backend::MAX_TTL);
                }
                Err(error) => prop_assert!(matches!(error, LockError::Config(_)), "{}", error),
            }
            Ok(())
        })?;
    }
}
