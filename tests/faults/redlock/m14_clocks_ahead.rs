//! M14: the clocks of servers jump an hour ahead, on one of the five and on three.

use lock_runtime::fencing::Writer;
use lock_tests::faults::clock::Clock;
use lock_tests::faults::resource::{Resource, Write};

use super::*;

/// A fencing token is a time in microseconds.
const HOUR: u64 = 3_600_000_000;

/// Five servers, of which so many live by a clock that can be moved.
fn movable(count: usize) -> (Clock, Vec<Server>) {
    let clock = Clock::new();
    let mut servers: Vec<Server> = (0..count).map(|_| clock.server().start()).collect();
    servers.extend((count..5).map(|_| Server::start()));
    (clock, servers)
}

/// Puts the clocks of so many servers an hour ahead, whose votes have run out by that.
async fn jump(clock: &Clock, servers: &[Server], count: usize) {
    let time = |server: &Server| server.run::<Vec<u64>>(&["TIME"])[0];
    let all: Vec<_> = servers.iter().collect();
    comes_true("all vote for the lease", async || {
        holders(&all).iter().flatten().count() == 5
    })
    .await;
    let before: Vec<u64> = servers.iter().map(time).collect();
    clock.shift(3_600);
    for (server, before) in servers[..count].iter().zip(before) {
        assert!(time(server) >= before + 3_600, "the clock did not move");
    }
    let moved: Vec<_> = servers[..count].iter().collect();
    comes_true("their votes have run out", async || {
        holders(&moved).iter().all(Option::is_none)
    })
    .await;
}

/// Nobody else gets the lock, the vote comes back, and the tokens go on by the true time.
#[tokio::test]
async fn a_clock_an_hour_ahead_on_one_server_costs_a_vote_for_a_moment_and_moves_no_token() {
    let (clock, servers) = movable(1);
    let (here, there) = (connect(&servers).await, connect(&servers).await);
    let held = claim(LONG);
    let first = granted(&here, &held).await;
    jump(&clock, &servers, 1).await;
    let refused = there.acquire(&claim(LONG)).await.unwrap();
    assert!(matches!(refused, Acquired::Taken(_)), "{refused:?}");

    let renewal = Renewal::new(held.key.clone(), held.owner.clone(), LONG);
    let all: Vec<_> = servers.iter().collect();
    comes_true("it votes for the lease again", async || {
        let answers = here.renew(std::slice::from_ref(&renewal)).await;
        assert!(answers[0].is_ok(), "{answers:?}");
        holders(&all).iter().flatten().count() == 5
    })
    .await;
    let release = Release::new(held.key.clone(), held.owner.clone());
    let released = here.release(&release).await.unwrap();
    assert_eq!(released, Released::Released(None));
    let second = granted(&there, &claim(LONG)).await;
    assert!(second > first && second < first + HOUR, "{first} {second}");
}

/// Where a majority of the clocks jumps, two may hold the lock, which is what fences are for: the
/// older holder is refused by what the lock protects, also once the clocks are right again.
#[tokio::test]
async fn clocks_an_hour_ahead_on_three_servers_let_two_hold_the_lock_and_are_fenced() {
    let (clock, servers) = movable(3);
    let directory = tempfile::tempdir().unwrap();
    let resource = Resource::in_sqlite(directory.path());
    let (one, two) = (runtime(&servers).await, runtime(&servers).await);
    let lock = |locks: &LockRuntime| locks.lock("k").ttl(LONG).renew(false).wait(DEADLINE);
    let older = lock(&one).acquire().await.unwrap();
    assert_eq!(resource.write(&Writer::from(&older)).await, Write::Accepted);
    jump(&clock, &servers, 3).await;

    let younger = lock(&two).acquire().await.unwrap();
    assert!(
        older.is_held(),
        "two hold it, by the clocks of their processes"
    );
    assert_eq!(
        resource.write(&Writer::from(&younger)).await,
        Write::Accepted
    );
    assert_eq!(resource.write(&Writer::from(&older)).await, Write::Refused);
    let token = younger.fencing_token();
    assert!(token > older.fencing_token());
    younger.release().await.unwrap();

    clock.shift(0);
    let last = lock(&two).acquire().await.unwrap();
    assert!(last.fencing_token() > token, "{token} was there before");
    assert_eq!(resource.write(&Writer::from(&last)).await, Write::Accepted);
    assert_eq!(resource.stale_writes().await, 0);
    // The control: without a fence the stale write is taken.
    resource.write_unguarded(&Writer::from(&older)).await;
    assert_eq!(resource.stale_writes().await, 1);
}
