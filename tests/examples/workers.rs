//! Workers that share a list of jobs, as a user runs them.

use lock_tests::server::Server;

use crate::example;

/// A line of the table that the example prints.
#[derive(Debug)]
struct Customer {
    expected: i64,
    balance: i64,
    at_once: i64,
}

fn work(server: &Server, more: &[&str]) -> Vec<Customer> {
    let mut workers = example::command("workers", Some(server));
    workers.args(more);
    let table = example::output(workers);
    let customers = table.lines().skip(1).map(|line| {
        let numbers: Vec<i64> = line
            .split_whitespace()
            .map(|number| number.parse().unwrap())
            .collect();
        let [_, expected, balance, at_once] = numbers[..] else {
            panic!("no line of the table: {line}")
        };
        Customer {
            expected,
            balance,
            at_once,
        }
    });
    customers.collect()
}

#[test]
fn each_customer_has_one_job_at_a_time_at_work() {
    let server = Server::start();
    let customers = work(&server, &[]);
    assert_eq!(customers.len(), 3);
    for customer in customers {
        assert_eq!(customer.at_once, 1, "{customer:?}");
        assert_eq!(customer.balance, customer.expected, "{customer:?}");
    }
    server.finish();
}

#[test]
fn without_the_lock_jobs_of_a_customer_meet() {
    let server = Server::start();
    let customers = work(&server, &["--without-lock"]);
    assert!(
        customers.iter().any(|customer| customer.at_once > 1),
        "{customers:?}"
    );
    assert!(
        customers
            .iter()
            .any(|customer| customer.balance < customer.expected),
        "{customers:?}"
    );
    server.finish();
}
