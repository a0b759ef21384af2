//! Names of a user that generated code, or the standard library, has too. cached#114, #230,
//! tracing#1318, #1819, #3119, typetag#50.
#![allow(
    dead_code,
    unused_macros,
    non_camel_case_types,
    clippy::used_underscore_binding
)]

use lock_attribute_tests::{locked, record};
use lock_runtime::{LockError, distributed_lock};

mod core {}
mod std {}
mod alloc {}
mod lock_runtime_of_mine {}
struct Ok;
struct Err;
struct Some;
struct None;
struct Option;
struct Result;
struct Pin;
struct Box;
struct Future;
struct Spec;
struct str;
trait KeyPart {
    fn add(&self) {}
}
impl KeyPart for u8 {}
trait LockReturn {
    fn from_lock_error() {}
}
impl<T> LockReturn for T {}
trait AsRef {
    fn as_ref(&self) {}
}
impl<T> AsRef for T {}
macro_rules! pin {
    ($($t:tt)*) => {
        compile_error!("not this `pin!`")
    };
}
fn run() {}

type Res<T> = ::core::result::Result<T, LockError>;

#[allow(clippy::too_many_arguments)]
#[distributed_lock(key = "clash:<key>:<__key>", ttl = "5s", wait = "1s", guard = guard)]
async fn arguments(
    key: u8,
    __spec: u8,
    __body: u8,
    __key: u8,
    __ret: u8,
    __slot: u8,
    spec: u8,
    body: u8,
) -> Res<u8> {
    drop(guard);
    Res::Ok(key + __spec + __body + __key + __ret + __slot + spec + body)
}

#[distributed_lock(key = self::key_of(), runtime = self::runtime().await)]
async fn expressions() -> Res<()> {
    Res::Ok(())
}

fn key_of() -> String {
    String::from("expression")
}

async fn runtime() -> ::lock_runtime::LockRuntime {
    tokio::task::yield_now().await;
    ::lock_runtime::LockRuntime::current().unwrap()
}

#[tokio::test]
async fn no_name_of_a_user_clashes() {
    let ((), events) = record(async {
        assert_eq!(arguments(1, 2, 4, 8, 16, 32, 64, 128).await.unwrap(), 255);
        expressions().await.unwrap();
    })
    .await;
    let expected = [locked("clash:1:8", []), locked("expression", [])];
    assert_eq!(events, expected.concat());
}
