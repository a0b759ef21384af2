//! Claims on their way out of the store.

use core::time::Duration;

use super::exchange::{Ending, Exchange, Failure, Withdrawal};
use super::pursuing::no_answer;
use super::{Turn, Verb};
use crate::claim::{AskNumber, Claim};
use crate::mistakes::{Mistake, made};
use crate::time::Instant;

impl Turn<'_> {
    /// Takes `claim` back from the store. From then on it is not asked for any more, whoever comes:
    /// the withdrawal may be late, on a connection that was given up, and would free the lock that
    /// had been granted to the same claim meanwhile.
    pub(super) fn withdraw(&mut self, claim: Claim) {
        if self.withdrawing(&claim.owner).is_some() {
            return;
        }
        let withdrawn = claim.clone();
        let number = self.ask(|_| Verb::Abandon(withdrawn), 0);
        self.group.withdrawals.push(Withdrawal {
            claim,
            stage: Ending::Asking(Exchange::new(number, self.now)),
            started: self.now,
            failures: 0,
        });
    }

    /// Withdraws `claim` at `until`, not earlier, whatever a question of it brings meanwhile.
    pub(super) fn withdraw_at(&mut self, until: Instant, claim: Claim) {
        self.group.withdrawals.push(Withdrawal {
            claim,
            stage: Ending::Kept(until),
            started: until,
            failures: 0,
        });
    }

    pub(super) fn not_withdrawn(&mut self, index: usize, number: AskNumber, failure: Failure) {
        let Some(withdrawal) = self.group.withdrawals.get_mut(index) else {
            return;
        };
        if !matches!(withdrawal.stage, Ending::Asking(exchange) if exchange.number == number) {
            return;
        }
        withdrawal.failures += 1;
        let (started, ttl) = (withdrawal.started, withdrawal.claim.ttl);
        // After its ttl, the claim is gone by itself.
        let again = self.is_worth_asking(started, ttl);
        let pause = match failure {
            // Nothing is wrong with the store.
            None => Some(Duration::ZERO).filter(|_| again || !made(Mistake::ShutDownForgetsCutOff)),
            Some((error, pause)) => pause.filter(|_| again && !error.is_denied()),
        };
        match pause {
            Some(pause) => {
                let pause = pause.min(self.rules.command_timeout);
                self.group.withdrawals[index].stage = Ending::Pausing(self.now + pause);
                self.time_for_withdrawal(index);
            }
            None => drop(self.group.withdrawals.remove(index)),
        }
    }

    pub(super) fn time_for_withdrawals(&mut self) {
        for index in (0..self.group.withdrawals.len()).rev() {
            self.time_for_withdrawal(index);
        }
    }

    fn time_for_withdrawal(&mut self, index: usize) {
        let withdrawal = &self.group.withdrawals[index];
        let (claim, failures) = (withdrawal.claim.clone(), withdrawal.failures);
        match withdrawal.stage {
            Ending::Pausing(at) | Ending::Kept(at) if at <= self.now => {
                let number = self.ask(|_| Verb::Abandon(claim), failures);
                let exchange = Exchange::new(number, self.now);
                self.group.withdrawals[index].stage = Ending::Asking(exchange);
            }
            Ending::Asking(exchange) if self.is_waited_for() => {
                if exchange
                    .again_at(self.rules)
                    .is_some_and(|at| at <= self.now)
                {
                    let number = self.ask(|_| Verb::Abandon(claim), 0);
                    let exchange = exchange.again(number, self.now);
                    self.group.withdrawals[index].stage = Ending::Asking(exchange);
                } else if exchange.overdue_at(self.rules) <= self.now {
                    self.not_withdrawn(index, exchange.number, Some(no_answer()));
                }
            }
            _ => {}
        }
    }
}
