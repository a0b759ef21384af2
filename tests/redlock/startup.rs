//! How a runtime begins: by a URL that names the servers, or says what is wrong with it.

use std::process::Command;

use lock_tests::redlock_store::five;

#[test]
fn lock_url_names_the_servers() {
    let servers = five();
    let said = |url: String| {
        let mut process = Command::new(env!("CARGO_BIN_EXE_from_env"));
        let output = process.env("LOCK_URL", url).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let hosts: Vec<_> = servers
        .iter()
        .map(|server| format!("127.0.0.1:{}", server.port()))
        .collect();
    for scheme in ["redis+redlock", "redlock"] {
        let url = format!("{scheme}://{}?restart_delay=40s", hosts.join(","));
        assert_eq!(said(url), "ready\n");
    }
    let few = said(format!("redlock://{}", hosts[..2].join(",")));
    assert!(few.contains("3 servers or more"), "{few}");
    for (parameter, named) in [("colour=1", "restart_delay"), ("ttl=1", "`ttl`")] {
        let odd = said(format!(
            "redlock://u:secret@{}?{parameter}",
            hosts.join(",")
        ));
        assert!(odd.contains(named) && !odd.contains("secret"), "{odd}");
    }
}
