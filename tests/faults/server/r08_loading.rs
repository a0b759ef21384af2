//! R8: the server loads.

use super::*;

#[tokio::test]
async fn a_server_that_loads_is_unavailable_until_it_has() {
    let mut server = Options::default()
        .with([
            "--key-load-delay",
            "200",
            "--loading-process-events-interval-bytes",
            "1024",
        ])
        .start();
    let locks = locks(server.url()).await;
    let fill = "for i = 1, 30000 do redis.call('SET', 'x' .. i, i, 'EX', 600) end";
    server.run::<()>(&["EVAL", fill, "0"]);
    server.run::<()>(&["SAVE"]);
    server.kill();
    server.restart();
    let info: String = server.run(&["INFO", "persistence"]);
    assert!(info.contains("loading:1"), "it is not loading");

    let error = locks
        .lock("k")
        .wait(Duration::ZERO)
        .acquire()
        .await
        .unwrap_err();
    assert!(error.is_unavailable(), "{}", causes(&error));
    let guard = locks.lock("k").acquire().await.unwrap();
    guard.release().await.unwrap();
}
