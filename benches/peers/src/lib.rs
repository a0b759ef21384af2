//! The locks of other crates behind one interface, each used as its documentation shows.

use std::error::Error;
use std::time::Duration;

use rlock::async_lock::{RLock, RLockGuard};
use rlock::{AcquireOptions, LeaseState, RenewalMode};
use rslock::{LockGuard, LockManager};
use tokio::time::{sleep, timeout};

/// Whatever goes wrong ends a comparison.
pub type Failure = Box<dyn Error + Send + Sync>;

/// A crate that is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The crate rslock.
    Rslock,
    /// The crate rlock.
    Rlock,
}

impl Peer {
    /// Connects to a Redis server. rslock sleeps at random up to `delay` between two tries and
    /// tries for ever; without one, both are used with their own defaults.
    ///
    /// # Errors
    ///
    /// There is no server.
    pub async fn connect(self, url: &str, delay: Option<Duration>) -> Result<Client, Failure> {
        Ok(match self {
            Peer::Rslock => {
                let mut manager = LockManager::new(vec![url]);
                if let Some(delay) = delay {
                    manager.set_retry(u32::MAX, delay);
                }
                Client::Rslock(manager)
            }
            Peer::Rlock => Client::Rlock(RLock::new(url).await?),
        })
    }
}

/// How a lock is acquired.
#[derive(Clone)]
pub struct Terms {
    ttl: Duration,
    wait: Option<Duration>,
    of_rlock: AcquireOptions,
}

impl Terms {
    /// For a renewed lock with this ttl, waited for this long, or for ever. rlock asks again every
    /// `poll`, or as often as it does by default.
    ///
    /// # Errors
    ///
    /// rlock does not know such a lock.
    pub fn new(
        ttl: Duration,
        wait: Option<Duration>,
        poll: Option<Duration>,
    ) -> Result<Terms, Failure> {
        let mut options = AcquireOptions::builder().ttl(ttl).lock_timeout(wait);
        options = options.renewal_mode(RenewalMode::Auto);
        if let Some(poll) = poll {
            options = options.retry_interval(poll);
        }
        Ok(Terms {
            ttl,
            wait,
            of_rlock: options.build()?,
        })
    }
}

/// The client of one process.
#[derive(Clone)]
pub enum Client {
    /// Of the crate rslock.
    Rslock(LockManager),
    /// Of the crate rlock.
    Rlock(RLock),
}

/// A lock that is held.
pub enum Guard {
    /// Of the crate rslock.
    Rslock(LockGuard),
    /// Of the crate rlock.
    Rlock(RLockGuard),
}

impl Client {
    /// Acquires within the wait, which for rslock has to be said by a timeout around its call.
    ///
    /// # Errors
    ///
    /// The lock is taken, or there is no server.
    pub async fn acquire(&self, key: &str, terms: &Terms) -> Result<Guard, Failure> {
        Ok(match self {
            Client::Rslock(manager) => {
                let acquiring = manager.acquire(key.as_bytes(), terms.ttl);
                Guard::Rslock(match terms.wait {
                    Some(wait) => timeout(wait, acquiring).await??,
                    None => acquiring.await?,
                })
            }
            Client::Rlock(locks) => {
                let options = terms.of_rlock.clone();
                Guard::Rlock(locks.acquire_mutex_with_options(key, options).await?)
            }
        })
    }

    /// Shares the key with other readers for as long as `section`.
    ///
    /// # Errors
    ///
    /// As of [`acquire`](Client::acquire), or the crate has no readers.
    pub async fn read(&self, key: &str, terms: &Terms, section: Duration) -> Result<(), Failure> {
        let Client::Rlock(locks) = self else {
            return Err("it has no readers".into());
        };
        let options = terms.of_rlock.clone();
        let mut guard = locks.acquire_read_with_options(key, options).await?;
        sleep(section).await;
        Ok(guard.release().await?)
    }

    /// Has the lock once that keeps readers out.
    ///
    /// # Errors
    ///
    /// As of [`acquire`](Client::acquire), or the crate has no readers.
    pub async fn write(&self, key: &str, terms: &Terms) -> Result<(), Failure> {
        let Client::Rlock(locks) = self else {
            return Err("it has no readers".into());
        };
        let options = terms.of_rlock.clone();
        let mut guard = locks.acquire_write_with_options(key, options).await?;
        Ok(guard.release().await?)
    }

    /// Holds a renewed lock for a while, in the way that notices best that it is lost. Tells when
    /// it began.
    ///
    /// # Errors
    ///
    /// As of [`acquire`](Client::acquire), or the lock was lost.
    pub async fn hold(
        &self,
        key: &str,
        terms: &Terms,
        hold: Duration,
        began: impl FnOnce(),
    ) -> Result<(), Failure> {
        match self {
            Client::Rslock(manager) => {
                let body = async || {
                    began();
                    sleep(hold).await;
                };
                manager.using(key.as_bytes(), terms.ttl, body).await?;
            }
            Client::Rlock(locks) => {
                let options = terms.of_rlock.clone();
                let mut guard = locks.acquire_mutex_with_options(key, options).await?;
                began();
                tokio::select! {
                    () = sleep(hold) => {}
                    _ = guard.wait_until_inactive() => {}
                }
                if guard.lease_state() != LeaseState::Active {
                    return Err("lost".into());
                }
                guard.release().await?;
            }
        }
        Ok(())
    }

    /// Ends what runs in the background.
    pub async fn close(&self) {
        if let Client::Rlock(locks) = self {
            locks.shutdown().await;
        }
    }
}

impl Guard {
    /// Frees the lock.
    ///
    /// # Errors
    ///
    /// rlock could not; rslock does not say.
    pub async fn release(self) -> Result<(), Failure> {
        match self {
            Guard::Rslock(guard) => guard.release().await,
            Guard::Rlock(mut guard) => {
                guard.release().await?;
            }
        }
        Ok(())
    }
}
