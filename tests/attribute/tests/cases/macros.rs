//! Functions written by `macro_rules!`: names are found whichever side wrote the argument and the
//! template.

use lock_attribute_tests::{locked, record};
use lock_runtime::{LockError, distributed_lock};

type Res<T> = Result<T, LockError>;

// The argument from the call, the template from the macro; also the block and the type.
// async-trait#46, #104.
macro_rules! with_argument {
    ($name:ident, $argument:ident: $ty:ty, $body:block) => {
        #[distributed_lock(key = "argument:<id>")]
        async fn $name($argument: $ty) -> Res<$ty> $body
    };
}
with_argument!(argument_from_the_call, id: u8, { Ok(id + 1) });

// The argument from the macro, the template from the call: as a literal, and as an expression.
// Taken for an expression, the template would be one key for all calls.
macro_rules! with_literal {
    ($name:ident, $key:literal) => {
        #[distributed_lock(key = $key)]
        async fn $name(id: u8) -> Res<u8> {
            Ok(id)
        }
    };
}
with_literal!(template_as_literal, "literal:<id>");

macro_rules! with_expression {
    ($name:ident, $key:expr, $ttl:expr) => {
        #[distributed_lock(key = $key, ttl = $ttl)]
        async fn $name(id: u8) -> Res<u8> {
            Ok(id)
        }
    };
}
with_expression!(template_as_expression, "expression:<id>", "5s");
with_expression!(template_in_parentheses, ("parentheses:<id>"), ("5s"));

macro_rules! with_token {
    ($name:ident, $key:tt) => {
        #[distributed_lock(key = $key)]
        async fn $name(id: u8) -> Res<u8> {
            Ok(id)
        }
    };
}
with_token!(template_as_token, "token:<id>");

struct Seat(u8);

macro_rules! method {
    ($key:literal) => {
        impl Seat {
            #[distributed_lock(key = $key)]
            async fn reserve(&self) -> Res<u8> {
                Ok(self.0)
            }
        }
    };
}
method!("seat:<self.0>");

// The name of the guard from the call, where the body is from too.
macro_rules! guarded {
    ($name:ident, $guard:ident, $body:block) => {
        #[distributed_lock(key = "guarded", guard = $guard)]
        async fn $name() -> Res<u64> $body
    };
}
guarded!(guard_from_the_call, lock, {
    Ok(lock.fencing_token().as_u64())
});

#[tokio::test]
async fn placeholders_are_found_through_macros() {
    let ((), events) = record(async {
        assert_eq!(argument_from_the_call(1).await.unwrap(), 2);
        template_as_literal(2).await.unwrap();
        template_as_expression(3).await.unwrap();
        template_in_parentheses(4).await.unwrap();
        template_as_token(5).await.unwrap();
        Seat(6).reserve().await.unwrap();
        assert!(guard_from_the_call().await.unwrap() > 0);
    })
    .await;
    let keys = [
        "argument:1",
        "literal:2",
        "expression:3",
        "parentheses:4",
        "token:5",
        "seat:6",
        "guarded",
    ];
    assert_eq!(events, keys.map(|key| locked(key, [])).concat());
}
