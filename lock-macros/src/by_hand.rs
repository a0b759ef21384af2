//! `key!`: the key that the attribute would make, for locks that are taken by hand.

use proc_macro2::{Span, TokenStream};
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::{Error, Expr, Ident, LitStr, Path, Token, parse_quote};

use crate::arguments::Arguments;
use crate::errors::Errors;
use crate::expand;
use crate::key::{self, CheckedKey, Segment};
use crate::krate;
use crate::template;
use crate::values::{Key, crate_path, text_of};

// Input:  "coupon:<id>"
// Output: { let mut __key = KeyTemplate::new(); …; KeyTemplate::finish(__key) }
pub(crate) fn expand(input: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let written = match Parser::parse2(parse, input) {
        Ok(written) => written,
        Err(error) => return error.into_compile_error(),
    };
    let Written { template, path } = written;
    if path.is_none()
        && let Some(fault) = krate::missing(std::env::args())
    {
        errors.push(Error::new(Span::call_site(), fault));
    }
    let path = path.unwrap_or_else(|| parse_quote!(::lock_runtime));
    // Every name in scope may be meant: which there are is for the compiler to say.
    let checked = key::check(
        Key::Template(template.clone()),
        &Arguments::unknown(),
        &mut errors,
    );
    let segments = match checked {
        CheckedKey::Template(segments) => segments,
        CheckedKey::Expression(_) => Vec::new(),
    };
    if let Some(fault) = unfilled(&segments) {
        errors.at(&template, fault);
    }
    errors
        .into_compile_errors()
        .unwrap_or_else(|| expand::template(&segments, &expand::private(&path)))
}

/// What stands in the parentheses.
struct Written {
    template: LitStr,
    /// Where the crate `lock_runtime` is found, if that is said.
    path: Option<Path>,
}

fn parse(input: ParseStream<'_>) -> syn::Result<Written> {
    const FORM: &str = "write the template as text, as in `key!(\"coupon:<id>\")`";
    let mut written = Written {
        template: match input.parse::<Expr>() {
            Ok(value) => text_of(&value)
                .cloned()
                .ok_or_else(|| Error::new_spanned(value, FORM))?,
            Err(error) => return Err(Error::new(error.span(), FORM)),
        },
        path: None,
    };
    while !input.is_empty() {
        input.parse::<Token![,]>()?;
        if input.is_empty() {
            break;
        }
        let name = input.call(Ident::parse_any)?;
        if name != "crate" {
            let fault = format!(
                "`key!` takes no `{name}`; the values are those of the variables in the template"
            );
            return Err(Error::new(name.span(), fault));
        }
        input.parse::<Token![=]>()?;
        written.path = Some(crate_path(&input.parse()?)?);
    }
    Ok(written)
}

/// `{id}` where `<id>` was meant. No names are known here, but a template without any placeholder
/// was not meant to be one.
fn unfilled(segments: &[Segment]) -> Option<String> {
    let [Segment::Text(text)] = segments else {
        return None;
    };
    let (_, rest) = text.split_once('{')?;
    let (group, _) = rest.split_once('}')?;
    let meant = match template::path(group) {
        "" => "e.g. `<id>`".to_owned(),
        path => format!("`<{path}>`"),
    };
    Some(format!(
        "this template has no placeholder: every value would make the same key; write {meant}, or the text without `key!` if `{{{group}}}` is a hash tag"
    ))
}
