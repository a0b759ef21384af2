//! What a lock protects: a log of writes, in Redis or SQLite, that is to take none of an earlier
//! holder behind one of a later.

use std::path::Path;

use lock_runtime::fencing::redis::{FencedError, FencedScript};
use lock_runtime::fencing::{Writer, sql};
use redis::aio::MultiplexedConnection;
use rusqlite::Connection;

use crate::server::Server;

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// The resource took it.
    Accepted,
    /// A later holder has been here.
    Refused,
}

/// A resource; other processes reach it by its [place](Resource::place).
#[derive(Clone, Debug)]
pub struct Resource {
    place: String,
}

const LOG: &str = "{resource}:log";
const FENCE: &str = "{resource}:fence";

impl Resource {
    /// A resource on this server.
    pub fn in_redis(server: &Server) -> Resource {
        server.forgive(LOG);
        server.forgive(FENCE);
        Resource::at(&server.url())
    }

    /// A resource in a database of this directory.
    pub fn in_sqlite(directory: &Path) -> Resource {
        let resource = Resource::at(directory.join("resource.db").to_str().unwrap());
        let database = resource.database();
        database.execute_batch(sql::CREATE_TABLE).unwrap();
        database
            .execute_batch("CREATE TABLE log (token BIGINT NOT NULL)")
            .unwrap();
        resource
    }

    /// The resource at a place that another process told.
    pub fn at(place: &str) -> Resource {
        Resource {
            place: place.to_owned(),
        }
    }

    /// A URL or a path.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Writes, if the writer is not stale.
    pub async fn write(&self, writer: &Writer) -> Write {
        let accepted = if self.is_redis() {
            let append = FencedScript::new("return redis.call('RPUSH', KEYS[1], ARGV[1])");
            let (mut client, token) = (self.client().await, writer.token().to_string());
            let arguments = [token.as_str()];
            let written = append.run::<i64>(&mut client, FENCE, writer, &[LOG], &arguments);
            match written.await {
                Ok(_) => true,
                Err(FencedError::Stale(_)) => false,
                Err(error) => panic!("{error}"),
            }
        } else {
            self.write_sql(writer)
        };
        if accepted {
            Write::Accepted
        } else {
            Write::Refused
        }
    }

    /// Writes whoever writes: what a resource without a fence does.
    pub async fn write_unguarded(&self, writer: &Writer) {
        let token = writer.token().as_u64();
        if self.is_redis() {
            let mut push = redis::cmd("RPUSH");
            let pushed = push
                .arg(LOG)
                .arg(token)
                .query_async::<()>(&mut self.client().await)
                .await;
            pushed.unwrap();
        } else {
            append_sql(&self.database(), token);
        }
    }

    /// How many writes were taken from an earlier holder behind one of a later. Told by the log,
    /// not by the fence.
    pub async fn stale_writes(&self) -> usize {
        let tokens: Vec<u64> = if self.is_redis() {
            let mut range = redis::cmd("LRANGE");
            range
                .arg(LOG)
                .arg(0)
                .arg(-1)
                .query_async(&mut self.client().await)
                .await
                .unwrap()
        } else {
            let database = self.database();
            let mut select = database
                .prepare("SELECT token FROM log ORDER BY rowid")
                .unwrap();
            let rows = select.query_map((), |row| row.get::<_, i64>(0)).unwrap();
            rows.map(|token| token.unwrap().cast_unsigned()).collect()
        };
        let mut latest = 0;
        tokens
            .into_iter()
            .filter(|token| {
                latest = latest.max(*token);
                *token < latest
            })
            .count()
    }

    fn write_sql(&self, writer: &Writer) -> bool {
        let mut database = self.database();
        let transaction = database.transaction().unwrap();
        let token = writer.token().as_u64().cast_signed();
        let raised = transaction
            .execute(sql::RAISE, ("resource", token, writer.owner()))
            .unwrap();
        if sql::passed(raised as u64).is_err() {
            return false;
        }
        append_sql(&transaction, writer.token().as_u64());
        transaction.commit().unwrap();
        true
    }

    fn is_redis(&self) -> bool {
        self.place.starts_with("redis://")
    }

    async fn client(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.place.as_str()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    fn database(&self) -> Connection {
        let database = Connection::open(&self.place).unwrap();
        database.busy_timeout(super::DEADLINE).unwrap();
        database
    }
}

fn append_sql(database: &Connection, token: u64) {
    let insert = "INSERT INTO log (token) VALUES ($1)";
    database.execute(insert, (token.cast_signed(),)).unwrap();
}
