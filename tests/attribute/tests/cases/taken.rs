//! What a call returns whose lock another holds.

use std::time::Duration;

use lock_attribute_tests::{record, recorded};
use lock_runtime::memory::Fault;
use lock_runtime::{LockDone, LockError, LockRuntime, LockSkip, distributed_lock};
use tokio::time::Instant;

/// An error of a service, which an error of the lock can become.
#[derive(Debug)]
enum ServiceError {
    Lock(LockError),
    Busy(String),
}

impl From<LockError> for ServiceError {
    fn from(error: LockError) -> ServiceError {
        ServiceError::Lock(error)
    }
}

#[distributed_lock(key = "job", on_taken = skip)]
async fn job() -> Result<(), LockError> {
    Ok(())
}

#[distributed_lock(key = "job", on_taken = skip)]
async fn counting_job() -> Result<Option<u32>, LockError> {
    Ok(Some(1))
}

#[distributed_lock(key = "job", on_taken = skip, on_error = unreachable)]
async fn silent_job() {}

#[expect(clippy::needless_pass_by_value, reason = "what `on_error` takes")]
fn unreachable(error: LockError) {
    panic!("only a lock that is taken is skipped: {}", error);
}

#[distributed_lock(key = "job", on_taken = skip, on_error = |_| Some(0))]
async fn guessing_job() -> Option<u32> {
    Some(1)
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_taken_is_skipped_at_once() {
    let ((), _) = record(async {
        assert_eq!(counting_job().await.unwrap(), Some(1));
        assert_eq!(guessing_job().await, Some(1));
        let locks = LockRuntime::current().unwrap();
        let other = locks.lock("job").acquire().await.unwrap();
        let started = Instant::now();
        job().await.unwrap();
        silent_job().await;
        assert_eq!(counting_job().await.unwrap(), None);
        assert_eq!(guessing_job().await, None);
        assert_eq!(started.elapsed(), Duration::ZERO);
        other.release().await.unwrap();
        assert_eq!(counting_job().await.unwrap(), Some(1));
    })
    .await;
}

#[distributed_lock(key = "job", on_taken = skip, wait = "3s")]
async fn patient_job() -> Result<Option<u32>, LockError> {
    Ok(Some(1))
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_given_is_waited_for_before_the_skip() {
    let ((), _) = record(async {
        let locks = LockRuntime::current().unwrap();
        let other = locks.lock("job").acquire().await.unwrap();
        let started = Instant::now();
        assert_eq!(patient_job().await.unwrap(), None);
        assert!(started.elapsed() >= Duration::from_secs(3));
        let (mine, released) = tokio::join!(patient_job(), other.release());
        released.unwrap();
        assert_eq!(mine.unwrap(), Some(1));
    })
    .await;
}

#[distributed_lock(key = "job", on_error = |_| Ok(None))]
async fn job_that_skips_whatever_happens() -> Result<Option<u32>, LockError> {
    Ok(Some(1))
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_is_an_error_and_never_a_skip() {
    let (store, locks) = recorded().await;
    LockRuntime::scope(locks.clone(), async {
        store.fail_next(usize::MAX, Fault::Unavailable);
        assert!(job().await.unwrap_err().is_unavailable());
        assert!(counting_job().await.unwrap_err().is_unavailable());
        assert_eq!(guessing_job().await, Some(0));
        assert!(
            locks
                .lock("job")
                .try_run(async |_| ())
                .await
                .unwrap_err()
                .is_unavailable()
        );
        // The control: whoever took it for a skip would be seen.
        assert_eq!(job_that_skips_whatever_happens().await.unwrap(), None);
    })
    .await;
}

#[distributed_lock(key = "job", on_taken = skip, ttl = "1s", renew = false)]
async fn job_that_outlives_its_lease() -> Result<Option<u32>, LockError> {
    tokio::time::sleep(Duration::from_secs(2)).await;
    Ok(Some(1))
}

#[tokio::test(start_paused = true)]
async fn a_lost_lock_is_an_error_and_never_a_skip() {
    let ((), _) = record(async {
        assert!(job_that_outlives_its_lease().await.unwrap_err().is_lost());
    })
    .await;
}

#[distributed_lock(key = "job", wait = "0s", on_taken = busy)]
async fn job_of_a_service() -> Result<u32, ServiceError> {
    Ok(1)
}

#[expect(clippy::needless_pass_by_value, reason = "what `on_taken` takes")]
fn busy(error: LockError) -> Result<u32, ServiceError> {
    Err(ServiceError::Busy(error.to_string()))
}

#[distributed_lock(key = "job", wait = "1s", on_taken = |_| 0, on_error = |_| 7)]
async fn number_of_the_job() -> u32 {
    1
}

#[tokio::test(start_paused = true)]
async fn a_function_makes_a_return_value_of_a_lock_that_is_taken() {
    let (store, locks) = recorded().await;
    LockRuntime::scope(locks.clone(), async {
        let other = locks.lock("job").acquire().await.unwrap();
        let refused = job_of_a_service().await;
        assert!(
            matches!(&refused, Err(ServiceError::Busy(text)) if text.contains("`job`")),
            "{:?}",
            refused
        );
        assert_eq!(number_of_the_job().await, 0);
        other.release().await.unwrap();
        store.fail_next(usize::MAX, Fault::Unavailable);
        assert_eq!(number_of_the_job().await, 7);
        let failed = job_of_a_service().await;
        assert!(matches!(failed, Err(ServiceError::Lock(error)) if error.is_unavailable()));
    })
    .await;
}

#[distributed_lock(key = "job")]
async fn outer() -> Result<Option<u32>, LockError> {
    let (one, other) = tokio::join!(slow_inner(), counting_job());
    assert_eq!(one?, Some(1));
    other
}

#[distributed_lock(key = "job", on_taken = skip)]
async fn slow_inner() -> Result<Option<u32>, LockError> {
    tokio::task::yield_now().await;
    Ok(Some(1))
}

#[tokio::test(start_paused = true)]
async fn a_nested_call_skips_when_another_has_its_turn() {
    let (skipped, _) = record(outer()).await;
    assert_eq!(skipped.unwrap(), None);
}

enum Run {
    Done,
    Postponed,
    Skipped,
}

impl LockDone for Run {
    fn is_done(&self) -> bool {
        matches!(self, Run::Done)
    }
}

impl LockSkip for Run {
    fn skipped() -> Run {
        Run::Skipped
    }
}

#[distributed_lock(key = "job", on_taken = skip, on_error = |error| panic!("{}", error))]
async fn job_with_an_outcome() -> Run {
    Run::Done
}

#[tokio::test(start_paused = true)]
async fn a_type_of_the_user_says_by_itself_what_a_skip_is() {
    let ((), _) = record(async {
        assert!(matches!(job_with_an_outcome().await, Run::Done));
        let locks = LockRuntime::current().unwrap();
        let _other = locks.lock("job").acquire().await.unwrap();
        assert!(matches!(job_with_an_outcome().await, Run::Skipped));
    })
    .await;
}

#[distributed_lock(key = "job", once_per = "1h", on_error = |error| panic!("{}", error))]
async fn job_that_may_be_postponed(is_early: bool) -> Run {
    if is_early {
        return Run::Postponed;
    }
    Run::Done
}

#[tokio::test(start_paused = true)]
async fn a_type_of_the_user_says_by_itself_whether_a_job_is_done() {
    let (_, locks) = recorded().await;
    LockRuntime::scope(locks, async {
        assert!(matches!(
            job_that_may_be_postponed(true).await,
            Run::Postponed
        ));
        assert!(matches!(job_that_may_be_postponed(false).await, Run::Done));
        assert!(matches!(
            job_that_may_be_postponed(false).await,
            Run::Skipped
        ));
    })
    .await;
}

#[distributed_lock(key = "job:<id>", once_per = period, on_taken = busy)]
async fn job_of_a_service_once(
    id: u32,
    period: Duration,
    fails: bool,
) -> Result<u32, ServiceError> {
    let number = parsed(if fails { "none" } else { "7" })?;
    Ok(number + id)
}

fn parsed(text: &str) -> Result<u32, ServiceError> {
    text.parse().map_err(|_| ServiceError::Busy(String::new()))
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_within_the_period_gets_what_on_taken_says() {
    let (_, locks) = recorded().await;
    LockRuntime::scope(locks, async {
        let period = Duration::from_secs(60);
        assert!(job_of_a_service_once(1, period, true).await.is_err());
        assert_eq!(job_of_a_service_once(1, period, false).await.unwrap(), 8);
        let refused = job_of_a_service_once(1, period, false).await;
        assert!(matches!(&refused, Err(ServiceError::Busy(text)) if text.contains("job:1")));
        assert_eq!(job_of_a_service_once(2, period, false).await.unwrap(), 9);
        tokio::time::sleep(period).await;
        assert_eq!(job_of_a_service_once(1, period, false).await.unwrap(), 8);
    })
    .await;
}

#[distributed_lock(key = "job", once_per = "1h", guard = lock, on_error = |_| ())]
async fn silent_job_once(name: String, tokens: &std::sync::Mutex<Vec<u64>>) {
    let token = lock.fencing_token().as_u64();
    tokio::task::yield_now().await;
    drop(name);
    tokens.lock().unwrap().push(token);
}

#[tokio::test(start_paused = true)]
async fn a_job_without_a_result_is_done_when_it_ends() {
    let (_, locks) = recorded().await;
    LockRuntime::scope(locks, async {
        let tokens = std::sync::Mutex::new(Vec::new());
        for _ in 0..3 {
            silent_job_once("report".to_owned(), &tokens).await;
        }
        assert_eq!(tokens.into_inner().unwrap().len(), 1);
    })
    .await;
}
