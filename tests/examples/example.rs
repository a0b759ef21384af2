//! Running an example as a user does, as a process.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lock_tests::server::Server;

/// An example, with its locks on `server`, or in memory.
pub(crate) fn command(name: &str, server: Option<&Server>) -> Command {
    let mut command = Command::new(program(name));
    match server {
        Some(server) => command.env("LOCK_URL", server.url()),
        None => command.env_remove("LOCK_URL"),
    };
    command.stderr(Stdio::inherit());
    command
}

/// What an example prints, which must end well.
#[allow(dead_code, reason = "not every test waits for the end")]
pub(crate) fn output(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "ended with {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Where Cargo puts the examples, which it builds with the tests of the workspace; but not with
/// those of this package alone.
fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("examples").join(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../examples/{name}.rs"));
    let changed = |path: &Path| path.metadata().and_then(|file| file.modified()).ok();
    assert!(
        changed(&program) >= changed(&source),
        "build the examples first: `cargo build --workspace --examples`"
    );
    program
}
