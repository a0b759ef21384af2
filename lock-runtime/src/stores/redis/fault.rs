//! What can go wrong between the verbs and Redis, and whether asking again can help.

use std::fmt;
use std::time::Duration;

use deadpool_redis::redis::{ErrorKind, RedisError, ServerErrorKind};
use lock_protocol::LockKey;
use lock_protocol::Overtaken;

use super::companion::Companion;
use crate::backend::BackendError;
use crate::error::LockError;

/// Why a verb has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("the Redis backend is closed")]
    Closed,

    #[error("Redis did not answer within {}", humantime::format_duration(*.0))]
    NoAnswer(Duration),

    #[error("no connection to Redis at {address}")]
    NoConnection {
        address: String,
        #[source]
        source: RedisError,
    },

    #[error("no connection to Redis at {address}: {reason}")]
    Pool { address: String, reason: String },

    #[error("the connection to Redis was lost")]
    Lost(#[source] Option<RedisError>),

    #[error(transparent)]
    Refused(RedisError),

    #[error("the Redis user lacks a permission; the lock needs: {rule}")]
    Acl {
        rule: String,
        #[source]
        source: RedisError,
    },

    #[error("`{key}` holds something that is not {meaning}")]
    BadKey { key: String, meaning: &'static str },

    #[error(
        "`{counter}` holds something that is no fencing token; every 64th lock of this prefix draws \
         from it, and none of them can be had until `DEL {counter}`, after which the tokens go on \
         from the server's time"
    )]
    BadCounter { counter: String },

    #[error("Redis answered {0}, which is no answer to what it was asked")]
    BadReply(String),

    #[error("the lock needs Redis 6.2 or newer, or Valkey, and this is {0}")]
    Server(String),

    #[error(transparent)]
    Overtaken(#[from] Overtaken),

    #[error("the lock needs {0}, and this Redis server does not know that command")]
    Command(String),

    #[error("the Redis configuration is wrong: {0}")]
    Config(String),
}

impl Fault {
    /// A reply that cannot be understood, or that was meant for another question.
    pub(super) fn bad_reply(reply: &impl fmt::Debug) -> Fault {
        // Enough to recognise it; a reply may be of any size.
        Fault::BadReply(format!("{reply:?}").chars().take(200).collect())
    }

    /// What the server answered a script for `key` instead of a reply.
    pub(super) fn of_reply(error: RedisError, key: &LockKey) -> Fault {
        match error.detail().filter(|_| error.code() == Some("BADKEY")) {
            Some(detail) if detail.starts_with("counter") => Fault::BadCounter {
                counter: Companion::counter(key).to_string(),
            },
            Some(detail) if detail.starts_with("holders") => Fault::BadKey {
                key: Companion::holders(key).to_string(),
                meaning: "the holders of a lock",
            },
            Some(detail) if detail.starts_with("queue") => Fault::BadKey {
                key: Companion::queue(key).to_string(),
                meaning: "the queue of a lock",
            },
            // Of the scripts, one looks at nothing but the lock, and so need not say what it is.
            None if !is_wrong_type(&error) => Fault::Refused(error),
            _ => Fault::BadKey {
                key: key.stored().to_owned(),
                meaning: "a lock",
            },
        }
    }

    /// The same, with the rule that grants what is missing if that is the fault.
    pub(super) fn explained(self, acl_rule: &str) -> Fault {
        match self {
            Fault::Refused(source) | Fault::NoConnection { source, .. } if is_acl(&source) => {
                Fault::Acl {
                    rule: acl_rule.to_owned(),
                    source,
                }
            }
            other => other,
        }
    }

    /// Whether asking again is useless, whatever happens to server and network.
    pub(super) fn is_for_good(&self) -> bool {
        match self {
            Fault::Closed
            | Fault::NoAnswer(_)
            | Fault::Pool { .. }
            | Fault::Lost(_)
            | Fault::BadReply(_)
            | Fault::Overtaken(_) => false,
            Fault::Acl { .. }
            | Fault::BadKey { .. }
            | Fault::BadCounter { .. }
            | Fault::Server(_)
            | Fault::Command(_)
            | Fault::Config(_) => true,
            Fault::Refused(error) | Fault::NoConnection { source: error, .. } => {
                is_acl(error)
                    || is_authentication(error)
                    || is_configuration(error)
                    || is_unknown_command(error)
            }
        }
    }
}

impl From<Fault> for BackendError {
    fn from(fault: Fault) -> BackendError {
        match fault {
            Fault::Overtaken(overtaken) => BackendError::unavailable(overtaken),
            fault if fault.is_for_good() => BackendError::denied(fault),
            fault @ Fault::NoAnswer(_) => BackendError::timed_out(fault),
            fault => BackendError::unavailable(fault),
        }
    }
}

/// For what is noticed before any verb is called.
impl From<Fault> for LockError {
    fn from(fault: Fault) -> LockError {
        match fault {
            Fault::Config(_) => LockError::Config(fault.to_string()),
            other => BackendError::from(other).into(),
        }
    }
}

/// Whether a permission is missing: to the client directly, or to a script of its, of which servers
/// tell in their own words.
pub(super) fn is_acl(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
        || error.detail().is_some_and(|detail| {
            [
                "The user executing the script can't",
                "ACL failure in script",
                "NOPERM",
            ]
            .iter()
            .any(|text| detail.contains(text))
        })
}

/// Whether the server does not know a command that it was asked by, or that a script calls:
/// renamed, most often.
pub(super) fn is_unknown_command(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| {
        // "unknown command 'PUBLISH'", "Unknown Redis command called from script".
        detail.contains("nknown") && detail.contains("command")
    })
}

fn is_authentication(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("WRONGPASS" | "NOAUTH"))
}

fn is_configuration(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::InvalidClientConfig
            | ErrorKind::Server(ServerErrorKind::CrossSlot | ServerErrorKind::Moved)
    ) || is_wrong_type(error)
        || error
            .detail()
            .is_some_and(|detail| detail.contains("DB index is out of range"))
}

fn is_wrong_type(error: &RedisError) -> bool {
    error.code() == Some("WRONGTYPE")
        || error
            .detail()
            .is_some_and(|detail| detail.contains("WRONGTYPE"))
}

/// Whether the server behind the connection is, for now or for good, not the one to ask: another
/// connection may lead to the right one.
pub(super) fn is_wrong_server(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown | ServerErrorKind::BusyLoading
        )
    ) || error.code() == Some("NOAUTH")
        // As servers before 7.0 tell it of a script: behind the place where it was raised.
        || error
            .detail()
            .is_some_and(|detail| detail.contains(": -READONLY "))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use deadpool_redis::redis::{Value, parse_redis_value};

    use super::*;

    fn error(line: &str) -> RedisError {
        let value = parse_redis_value(format!("-{line}\r\n").as_bytes());
        value
            .unwrap()
            .extract_error()
            .map(|_: Value| ())
            .unwrap_err()
    }

    #[test]
    fn a_replica_is_known_by_the_words_of_each_server() {
        let why = "READONLY You can't write against a read only replica.";
        for line in [
            why.to_owned(),
            // In a script: since 7.0, before it, and before it in many.lua.
            format!("{why} script: 2fd4, on @user_script:23."),
            format!("\"@user_script:\": 118: -{why}"),
            format!("ERR \"@user_script:\": 118: -{why}"),
        ] {
            assert!(is_wrong_server(&error(&line)), "{line}");
        }
        for line in [
            "ERR \"@user_script:\": 118: -OOM command not allowed",
            "ERR no READONLY here",
        ] {
            assert!(!is_wrong_server(&error(line)), "{line}");
        }
    }
}
