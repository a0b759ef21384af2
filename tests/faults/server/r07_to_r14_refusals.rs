//! R7 to R14: every refusal that a server can answer.

use super::*;

#[tokio::test]
async fn every_refusal_of_a_server_is_told_as_what_it_is_and_no_grant() {
    let refusals = [
        (
            "-READONLY You can't write against a read only replica.",
            false,
        ),
        ("-LOADING Redis is loading the dataset in memory", false),
        ("-BUSY Redis is busy running a script.", false),
        ("-MASTERDOWN Link with MASTER is down", false),
        ("-NOREPLICAS Not enough good replicas to write.", false),
        (
            "-OOM command not allowed when used memory > 'maxmemory'.",
            false,
        ),
        ("-MISCONF Redis is configured to save RDB snapshots", false),
        ("-CLUSTERDOWN The cluster is down", false),
        (
            "-TRYAGAIN Multiple keys request during rehashing of slot",
            false,
        ),
        ("-ERR max number of clients reached", false),
        ("-ERR something new", false),
        ("-NOPERM this user has no permissions", true),
        (
            "-ERR The user executing the script can't run this command",
            true,
        ),
        (
            "-CROSSSLOT Keys in request don't hash to the same slot",
            true,
        ),
        ("-MOVED 3999 127.0.0.1:6381", true),
    ];
    let server = Server::start();
    let proxy = Proxy::start(server.port());
    for (refusal, for_good) in refusals {
        let locks = locks(proxy.url()).await;
        let before = proxy.faults();
        proxy.fault_all("acquire", Fault::Reply(refusal));
        let started = Instant::now();
        let error = locks
            .lock("new")
            .wait(ms(1000))
            .acquire()
            .await
            .unwrap_err();
        assert!(proxy.faults() > before);
        assert_eq!(error.is_denied(), for_good, "{refusal}: {}", causes(&error));
        assert_eq!(
            error.is_unavailable(),
            !for_good,
            "{refusal}: {}",
            causes(&error)
        );
        assert!(started.elapsed() < ms(1000) + SLACK, "{refusal}");
        proxy.heal();
        if !for_good {
            // Once is no reason to tell anybody.
            proxy.fault("acquire", Fault::Reply(refusal));
        }
        can_be_had(&locks, "new").await;
        nothing_left(&server).await;
    }
}
