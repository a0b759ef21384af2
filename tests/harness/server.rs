//! The test servers are what the tests take them for.

use std::panic::{AssertUnwindSafe, catch_unwind};

use lock_tests::server::{Options, Server};

/// What `action` panics with.
fn panic_of(action: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(action)).expect_err("no panic");
    *panic.downcast::<String>().expect("a message")
}

#[test]
fn a_key_without_a_ttl_fails_the_test_however_it_ends() {
    for end in [Server::finish, drop] {
        for database in ["0", "7"] {
            let server = Server::start();
            let mut client = server.client();
            redis::cmd("SELECT")
                .arg(database)
                .exec(&mut client)
                .unwrap();
            redis::cmd("SET")
                .arg("planted")
                .arg(1)
                .exec(&mut client)
                .unwrap();
            let message = panic_of(move || end(server));
            assert!(message.contains("planted"), "{message}");
        }
    }
}

#[test]
fn keys_with_a_ttl_and_those_of_the_test_itself_are_no_leaks() {
    let server = Server::start();
    server.run::<()>(&["SET", "with a ttl", "1", "PX", "60000"]);
    server.run::<()>(&["SET", "foreign", "1"]);
    assert_eq!(server.leaked_keys(), ["foreign"]);
    server.forgive("foreign");
    server.finish();
}

#[test]
fn a_server_that_is_down_cannot_pass_the_search() {
    let mut server = Server::start();
    server.kill();
    panic_of(move || server.finish());
}

#[test]
fn servers_run_side_by_side_and_come_back_where_they_were() {
    let (mut one, other) = (Server::start(), Server::start());
    assert_ne!(one.port(), other.port());
    one.run::<()>(&["SET", "key", "one", "PX", "60000"]);
    assert_eq!(other.run::<Option<String>>(&["GET", "key"]), None);
    let url = one.url();
    one.kill();
    one.restart();
    assert_eq!(one.url(), url);
    assert_eq!(one.run::<Option<String>>(&["GET", "key"]), None);
}

#[test]
fn a_server_ends_with_its_value_even_if_it_stands_still() {
    let mut server = Server::start();
    let port = server.port();
    server.pause();
    drop(server);
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn a_missing_program_says_how_to_get_it() {
    let options = Options::default().program("no-redis-server-of-this-name");
    let message = panic_of(move || drop(options.start()));
    assert!(message.contains("scripts/test"), "{message}");
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let options = Options::default().with(["--no-such-option", "1"]);
    let message = panic_of(move || drop(options.start()));
    assert!(message.contains("no-such-option"), "{message}");
}
