//! The attribute `#[distributed_lock]`, re-exported by the crate `lock-runtime`.
//!
//! A pipeline: `args` reads the attribute's arguments, `key` the key among them, `item` the function, `expand` puts the lock around its
//! body. Mistakes are collected on the way and reported together.

mod args;
mod duration;
mod errors;
mod expand;
mod item;
mod key;
mod spelling;

use proc_macro::TokenStream;
use quote::quote;

use crate::errors::Errors;
use crate::item::{Arguments, Function};

/// Makes an async function mutually exclusive across processes.
#[proc_macro_attribute]
pub fn distributed_lock(args: TokenStream, item: TokenStream) -> TokenStream {
    lock(args.into(), item.into()).into()
}

fn lock(
    args: proc_macro2::TokenStream,
    item: proc_macro2::TokenStream,
) -> proc_macro2::TokenStream {
    let mut errors = Errors::default();
    let mut args = args::parse(args, &mut errors);
    let function = Function::parse(item.clone())
        .map_err(|error| errors.push(error))
        .ok();

    let unknown = Arguments::unknown();
    let arguments = function
        .as_ref()
        .map_or(&unknown, |function| &function.arguments);
    args.guard = args
        .guard
        .filter(|guard| arguments.check_guard(guard, &mut errors));
    let key = args
        .key
        .take()
        .map(|key| key::check(key, arguments, &mut errors));

    match (errors.into_compile_errors(), key, function) {
        (None, Some(key), Some(function)) => expand::expand(&args, &key, &function),
        // The item stays: an editor goes on to know it, and the compiler says nothing that only follows from the errors.
        (errors, _, Some(function)) => {
            let item = expand::expand_without_lock(&args, &function);
            quote!(#item #errors)
        }
        (errors, _, None) => quote!(#item #errors),
    }
}
