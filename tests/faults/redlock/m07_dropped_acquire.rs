//! M7: an acquire is dropped at any poll.

use super::*;

/// However an acquire is cut off, its withdrawal leaves nothing.
#[tokio::test]
async fn an_acquire_that_is_dropped_at_any_poll_leaves_nothing() {
    let servers = five();
    let (here, there) = (connect(&servers).await, connect(&servers).await);
    for polls in 0..12 {
        for waits in [false, true] {
            let mut gone = claim(LONG);
            gone.queue = waits;
            {
                let mut asked = Box::pin(here.acquire(&gone));
                for _ in 0..polls {
                    if poll_once(asked.as_mut()).is_ready() {
                        break;
                    }
                    sleep(Duration::from_micros(100)).await;
                }
            }
            gone.in_doubt = true;
            here.abandon(&gone).await.unwrap();
            let other = claim(LONG);
            comes_true("the lock", async || {
                matches!(there.acquire(&other).await.unwrap(), Acquired::Granted(_))
            })
            .await;
            let release = Release::new(other.key.clone(), other.owner.clone());
            there.release(&release).await.unwrap();
        }
    }
    let all: Vec<_> = servers.iter().collect();
    comes_true("the end of all votes", async || {
        holders(&all).iter().all(Option::is_none)
    })
    .await;
}
