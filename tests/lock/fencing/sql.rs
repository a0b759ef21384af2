//! In SQLite, by two connections to one file.

use lock_runtime::fencing::{Stale, Writer, sql};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tempfile::NamedTempFile;

use super::{Fence, Phases, stale_and_later, twin, writer};

/// A database with an account that holds 100.
struct Database(NamedTempFile);

impl Database {
    fn new() -> Database {
        let database = Database(NamedTempFile::new().unwrap());
        let connection = database.connect();
        connection.execute(sql::CREATE_TABLE, ()).unwrap();
        connection
            .execute_batch(
                "CREATE TABLE accounts (
                     id BIGINT PRIMARY KEY,
                     balance BIGINT NOT NULL,
                     fence BIGINT NOT NULL DEFAULT 0,
                     fence_owner VARCHAR NOT NULL DEFAULT ''
                 );
                 INSERT INTO accounts (id, balance) VALUES (7, 100);",
            )
            .unwrap();
        database
    }

    fn connect(&self) -> Connection {
        Connection::open(self.0.path()).unwrap()
    }

    fn balance(&self) -> i64 {
        balance(&self.connect())
    }
}

fn balance(connection: &Connection) -> i64 {
    let select = "SELECT balance FROM accounts WHERE id = 7";
    connection.query_row(select, (), |row| row.get(0)).unwrap()
}

fn token(writer: &Writer) -> i64 {
    writer.token().as_u64().cast_signed()
}

fn begin(connection: &mut Connection) -> Transaction<'_> {
    connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .unwrap()
}

fn raise(transaction: &Transaction<'_>, writer: &Writer) -> Result<(), Stale> {
    let parameters = ("account:7", token(writer), writer.owner());
    let changed = transaction.execute(sql::RAISE, parameters).unwrap();
    sql::passed(changed as u64)
}

/// Writes in one transaction with the fence.
fn write(database: &Database, writer: &Writer, balance: i64, fence: Fence) -> Result<(), Stale> {
    let mut connection = database.connect();
    let transaction = begin(&mut connection);
    if fence == Fence::Checked {
        raise(&transaction, writer)?;
    }
    let update = "UPDATE accounts SET balance = $1 WHERE id = 7";
    transaction.execute(update, [balance]).unwrap();
    transaction.commit().unwrap();
    Ok(())
}

/// Reads in one transaction with the fence, which is raised before.
fn read(database: &Database, writer: &Writer) -> Result<i64, Stale> {
    let mut connection = database.connect();
    let transaction = begin(&mut connection);
    raise(&transaction, writer)?;
    let balance = balance(&transaction);
    transaction.commit().unwrap();
    Ok(balance)
}

/// Writes by the pattern for a row that is the resource.
fn write_row(database: &Database, writer: &Writer, balance: i64) -> Result<(), Stale> {
    let update = "UPDATE accounts SET balance = $1, fence = $2, fence_owner = $3
                  WHERE id = $4 AND (fence < $2 OR (fence = $2 AND fence_owner = $3))";
    let parameters = (balance, token(writer), writer.owner(), 7);
    let changed = database.connect().execute(update, parameters).unwrap();
    sql::passed(changed as u64)
}

#[tokio::test]
async fn a_stale_write_is_refused() {
    let (stale, later) = stale_and_later().await;
    let database = Database::new();
    write(&database, &later, 2, Fence::Checked).unwrap();
    assert!(write(&database, &stale, 1, Fence::Checked).is_err());
    assert_eq!(database.balance(), 2);

    let control = Database::new();
    write(&control, &later, 2, Fence::Ignored).unwrap();
    write(&control, &stale, 1, Fence::Ignored).unwrap();
    assert_eq!(control.balance(), 1);
}

#[tokio::test]
async fn a_stale_write_to_a_row_with_a_fence_is_refused() {
    let (stale, later) = stale_and_later().await;
    let database = Database::new();
    write_row(&database, &stale, 1).unwrap();
    write_row(&database, &later, 2).unwrap();
    write_row(&database, &later, 3).unwrap();
    assert!(write_row(&database, &stale, 1).is_err());
    assert!(write_row(&database, &twin(&later), 1).is_err());
    assert_eq!(database.balance(), 3);
}

#[tokio::test]
async fn readers_pass_together_and_refuse_the_writer_before_them_and_the_next_refuses_them() {
    let Phases {
        earlier,
        readers,
        later,
    } = Phases::new().await;
    let database = Database::new();
    write(&database, &earlier, 1, Fence::Checked).unwrap();
    for reader in readers.iter().chain(&readers) {
        assert_eq!(read(&database, reader), Ok(1));
    }
    assert!(write(&database, &earlier, 2, Fence::Checked).is_err());
    write(&database, &later, 3, Fence::Checked).unwrap();
    for reader in &readers {
        assert!(read(&database, reader).is_err());
    }
    assert_eq!(database.balance(), 3);

    // The controls: readers that are told apart, and a fence that nobody looks at.
    let control = Database::new();
    assert_eq!(read(&control, &readers[0]), Ok(100));
    assert!(read(&control, &twin(&readers[1])).is_err());
    write(&control, &earlier, 2, Fence::Ignored).unwrap();
    assert_eq!(control.balance(), 2);
}

#[test]
fn a_holder_writes_as_often_as_it_likes() {
    let (database, holder) = (Database::new(), writer(5));
    for balance in 0..3 {
        write(&database, &holder, balance, Fence::Checked).unwrap();
    }
    assert_eq!(database.balance(), 2);
}

#[test]
fn an_equal_token_of_another_owner_is_refused() {
    let (database, holder) = (Database::new(), writer(5));
    write(&database, &holder, 1, Fence::Checked).unwrap();
    assert!(write(&database, &twin(&holder), 2, Fence::Checked).is_err());
    assert_eq!(database.balance(), 1);

    // The control: the comparison that comes to mind first lets both pass.
    let naive = "UPDATE fences SET token = $1 WHERE resource = 'account:7' AND token <= $1";
    let changed = database.connect().execute(naive, [token(&twin(&holder))]);
    assert_eq!(changed, Ok(1));
}

#[test]
fn tokens_are_compared_as_large_numbers() {
    let database = Database::new();
    let largest: u64 = (1 << 53) - 1;
    write(&database, &writer(9), 1, Fence::Checked).unwrap();
    write(&database, &writer(10), 2, Fence::Checked).unwrap();
    write(&database, &writer(largest), 3, Fence::Checked).unwrap();
    assert!(write(&database, &writer(largest - 1), 4, Fence::Checked).is_err());
    let select = |connection: Connection| -> i64 {
        connection
            .query_row(sql::SELECT, ["account:7"], |row| row.get(0))
            .unwrap()
    };
    assert_eq!(select(database.connect()), largest.cast_signed());
}

#[test]
fn each_resource_has_a_fence_of_its_own() {
    let database = Database::new();
    write(&database, &writer(5), 1, Fence::Checked).unwrap();
    let mut connection = database.connect();
    let transaction = begin(&mut connection);
    let changed = transaction.execute(sql::RAISE, ("account:8", 1, "owner"));
    assert_eq!(sql::passed(changed.unwrap() as u64), Ok(()));
}

/// Both holders add to the balance that they read; the stale one writes after the later one's read,
/// and before its write.
async fn interleaved_additions(raised_before_reading: bool) -> (bool, i64) {
    let (stale, later) = stale_and_later().await;
    let database = Database::new();
    let read = |writer: &Writer| {
        let mut connection = database.connect();
        let transaction = begin(&mut connection);
        if raised_before_reading {
            raise(&transaction, writer).unwrap();
        }
        let balance = balance(&transaction);
        transaction.commit().unwrap();
        balance
    };
    let (stale_read, later_read) = (read(&stale), read(&later));
    let accepted = write(&database, &stale, stale_read + 1, Fence::Checked).is_ok();
    write(&database, &later, later_read + 10, Fence::Checked).unwrap();
    (accepted, database.balance())
}

#[tokio::test]
async fn no_accepted_write_is_lost_if_the_fence_is_raised_before_the_first_read() {
    assert_eq!(interleaved_additions(true).await, (false, 110));
    // The control: accepted, and then overwritten.
    assert_eq!(interleaved_additions(false).await, (true, 110));
}

#[test]
fn a_transaction_that_raised_the_fence_keeps_others_out_until_it_ends() {
    let database = Database::new();
    let mut connection = database.connect();
    let transaction = begin(&mut connection);
    raise(&transaction, &writer(5)).unwrap();

    let other = database.connect();
    other.busy_timeout(std::time::Duration::ZERO).unwrap();
    let blocked = other.execute(sql::RAISE, ("account:7", 6, "owner"));
    assert!(blocked.is_err(), "the fence was not locked");
    transaction.commit().unwrap();
    assert_eq!(other.execute(sql::RAISE, ("account:7", 6, "owner")), Ok(1));
}
