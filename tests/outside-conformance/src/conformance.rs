//! The table keeps the contract, and the suite would find it if it did not.

use lock_protocol::LockKey;

use crate::{Client, Table};

// The next ten lines are those of the README.
impl lock_conformance::Store for Table {
    type Backend = Client;
    async fn connect(&self) -> Client { Client::of(self) }
    async fn expire(&self, key: &LockKey) { self.delete_lease(key) }
    async fn seize(&self, key: &LockKey) { self.insert_foreigner(key) }
    async fn go_dark(&self) { self.stop() }
    async fn leftovers(&self) -> Vec<String> { self.rows() }
}
lock_conformance::conformance! { #[tokio::test(start_paused = true)] Table::default() }
mod controls { lock_conformance::controls! { #[tokio::test(start_paused = true)] super::Table::default() } }
