//! A free lock without a script: what the acquire script does, as plain commands in one transaction,
//! for a third of the server's time.
//!
//! A transaction cannot decide anything. So it takes the lock if it is free, draws a fencing token
//! and tells whether somebody waits, and what it may not decide is left to the script, which is asked
//! at once: that the lock was taken, that others were first, that the token is not to be
//! [believed](lock_protocol::draws).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use deadpool_redis::redis::Value;
use lock_protocol::{Claim, Contended, FenceBlock, FencingToken, Grant};
use tokio::time::{Duration, Instant};

use super::call::{Call, Heard, empty_command};
use super::companion::{self, Companion};
use super::fault::{is_acl, is_unknown_command};
use super::link::Link;
use super::scripts::millis;

/// A claim that reserves more is for several waiters, whom one token does not serve.
const FOR_ONE: u32 = 8;
/// For how long a key that was taken is asked for by the script at once.
const BUSY_FOR: Duration = Duration::from_secs(1);
/// Of how many keys it is remembered at the most.
const BUSY_KEYS: usize = 1024;

/// Which locks are asked for without a script.
pub(super) struct Natively {
    epoch: Instant,
    /// By a part of the hash of a key: the rest of it, and until when it is busy, in milliseconds
    /// since `epoch`.
    busy: Vec<AtomicU64>,
    /// Whether the server has refused.
    is_refused: AtomicBool,
}

/// What came of a transaction.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Drawn {
    /// The claim has the lock.
    Granted(Grant),
    /// The script has to be asked. `unseen`: the claim may have the lock already.
    Ask { unseen: bool },
    /// The lock was taken, but the counter is of no use: the claim is to be withdrawn before the
    /// script tells what is wrong.
    Withdraw,
}

impl Natively {
    pub(super) fn new() -> Natively {
        Natively {
            epoch: Instant::now(),
            busy: (0..BUSY_KEYS).map(|_| AtomicU64::new(0)).collect(),
            is_refused: AtomicBool::new(false),
        }
    }

    /// Whether to ask for the lock of `claim` without a script, by `link`.
    pub(super) fn suits(&self, claim: &Claim, link: &Link) -> bool {
        // After a question that was not answered the claim may have the lock, or a place in the
        // queue, or none.
        claim.tokens <= FOR_ONE
            && !claim.in_doubt
            && !self.is_refused.load(Ordering::Relaxed)
            && !self.is_busy(claim)
            // Where many ask at once the client is the slower of the two, and ten replies to a
            // transaction cost it more than the server saves.
            && !link.is_shared()
            && link.may_draw(companion::counter_of(&claim.key))
    }

    /// Takes in that somebody else has the lock.
    pub(super) fn is_taken(&self, claim: &Claim) {
        let until = (self.epoch.elapsed() + BUSY_FOR).as_millis() as u64;
        let (place, rest) = self.place(claim);
        place.store(rest << 40 | until & UNTIL, Ordering::Relaxed);
    }

    fn is_busy(&self, claim: &Claim) -> bool {
        let (place, rest) = self.place(claim);
        let busy = place.load(Ordering::Relaxed);
        busy >> 40 == rest && self.epoch.elapsed().as_millis() < u128::from(busy & UNTIL)
    }

    fn place(&self, claim: &Claim) -> (&AtomicU64, u64) {
        let hash = claim.key.hash_value() as usize;
        (&self.busy[hash % BUSY_KEYS], (hash / BUSY_KEYS) as u64)
    }

    /// What the reply that came by `link` says about `claim`.
    pub(super) fn drawn(&self, claim: &Claim, link: &Link, heard: &Heard) -> Option<Drawn> {
        let replies = match &heard.reply {
            Ok(Value::Array(replies)) => replies,
            Ok(_) => return None,
            // Nothing was executed.
            Err(error) => {
                if is_acl(error) || is_unknown_command(error) {
                    self.is_refused.store(true, Ordering::Relaxed);
                }
                return Some(Drawn::Ask { unseen: false });
            }
        };
        let [set, token, queue] = replies.as_slice() else {
            return None;
        };
        match (set, token, queue) {
            (Value::Nil, ..) => {
                self.is_taken(claim);
                Some(Drawn::Ask { unseen: false })
            }
            // What the lock is, if it is no text, the script tells.
            (Value::ServerError(_), ..) => Some(Drawn::Ask { unseen: false }),
            (Value::Okay, Value::Int(token), Value::Int(0)) => {
                let token = FencingToken::new(u64::try_from(*token).ok()?);
                let counter = companion::counter_of(&claim.key);
                Some(match link.believes(counter, heard.way, token) {
                    true => Drawn::Granted(granted(claim, token)),
                    false => Drawn::Ask { unseen: true },
                })
            }
            (Value::Okay, Value::Int(_), Value::Int(_)) => Some(Drawn::Ask { unseen: true }),
            (Value::Okay, Value::ServerError(_), _) => Some(Drawn::Withdraw),
            _ => None,
        }
    }
}

const UNTIL: u64 = (1 << 40) - 1;

/// Takes the lock for `claim` if it is free.
pub(super) fn acquire(claim: &Claim) -> Call {
    let (key, owner) = (claim.key.stored(), claim.owner.as_str());
    let mut set = empty_command(6, 40 + key.len() + owner.len());
    set.arg("SET")
        .arg(key)
        .arg(owner)
        .arg("NX")
        .arg("PX")
        .arg(millis(claim.ttl));
    let mut draw = empty_command(3, 40 + key.len());
    draw.arg("INCRBY")
        .arg(Companion::counter(&claim.key))
        .arg(1);
    let mut look = empty_command(2, 20 + key.len());
    look.arg("EXISTS").arg(Companion::queue(&claim.key));
    Call::transaction(vec![set, draw, look])
}

fn granted(claim: &Claim, token: FencingToken) -> Grant {
    let tokens = FenceBlock {
        first: token,
        last: token,
    };
    let mut grant = Grant::new(tokens, claim.ttl);
    grant.contended = Contended::No;
    // Asked again, the claim gives way to whoever waits.
    grant.provisional = true;
    grant
}
