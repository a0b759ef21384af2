//! Fences in a SQL database.
//!
//! [`RAISE`] works on a separate table, [`CREATE_TABLE`], for any number of resources. Rows that
//! are only inserted can use nothing else. Run it in the transaction of the write, before the first
//! read of data that the write depends on:
//!
//! ```sql
//! BEGIN;
//! -- RAISE with ('account:7', token, owner): no row changed? ROLLBACK, the writer is stale.
//! SELECT balance FROM accounts WHERE id = 7;
//! UPDATE accounts SET balance = ... WHERE id = 7;
//! COMMIT;
//! ```
//!
//! The row of the fence stays locked until the transaction ends, so no later holder gets in
//! between. If the read has to happen in an earlier transaction, raise the fence in both.
//!
//! If a row is the resource, two more columns do the same in one statement, in any database:
//!
//! ```sql
//! UPDATE accounts SET balance = $1, fence = $2, fence_owner = $3
//! WHERE id = $4 AND (fence < $2 OR (fence = $2 AND fence_owner = $3));
//! ```
//!
//! The columns are a `BIGINT NOT NULL DEFAULT 0` and a `VARCHAR NOT NULL DEFAULT ''`: tokens do not
//! fit into 32 bits, and a `NULL` would let nobody pass. The same statement without the data raises
//! the fence before the first read. A plain `fence < $2` would refuse the second write of a holder.
//! A plain `fence <= $2` would accept two holders that got the same token through a failover of the
//! store.
//!
//! # Examples
//!
//! With any client, the number of changed rows is the result:
//!
//! ```
//! use lock_runtime::fencing::{Stale, Writer, sql};
//!
//! # struct Transaction;
//! # impl Transaction { fn execute(&self, _: &str, _: (&str, i64, &str)) -> u64 { 1 } }
//! fn raise(transaction: &Transaction, writer: &Writer) -> Result<(), Stale> {
//!     let token = writer.token().as_u64().cast_signed();
//!     let changed = transaction.execute(sql::RAISE, ("account:7", token, writer.owner()));
//!     sql::passed(changed)
//! }
//! ```

use super::Stale;

/// Makes the table of fences, in the dialect that SQLite and PostgreSQL share; the project's tests
/// run it on SQLite.
pub const CREATE_TABLE: &str = "\
CREATE TABLE IF NOT EXISTS fences (
    resource VARCHAR PRIMARY KEY,
    token BIGINT NOT NULL,
    owner VARCHAR NOT NULL
)";

/// Raises the fence of a resource for a writer, in SQLite and PostgreSQL.
///
/// Parameters: the name of the resource, the fencing token, the owner token. Changes one row, or
/// none if the writer is stale.
pub const RAISE: &str = "\
INSERT INTO fences (resource, token, owner) VALUES ($1, $2, $3)
ON CONFLICT (resource) DO UPDATE SET token = excluded.token, owner = excluded.owner
WHERE fences.token < excluded.token
   OR (fences.token = excluded.token AND fences.owner = excluded.owner)";

/// Reads the fence of a resource, for the message to a stale writer. Parameter: the name of the
/// resource.
pub const SELECT: &str = "SELECT token FROM fences WHERE resource = $1";

/// The result of a guarded statement, by the number of rows that it changed.
///
/// # Errors
///
/// [`Stale`] if there were none: roll back.
pub fn passed(rows_changed: u64) -> Result<(), Stale> {
    if rows_changed == 0 {
        Err(Stale { fence: None })
    } else {
        Ok(())
    }
}
