//! What is said to Consul and by it, as JSON has it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// One operation of a transaction.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Op {
    #[serde(rename = "KV")]
    pub(crate) kv: KeyOp,
}

/// An operation on a key.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct KeyOp {
    pub(crate) verb: &'static str,
    pub(crate) key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) flags: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) index: Option<u64>,
}

/// The answer to a transaction, whether it was done or not. Both fields are always there: what
/// lacks one is the answer of somebody else.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct TxnAnswer {
    #[serde(deserialize_with = "Option::deserialize")]
    pub(crate) results: Option<Vec<TxnResult>>,
    #[serde(deserialize_with = "Option::deserialize")]
    pub(crate) errors: Option<Vec<TxnError>>,
}

impl TxnAnswer {
    /// Whether it was done.
    pub(crate) fn is_done(&self) -> bool {
        self.errors.as_ref().is_none_or(Vec::is_empty)
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct TxnResult {
    #[serde(rename = "KV")]
    pub(crate) kv: Option<Pair>,
}

/// Why one operation of a transaction was not done, for which none was.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct TxnError {
    pub(crate) op_index: usize,
    pub(crate) what: String,
}

/// A key and what is there.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Pair {
    pub(crate) key: String,
    #[serde(default)]
    value: Option<String>,
    #[serde(default)]
    pub(crate) session: Option<String>,
    pub(crate) create_index: u64,
    pub(crate) modify_index: u64,
}

impl Pair {
    /// The value as text; `None` where it is none.
    pub(crate) fn text(&self) -> Option<String> {
        let bytes = STANDARD.decode(self.value.as_deref()?).ok()?;
        String::from_utf8(bytes).ok()
    }

    /// The session that has locked the key.
    pub(crate) fn session(self) -> Option<String> {
        self.session.filter(|session| !session.is_empty())
    }
}

/// A value as JSON has it.
pub(crate) fn encoded(value: &str) -> String {
    STANDARD.encode(value)
}

/// A session that is to be made.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SessionCreate {
    #[serde(rename = "Name")]
    pub(crate) name: &'static str,
    #[serde(rename = "TTL")]
    pub(crate) ttl: String,
    #[serde(rename = "LockDelay")]
    pub(crate) lock_delay: String,
    #[serde(rename = "Behavior")]
    pub(crate) behavior: &'static str,
    /// Empty: a false alarm of the gossip among the agents ends no lease.
    #[serde(rename = "NodeChecks")]
    pub(crate) node_checks: [&'static str; 0],
}

#[derive(Debug, Deserialize)]
pub(crate) struct SessionCreated {
    #[serde(rename = "ID")]
    pub(crate) id: String,
}
