//! The claims of which a question has had no answer, and so may still be on its way.
//!
//! A connection that is given up may deliver what lies in it much later than another delivers what
//! was sent after it. When such a claim ends, the server is told to remember that, so that its late
//! question takes no lock for nobody.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lock_protocol::OwnerToken;
use tokio::time::Instant;

use crate::sync::lock;

/// No question is on its way for as long as this.
const LONGEST: Duration = Duration::from_secs(600);
/// How many claims there may be before those whose doubt is over are looked for.
const FEW: usize = 64;

/// The claims in doubt.
#[derive(Default)]
pub(super) struct Doubts {
    /// How many there are, so that the usual case takes no lock.
    count: AtomicUsize,
    claims: Mutex<Claims>,
}

#[derive(Default)]
struct Claims {
    /// When each came into doubt the last time.
    since: HashMap<OwnerToken, Instant>,
    sweep_at: usize,
}

/// A question that is being asked. Dropped without an answer, it leaves its claim in doubt.
pub(super) struct Question<'a> {
    doubts: &'a Doubts,
    owner: &'a OwnerToken,
    is_answered: bool,
}

impl Doubts {
    /// A question of the claim of `owner`.
    pub(super) fn ask<'a>(&'a self, owner: &'a OwnerToken) -> Question<'a> {
        Question {
            doubts: self,
            owner,
            is_answered: false,
        }
    }

    /// Whether a question of this claim may still be on its way.
    pub(super) fn concern(&self, owner: &OwnerToken) -> bool {
        self.count.load(Ordering::Acquire) > 0 && lock(&self.claims).since.contains_key(owner)
    }

    /// The claim has ended, and the server knows.
    pub(super) fn settle(&self, owner: &OwnerToken) {
        if self.count.load(Ordering::Acquire) > 0 {
            let mut claims = lock(&self.claims);
            claims.since.remove(owner);
            self.count.store(claims.since.len(), Ordering::Release);
        }
    }

    fn add(&self, owner: &OwnerToken) {
        let now = Instant::now();
        let mut claims = lock(&self.claims);
        claims.since.insert(owner.clone(), now);
        // Whoever leaks a guard never ends its claim.
        if claims.since.len() > claims.sweep_at.max(FEW) {
            let is_late = |since: Instant| now.saturating_duration_since(since) < LONGEST;
            claims.since.retain(|_, since| is_late(*since));
            claims.sweep_at = claims.since.len() * 2;
        }
        self.count.store(claims.since.len(), Ordering::Release);
    }
}

impl Question<'_> {
    /// Whatever the server said, it is through with the question.
    pub(super) fn heard<T, E>(mut self, reply: &Result<T, E>) {
        self.is_answered = reply.is_ok();
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.doubts.add(self.owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> OwnerToken {
        OwnerToken::unique("test")
    }

    #[test]
    fn only_a_question_without_an_answer_leaves_a_doubt() {
        let (doubts, owner) = (Doubts::default(), owner());
        doubts.ask(&owner).heard(&Ok::<_, ()>(()));
        assert!(!doubts.concern(&owner));
        doubts.ask(&owner).heard(&Err::<(), _>(()));
        assert!(doubts.concern(&owner));
        // A later answer says nothing about the earlier question.
        doubts.ask(&owner).heard(&Ok::<_, ()>(()));
        assert!(doubts.concern(&owner));
        doubts.settle(&owner);
        assert!(!doubts.concern(&owner));
        drop(doubts.ask(&owner));
        assert!(doubts.concern(&owner));
    }

    #[tokio::test(start_paused = true)]
    async fn claims_that_never_end_do_not_pile_up() {
        let doubts = Doubts::default();
        let mut most = 0;
        for _ in 0..2000 {
            drop(doubts.ask(&owner()));
            tokio::time::advance(LONGEST / 100).await;
            most = most.max(lock(&doubts.claims).since.len());
        }
        // 100 are in doubt at a time.
        assert!(most <= 400, "{most} claims");
    }
}
