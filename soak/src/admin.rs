//! A look at a server from outside.

use std::time::Duration;

use redis::{Cmd, Connection, FromRedisValue, RedisResult};

/// A client that connects when it has to, and whose questions end soon.
pub(crate) struct Admin {
    client: redis::Client,
    patience: Duration,
    connection: Option<Connection>,
}

impl Admin {
    pub(crate) fn new(url: &str, patience: Duration) -> RedisResult<Admin> {
        Ok(Admin {
            client: redis::Client::open(url)?,
            patience,
            connection: None,
        })
    }

    /// The answer to one command.
    pub(crate) fn ask<T: FromRedisValue>(&mut self, words: &[&str]) -> RedisResult<T> {
        self.exchange(|connection| command(words).query(connection))
    }

    /// The answers to several commands, between which no other comes.
    pub(crate) fn at_once<T: FromRedisValue>(&mut self, commands: &[&[&str]]) -> RedisResult<T> {
        let mut pipeline = redis::pipe();
        pipeline.atomic();
        for words in commands {
            pipeline.add_command(command(words));
        }
        self.exchange(|connection| pipeline.query(connection))
    }

    /// A number from `INFO section`; zero if it is not there.
    pub(crate) fn count(&mut self, section: &str, start: &str) -> RedisResult<u64> {
        let info: String = self.ask(&["INFO", section])?;
        let line = info.lines().find_map(|line| line.strip_prefix(start));
        Ok(line.and_then(|rest| rest.trim().parse().ok()).unwrap_or(0))
    }

    fn exchange<T>(
        &mut self,
        question: impl FnOnce(&mut Connection) -> RedisResult<T>,
    ) -> RedisResult<T> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let connection = self.client.get_connection_with_timeout(self.patience)?;
                connection.set_read_timeout(Some(self.patience))?;
                connection.set_write_timeout(Some(self.patience))?;
                connection
            }
        };
        let answer = question(&mut connection);
        // Behind an error an answer may still be under way.
        if answer.is_ok() {
            self.connection = Some(connection);
        }
        answer
    }
}

fn command(words: &[&str]) -> Cmd {
    let mut command = Cmd::new();
    for word in words {
        command.arg(word);
    }
    command
}

/// Where the owner of a lock is stored.
pub(crate) fn lock(key: &str) -> String {
    format!("lock:{key}")
}

/// Where the waiters of a lock stand.
pub(crate) fn queue(key: &str) -> String {
    format!("{{lock:{key}}}:waiters")
}

/// Where the leases of a lock stand that go together; the lock is a marker then.
pub(crate) fn holders(key: &str) -> String {
    format!("{{lock:{key}}}:holders")
}

/// Whether this is in the place of the owner of a lock of which leases go together.
pub(crate) fn is_marker(owner: &str) -> bool {
    owner.ends_with("/lr-0000000000000000-0-0")
}

/// What the names of the counters match that fencing tokens come from.
pub(crate) const COUNTERS: &str = "{lock:}:*:counter";
