//! A transaction: what has to be so, and what is done then, all of it or nothing.

use crate::layout::{LOCK_FLAGS, Said};
use crate::messages::{KeyOp, Op, Pair, TxnAnswer, TxnError, encoded};

/// How many operations a server takes at once.
pub(crate) const MOST_OPS: usize = 64;

/// The operations of a transaction, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Txn {
    ops: Vec<Op>,
    writes: bool,
}

/// What became of a transaction.
#[derive(Debug)]
pub(crate) enum Done {
    /// It was done; what it read or wrote.
    Yes(Vec<Pair>),
    /// Nothing was done, since this was not as it should be.
    No(Conflicts),
}

/// Which operations of a transaction could not be done.
#[derive(Debug)]
pub(crate) struct Conflicts(Vec<TxnError>);

/// The place of an operation in its transaction.
pub(crate) type Step = usize;

impl Txn {
    /// The key is not there.
    pub(crate) fn absent(&mut self, key: String) -> Step {
        self.add(KeyOp {
            verb: "check-not-exists",
            key,
            ..KeyOp::default()
        })
    }

    /// The key is as it was at `index`.
    pub(crate) fn unchanged(&mut self, key: String, index: u64) -> Step {
        self.add(KeyOp {
            verb: "check-index",
            key,
            index: Some(index),
            ..KeyOp::default()
        })
    }

    /// Locks a key for a session, or writes another value to one that it has locked.
    pub(crate) fn lock(&mut self, key: String, session: &str, said: &Said) -> Step {
        self.writes = true;
        self.add(KeyOp {
            verb: "lock",
            key,
            value: Some(encoded(&said.value())),
            flags: Some(LOCK_FLAGS),
            session: Some(session.to_owned()),
            ..KeyOp::default()
        })
    }

    /// Unlocks a key that this session has locked.
    pub(crate) fn unlock(&mut self, key: String, session: &str) -> Step {
        self.writes = true;
        self.add(KeyOp {
            verb: "unlock",
            key,
            flags: Some(LOCK_FLAGS),
            session: Some(session.to_owned()),
            ..KeyOp::default()
        })
    }

    /// Writes another value to a key that is as it was at `index`, and stays locked.
    pub(crate) fn rewrite(&mut self, key: String, index: u64, said: &Said) -> Step {
        self.writes = true;
        self.add(KeyOp {
            verb: "cas",
            key,
            value: Some(encoded(&said.value())),
            flags: Some(LOCK_FLAGS),
            index: Some(index),
            ..KeyOp::default()
        })
    }

    /// Writes that `owner` begins to wait to the key that says so. Its index grows by that: the
    /// value is another each time, since one that is equal changes nothing.
    pub(crate) fn begin_to_wait(&mut self, key: String, owner: &str) -> Step {
        self.writes = true;
        let value = format!("{:016x} {owner}", fastrand::u64(..));
        self.add(KeyOp {
            verb: "set",
            key,
            value: Some(encoded(&value)),
            ..KeyOp::default()
        })
    }

    /// Deletes a key that is there, as it was at `index`.
    pub(crate) fn take_away(&mut self, key: String, index: u64) {
        self.unchanged(key.clone(), index);
        self.delete(key, index);
    }

    /// Deletes a key that is as it was at `index`, or is not there: for a server that is no fault.
    pub(crate) fn delete(&mut self, key: String, index: u64) -> Step {
        self.writes = true;
        self.add(KeyOp {
            verb: "delete-cas",
            key,
            index: Some(index),
            ..KeyOp::default()
        })
    }

    /// Reads all keys that start so; none is no fault.
    pub(crate) fn tree(&mut self, prefix: String) -> Step {
        self.add(KeyOp {
            verb: "get-tree",
            key: prefix,
            ..KeyOp::default()
        })
    }

    fn add(&mut self, kv: KeyOp) -> Step {
        self.ops.push(Op { kv });
        self.ops.len() - 1
    }

    /// Whether it has no room for so many more operations.
    pub(crate) fn is_full(&self, more: usize) -> bool {
        self.ops.len() + more > MOST_OPS
    }

    pub(crate) fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// Whether it changes nothing.
    pub(crate) fn is_read(&self) -> bool {
        !self.writes
    }
}

impl From<TxnAnswer> for Done {
    fn from(answer: TxnAnswer) -> Done {
        let errors = answer.errors.unwrap_or_default();
        if !errors.is_empty() {
            return Done::No(Conflicts(errors));
        }
        let results = answer.results.unwrap_or_default();
        Done::Yes(results.into_iter().filter_map(|result| result.kv).collect())
    }
}

impl Conflicts {
    /// Whether this step could not be done.
    pub(crate) fn at(&self, step: Step) -> bool {
        self.0.iter().any(|error| error.op_index == step)
    }

    /// Whether the session of this step is not there any more.
    pub(crate) fn no_session_at(&self, step: Step) -> bool {
        self.says(step, "invalid session")
    }

    /// Whether the key of this step may not be locked yet, since a session ended that had locked
    /// it.
    pub(crate) fn delayed_at(&self, step: Step) -> bool {
        self.says(step, "lock delay")
    }

    fn says(&self, step: Step, text: &str) -> bool {
        let mut errors = self.0.iter();
        errors.any(|error| error.op_index == step && error.what.contains(text))
    }
}
