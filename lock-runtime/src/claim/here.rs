//! The work of a driver in the future of a caller.

use std::future::poll_fn;
use std::mem::replace;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use lock_protocol::{Acquired, BackendError, Executor, Released};
use tokio::sync::oneshot;
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep};

use super::{Driver, Outcome, Release, Start};
use crate::backend::BoxFuture;
use crate::error::LockError;
use crate::front::not_known;
use crate::hold::Lease;
use crate::mailbox::Wakeup;
use crate::sync::lock;

impl Driver {
    /// Asks for the lock once, until `deadline` at the latest. What is left to do then, a task does.
    pub(crate) async fn claim_here(self, deadline: Instant) {
        let mut here = Here {
            driver: Some(self),
            rest: Start::Claim,
        };
        match here.driver().acquire(Some(deadline)).await {
            Some((Ok(Acquired::Granted(grant)), since)) => {
                here.driver().deliver(grant, since, false);
            }
            Some(heard) => here.rest = Start::Heard(heard),
            None => {}
        }
    }

    /// Ends a lease, and in the same round trip claims the lock anew for those who wait. What is left to do then, a task does.
    pub(crate) async fn release_here(mut self, mut release: Release) -> Result<(), LockError> {
        if let Some(lost) = release.lost.take() {
            // Nothing that the store says will change it, so its holder does not wait for that.
            self.start(Start::Release(release));
            return Err(lost);
        }
        let front = self.front.clone();
        let lease = release.lease.clone();
        let next = self.claim_anew();
        let since = release.started;
        let mut here = Here {
            driver: Some(self),
            rest: Start::Release(release),
        };
        let relief = next.as_ref().zip(front.executor.own());
        let relief = relief.map(|relief| (relief, here.outcome()));
        let (answer, here) = {
            let backend = &front.backend;
            let releasing = backend.release(&lease.key, &lease.owner, next.as_ref());
            let mut releasing = pin!(front.ask(since, releasing));
            match relief {
                Some(((next, elsewhere), outcome)) => {
                    let news = backend.changed(next);
                    let relieved = here.relieved(elsewhere, news, releasing.as_mut());
                    let (answer, here) = Box::pin(relieved).await;
                    (answer, here.ok_or(outcome))
                }
                None => (releasing.await, Ok(here)),
            }
        };
        match (here, answer) {
            (Ok(here), answer) => match here.released(&lease, answer, since) {
                Ok(told) => told,
                Err(outcome) => later(outcome).await,
            },
            (Err(_), Ok(Released::Released(_))) => Ok(()),
            // Who relieved this one asks again, and one of the two may find it done.
            (Err(outcome), Err(_)) => match later(outcome).await {
                Err(error) if error.is_lost() => Ok(()),
                told => told,
            },
            (Err(outcome), Ok(_)) => later(outcome).await,
        }
    }
}

/// What becomes of a release that a task goes on with.
async fn later(outcome: Outcome) -> Result<(), LockError> {
    outcome.await.unwrap_or(Err(LockError::ShutDown))
}

/// A driver in the future of a caller, who may drop it at any time.
struct Here {
    /// Taken by whoever goes on with it.
    driver: Option<Driver>,
    /// What a task begins with if there is work left then.
    rest: Start,
}

impl Here {
    fn driver(&mut self) -> &mut Driver {
        self.driver
            .as_mut()
            .expect("the driver is here until the drop")
    }

    /// Where the outcome of the release will be, if a task goes on with it.
    fn outcome(&mut self) -> Outcome {
        let (reply, outcome) = oneshot::channel();
        if let Start::Release(release) = &mut self.rest {
            release.reply = Some(reply);
        }
        outcome
    }

    /// Takes in the `answer` to the release of `lease`, and tells what it says of that. An error says nothing: then a task tries again,
    /// and the outcome comes later.
    fn released(
        mut self,
        lease: &Lease,
        answer: Result<Released, BackendError>,
        since: Instant,
    ) -> Result<Result<(), LockError>, Outcome> {
        let (told, claimed) = match answer {
            Ok(Released::Released(claimed)) => (Ok(()), claimed),
            Ok(Released::NotHeld) => (Err(lease.was_not_held()), None),
            unknown => {
                if let Start::Release(release) = &mut self.rest {
                    release.failed = Some(not_known(unknown));
                }
                return Err(self.outcome());
            }
        };
        self.rest = match claimed {
            Some(Acquired::Granted(grant)) => {
                self.driver().deliver(grant, since, false);
                Start::Claim
            }
            Some(claimed) => Start::Heard((Ok(claimed), since)),
            None => Start::Claim,
        };
        let driver = self.driver();
        if driver.claim.is_none() && driver.at_work {
            driver.at_work = !driver.front.leave_if_idle(&driver.key);
        }
        Ok(told)
    }

    /// What there is left to do.
    fn take(&mut self) -> Option<(Driver, Start)> {
        let driver = self.driver.take().filter(|driver| driver.at_work)?;
        Some((driver, replace(&mut self.rest, Start::Claim)))
    }

    /// Waits for the `answer`, and gives back what is still here. If there are `news` before it (a hand-over, or any other reason to ask),
    /// or it is late, a task on the tokio runtime `elsewhere` goes on with the driver: the caller may not get to hear the answer, with its
    /// thread blocked.
    async fn relieved<T>(
        mut self,
        elsewhere: &dyn Executor,
        news: BoxFuture<'_, Wakeup>,
        mut answer: Pin<&mut impl Future<Output = T>>,
    ) -> (T, Option<Here>) {
        let settings = &self.driver().front.settings;
        let late = settings.grace.min(settings.command_timeout) / 2;
        let alarm = async {
            tokio::select! {
                biased;
                Wakeup::Granted { .. } = news => {}
                () = sleep(late) => {}
            }
        };
        // Without tokio's cooperative budget, whose end would count as an alarm.
        let mut alarm = pin!(unconstrained(alarm));
        let mut is_set = false;
        let watch = Watch(Arc::new(Relief {
            here: Mutex::new(Some(self)),
            woken: AtomicBool::new(false),
        }));
        let relief = &watch.0;
        let waker = Waker::from(relief.clone());
        poll_fn(|context| {
            // A grant in the answer is news as well, of which nobody need be relieved.
            let here = lock(&relief.here).take();
            if let Poll::Ready(answer) = answer.as_mut().poll(context) {
                return Poll::Ready((answer, here));
            }
            // Only now is the claim on its way.
            if !replace(&mut is_set, true) {
                elsewhere.enter(&mut || {
                    let rings = alarm.as_mut().poll(&mut Context::from_waker(&waker));
                    relief.woken.fetch_or(rings.is_ready(), Ordering::AcqRel);
                });
            }
            *lock(&relief.here) = here;
            if relief.woken.load(Ordering::Acquire) {
                waker.wake_by_ref();
            }
            Poll::Pending
        })
        .await
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        if let Some((driver, rest)) = self.take() {
            driver.start(rest);
        }
    }
}

/// Relieves a driver in the future of a caller when it is woken.
struct Relief {
    /// Not while the caller is at it, nor when it has been relieved.
    here: Mutex<Option<Here>>,
    woken: AtomicBool,
}

impl Wake for Relief {
    fn wake(self: Arc<Relief>) {
        self.woken.store(true, Ordering::Release);
        let here = lock(&self.here).take();
        if let Some((driver, rest)) = here.and_then(|mut here| here.take()) {
            let front = driver.front.clone();
            // Not polled here: whoever wakes may hold a lock.
            front.executor.spawn_at_home(driver.run(rest));
        }
    }
}

/// Ends with the future of the caller, whoever keeps the waker.
struct Watch(Arc<Relief>);

impl Drop for Watch {
    fn drop(&mut self) {
        let here = lock(&self.0.here).take();
        // Where no lock is held.
        drop(here);
    }
}
