//! What may stand in a key, beyond plain values.

use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};

use lock_attribute_tests::{locked, record};
use lock_runtime::{KeyPart, LockError, distributed_lock};

type Res<T> = Result<T, LockError>;

#[derive(KeyPart)]
struct CustomerId(u64);

#[derive(KeyPart)]
struct Email<'a> {
    text: &'a str,
}

#[derive(KeyPart)]
struct Id<K, T: ?Sized>(K, PhantomData<T>)
where
    K: Copy;

#[derive(KeyPart)]
struct Pair(#[allow(dead_code)] (CustomerId, Region));

#[derive(KeyPart, Clone, Copy)]
#[key_part(crate = ::lock_runtime)]
enum Region {
    Europe,
    #[allow(non_camel_case_types)]
    r#type,
}

#[derive(KeyPart)]
enum Never {}

#[distributed_lock(key = "d:<id>:<email>:<typed>:<region>:<raw>")]
async fn derived(
    id: CustomerId,
    email: Email<'_>,
    typed: Id<u8, str>,
    region: Region,
    raw: Region,
) -> Res<()> {
    let _ = (id, email, typed, region, raw);
    Ok(())
}

#[distributed_lock(key = "never:<never>")]
async fn never(never: Option<Never>) -> Res<bool> {
    Ok(never.is_none())
}

#[distributed_lock(key = "c:<tuple>:<array>:<list>:<pair>")]
async fn composed(tuple: (u8, &str), array: [i8; 2], list: Vec<bool>, pair: Pair) -> Res<()> {
    let _ = (tuple, array, list, pair);
    Ok(())
}

#[distributed_lock(key = "o:<user>")]
async fn optional(user: Option<&str>) -> Res<bool> {
    Ok(user.is_some())
}

#[distributed_lock(key = "a:<ip>:<peer>")]
async fn addresses(ip: IpAddr, peer: SocketAddr) -> Res<bool> {
    Ok(ip == peer.ip())
}

#[tokio::test]
async fn newtypes_and_plain_enums_derive_their_part() {
    let ((), events) = record(async {
        let email = Email { text: "a:b" };
        let typed = Id(3, PhantomData);
        derived(CustomerId(1), email, typed, Region::Europe, Region::r#type)
            .await
            .unwrap();
        assert!(never(None).await.unwrap());
    })
    .await;
    let expected = [
        locked("d:1:a%3Ab:3:Europe:type", []),
        locked("never:%(%)", []),
    ];
    assert_eq!(events, expected.concat());
}

#[tokio::test]
async fn tuples_lists_options_and_addresses_are_parts() {
    let ((), events) = record(async {
        let pair = Pair((CustomerId(1), Region::Europe));
        composed((1, "b"), [-1, 2], vec![true], pair).await.unwrap();
        assert!(!optional(None).await.unwrap());
        assert!(optional(Some("")).await.unwrap());
        let ip = [10, 0, 0, 1];
        assert!(addresses(ip.into(), (ip, 80).into()).await.unwrap());
    })
    .await;
    let expected = [
        locked("c:%(1%,b%):%(-1%,2%):true:%(1%,Europe%)", []),
        locked("o:%(%)", []),
        locked("o:", []),
        locked("a:10.0.0.1:10.0.0.1%3A80", []),
    ];
    assert_eq!(events, expected.concat());
}
