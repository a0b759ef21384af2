//! Return types and ways out of a body.

use std::fmt::Display;

use lock_attribute_tests::{locked, note, record};
use lock_runtime::{LockError, distributed_lock};

#[derive(Debug)]
enum ClaimError {
    Lock(LockError),
    Parse(std::num::ParseIntError),
}

impl From<LockError> for ClaimError {
    fn from(error: LockError) -> ClaimError {
        ClaimError::Lock(error)
    }
}

impl From<std::num::ParseIntError> for ClaimError {
    fn from(error: std::num::ParseIntError) -> ClaimError {
        ClaimError::Parse(error)
    }
}

// cached, serial_test#17, #126: a `Result` by any name.
type Claim<T> = Result<T, ClaimError>;

#[distributed_lock(key = "r:alias")]
async fn alias(text: &str) -> Claim<u8> {
    let number: u8 = text.parse()?;
    if number == 0 {
        return Ok(1);
    }
    for n in 0..number {
        if n == 3 {
            return Ok(n);
        }
    }
    Ok(number)
}

#[distributed_lock(key = "r:std")]
async fn by_full_path() -> std::result::Result<(), ClaimError> {
    Ok(())
}

// async-trait#149, fastrace#130, tracing#1056
#[distributed_lock(key = "r:coerced")]
async fn coerced(early: bool) -> Claim<Box<dyn Display>> {
    if early {
        return Ok(Box::new("text"));
    }
    Ok(Box::new(1))
}

// axum#587
#[distributed_lock(key = "r:impl")]
async fn opaque() -> Claim<impl Display> {
    Ok("shown")
}

// tracing#1615
#[distributed_lock(key = "r:closure")]
async fn closure(by: u8) -> Claim<impl Fn(u8) -> u8> {
    Ok(move |n| n + by)
}

fn none(_: LockError) -> Option<u8> {
    None
}

fn nothing(_: LockError) {}

#[distributed_lock(key = "r:option", on_error = none)]
async fn option() -> Option<u8> {
    Some(1)
}

#[distributed_lock(key = "r:unit", on_error = nothing)]
async fn unit() {
    note("body");
}

#[distributed_lock(key = reason, on_error = u8_of)]
async fn plain(reason: &str) -> u8 {
    1
}

fn u8_of(_: LockError) -> u8 {
    0
}

// fastrace#137, async-trait#265, tracing#2709: no warning about code that cannot be reached.
#[distributed_lock(key = "r:todo")]
async fn diverging(panics: bool) -> Claim<u8> {
    if panics {
        #[allow(clippy::todo)]
        {
            todo!()
        }
    }
    let mut rounds = 0;
    loop {
        rounds += 1;
        if rounds == 4 {
            return Ok(rounds);
        }
    }
}

#[distributed_lock(key = "r:panic")]
async fn only_panics() -> Claim<u8> {
    panic!("on purpose")
}

// tracing#3306
#[distributed_lock(key = "r:shadow")]
async fn shadowed() -> Claim<u8> {
    #[allow(unused_imports)]
    use std::fmt::Result as Claim;
    Ok(5)
}

#[distributed_lock(key = "r:line")]
async fn one_line() -> Claim<u8> {
    Ok(6)
}

#[tokio::test]
async fn every_way_out_releases() {
    let ((), events) = record(async {
        assert_eq!(alias("0").await.unwrap(), 1);
        assert_eq!(alias("9").await.unwrap(), 3);
        assert!(matches!(alias("x").await, Err(ClaimError::Parse(error)) if !error.to_string().is_empty()));
        by_full_path().await.unwrap();
        assert_eq!(coerced(true).await.unwrap().to_string(), "text");
        assert_eq!(coerced(false).await.unwrap().to_string(), "1");
        assert_eq!(opaque().await.unwrap().to_string(), "shown");
        assert_eq!(closure(2).await.unwrap()(3), 5);
        assert_eq!(option().await, Some(1));
        unit().await;
        assert_eq!(diverging(false).await.unwrap(), 4);
        assert_eq!(shadowed().await.unwrap(), 5);
        assert_eq!(one_line().await.unwrap(), 6);
        assert_eq!(plain("r:plain").await, 1);
        // An empty key is refused, and the refusal becomes the return value.
        assert_eq!(plain("").await, 0);
    })
    .await;
    let expected = [
        locked("r:alias", []),
        locked("r:alias", []),
        locked("r:alias", []),
        locked("r:std", []),
        locked("r:coerced", []),
        locked("r:coerced", []),
        locked("r:impl", []),
        locked("r:closure", []),
        locked("r:option", []),
        locked("r:unit", ["body"]),
        locked("r:todo", []),
        locked("r:shadow", []),
        locked("r:line", []),
        locked("r:plain", []),
    ];
    assert_eq!(events, expected.concat());
}

#[tokio::test]
async fn a_refusal_becomes_the_error_of_the_function() {
    // No runtime is in scope.
    assert!(matches!(alias("1").await, Err(ClaimError::Lock(error)) if error.is_not_installed()));
    assert_eq!(option().await, None);
    assert!(only_panics().await.is_err());
}
