//! M5: a server of a lease on three restarts empty.

use super::*;

/// Held on three of five, of which one restarts empty: a second claim has a majority unless the
/// rule keeps that server from voting.
#[tokio::test]
async fn a_server_that_lost_its_data_votes_for_nobody_for_the_restart_delay() {
    for is_on in [true, false] {
        let mut servers = five();
        let backend = async |delay| {
            let mut settings = lock_runtime::redlock::RedlockSettings::default();
            settings.restart_delay = delay;
            settings.redis.command_timeout = ms(200);
            let configs = urls(&servers).into_iter();
            let configs = configs.map(lock_runtime::redis::deadpool_redis::Config::from_url);
            let configs: Vec<_> = configs.collect();
            RedlockBackend::connect(&configs, settings).await.unwrap()
        };
        let delay = if is_on { ms(6000) } else { Duration::ZERO };
        let (here, there) = (backend(delay).await, backend(delay).await);
        // New servers vote after the delay as well, and say so.
        if is_on {
            let error = here.acquire(&claim(ms(2000))).await.unwrap_err();
            let text = error.into_source().to_string();
            assert!(text.contains("restart_delay"), "{text}");
        }
        let holder = claim(ms(6000));
        // Two hang while it is granted, so it is on three.
        let all: Vec<_> = servers.iter().collect();
        let probe = claim(ms(1000));
        comes_true("the votes of all new servers", async || {
            let is_granted = matches!(here.acquire(&probe).await, Ok(Acquired::Granted(_)));
            is_granted && holders(&all).iter().flatten().count() == 5
        })
        .await;
        here.abandon(&probe).await.unwrap();
        comes_true("the end of all votes", async || {
            holders(&all).iter().all(Option::is_none)
        })
        .await;
        servers[3].kill();
        servers[4].kill();
        let first = granted(&here, &holder).await;
        // What was asked of the two has been given up by then.
        sleep(ms(400)).await;
        servers[3].restart();
        servers[4].restart();
        servers[3..].iter().for_each(was_there_before);
        servers[0].kill();
        servers[0].restart();
        assert_eq!(
            holders(&[&servers[0]]),
            [None],
            "it should have lost its data"
        );
        let other = claim(ms(6000));
        let ask = async {
            loop {
                match there.acquire(&other).await {
                    Ok(Acquired::Granted(grant)) => return grant.tokens.first.as_u64(),
                    Ok(_) | Err(_) => sleep(ms(20)).await,
                }
            }
        };
        let second = timeout(ms(3500), ask).await.ok();
        let lost = [&servers[3], &servers[4]];
        assert!(!holders(&lost).contains(&Some(holder.owner.to_string())));
        assert_eq!(second.is_none(), is_on, "{second:?}");
        if let Some(second) = second {
            assert!(
                second > first,
                "the fence has to hold where the lock does not"
            );
        }
    }
}
