//! E20: the leader is killed, stands still and is cut off under load.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use super::*;

/// How long one question may take, of ours as of the bare client.
const COMMAND: Duration = Duration::from_secs(2);
/// Longer than a leader stands still, since etcd 3.4.23 lets one end leases that were renewed
/// elsewhere meanwhile.
const LASTING: Duration = Duration::from_secs(60);

/// Writes a key by the JSON gateway of the member at `port`.
fn writes(port: u16) -> io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port).into(), COMMAND)?;
    stream.set_read_timeout(Some(COMMAND))?;
    let body = r#"{"key":"YmFyZQ==","value":"MQ=="}"#;
    let length = body.len();
    write!(
        stream,
        "POST /v3/kv/put HTTP/1.1\r\nHost: etcd\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    let mut status = [0; 12];
    stream.read_exact(&mut status)?;
    Ok(status == *b"HTTP/1.1 200")
}

/// How long it takes a client that does nothing but write, one member after the other.
fn bare_client(ports: [u16; 2]) -> Duration {
    let started = Instant::now();
    let mut ports = ports.into_iter().cycle();
    while !ports
        .next()
        .is_some_and(|port| writes(port).is_ok_and(|is_written| is_written))
    {
        assert!(started.elapsed() < DEADLINE, "etcd never came back");
        std::thread::sleep(ms(5));
    }
    started.elapsed()
}

/// Causes a fault of the leader under load. Live holders keep their locks, no two have one, and
/// locks are to be had about as soon as anything can be written.
async fn survives(
    fault: impl AsyncFn(&mut Cluster, usize),
    mend: impl AsyncFn(&mut Cluster, usize),
) {
    let _alone = alone().await;
    let mut cluster = Options::default().cuttable().start(3);
    let all = cluster.endpoints();
    let runtimes = vec![runtime(all.clone()).await, runtime(all.clone()).await];
    let terms = Terms {
        ttl: secs(8),
        wait: secs(4),
        may_lose: false,
    };
    let turns = Turns::start(runtimes, terms);
    let steady = runtime(all.clone()).await;
    let lasting = held(&steady, "lasting", LASTING).await;
    turns.go_on(DEADLINE).await;

    // Of these two it is not chance whether one talks to the member that fails.
    let leader = cluster.leader();
    let others = [1, 2].map(|step| (leader + step) % 3);
    let ports = others.map(|place| cluster.port(place));
    let locks = runtime(others.map(|place| all[place].clone()).to_vec()).await;
    let before = held(&locks, "before", secs(8)).await;
    before.release().await.unwrap();

    fault(&mut cluster, leader).await;
    let failed = Instant::now();
    let bare = spawn_blocking(move || bare_client(ports));
    held(&locks, "after", secs(8))
        .await
        .release()
        .await
        .unwrap();
    let ours = failed.elapsed();
    let bare = timeout(DEADLINE, bare).await.unwrap().unwrap();
    println!("a bare client writes after {bare:?}, a lock is had and released after {ours:?}");
    eventually_in(DEADLINE, "another leads", || {
        others.iter().any(|place| cluster.leads(*place))
    })
    .await;
    // Chance may have a question of ours sent before the election, and that of the other after.
    assert!(
        ours <= bare * 3 / 2 + COMMAND,
        "{ours:?}, where {bare:?} would do"
    );
    assert!(lasting.is_held(), "a live holder has lost its lock");
    turns.go_on(DEADLINE).await;
    mend(&mut cluster, leader).await;
    turns.go_on(DEADLINE).await;
    assert!(lasting.is_held(), "a live holder has lost its lock");
    lasting.release().await.unwrap();
    turns.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_are_back_as_soon_as_etcd_when_the_leader_is_killed() {
    survives(
        async |cluster, leader| cluster.kill(leader),
        async |cluster, leader| cluster.revive(leader),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_are_back_as_soon_as_etcd_when_the_leader_stands_still() {
    survives(
        async |cluster, leader| cluster.pause(leader),
        async |cluster, leader| cluster.resume(leader),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_are_back_as_soon_as_etcd_when_the_leader_is_cut_off() {
    survives(
        async |cluster, leader| cluster.cut_off(Some(leader)),
        async |cluster, _| cluster.cut_off(None),
    )
    .await;
}
