//! The annotated item: a function whose body stays as the user wrote it, token by token.

use proc_macro2::{Delimiter, Group, Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream, Parser};
use syn::{
    Attribute, Error, FnArg, Ident, Pat, ReturnType, Signature, Token, Type, Visibility,
    parse_quote, parse_quote_spanned,
};

use crate::captures::Captures;
use crate::errors::Errors;
use crate::future::{Frame, returned_future};
use crate::mention::mentions;

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

/// The arguments of a function, in order.
pub(crate) struct Arguments {
    list: Vec<Argument>,
    /// Whether there are no other names, as a macro among the patterns could make.
    pub(crate) all_named: bool,
}

/// A variable that a pattern of the signature binds.
pub(crate) struct Argument {
    pub(crate) ident: Ident,
    /// The name for users; none if the name is ours.
    name: Option<String>,
    /// The conditions under which there is such an argument.
    pub(crate) cfg: Vec<Attribute>,
    /// How the compiler is told if nothing uses the argument; not at all if it would not mind.
    pub(crate) unused: Option<Unused>,
    /// Whether the returned future must not hold it.
    pub(crate) excluded: bool,
    /// Whether its type is written as that of an integer, or not known.
    integer: bool,
}

/// What an unused argument is to the compiler, which has other advice for each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unused {
    /// A variable.
    Variable,
    /// A field by its own name, as in `Point { x, y }`.
    Field,
}

/// The attributes of an argument that matter to its names.
struct Attributes {
    cfg: Vec<Attribute>,
    /// Whether the user decides about lints.
    levels: bool,
    /// Whether the returned future must not hold it.
    excluded: bool,
    /// Whether the type is that of an integer, or not known.
    integer: bool,
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

impl Arguments {
    /// Nothing known, because the function itself could not be read.
    pub(crate) fn unknown() -> Arguments {
        Arguments {
            list: Vec::new(),
            all_named: false,
        }
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Argument> {
        self.list.iter()
    }

    /// The names that a user may use.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.list
            .iter()
            .filter_map(|argument| argument.name.as_deref())
    }

    /// The argument that a user calls `name`.
    pub(crate) fn named(&self, name: &str) -> Option<&Ident> {
        let argument = self
            .list
            .iter()
            .find(|argument| argument.name.as_deref() == Some(name))?;
        Some(&argument.ident)
    }

    /// Whether the argument `name` can be an integer, for all that can be seen.
    pub(crate) fn may_be_integer(&self, name: &str) -> bool {
        self.list
            .iter()
            .any(|argument| argument.name.as_deref() == Some(name) && argument.integer)
    }

    /// Whether `name` could be two different arguments: `macro_rules!` can write two that only hygiene tells apart.
    pub(crate) fn is_ambiguous(&self, name: &str) -> bool {
        let same = self
            .list
            .iter()
            .filter(|argument| argument.name.as_deref() == Some(name));
        same.filter(|argument| argument.cfg.is_empty()).count() > 1
    }

    /// Whether `guard` hides nothing that the caller gave.
    pub(crate) fn check_guard(&self, guard: &Ident, errors: &mut Errors) -> bool {
        let name = guard.unraw().to_string();
        let hides = self.named(&name).is_some();
        if hides {
            errors.at(
                guard,
                format!("`guard = {name}` would hide the argument `{name}`; choose another name"),
            );
        }
        !hides
    }

    /// Puts the names of `pattern` in the place of the argument `moved`; false if there is none.
    pub(crate) fn rename(&mut self, moved: &Ident, pattern: &Pat) -> bool {
        let found = self
            .list
            .iter()
            .position(|argument| argument.ident == *moved);
        let Some(at) = found else {
            return false;
        };
        let argument = self.list.remove(at);
        let mut renamed = Arguments {
            list: Vec::new(),
            all_named: true,
        };
        match pattern {
            Pat::Ident(name) if name.ident == *moved || moved == "self" => {
                let is_ours = moved.to_string().starts_with("__arg");
                renamed.list.push(Argument {
                    ident: name.ident.clone(),
                    name: argument.name.filter(|_| !is_ours),
                    cfg: argument.cfg,
                    unused: argument.unused.filter(|_| !is_ours),
                    excluded: argument.excluded,
                    integer: argument.integer,
                });
            }
            pattern => {
                let attributes = Attributes {
                    cfg: argument.cfg,
                    levels: argument.unused.is_none(),
                    excluded: argument.excluded,
                    integer: true,
                };
                renamed.push_pattern(pattern, &attributes);
            }
        }
        self.all_named &= renamed.all_named;
        self.list.splice(at..at, renamed.list);
        true
    }

    fn push(&mut self, ident: &Ident, attributes: &Attributes, unused: Unused) {
        let name = ident.unraw().to_string();
        // A capital name may be a constant or a unit struct, which is no harm anywhere but here.
        let is_reported = !attributes.levels
            && name != "self"
            && !name.starts_with(|first: char| first == '_' || first.is_uppercase());
        self.list.push(Argument {
            ident: ident.clone(),
            name: Some(name),
            cfg: attributes.cfg.clone(),
            unused: is_reported.then_some(unused),
            excluded: attributes.excluded,
            integer: attributes.integer,
        });
    }

    fn push_hidden(&mut self, ident: &Ident, attributes: &Attributes) {
        self.list.push(Argument {
            ident: ident.clone(),
            name: None,
            cfg: attributes.cfg.clone(),
            unused: None,
            excluded: attributes.excluded,
            integer: false,
        });
    }

    /// Every name that `pattern` binds.
    fn push_pattern(&mut self, pattern: &Pat, attributes: &Attributes) {
        match pattern {
            Pat::Ident(pattern) => {
                self.push(&pattern.ident, attributes, Unused::Variable);
                if let Some((_, inner)) = &pattern.subpat {
                    self.push_pattern(inner, attributes);
                }
            }
            Pat::Paren(pattern) => self.push_pattern(&pattern.pat, attributes),
            Pat::Reference(pattern) => self.push_pattern(&pattern.pat, attributes),
            Pat::Type(pattern) => self.push_pattern(&pattern.pat, attributes),
            Pat::Tuple(pattern) => self.push_patterns(&pattern.elems, attributes),
            Pat::TupleStruct(pattern) => self.push_patterns(&pattern.elems, attributes),
            Pat::Slice(pattern) => self.push_patterns(&pattern.elems, attributes),
            Pat::Struct(pattern) => {
                for field in &pattern.fields {
                    match &*field.pat {
                        Pat::Ident(name) if field.colon_token.is_none() => {
                            self.push(&name.ident, attributes, Unused::Field);
                        }
                        pattern => self.push_pattern(pattern, attributes),
                    }
                }
            }
            // Each alternative binds the same names.
            Pat::Or(pattern) => self.push_patterns(pattern.cases.first(), attributes),
            Pat::Macro(_) | Pat::Verbatim(_) => self.all_named = false,
            _ => {}
        }
    }

    fn push_patterns<'a>(
        &mut self,
        patterns: impl IntoIterator<Item = &'a Pat>,
        attributes: &Attributes,
    ) {
        for pattern in patterns {
            self.push_pattern(pattern, attributes);
        }
    }
}

/// A function taken apart, the body unread: a half-typed one shall reach the compiler, and the editor, as it is.
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
            for argument in &mut arguments.list {
                argument.unused = None;
            }
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

/// `{ tokens }`, as if the user had written these braces at `place`: where the braces of a function
/// or an `async` block are generated, coverage leaves out all that is in them, and lints look away.
fn braces(place: Span, tokens: &TokenStream) -> Group {
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
    // `unsafe impl`, `unsafe trait`, `extern crate` and the like may have functions within, but not at this level before a brace.
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

/// Collects the arguments. A `_` gets a name, so that it can be moved into the body and dropped before the release.
fn name_arguments(signature: &mut Signature, captures: Option<&Captures>) -> Arguments {
    let mut arguments = Arguments {
        list: Vec::new(),
        all_named: true,
    };
    for (at, input) in signature.inputs.iter_mut().enumerate() {
        match input {
            FnArg::Receiver(receiver) => {
                let name = Ident::new("self", receiver.self_token.span);
                let excluded =
                    captures.is_some_and(|captures| captures.exclude_receiver(&receiver.kind));
                let attributes = attributes(&receiver.attrs, excluded);
                arguments.push(&name, &attributes, Unused::Variable);
            }
            FnArg::Typed(argument) => {
                let excluded = captures.is_some_and(|captures| captures.exclude(&argument.ty));
                let mut attributes = attributes(&argument.attrs, excluded);
                // What a pattern takes out of a value may be one.
                attributes.integer =
                    !matches!(*argument.pat, Pat::Ident(_)) || is_integer(&argument.ty);
                if let Pat::Wild(wild) = &*argument.pat {
                    let span = Span::mixed_site().located_at(wild.underscore_token.span);
                    let name = format_ident!("__arg{at}", span = span);
                    arguments.push_hidden(&name, &attributes);
                    *argument.pat = parse_quote!(#name);
                } else {
                    arguments.push_pattern(&argument.pat, &attributes);
                }
            }
        }
    }
    arguments
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

fn attributes(attributes: &[Attribute], excluded: bool) -> Attributes {
    let is_any = |attribute: &Attribute, names: &[&str]| {
        names.iter().any(|name| attribute.path().is_ident(name))
    };
    let conditional = |attribute: &&Attribute| is_any(attribute, &["cfg", "cfg_attr"]);
    Attributes {
        cfg: attributes.iter().filter(conditional).cloned().collect(),
        levels: attributes
            .iter()
            .any(|attribute| is_any(attribute, &["allow", "expect", "warn", "deny", "cfg_attr"])),
        excluded,
        integer: false,
    }
}

/// Whether a type is written as that of an integer, or of a reference to one.
fn is_integer(ty: &Type) -> bool {
    const NAMES: [&str; 12] = [
        "u8", "u16", "u32", "u64", "u128", "usize", "i8", "i16", "i32", "i64", "i128", "isize",
    ];
    match ty {
        Type::Reference(reference) => is_integer(&reference.elem),
        Type::Group(group) => is_integer(&group.elem),
        Type::Paren(paren) => is_integer(&paren.elem),
        Type::Path(path) => path
            .path
            .get_ident()
            .is_some_and(|name| NAMES.iter().any(|integer| name == integer)),
        _ => false,
    }
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
