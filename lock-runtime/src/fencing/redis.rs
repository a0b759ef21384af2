//! Fences in Redis.

use deadpool_redis::redis::aio::ConnectionLike;
use deadpool_redis::redis::{FromRedisValue, RedisError, Script, Value, from_redis_value};
use lock_protocol::FencingToken;

use super::{Stale, Writer};

/// A Lua script that runs only for writers that are not stale.
///
/// Comparing the fence, raising it, and running the body are one step of the server. The body sees
/// its own `KEYS` and `ARGV`, without those of the fence. The fence is a hash with the fields
/// `token` and `owner`; on Redis Cluster its key must share the hash tag of the data:
/// `{account:7}:fence` for `account:7`. It has no ttl, and should live as long as the data.
///
/// If the body of a write depends on data that the holder read, read by such a script as well. That
/// raises the fence before the first read. Scripts do not roll back: if a body fails halfway, the
/// fence stays raised, and its writes stay.
///
/// # Examples
///
/// ```no_run
/// use lock_runtime::LockRuntime;
/// use lock_runtime::fencing::Writer;
/// use lock_runtime::fencing::redis::FencedScript;
///
/// # async fn example(mut connection: redis::aio::MultiplexedConnection) -> Result<(), Box<dyn std::error::Error>> {
/// # let locks = LockRuntime::in_memory().build().await?;
/// let read = FencedScript::new("return redis.call('GET', KEYS[1])");
/// let write = FencedScript::new("redis.call('SET', KEYS[1], ARGV[1])");
///
/// let guard = locks.lock("account:7").acquire().await?;
/// let writer = Writer::from(&guard);
/// let balance: Option<i64> = read
///     .run(&mut connection, "{account:7}:fence", &writer, &["account:7"], &[])
///     .await?;
/// let balance = (balance.unwrap_or(0) + 10).to_string();
/// let () = write
///     .run(&mut connection, "{account:7}:fence", &writer, &["account:7"], &[&balance])
///     .await?;
/// # Ok(())
/// # }
/// # use deadpool_redis::redis;
/// ```
#[derive(Debug)]
pub struct FencedScript {
    script: Script,
}

impl FencedScript {
    /// Puts the guard around `body`.
    pub fn new(body: &str) -> FencedScript {
        let source = [
            include_str!("guard.lua"),
            body,
            "\nend\nreturn {1, body() or false}\n",
        ]
        .concat();
        FencedScript {
            script: Script::new(&source),
        }
    }

    /// Runs the body for `writer`.
    ///
    /// # Errors
    ///
    /// [`FencedError::Stale`] if the fence at `fence` has seen a later holder: the body did not
    /// run. [`FencedError::Redis`] if the server did not answer, the body failed, or the key
    /// `fence` has another type.
    pub async fn run<T: FromRedisValue>(
        &self,
        connection: &mut impl ConnectionLike,
        fence: &str,
        writer: &Writer,
        keys: &[&str],
        arguments: &[&str],
    ) -> Result<T, FencedError> {
        let mut call = self.script.key(fence);
        call.arg(writer.token().as_u64()).arg(writer.owner());
        for key in keys {
            call.key(*key);
        }
        for argument in arguments {
            call.arg(*argument);
        }
        let (passed, answer): (bool, Value) = call.invoke_async(connection).await?;
        if passed {
            return Ok(from_redis_value(answer).map_err(RedisError::from)?);
        }
        let fence = from_redis_value(answer).map_err(RedisError::from)?;
        Err(FencedError::Stale(Stale {
            fence: Some(FencingToken::new(fence)),
        }))
    }
}

/// Why a fenced script did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum FencedError {
    /// The writer comes too late.
    #[error(transparent)]
    Stale(Stale),
    /// The server did not run the script, or did not answer.
    #[error("the fenced script failed")]
    Redis(#[from] RedisError),
}
