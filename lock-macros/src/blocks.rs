//! Generated blocks that look as if the user had written them.

use proc_macro2::{Delimiter, Group, Span, TokenStream};
use quote::quote_spanned;

/// `{ tokens }`, as if the user had written these braces at `place`: where the braces of a function
/// or an `async` block are generated, coverage leaves out all that is in them, and lints look away.
pub(crate) fn braces(place: Span, tokens: &TokenStream) -> Group {
    let mut braces = Group::new(Delimiter::Brace, tokens.clone());
    braces.set_span(place);
    braces
}

/// `async move { tokens }`, as if the user had written it at `place`: messages about what a
/// generated one captures leave out the names.
pub(crate) fn future(place: Span, tokens: &TokenStream) -> TokenStream {
    let block = braces(place, tokens);
    quote_spanned!(place=> async move #block)
}
