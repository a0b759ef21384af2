//! A holder that lost its lease, and writes late.

use crate::example;

#[test]
fn the_late_write_of_a_holder_is_refused_by_its_token() {
    let printed = example::output(example::command("fencing", None));
    for line in [
        "the write of the second is accepted",
        "the write of the first is refused: a larger token has been seen",
        "the document is by the second",
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{printed}");
    }
}
