//! What the locks protect: a counter for each of them, on a server that no fault touches.

use std::time::Duration;

use lock_runtime::FencingToken;
use lock_runtime::fencing::Writer;
use lock_runtime::fencing::redis::{FencedError, FencedScript};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisResult};

/// The resource, as one process sees it.
pub(crate) struct Resource {
    connection: MultiplexedConnection,
    write: FencedScript,
    fenced: bool,
}

impl Resource {
    pub(crate) async fn connect(url: &str, fenced: bool) -> RedisResult<Resource> {
        // A process may stand still while the answer arrives.
        let patience = Duration::from_secs(30);
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(patience));
        let connection = redis::Client::open(url)?
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        Ok(Resource {
            connection,
            write: FencedScript::new("return redis.call('INCR', KEYS[1])"),
            fenced,
        })
    }

    /// Adds one to the counter of `key`. Its value, or `None` if the resource has seen a later
    /// holder.
    pub(crate) async fn write(
        &self,
        key: &str,
        token: FencingToken,
        claim: &str,
    ) -> Result<Option<u64>, FencedError> {
        let (mut connection, counter) = (self.connection.clone(), counter(key));
        if !self.fenced {
            let mut increment = redis::cmd("INCR");
            return Ok(Some(
                increment.arg(counter).query_async(&mut connection).await?,
            ));
        }
        let writer = Writer::new(token, claim);
        let fence = format!("{counter}:fence");
        let written = self
            .write
            .run(&mut connection, &fence, &writer, &[&counter], &[])
            .await;
        match written {
            Ok(count) => Ok(Some(count)),
            Err(FencedError::Stale(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Where the counter of `key` is.
pub(crate) fn counter(key: &str) -> String {
    format!("{{{key}}}:count")
}
