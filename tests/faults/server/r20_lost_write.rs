//! R20: the last write never reached the disk.

use super::*;

#[tokio::test]
async fn a_grant_that_the_append_only_file_lost_is_fenced() {
    let options = Options::default().with(["--appendonly", "yes", "--appendfsync", "always"]);
    let mut server = options.with(["--aof-load-truncated", "yes"]).start();
    let directory = tempfile::tempdir().unwrap();
    let resource = Resource::in_sqlite(directory.path());
    let (one, two) = (locks(server.url()).await, locks(server.url()).await);
    can_be_had(&one, "k").await;
    let length = server.append_only_file().metadata().unwrap().len();
    let stale = one
        .lock("k")
        .ttl(ms(60_000))
        .renew(false)
        .acquire()
        .await
        .unwrap();
    assert_eq!(write(&resource, &stale).await, Write::Accepted);
    server.kill();
    // The power went before the last write reached the disk.
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(server.append_only_file())
        .unwrap();
    assert!(file.metadata().unwrap().len() > length);
    file.set_len(length + 10).unwrap();
    server.restart();
    loaded(&server).await;
    assert_eq!(owner(&server, "k"), None, "it was not lost");
    let fresh = two.lock("k").acquire().await.unwrap();
    assert_fenced(&resource, &stale, &fresh).await;
}
