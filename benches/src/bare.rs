//! The least that a lock on several servers costs.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, RedisResult};

use crate::raw::{Commands, Failure, POLL, multiplexed};

/// A bare client: it asks all servers at once, and stops at the answers of a majority.
#[derive(Clone)]
pub struct Bare {
    connections: Vec<MultiplexedConnection>,
    commands: Arc<Commands>,
}

/// A lock that is held by it.
pub struct Held(Vec<MultiplexedConnection>, Cmd);

impl Bare {
    pub async fn connect(urls: &str) -> Result<Bare, Failure> {
        let mut connections = Vec::new();
        let mut commands = Vec::new();
        for url in urls.split(',') {
            let mut connection = multiplexed(url).await?;
            commands.push(Commands::load(&mut connection).await?);
            connections.push(connection);
        }
        let commands = commands.pop().ok_or("there is no server")?;
        Ok(Bare {
            connections,
            commands: Arc::new(commands),
        })
    }

    pub async fn acquire(&self, key: &str) -> Result<Held, Failure> {
        let mut connections = self.connections.clone();
        loop {
            let (take, give) = self.commands.of_claim(key);
            if majority::<Option<String>>(&mut connections, &take, Option::is_some).await {
                return Ok(Held(connections, give));
            }
            let is_deleted = |count: &u32| *count == 1;
            majority(&mut connections, &give, is_deleted).await;
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Held {
    pub async fn release(mut self) -> Result<(), Failure> {
        match majority(&mut self.0, &self.1, |count: &u32| *count == 1).await {
            true => Ok(()),
            false => Err("the lock was not held when it was released".into()),
        }
    }
}

/// Sends `command` on all connections at once, and waits until a majority has answered as wanted,
/// or cannot any more. Whether it has. What is still to be answered has been sent.
async fn majority<T: FromRedisValue + Send>(
    connections: &mut [MultiplexedConnection],
    command: &Cmd,
    is_wanted: impl Fn(&T) -> bool,
) -> bool {
    type Asked<'a, T> = Pin<Box<dyn Future<Output = RedisResult<T>> + Send + 'a>>;
    let count = connections.len();
    let quorum = count / 2 + 1;
    let (mut wanted, mut others) = (0, 0);
    let ask = |connection| Box::pin(command.query_async::<T>(connection)) as Asked<'_, T>;
    let mut open: Vec<_> = connections.iter_mut().map(ask).collect();
    poll_fn(|context| {
        open.retain_mut(|asked| match asked.as_mut().poll(context) {
            Poll::Ready(answer) => {
                match answer.is_ok_and(|answer| is_wanted(&answer)) {
                    true => wanted += 1,
                    false => others += 1,
                }
                false
            }
            Poll::Pending => true,
        });
        match wanted >= quorum || others > count - quorum {
            true => Poll::Ready(wanted >= quorum),
            false => Poll::Pending,
        }
    })
    .await
}
