//! R21: another database, no Redis, TLS against plain.

use super::*;

#[tokio::test]
async fn another_database_is_another_world() {
    let server = Server::start();
    let (zero, one) = (
        locks(server.url()).await,
        locks(format!("{}/1", server.url())).await,
    );
    let held = zero.lock("k").acquire().await.unwrap();
    let other = one
        .lock("k")
        .try_acquire()
        .await
        .unwrap()
        .expect("databases do not exclude each other");
    assert!(zero.lock("k").try_acquire().await.unwrap().is_none());
    held.release().await.unwrap();
    other.release().await.unwrap();
}

#[tokio::test]
async fn a_peer_that_is_no_redis_is_a_typed_error_in_time() {
    let http = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = http.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in http.incoming().map_while(Result::ok) {
            use std::io::Write;
            let _ = (&client).write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
        }
    });
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    for port in [port, mute.local_addr().unwrap().port(), closed] {
        let started = Instant::now();
        let error = builder(format!("redis://127.0.0.1:{port}"))
            .build()
            .await
            .unwrap_err();
        assert!(error.is_unavailable(), "{}", causes(&error));
        assert!(started.elapsed() < Duration::from_secs(5) + SLACK);
    }
}

#[tokio::test]
async fn tls_to_a_plain_port_and_plain_to_a_tls_port_are_typed_errors_in_time() {
    let server = Options::default().tls().start();
    let tls_port = server.tls_url().rsplit_once(':').unwrap().1.to_owned();
    for url in [
        format!("rediss://127.0.0.1:{}", server.port()),
        format!("redis://127.0.0.1:{tls_port}"),
    ] {
        let started = Instant::now();
        let error = builder(&url).build().await.unwrap_err();
        assert!(error.is_unavailable(), "{url}: {}", causes(&error));
        assert!(started.elapsed() < Duration::from_secs(5) + SLACK, "{url}");
    }
}
