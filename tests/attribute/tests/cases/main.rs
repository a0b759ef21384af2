//! Functions of every shape under the attribute, run: each case asserts the key that was locked,
//! and the order of what happened.
//!
//! Compiled in each edition. A case that names an upstream issue shows what another attribute macro
//! got wrong.
#![deny(warnings, missing_docs, clippy::pedantic)]
#![allow(clippy::unwrap_used)]
// In edition 2018 assertions take no names into their messages.
#![allow(clippy::uninlined_format_args)]

// What a renamed dependency looks like from within.
#[allow(unused_extern_crates)]
extern crate lock_runtime as locks;

mod arguments;
mod attributes;
mod captures;
mod constants;
mod drops;
mod heads;
mod keys;
mod macros;
mod methods;
mod names;
mod parts;
mod returns;
mod runtimes;
mod settings;
mod several;
mod sizes;
mod small;
mod taken;
mod traits;
mod unused;
