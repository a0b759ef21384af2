//! R22: a server or a proxy without a command that is needed; other servers.

use super::*;

#[tokio::test]
async fn a_proxy_that_knows_no_evalsha_is_a_typed_error_and_leaves_nothing() {
    // What Redis says of a command that it does not know is a refusal for good.
    for (answer, is_denied) in [
        ("-ERR unknown command 'EVALSHA'", true),
        ("-ERR unsupported command", false),
    ] {
        let server = Server::start();
        let proxy = Proxy::start(server.port());
        let locks = locks(proxy.url()).await;
        proxy.fault_all("acquire", Fault::Reply(answer));
        let error = locks.lock("k").wait(ms(300)).acquire().await.unwrap_err();
        assert!(proxy.faults() > 0);
        let found = (error.is_denied(), error.is_unavailable());
        assert_eq!(found, (is_denied, !is_denied), "{}", causes(&error));
        assert!(causes(&error).contains("command"), "{}", causes(&error));
        nothing_left(&server).await;
    }
}

#[tokio::test]
async fn a_server_without_a_command_that_is_needed_is_refused_at_once() {
    for command in [
        "SCRIPT",
        "EVAL",
        "EVALSHA",
        "SUBSCRIBE",
        "PUBLISH",
        "ZPOPMIN",
        "PEXPIRE",
    ] {
        let options = Options::default().with(["--rename-command", command, "HIDDEN"]);
        let server = options.start();
        let error = builder(server.url()).build().await.unwrap_err();
        let causes = causes(&error);
        assert!(error.is_denied(), "{command}: {causes}");
        let names_it = causes.to_uppercase().contains(command);
        assert!(names_it, "{command}: {causes}");
        let keys: Vec<String> = server.run(&["KEYS", "*"]);
        assert!(keys.is_empty(), "{command}: {keys:?}");
    }
}
