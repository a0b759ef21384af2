//! Those to whom a backend tells its news.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::vec::Vec;

use crate::backend::{News, Note};
use crate::claim::Grant;
use crate::inspection::Card;
use crate::name::LockKey;
use crate::time::Instant;
use crate::token::OwnerToken;

/// The sinks that a backend is attached to. They are few, and most often one.
#[derive(Default)]
pub struct Sinks(Mutex<Vec<Weak<dyn News>>>);

/// What became of the news of a hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Its claim was expected.
    Expected,
    /// Nobody expected its claim: nobody will use the lock, or release it.
    Unexpected,
    /// There is nobody to tell: whoever made the claim asks by itself, or is gone.
    Nobody,
}

impl Sinks {
    /// Tells `news` from now on too.
    pub fn attach(&self, news: Weak<dyn News>) {
        let mut sinks = self.sinks();
        sinks.retain(|sink| sink.strong_count() > 0);
        sinks.push(news);
    }

    /// Tells that the lock was handed over to the claim `owner`.
    #[must_use]
    pub fn granted(&self, key: &LockKey, owner: &str, grant: Grant, since: Instant) -> Told {
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
    pub fn ask_at(&self, key: &LockKey, owner: &OwnerToken, at: Instant) {
        self.alive()
            .iter()
            .for_each(|sink| sink.ask_at(key, owner, at));
    }

    /// Tells that news may have been lost.
    pub fn ask_all(&self) {
        self.alive().iter().for_each(|sink| sink.ask_all());
    }

    /// Tells what the store noticed.
    pub fn note(&self, note: &Note) {
        self.alive().iter().for_each(|sink| sink.noted(note));
    }

    /// What those who are told say of themselves.
    pub fn cards(&self) -> Vec<Card> {
        self.alive().iter().filter_map(|sink| sink.card()).collect()
    }

    /// A sink that ends while it is told must not end under the mutex: what it drops may attach
    /// another.
    fn alive(&self) -> Vec<Arc<dyn News>> {
        self.sinks().iter().filter_map(Weak::upgrade).collect()
    }

    /// Poisoned or not: every update is complete in itself.
    fn sinks(&self) -> MutexGuard<'_, Vec<Weak<dyn News>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl core::fmt::Debug for Sinks {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Sinks").field(&self.sinks().len()).finish()
    }
}
