//! M13: the clock of a server is set forward after a restart without its data.

use super::*;

/// A clock an hour ahead on one server costs its vote, and moves no token.
/// A machine often starts with a clock that is behind, and is set forward: what its server takes
/// for the restart delay has not passed then.
#[tokio::test]
async fn a_clock_that_is_set_forward_after_a_restart_does_not_shorten_the_restart_delay() {
    let servers = five();
    let mut settings = lock_runtime::redlock::RedlockSettings::default();
    settings.restart_delay = LONG;
    let configs = urls(&servers).into_iter();
    let configs = configs.map(lock_runtime::redis::deadpool_redis::Config::from_url);
    let configs: Vec<_> = configs.collect();
    let backend = RedlockBackend::connect(&configs, settings).await.unwrap();
    const MARKER: &str = "{lock:}:votes:counter";
    let is_known = |server: &Server| server.run::<bool>(&["EXISTS", MARKER]);
    comes_true("the first sight", async || servers.iter().all(is_known)).await;
    // As the clock sees it that is set forward since.
    let set_back = |by_own: u64, by_most: u64| {
        for server in &servers {
            let since: String = server.run(&["GET", MARKER]);
            let (own, most) = since.split_once(' ').unwrap();
            let (own, most): (u64, u64) = (own.parse().unwrap(), most.parse().unwrap());
            let since = format!("{} {}", own - by_own, most - by_most);
            server.run::<()>(&["SET", MARKER, &since, "PX", "60000"]);
        }
    };
    let step = 1_000_000 * 2 * LONG.as_secs();
    set_back(step, 0);
    let error = backend.acquire(&claim(LONG)).await.unwrap_err();
    let cause = error.into_source().to_string();
    assert!(cause.contains("restart_delay"), "{cause}");
    set_back(0, step);
    granted(&backend, &claim(LONG)).await;
}
