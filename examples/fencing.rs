//! Can a holder that has lost its lock still do damage, and what prevents it?
//!
//! A lock across machines cannot stop a write that is on its way already: the writer may have been
//! paused after it had looked at its lock. What can refuse it is the store that is written to, if
//! every write carries the fencing token of the lock. Each holder has a larger token than all
//! before it, so the store refuses what comes with a smaller one than it has seen.
//!
//! ```text
//! $ cargo run --example fencing
//! the first has the lock, and is paused before it writes
//! its lease ends, and a second gets the lock
//! the write of the second is accepted
//! the write of the first is refused: a larger token has been seen
//! the document is by the second
//! release of the first: the lease of the lock `document` was lost after 0s: the store says that it ended
//! ```

use std::time::Duration;

use lock_runtime::memory::MemoryBackend;
use lock_runtime::{FencingToken, LockError, LockRuntime};

/// What a lock protects. `lock_runtime::fencing` has this for SQL, Redis and HTTP.
#[derive(Default)]
struct Document {
    author: String,
    token: Option<FencingToken>,
}

impl Document {
    fn write(&mut self, author: &str, token: FencingToken) {
        if self.token.is_some_and(|newest| token < newest) {
            println!("the write of the {author} is refused: a larger token has been seen");
            return;
        }
        println!("the write of the {author} is accepted");
        self.author = author.to_owned();
        self.token = Some(token);
    }
}

#[tokio::main]
async fn main() -> Result<(), LockError> {
    let store = MemoryBackend::new();
    let locks = LockRuntime::backend(store.clone()).build().await?;
    let another = LockRuntime::backend(store.clone()).build().await?;
    let mut document = Document::default();

    let paused = locks
        .lock("document")
        .ttl(Duration::from_secs(5))
        .acquire()
        .await?;
    println!("the first has the lock, and is paused before it writes");
    store.expire("document");

    let guard = another.lock("document").acquire().await?;
    println!("its lease ends, and a second gets the lock");
    document.write("second", guard.fencing_token());
    document.write("first", paused.fencing_token());
    println!("the document is by the {}", document.author);

    guard.release().await?;
    match paused.release().await {
        Err(error) if error.is_lost() => println!("release of the first: {error}"),
        other => println!("unexpected: {other:?}"),
    }
    Ok(())
}
