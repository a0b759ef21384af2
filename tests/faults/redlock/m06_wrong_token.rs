//! M6: a server has stored a token that is an hour ahead.

use super::*;

#[tokio::test]
async fn the_tokens_of_a_server_with_a_wrong_clock_move_nothing() {
    let servers = five();
    let backend = connect(&servers).await;
    let first = granted(&backend, &claim(LONG)).await;
    for server in &servers {
        server.run::<()>(&["DEL", "lock:k"]);
    }
    // What a server would have stored that once was ahead.
    let ahead = first + 3_600_000_000;
    servers[0].run::<()>(&["SET", "{lock:k}:fence", &ahead.to_string(), "PX", "60000"]);
    let second = granted(&backend, &claim(LONG)).await;
    assert!(second > first && second < ahead, "{first} {second} {ahead}");
}
