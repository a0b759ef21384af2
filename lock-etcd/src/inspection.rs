//! What those who look after locks ask: nothing is decided by it.

use std::sync::Arc;

use lock_protocol::{Condition, Inspected, LockKey, Member, OwnerToken, Released, Waiting};

use crate::core::Core;
use crate::fault::Fault;
use crate::layout::Layout;
use crate::messages::{BY_CREATION, KeyValue, OLDEST_FIRST, RangeRequest, RangeResponse};
use crate::txns::{self, Ended};

impl Core {
    /// See [`Backend::inspect`](lock_protocol::Backend::inspect).
    pub(crate) async fn inspect(self: Arc<Core>, key: LockKey) -> Result<Option<Inspected>, Fault> {
        let (lock, most) = (Layout::of(&key), Inspected::MOST_NAMED as i64 + 1);
        let seen = self.claims(&lock, most).await?;
        let mut claims = seen.kvs.iter();
        let Some(oldest) = claims.next() else {
            return Ok(None);
        };
        let remaining = match oldest.lease {
            0 => None,
            lease => Some(self.leases.remaining(lease).await?),
        };
        let mut inspected = Inspected::new(owner(&lock, oldest), remaining);
        let waiting = seen.count.max(1).unsigned_abs() - 1;
        inspected.waiting = usize::try_from(waiting).unwrap_or(usize::MAX);
        let waiters = claims.map(|claim| Waiting::new(owner(&lock, claim)));
        inspected.waiters.extend(waiters);
        Ok(Some(inspected))
    }

    /// See [`Backend::break_lock`](lock_protocol::Backend::break_lock).
    pub(crate) async fn break_lock(
        self: Arc<Core>,
        key: LockKey,
        owner: OwnerToken,
    ) -> Result<Released, Fault> {
        let lock = Layout::of(&key);
        let seen = self.claims(&lock, 1).await?;
        let claim = lock.claim(owner.as_str());
        let oldest = seen.kvs.first().filter(|oldest| oldest.key == claim);
        let Some(oldest) = oldest else {
            return Ok(Released::NotHeld);
        };
        let created = oldest.create_revision;
        let txn = txns::release(&lock, owner.as_str(), created, true, None);
        match txns::released(self.txn(txn).await?, false)? {
            Ended::Yes(_) => Ok(Released::Released(None)),
            Ended::No { .. } => Ok(Released::NotHeld),
        }
    }

    /// See [`Backend::condition`](lock_protocol::Backend::condition). Each member is asked by a
    /// read that no leader lets pass without a majority, so one that answers is enough.
    pub(crate) async fn condition(self: Arc<Core>) -> Condition {
        let members = self.client.each_member().await.into_iter();
        let members = members.map(|(address, answer)| {
            let answer = answer.map_err(lock_protocol::BackendError::from);
            Member::new(address, answer)
        });
        Condition::of(members.collect(), 1)
    }

    /// The claims of a lock, the oldest first.
    async fn claims(&self, lock: &Layout, limit: i64) -> Result<RangeResponse, Fault> {
        let question = RangeRequest {
            key: lock.contenders(),
            range_end: lock.contenders_end(),
            limit,
            sort_order: OLDEST_FIRST,
            sort_target: BY_CREATION,
            ..RangeRequest::default()
        };
        self.client
            .ask(crate::client::method::RANGE, question)
            .await
    }
}

/// The owner that the name of a claim ends with.
fn owner(lock: &Layout, claim: &KeyValue) -> OwnerToken {
    let name = claim.key.strip_prefix(&lock.contenders()[..]);
    let name = name.unwrap_or_default();
    OwnerToken::new(String::from_utf8_lossy(name).into_owned())
}
