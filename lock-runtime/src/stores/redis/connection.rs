//! How a link gets its connections: checked out of the pool, looked at, and prepared.

use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{ErrorKind, RedisResult, ServerErrorKind, Value, cmd};
use deadpool_redis::{Pool, PoolError};
use lock_protocol::LockKey;
use tokio::time::{Instant, timeout};

use super::batch::Sharing;
use super::call::Call;
use super::exchange::exchange;
use super::fault::Fault;
use super::link::Link;
use super::scripts;
use super::wakeups::Wakeups;

/// The oldest Redis that has all that the scripts use.
const OLDEST: (u32, u32) = (6, 2);

/// What links lead to: a server, as one address.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) pool: Pool,
    pub(super) address: Arc<str>,
    /// The name of no lock, to try commands on; `None` if the prefix allows no name.
    pub(super) probe: Option<LockKey>,
    pub(super) command_timeout: Duration,
    /// What the server is to the locks.
    pub(super) role: Role,
    /// Which calls may share a command.
    pub(super) sharing: Sharing,
    /// Who is told of connections.
    pub(super) wakeups: Arc<Wakeups>,
}

/// What a server is to the locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It holds them.
    Alone,
    /// It is one of several of which a majority does.
    Voter,
}

/// The connection of a link. It stays checked out of the pool, so that the pool knows of it.
pub(super) struct Connection {
    connection: deadpool_redis::Connection,
    /// What it listens to, if it does.
    channel: Option<Arc<str>>,
}

impl Connection {
    /// A handle to send commands by, without the PING that a checkout costs.
    pub(super) fn commands(&self) -> MultiplexedConnection {
        (*self.connection).clone()
    }

    /// Ends the connection; it does not go back into the pool.
    pub(super) fn discard(self) {
        drop(deadpool_redis::Connection::take(self.connection));
    }

    pub(super) fn channel(&self) -> Option<Arc<str>> {
        self.channel.clone()
    }
}

impl Target {
    /// Opens a connection for `link` that knows the scripts and, if the link has a channel, listens
    /// to it.
    pub(super) async fn open(self, link: Arc<Link>) -> Result<Connection, Fault> {
        let connection = Connection {
            connection: self.pool.get().await.map_err(|error| self.fault(error))?,
            channel: link.next_channel(),
        };
        let prepared = timeout(self.command_timeout, self.prepare(&connection, &link)).await;
        match prepared.unwrap_or(Err(Fault::NoAnswer(self.command_timeout))) {
            Ok(()) => Ok(connection),
            Err(fault) => {
                connection.discard();
                Err(fault)
            }
        }
    }

    async fn prepare(&self, connection: &Connection, link: &Link) -> Result<(), Fault> {
        let channel = connection.channel.as_deref();
        let mut connection = connection.commands();
        // Without arguments it changes nothing, tells what the server is, and is allowed to every
        // user.
        let mut greeting = vec![cmd("HELLO")];
        let mut loads = scripts::loads();
        if self.role == Role::Voter {
            loads.extend(scripts::voting::loads());
        }
        let count = loads.len();
        greeting.extend(loads);
        // A channel that is there already is that of a lane: what works there works for others.
        if let (Some(key), Some(channel)) = (&self.probe, link.channel()) {
            greeting.extend(scripts::probes(key, &channel));
        }
        let mut call = Call::commands(greeting);
        let sent_at = Instant::now();
        let deadline = sent_at + self.command_timeout;
        exchange(
            &mut connection,
            &mut [&mut call],
            self.sharing,
            sent_at,
            deadline,
        )
        .await?;
        let replies = match call.take_reply() {
            Some(Ok(Value::Array(replies))) => replies,
            Some(Err(error)) => return Err(Fault::Refused(error)),
            _ => return Err(Fault::Lost(None)),
        };
        let mut replies = replies.into_iter().map(Value::extract_error);
        check_server(&replies.next().unwrap_or(Ok(Value::Nil)))?;
        let mut loaded = replies.by_ref().take(count);
        loaded
            .try_for_each(|loaded| loaded.map(drop))
            .map_err(Fault::Refused)?;
        scripts::probed(replies)?;

        let Some(channel) = channel else {
            return Ok(());
        };
        // No message can have been published to this connection before now.
        link.answered(Instant::now());
        connection.subscribe(channel).await.map_err(Fault::Refused)
    }

    fn fault(&self, error: PoolError) -> Fault {
        match error {
            PoolError::Backend(source) if source.kind() == ErrorKind::RESP3NotSupported => {
                Fault::Server("a server without RESP3".into())
            }
            PoolError::Backend(source) => Fault::NoConnection {
                address: self.address.to_string(),
                source,
            },
            PoolError::Closed => Fault::Closed,
            other => Fault::Pool {
                address: self.address.to_string(),
                reason: other.to_string(),
            },
        }
    }
}

/// Whether the server, which answered HELLO like this, can hold locks.
fn check_server(hello: &RedisResult<Value>) -> Result<(), Fault> {
    let hello = match hello {
        Ok(hello) => hello,
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::ResponseError) => {
            return Err(Fault::Server(
                "older, since it wants arguments for HELLO".into(),
            ));
        }
        Err(error) => return Err(Fault::Refused(error.clone())),
    };
    let field = |name: &str| {
        hello.as_map_iter()?.find_map(|(key, value)| {
            (text(key)? == name)
                .then(|| text(value))
                .flatten()
                .map(str::to_owned)
        })
    };
    let Some(version) = field("version") else {
        return Err(Fault::Server(
            "a server that does not say its version".into(),
        ));
    };
    if field("mode").as_deref() == Some("sentinel") {
        return Err(Fault::Server(
            "a Redis Sentinel, which holds no data".into(),
        ));
    }
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
    let major_minor = (
        numbers.next().flatten().unwrap_or(0),
        numbers.next().flatten().unwrap_or(0),
    );
    if major_minor < OLDEST {
        let name = field("server").unwrap_or_else(|| "redis".into());
        return Err(Fault::Server(format!("{name} {version}")));
    }
    Ok(())
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(fields: &[(&str, &str)]) -> RedisResult<Value> {
        let value = |text: &str| Value::BulkString(text.into());
        let fields = fields.iter().map(|(name, text)| (value(name), value(text)));
        Ok(Value::Map(fields.collect()))
    }

    fn refusal(fields: &[(&str, &str)]) -> String {
        check_server(&hello(fields)).map_or_else(|fault| fault.to_string(), |()| String::new())
    }

    #[test]
    fn servers_that_have_what_the_scripts_use_are_accepted() {
        for version in ["6.2.0", "7.0.15", "8.4", "10.0.0-rc1", "255.255.255"] {
            assert_eq!(refusal(&[("server", "redis"), ("version", version)]), "");
        }
        assert_eq!(
            refusal(&[
                ("server", "valkey"),
                ("version", "7.2.4"),
                ("mode", "cluster")
            ]),
            ""
        );
    }

    #[test]
    fn servers_that_cannot_hold_locks_are_named() {
        for version in ["6.0.16", "5.0", "2", "new", ""] {
            let refusal = refusal(&[("server", "redis"), ("version", version)]);
            assert!(
                refusal.ends_with(&format!("this is redis {version}")),
                "{refusal}"
            );
        }
        let sentinel = refusal(&[("version", "7.0.0"), ("mode", "sentinel")]);
        assert!(sentinel.contains("Sentinel"), "{sentinel}");
        for odd in [Ok(Value::Nil), hello(&[]), Ok(Value::Okay)] {
            assert!(check_server(&odd).is_err());
        }
    }
}
