//! R12: too many clients.

use super::*;

#[tokio::test]
async fn a_server_with_too_many_clients_is_unavailable_until_it_has_room() {
    let server = Server::start();
    let mut client = server.client();
    server.run::<()>(&["CONFIG", "SET", "maxclients", "1"]);
    let refused = redis::Client::open(server.url()).unwrap().get_connection();
    let refused = refused.and_then(|mut connection| redis::cmd("PING").exec(&mut connection));
    assert!(refused.is_err(), "it takes further clients");
    let lazily = builder(server.url()).connect_lazily();
    let lazily = lazily.build().await.unwrap();
    let error = lazily.lock("k").wait(ms(400)).acquire().await.unwrap_err();
    assert!(error.is_unavailable(), "{}", causes(&error));
    redis::cmd("CONFIG")
        .arg("SET")
        .arg("maxclients")
        .arg("100")
        .exec(&mut client)
        .unwrap();
    let mended = Instant::now();
    can_be_had(&lazily, "k").await;
    assert!(mended.elapsed() < Duration::from_secs(1) + SLACK);
}
