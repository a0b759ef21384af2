//! Two locks that are taken in both orders are told of.

use std::sync::{Arc, Mutex};

use lock_runtime::{LockError, LockEvent, LockRuntime, distributed_lock};

#[distributed_lock(key = "account:<id>")]
async fn account(id: u64, within: Option<u64>) -> Result<(), LockError> {
    match within {
        Some(order) => Box::pin(order_of(order, None)).await,
        None => Ok(()),
    }
}

#[distributed_lock(key = "order:<id>")]
async fn order_of(id: u64, within: Option<u64>) -> Result<(), LockError> {
    match within {
        Some(other) => Box::pin(account(other, None)).await,
        None => Ok(()),
    }
}

type Pair = ([&'static str; 2], [&'static str; 2]);

async fn observed() -> (LockRuntime, Arc<Mutex<Vec<Pair>>>) {
    let told: Arc<Mutex<Vec<Pair>>> = Arc::default();
    let seen = Arc::clone(&told);
    let locks = LockRuntime::in_memory().observer(move |event: &LockEvent| {
        if let LockEvent::BothOrders {
            first,
            second,
            functions,
            ..
        } = event
        {
            seen.lock().unwrap().push(([first, second], *functions));
        }
    });
    (locks.build().await.unwrap(), told)
}

#[tokio::test]
async fn two_locks_in_both_orders_are_told_once_with_their_functions() {
    let (locks, told) = observed().await;
    for _ in 0..2 {
        LockRuntime::scope(locks.clone(), account(1, Some(2)))
            .await
            .unwrap();
    }
    // One order alone is none of anybody's business.
    assert!(told.lock().unwrap().is_empty());
    for id in 3..5 {
        LockRuntime::scope(locks.clone(), order_of(id, Some(id)))
            .await
            .unwrap();
        LockRuntime::scope(locks.clone(), account(id, Some(id)))
            .await
            .unwrap();
    }
    let told = told.lock().unwrap().clone();
    let [(names, [one, other])] = told.as_slice() else {
        panic!("not once: {told:?}");
    };
    assert_eq!(*names, ["order:<id>", "account:<id>"]);
    assert!(one.ends_with("orders::account"), "{one}");
    assert!(other.ends_with("orders::order_of"), "{other}");
}

/// Whoever takes both by one call cannot wait for another who does.
#[tokio::test]
async fn two_locks_that_are_taken_together_are_in_no_order() {
    let (locks, told) = observed().await;
    for keys in [["a", "b"], ["b", "a"]] {
        locks
            .lock_all(keys)
            .name("pair")
            .run(async |_| ())
            .await
            .unwrap();
    }
    assert!(told.lock().unwrap().is_empty());
    // By hand, within a body: the same as by the attribute.
    let within = async |outer: &'static str, inner: &'static str| {
        let body = locks.lock(outer).name(outer);
        let inner = locks.lock(inner).name(inner);
        body.run(async |_| inner.acquire().await.unwrap().release().await.unwrap())
            .await
            .unwrap();
    };
    within("a", "b").await;
    assert!(told.lock().unwrap().is_empty());
    within("b", "a").await;
    assert_eq!(told.lock().unwrap().len(), 1);
}
