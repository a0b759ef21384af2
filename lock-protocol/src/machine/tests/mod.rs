//! A test for each row of the table of the machine, with a time that is moved by hand.
//!
//! Actions are compared in words (`words`), since a line of a test is then a line of the table.

mod bench;
mod company;
mod holding;
mod keeping;
mod lease;
mod look;
mod pursuing;
mod releasing;
mod waiting;
mod withdrawing;
