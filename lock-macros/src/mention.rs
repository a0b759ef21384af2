//! Which names tokens mention.

use proc_macro2::{TokenStream, TokenTree};
use syn::ext::IdentExt;

/// Whether `word` stands among `tokens`, or as a word in a literal: `format!("{word}")` uses it
/// too.
pub(crate) fn mentions(tokens: TokenStream, word: &str) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Group(group) => mentions(group.stream(), word),
        TokenTree::Ident(ident) => ident.unraw() == word,
        TokenTree::Literal(literal) => literal
            .to_string()
            .split(|c: char| !(c.is_alphanumeric() || c == '_'))
            .any(|found| found == word),
        TokenTree::Punct(_) => false,
    })
}

#[cfg(test)]
mod tests {
    use quote::quote;

    use super::mentions;

    #[test]
    fn a_name_is_found_in_groups_and_in_texts() {
        for tokens in [
            quote!(id),
            quote!({ f(a, [id]) }),
            quote!(r#id + 1),
            quote!(println!("{id:?}")),
            quote!(r"{id}"),
        ] {
            assert!(mentions(tokens.clone(), "id"), "{tokens}");
        }
        for tokens in [
            quote!(idd),
            quote!(order.idea()),
            quote!("{idd}"),
            quote!('i'),
        ] {
            assert!(!mentions(tokens.clone(), "id"), "{tokens}");
        }
    }
}
