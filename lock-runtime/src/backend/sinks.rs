//! Those to whom a backend tells its news.

use std::sync::{Arc, Mutex, Weak};

use lock_protocol::{Grant, Instant, LockKey, News, OwnerToken};

use crate::sync::lock;

/// The sinks that a backend is attached to. They are few, and most often one.
#[derive(Default)]
pub(crate) struct Sinks(Mutex<Vec<Weak<dyn News>>>);

/// What became of the news of a hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Its claim was expected.
    Expected,
    /// Nobody expected its claim: nobody will use the lock, or release it.
    Unexpected,
    /// There is nobody to tell: whoever made the claim asks by itself, or is gone.
    Nobody,
}

impl Sinks {
    /// Tells `news` from now on too.
    pub(crate) fn attach(&self, news: Weak<dyn News>) {
        let mut sinks = lock(&self.0);
        sinks.retain(|sink| sink.strong_count() > 0);
        sinks.push(news);
    }

    /// Tells that the lock was handed over to the claim `owner`.
    #[must_use]
    pub(crate) fn granted(&self, key: &LockKey, owner: &str, grant: Grant, since: Instant) -> Told {
        let mut told = Told::Nobody;
        for sink in self.alive() {
            if sink.granted(key, owner, grant, since) {
                return Told::Expected;
            }
            told = Told::Unexpected;
        }
        told
    }

    /// Tells when it is time to ask for the claim `owner`.
    pub(crate) fn ask_at(&self, key: &LockKey, owner: &OwnerToken, at: Instant) {
        self.alive()
            .iter()
            .for_each(|sink| sink.ask_at(key, owner, at));
    }

    /// Tells that news may have been lost.
    #[cfg_attr(not(feature = "redis"), expect(dead_code))]
    pub(crate) fn ask_all(&self) {
        self.alive().iter().for_each(|sink| sink.ask_all());
    }

    /// A sink that ends while it is told must not end under the mutex: what it drops may attach
    /// another.
    fn alive(&self) -> Vec<Arc<dyn News>> {
        lock(&self.0).iter().filter_map(Weak::upgrade).collect()
    }
}
