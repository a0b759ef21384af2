//! The order of what is asked about one key: clause 7 of the contract of a backend.
//!
//! Calls over several connections, or over one of HTTP/2, are not ordered, so each waits for the
//! one before it.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use lock_protocol::{AskNumber, LockKey, Numbers, Overtaken};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// A question, to be run to its end.
type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A queue for each key of which something is asked.
#[derive(Default)]
pub struct KeyOrder(Mutex<State>);

/// Why a question has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unanswered {
    /// A later question about the key was there before it; it is not asked.
    #[error(transparent)]
    Overtaken(#[from] Overtaken),
    /// Those before it took too long, or nobody waits for it any more; it is not asked.
    #[error("the questions before this one took too long")]
    TooLate,
    /// The thread ended meanwhile.
    #[error("the backend is closed")]
    Ended,
}

#[derive(Default)]
struct State {
    numbers: Numbers,
    /// The keys of which something is being asked, and what comes after it.
    busy: HashMap<LockKey, VecDeque<Job>>,
}

impl KeyOrder {
    /// Asks on `handle` when all that came before it for `key` has been answered; the answer. With
    /// `begin_by` it is asked by then or never, and only if somebody waits for it: without, it is
    /// asked even if what this returns is dropped.
    ///
    /// Its turn is that of this call. The question is not a part of what this returns, since it may
    /// be large, and is in the futures of all callers.
    ///
    /// # Errors
    ///
    /// [`Unanswered`], which says whether it was asked.
    pub fn ask<T, Q>(
        self: &Arc<KeyOrder>,
        handle: &Handle,
        key: &LockKey,
        number: AskNumber,
        begin_by: Option<Instant>,
        question: Q,
    ) -> impl Future<Output = Result<T, Unanswered>> + Send + use<T, Q>
    where
        T: Send + 'static,
        Q: Future<Output = T> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        let job = async move {
            if begin_by.is_some_and(|limit| tell.is_closed() || Instant::now() > limit) {
                let _ = tell.send(Err(Unanswered::TooLate));
                return;
            }
            let _ = tell.send(Ok(question.await));
        };
        let queued = self.run(handle, key, number, job);
        async move {
            queued?;
            told.await.unwrap_or(Err(Unanswered::Ended))
        }
    }

    /// Runs `job` on `handle` when all that came before it for `key` has ended.
    ///
    /// # Errors
    ///
    /// [`Overtaken`] if a job of the key with a larger number was there before; a number of 0 is
    /// overtaken by none.
    pub fn run(
        self: &Arc<KeyOrder>,
        handle: &Handle,
        key: &LockKey,
        number: AskNumber,
        job: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), Overtaken> {
        let mut state = self.state();
        state.numbers.admit(key, number)?;
        let job: Job = Box::pin(job);
        if let Some(behind) = state.busy.get_mut(key) {
            behind.push_back(job);
            return Ok(());
        }
        state.busy.insert(key.clone(), VecDeque::new());
        drop(state);
        let (order, key) = (Arc::clone(self), key.clone());
        handle.spawn(async move {
            let mut job = Some(job);
            while let Some(next) = job {
                next.await;
                job = order.next(&key);
            }
        });
        Ok(())
    }

    /// The next job of the key; without one the key is not busy any more.
    fn next(&self, key: &LockKey) -> Option<Job> {
        let mut state = self.state();
        let next = state.busy.get_mut(key)?.pop_front();
        if next.is_none() {
            state.busy.remove(key);
        }
        next
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;

    fn key(name: &str) -> LockKey {
        LockKey::new("lock:", name).expect("a key")
    }

    fn soon() -> Option<Instant> {
        Some(Instant::now() + Duration::from_secs(60))
    }

    /// Never ends, and keeps its lane.
    fn block(order: &Arc<KeyOrder>, name: &str) {
        let job = std::future::pending();
        let handle = Handle::current();
        order.run(&handle, &key(name), 0, job).expect("a turn");
    }

    #[tokio::test]
    async fn questions_about_one_key_are_asked_one_after_the_other() {
        let (order, handle) = (Arc::<KeyOrder>::default(), Handle::current());
        let (tell, told) = std::sync::mpsc::channel();
        for number in 1..=3 {
            let tell = tell.clone();
            let job = async move {
                sleep(Duration::from_millis(4 - number)).await;
                tell.send(number).expect("somebody listens");
            };
            order.run(&handle, &key("k"), number, job).expect("a turn");
        }
        let last = order.ask(&handle, &key("k"), 4, soon(), async {}).await;
        assert_eq!(last, Ok(()));
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[tokio::test]
    async fn a_key_does_not_wait_for_another() {
        let (order, handle) = (Arc::<KeyOrder>::default(), Handle::current());
        block(&order, "busy");
        let answer = order
            .ask(&handle, &key("free"), 1, soon(), async { 7 })
            .await;
        assert_eq!(answer, Ok(7));
    }

    #[tokio::test]
    async fn a_question_that_was_overtaken_or_is_too_late_is_not_asked() {
        let (order, handle) = (Arc::<KeyOrder>::default(), Handle::current());
        let ask = |number, begin_by| {
            let order = Arc::clone(&order);
            let handle = handle.clone();
            async move {
                let never = async { unreachable!("it is asked") };
                order
                    .ask::<(), _>(&handle, &key("k"), number, begin_by, never)
                    .await
            }
        };
        let answer = order.ask(&handle, &key("k"), 2, None, async {}).await;
        assert_eq!(answer, Ok(()));
        assert!(matches!(ask(1, None).await, Err(Unanswered::Overtaken(_))));
        let past = Instant::now() - Duration::from_millis(1);
        assert_eq!(ask(3, Some(past)).await, Err(Unanswered::TooLate));
    }

    #[tokio::test]
    async fn what_a_caller_waits_for_does_not_hold_the_question() {
        let (order, handle) = (Arc::<KeyOrder>::default(), Handle::current());
        let large = [0_u8; 10_000];
        let question = async move {
            sleep(Duration::ZERO).await;
            large.len()
        };
        let asking = order.ask(&handle, &key("k"), 1, None, question);
        assert!(size_of_val(&asking) < 200, "{}", size_of_val(&asking));
        assert_eq!(asking.await, Ok(10_000));
    }
}
