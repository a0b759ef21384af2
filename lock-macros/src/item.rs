//! The annotated item: a function whose body stays as the user wrote it, token by token.

use proc_macro2::{Delimiter, Group, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream, Parser};
use syn::{
    Attribute, Error, Ident, ReturnType, Signature, Token, Type, Visibility, parse_quote_spanned,
};

use crate::arguments::{Arguments, name_arguments};
use crate::blocks::braces;
use crate::captures::Captures;
use crate::errors::Errors;
use crate::future::Frame;
use crate::mention::mentions;
use crate::returned::returned_future;

/// A function that can be locked.
pub(crate) struct Function {
    /// What stands before the signature: attributes, visibility, `default`.
    before: TokenStream,
    signature: Signature,
    inner_attributes: Vec<Attribute>,
    /// Where the asynchronous part is, if the function itself is not `async`.
    frame: Option<Frame>,
    pub(crate) arguments: Arguments,
    /// What the asynchronous part returns.
    pub(crate) output: Type,
    /// The asynchronous part, as a block in the user's own braces.
    pub(crate) body: TokenStream,
    /// Where the user wrote the body.
    pub(crate) place: Span,
    /// Whether the returned future says what it borrows.
    states_captures: bool,
}

impl Function {
    // Input:  pub async fn claim(&self, Path(id): Path<u64>, _: Tx) -> Res<u64> { BODY }
    // Output: Function { arguments: [self, id, __arg2], output: Res<u64>, body: { BODY }, .. }
    pub(crate) fn parse(item: TokenStream) -> syn::Result<Function> {
        let parser = |input: ParseStream<'_>| {
            let raw: Raw = input.parse()?;
            raw.understand()
        };
        parser.parse2(item)
    }

    /// What it is called.
    pub(crate) fn name(&self) -> String {
        self.signature.ident.unraw().to_string()
    }

    /// The function with `locked` in place of its asynchronous part.
    pub(crate) fn with_body(&self, locked: &TokenStream, private: &TokenStream) -> TokenStream {
        let Function {
            before,
            signature,
            inner_attributes,
            ..
        } = self;
        let body = match &self.frame {
            None => locked.clone(),
            Some(frame) => {
                let future = frame.around(locked, self.place, private);
                quote!(#[allow(clippy::implicit_return)] #future)
            }
        };
        let body = braces(self.place, &quote!(#(#inner_attributes)* #body));
        quote!(#before #signature #body)
    }

    /// Refuses what the returned future would have to hold, and says that it does not.
    pub(crate) fn check_captures(&self, in_attribute: impl Fn(&str) -> bool, errors: &mut Errors) {
        let calls = self.frame.as_ref().is_some_and(|frame| frame.calls);
        let excluded = self.arguments.iter().filter(|argument| argument.excluded);
        for argument in excluded.filter(|_| self.states_captures) {
            let name = argument.ident.unraw().to_string();
            // The compiler has its own words about a future that cannot be, lock or no lock.
            if (calls && mentions(self.body.clone(), &name)) || in_attribute(&name) {
                errors.at(
                    &argument.ident,
                    format!("the key and all of this body wait until the future is polled, and it must not borrow `{name}` for that long; put the attribute on an `async fn` that takes values, and call that one here"),
                );
            }
        }
    }

    /// How the asynchronous part calls `self`.
    pub(crate) fn receiver(&self) -> Option<&Ident> {
        self.arguments.named("self")
    }
}

/// A function taken apart, the body unread: a half-typed one shall reach the compiler, and the
/// editor, as it is.
struct Raw {
    before: TokenStream,
    /// Whether an attribute below this one may make its own use of the arguments.
    has_other_macros: bool,
    signature: Signature,
    inner_attributes: Vec<Attribute>,
    body: Group,
}

impl Parse for Raw {
    fn parse(input: ParseStream<'_>) -> syn::Result<Raw> {
        let attributes = input.call(Attribute::parse_outer)?;
        let visibility: Visibility = input.parse()?;
        check_is_function(input)?;
        let default: Option<Token![default]> = input.parse()?;
        let signature: Signature = input.parse()?;
        if let Ok(semicolon) = input.parse::<Token![;]>() {
            return Err(Error::new(
                semicolon.span,
                "`#[distributed_lock]` needs a function body; put it on the implementation of this method",
            ));
        }
        let (inner_attributes, body) = open(body(input)?);
        Ok(Raw {
            before: quote!(#(#attributes)* #visibility #default),
            has_other_macros: !attributes.iter().all(is_built_in),
            signature,
            inner_attributes,
            body,
        })
    }
}

impl Raw {
    fn understand(self) -> syn::Result<Function> {
        let Raw {
            before,
            has_other_macros,
            mut signature,
            inner_attributes,
            body,
        } = self;
        let captures = Captures::of(&signature);
        let mut arguments = name_arguments(&mut signature, captures.as_ref());
        if has_other_macros {
            arguments.report_no_unused();
        }
        let mut place = body.span();
        let (frame, output, body) = if signature.asyncness.is_some() {
            (None, output(&signature), body.into_token_stream())
        } else {
            let future =
                returned_future(&signature.output).ok_or_else(|| not_async(&signature, &body))?;
            let (frame, body) = future.open(body, &mut arguments);
            if frame.calls {
                // The user wrote no function that is nothing but a future, and the lints for such
                // ones have no business here.
                place = Span::mixed_site();
            }
            (Some(frame), future.output, body)
        };
        Ok(Function {
            before,
            signature,
            inner_attributes,
            frame,
            arguments,
            output,
            body,
            place,
            states_captures: captures.is_some_and(|captures| captures.are_stated()),
        })
    }
}

/// Refuses everything but functions, each with its own advice.
fn check_is_function(input: ParseStream<'_>) -> syn::Result<()> {
    let tokens: TokenStream = input.fork().parse()?;
    let mut words = tokens.into_iter().filter_map(|token| match token {
        TokenTree::Ident(word) => Some(word),
        _ => None,
    });
    let Some(first) = words.next() else {
        return Err(input.error("`#[distributed_lock]` goes on an `async fn`"));
    };
    let qualifiers = ["default", "const", "async", "safe", "unsafe", "extern"];
    let is_function = first == "fn"
        || (qualifiers.iter().any(|word| first == word) && words.any(|word| word == "fn"));
    // `unsafe impl`, `unsafe trait`, `extern crate` and the like may have functions within, but not
    // at this level before a brace.
    if is_function
        && !input.peek2(Token![impl])
        && !input.peek2(Token![trait])
        && !input.peek2(Token![crate])
    {
        return Ok(());
    }
    let advice = match first.to_string().as_str() {
        "impl" => "; put it on each method that needs the lock",
        "trait" => "; put it on the methods of the implementations",
        _ => "",
    };
    Err(Error::new(
        first.span(),
        format!("`#[distributed_lock]` goes on an `async fn`{advice}"),
    ))
}

/// The body; in the output of `macro_rules!` it may be in an invisible group.
fn body(input: ParseStream<'_>) -> syn::Result<Group> {
    let missing = || input.error("`#[distributed_lock]` needs a function body");
    let mut token: TokenTree = input.parse().map_err(|_| missing())?;
    loop {
        match token {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => return Ok(group),
            TokenTree::Group(group) if group.delimiter() == Delimiter::None => {
                token = group.stream().into_iter().next().ok_or_else(missing)?;
            }
            other => {
                return Err(Error::new(
                    other.span(),
                    "`#[distributed_lock]` needs a function body",
                ));
            }
        }
    }
}

// Input:  { #![allow(unused)] STATEMENTS }
// Output: #![allow(unused)] and { STATEMENTS }
fn open(body: Group) -> (Vec<Attribute>, Group) {
    let parser = |input: ParseStream<'_>| {
        let attributes = input.call(Attribute::parse_inner)?;
        Ok((attributes, input.parse::<TokenStream>()?))
    };
    match parser.parse2(body.stream()) {
        Ok((attributes, rest)) if !attributes.is_empty() => {
            let mut group = Group::new(Delimiter::Brace, rest);
            group.set_span(body.span());
            (attributes, group)
        }
        _ => (Vec::new(), body),
    }
}

/// Whether an attribute is one that the compiler itself knows to have nothing to do with arguments.
fn is_built_in(attribute: &Attribute) -> bool {
    const NAMES: [&str; 13] = [
        "allow",
        "cfg",
        "cold",
        "deny",
        "deprecated",
        "doc",
        "expect",
        "forbid",
        "inline",
        "must_use",
        "no_mangle",
        "track_caller",
        "warn",
    ];
    NAMES.iter().any(|name| attribute.path().is_ident(name))
}

fn output(signature: &Signature) -> Type {
    match &signature.output {
        ReturnType::Default => parse_quote_spanned!(signature.ident.span()=> ()),
        ReturnType::Type(_, output) => (**output).clone(),
    }
}

/// Why a function that is not `async` cannot be locked.
fn not_async(signature: &Signature, body: &Group) -> Error {
    if let Some(constness) = &signature.constness {
        return Error::new(
            constness.span,
            "a `const fn` cannot wait for a lock; make it an `async fn`",
        );
    }
    let message = if mentions(body.stream(), "block_on") {
        "this function is not `async` any more; if `#[tokio::main]` or `#[tokio::test]` stands above `#[distributed_lock]`, put it below"
    } else {
        "`#[distributed_lock]` needs an `async fn`, or a function that returns `Pin<Box<dyn Future>>` or `impl Future`"
    };
    Error::new(signature.fn_token.span, message)
}
