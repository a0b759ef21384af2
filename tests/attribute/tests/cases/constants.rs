//! Constants in a template.

use std::future::Future;
use std::pin::Pin;

use async_trait::async_trait;
use lock_attribute_tests::{locked, record};
use lock_runtime::{KeyPart, LockError, distributed_lock};

type Res<T> = Result<T, LockError>;

const PREFIX: &str = "prefix";
const SIZE_2: (u8, u8) = (1, 2);

mod config {
    pub(crate) const NAME: &str = "a:b";
}

#[derive(KeyPart, Clone, Copy)]
enum Region {
    Europe,
}

struct Shop {
    id: u8,
}

impl Shop {
    const NAME: &'static str = "shop";

    #[distributed_lock(key = "<Self::NAME>:<self.id>")]
    async fn open(&self) -> Res<u8> {
        Ok(self.id)
    }
}

trait Named {
    const NAME: &'static str;
    const LIMITS: (u8, u8) = (3, 4);

    #[distributed_lock(key = "named:<Self::NAME>:<Self::LIMITS.1>")]
    #[allow(async_fn_in_trait)]
    async fn by_its_name(&self) -> Res<()> {
        Ok(())
    }
}

impl Named for Shop {
    const NAME: &'static str = "named shop";
}

#[async_trait]
trait Opens {
    async fn open_boxed(&self, (a, b): (u8, u8)) -> Res<u8>;
}

#[async_trait]
impl Opens for Shop {
    #[distributed_lock(key = "boxed:<Self::NAME>:<self.id>:<a>")]
    async fn open_boxed(&self, (a, b): (u8, u8)) -> Res<u8> {
        Ok(a + b)
    }
}

struct Shard<const N: usize>;

impl<const N: usize> Shard<N> {
    #[distributed_lock(key = "shard:{<N>}")]
    async fn sweep(&self) -> Res<usize> {
        Ok(N)
    }
}

#[distributed_lock(key = "<PREFIX>:<SIZE_2.0>:<config::NAME>:<crate::constants::config::NAME>:<N>")]
async fn constants<const N: u8>() -> Res<u8> {
    Ok(N)
}

#[distributed_lock(key = "region:<Region::Europe>:<u8::MAX>:<ID>")]
async fn paths(id: Region) -> Res<()> {
    let _ = id;
    Ok(())
}

const ID: char = 'i';

#[distributed_lock(key = "pinned:<PREFIX>:<id>")]
fn pinned(id: u8) -> Pin<Box<dyn Future<Output = Res<u8>> + Send>> {
    Box::pin(async move { Ok(id) })
}

macro_rules! with_template {
    ($name:ident, $template:literal) => {
        #[distributed_lock(key = $template)]
        async fn $name() -> Res<()> {
            Ok(())
        }
    };
}
with_template!(from_a_macro, "macro:<PREFIX>:<config::NAME>");

// Values that no template has, so nothing is said about them.
#[distributed_lock(key = format!("{:>3}:{}", a, b.to_lowercase()))]
async fn formatted(a: u8, b: &str) -> Res<()> {
    Ok(())
}

#[tokio::test]
async fn constants_stand_in_a_template() {
    let ((), events) = record(async {
        let shop = Shop { id: 5 };
        assert_eq!(shop.open().await.unwrap(), 5);
        shop.by_its_name().await.unwrap();
        assert_eq!(shop.open_boxed((1, 2)).await.unwrap(), 3);
        assert_eq!(Shard::<3>.sweep().await.unwrap(), 3);
        assert_eq!(constants::<7>().await.unwrap(), 7);
        paths(Region::Europe).await.unwrap();
        assert_eq!(pinned(6).await.unwrap(), 6);
        from_a_macro().await.unwrap();
        formatted(1, "B").await.unwrap();
    })
    .await;
    let keys = [
        "shop:5",
        "named:named shop:4",
        "boxed:shop:5:1",
        "shard:{3}",
        "prefix:1:a%3Ab:a%3Ab:7",
        "region:Europe:255:i",
        "pinned:prefix:6",
        "macro:prefix:a%3Ab",
        "  1:b",
    ];
    assert_eq!(events, keys.map(|key| locked(key, [])).concat());
}
