//! A sale whose stock is in parts, as a user runs it.

use lock_tests::server::Server;

use crate::example;

/// How many coupons were given and how many claims were refused, for 1, 4, 16 and 64 shards.
fn sales(more: &[&str]) -> Vec<(u64, u64)> {
    let server = Server::start();
    let mut sale = example::command("flash_sale", Some(&server));
    sale.args(["--coupons", "100", "--tasks", "8"]).args(more);
    let text = example::output(sale);
    server.finish();
    let lines = text.lines().skip(1).map(|line| {
        let words = line.split(|c: char| !c.is_ascii_digit());
        let numbers: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
        let [_, _, given, refused] = numbers[..] else {
            panic!("{line}");
        };
        (given, refused)
    });
    lines.collect()
}

#[test]
fn a_sale_gives_as_many_coupons_as_there_are_however_many_shards_it_has() {
    let file = concat!(env!("CARGO_TARGET_TMPDIR"), "/flash-sale.svg");
    assert_eq!(sales(&["--plot", file]), [(100, 20); 4]);
    let plot = std::fs::read_to_string(file).unwrap();
    assert_eq!(plot.matches("<circle").count(), 4, "{plot}");
}

#[test]
fn without_the_lock_more_are_given_than_there_are() {
    let sales = sales(&["--without-lock"]);
    assert!(sales.iter().any(|(given, _)| *given > 100), "{sales:?}");
}
