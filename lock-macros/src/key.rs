//! The key: a template read into text and placeholders, or an expression checked for placeholders
//! that nobody would fill in.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::{Expr, Ident, Index, Lit, LitStr, Member, Path, PathSegment};

use crate::arguments::Arguments;
use crate::errors::Errors;
use crate::foreign;
use crate::format;
use crate::spelling::closest;
use crate::template::{Piece, groups, path, pieces, root};
use crate::values::{Key, Keys};

/// The longest key, as the runtime has it too.
const MAX_LEN: usize = 1024;

/// The key, checked against the arguments of the function.
pub(crate) enum CheckedKey {
    Template(Vec<Segment>),
    Expression(Expr),
}

/// The keys of one call, checked likewise.
pub(crate) enum CheckedKeys {
    One(CheckedKey),
    Each(Vec<CheckedKey>),
    /// An expression that gives their texts.
    Expression(Expr),
}

impl CheckedKeys {
    pub(crate) fn list(&self) -> &[CheckedKey] {
        match self {
            CheckedKeys::One(key) => std::slice::from_ref(key),
            CheckedKeys::Each(keys) => keys,
            CheckedKeys::Expression(_) => &[],
        }
    }
}

/// A piece of a template, ready for use.
pub(crate) enum Segment {
    Text(String),
    Value(Placeholder),
}

/// A value in a template: an argument, a constant, or a field of one of them.
pub(crate) struct Placeholder {
    /// An argument or a constant, in the place of the template.
    pub(crate) root: Path,
    /// Where the argument is declared; a constant is not declared here.
    pub(crate) declared: Span,
    pub(crate) members: Vec<Member>,
    /// Whether it must be an integer, because other text could not keep it apart from the next
    /// value.
    pub(crate) integer: bool,
}

/// Checks the key against the arguments of the function.
pub(crate) fn check(key: Key, arguments: &Arguments, errors: &mut Errors) -> CheckedKey {
    match key {
        Key::Template(literal) => CheckedKey::Template(template(&literal, arguments, errors)),
        Key::Expression(expression) => {
            check_expression(&expression, arguments, errors);
            CheckedKey::Expression(expression)
        }
    }
}

/// Checks several keys likewise.
pub(crate) fn check_all(keys: Keys, arguments: &Arguments, errors: &mut Errors) -> CheckedKeys {
    match keys {
        Keys::List(keys) => {
            let keys = keys.into_iter();
            CheckedKeys::Each(keys.map(|key| check(key, arguments, errors)).collect())
        }
        Keys::Expression(expression) => {
            check_literals(expression.to_token_stream(), false, arguments, errors);
            CheckedKeys::Expression(expression)
        }
    }
}

// Input:  "coupon:{<tenant>}:<order.id>"
// Output: Text("coupon:{"), Value(tenant), Text("}:"), Value(order.id)
fn template(literal: &LitStr, arguments: &Arguments, errors: &mut Errors) -> Vec<Segment> {
    let pieces = match pieces(&literal.value()) {
        Ok(pieces) => pieces,
        Err(fault) => {
            errors.at(literal, fault);
            return Vec::new();
        }
    };
    for fault in faults(&pieces, arguments) {
        errors.at(literal, fault);
    }
    let mut segments = Vec::new();
    let integers: Vec<usize> = unseparated(&pieces).map(|(at, _)| at).collect();
    for (at, piece) in pieces.into_iter().enumerate() {
        match piece {
            Piece::Text(text) => segments.push(Segment::Text(text)),
            Piece::Path(path) => match placeholder(&path, literal.span(), arguments) {
                Ok(value) => segments.push(Segment::Value(Placeholder {
                    integer: integers.contains(&at),
                    ..value
                })),
                Err(fault) => errors.at(literal, fault),
            },
        }
    }
    segments
}

// Input:  concat!("coupon:", "<id>")
// Output: an error: `<id>` is not replaced there
fn check_expression(expression: &Expr, arguments: &Arguments, errors: &mut Errors) {
    if let Some(template) = format::as_template(expression, arguments) {
        let template = separated(&template);
        errors.at(
            expression,
            format!("`format!` does not escape its values, so different ones can make one key; write `key = \"{template}\"`"),
        );
    }
    check_literals(expression.to_token_stream(), false, arguments, errors);
}

/// `formatted`: the tokens are the input of a macro, where a brace group may well be a placeholder.
fn check_literals(
    tokens: TokenStream,
    formatted: bool,
    arguments: &Arguments,
    errors: &mut Errors,
) {
    let mut after_bang = false;
    for token in tokens {
        match &token {
            TokenTree::Group(group) => {
                check_literals(group.stream(), formatted || after_bang, arguments, errors);
            }
            TokenTree::Literal(literal) => {
                if let Lit::Str(text) = Lit::new(literal.clone())
                    && let Some(fault) = unfilled(&text.value(), formatted, arguments)
                {
                    errors.at(&token, fault);
                }
            }
            _ => {}
        }
        after_bang = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == '!');
    }
}

/// What is wrong with a text in a key expression that looks like a template.
fn unfilled(text: &str, formatted: bool, arguments: &Arguments) -> Option<String> {
    let angled = groups(text, '<', '>').find(|group| arguments.named(root(group)).is_some());
    if let Some(group) = angled {
        return Some(format!(
            "`<{group}>` is replaced only where the text itself is the key, as in `key = \"…<{group}>\"`: here every call would take the same lock"
        ));
    }
    let braced = groups(text, '{', '}').find(|group| arguments.named(root(group)).is_some());
    braced.filter(|_| !formatted).map(|group| {
        format!("`{{{group}}}` is not replaced here: every call would take the same lock; write `key = \"…<{}>\"`", path(group))
    })
}

/// What is wrong with the template as a whole.
fn faults(pieces: &[Piece], arguments: &Arguments) -> Vec<String> {
    let mut faults = foreign::faults(pieces, arguments);
    let unseparated = unseparated(pieces);
    let joined = unseparated.filter(|(at, next)| !may_be_separated(pieces, *at, *next, arguments));
    faults.extend(joined.map(|(at, next)| joined_message(pieces, at, next)));
    if faults.is_empty() {
        faults.extend(unusable(pieces));
    }
    faults
}

/// Pairs of placeholders with nothing in between that no value can contain: `%`-encoding leaves
/// them all but `:`, `{` and `}`.
fn unseparated(pieces: &[Piece]) -> impl Iterator<Item = (usize, usize)> {
    let places = pieces.iter().enumerate();
    let places = places.filter_map(|(at, piece)| matches!(piece, Piece::Path(_)).then_some(at));
    let pairs = places.clone().zip(places.skip(1));
    pairs.filter(|(at, next)| {
        let separates =
            |piece: &Piece| matches!(piece, Piece::Text(text) if text.contains([':', '{', '}']));
        !pieces[*at..*next].iter().any(separates)
    })
}

/// Whether the text between two values separates them if the first is an integer, as it may be: its
/// digits end where another character comes. The generated code asks the compiler.
fn may_be_separated(pieces: &[Piece], at: usize, next: usize, arguments: &Arguments) -> bool {
    let [Piece::Text(text)] = &pieces[at + 1..next] else {
        return false;
    };
    let Piece::Path(path) = &pieces[at] else {
        return false;
    };
    // The type of a field, and that of a constant, is not known here.
    let is_unknown = path.contains('.') || arguments.named(root(path)).is_none();
    !text.starts_with(|first: char| first.is_ascii_digit())
        && (is_unknown || arguments.may_be_integer(root(path)))
}

fn joined_message(pieces: &[Piece], at: usize, next: usize) -> String {
    let (Piece::Path(a), Piece::Path(b)) = (&pieces[at], &pieces[next]) else {
        unreachable!("both are placeholders");
    };
    let between = match &pieces[at + 1..next] {
        [Piece::Text(text)] => format!("`{text}` does not separate"),
        _ => "nothing separates".to_owned(),
    };
    format!(
        "{between} `<{a}>` from `<{b}>`: different values would make one key; write `<{a}>:<{b}>`"
    )
}

// Input:  "<a>-<b>"
// Output: "<a>:<b>"
/// A template for any values, with colons where nothing else would keep them apart.
fn separated(template: &str) -> String {
    let Ok(pieces) = pieces(template) else {
        return template.to_owned();
    };
    let mut separated = String::new();
    for (at, piece) in pieces.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| &pieces[before]);
        match piece {
            Piece::Text(text) => {
                let between = matches!(before, Some(Piece::Path(_))) && at + 1 < pieces.len();
                if between && !text.contains([':', '{', '}']) {
                    separated.push(':');
                } else {
                    separated.push_str(&text.replace('<', "<<").replace('>', ">>"));
                }
            }
            Piece::Path(path) => {
                if matches!(before, Some(Piece::Path(_))) {
                    separated.push(':');
                }
                separated.push_str(&format!("<{path}>"));
            }
        }
    }
    separated
}

/// Why no lock can have such a key. The runtime checks the same again on the whole key, prefix and
/// values included.
fn unusable(pieces: &[Piece]) -> Option<String> {
    let mut key = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => key.push_str(text),
            // Some value: not empty, and without braces and colons of its own.
            Piece::Path(_) => key.push('x'),
        }
    }
    let tag = key
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'));
    if key.is_empty() {
        Some("an empty key names no lock; write e.g. \"coupon:<id>\"".to_owned())
    } else if key.len() > MAX_LEN {
        Some(format!("this key is longer than {MAX_LEN} bytes"))
    } else if key.contains('}') && tag.is_none_or(|(tag, _)| tag.is_empty()) {
        Some("these braces form no hash tag, so Redis Cluster could not keep the lock and its queue in one slot; write e.g. \"{<id>}:seat\", or leave the braces out".to_owned())
    } else {
        let ending = [":waiters", ":counter", ":holders", ":queue", ":fence"]
            .into_iter()
            .find(|ending| tag.is_some() && key.ends_with(ending));
        ending.map(|ending| format!("a key with a hash tag cannot end in `{ending}`, as the companions of other locks do; choose another ending"))
    }
}

// Input:  order.items.0
// Output: the argument `order`, its members `items` and `0`
fn placeholder(path: &str, place: Span, arguments: &Arguments) -> Result<Placeholder, String> {
    if path.is_empty() {
        return Err("`<>` names no argument; write e.g. `<id>`".to_owned());
    }
    let mut words = path.split('.');
    let first = words.next().unwrap_or_default();
    let members: Option<Vec<Member>> = words.map(|word| member(word, place)).collect();
    let Some(members) = members else {
        return Err(not_a_path(path));
    };
    if let Some(root) = constant(first, place, arguments) {
        return Ok(Placeholder {
            root,
            declared: place,
            members,
            integer: false,
        });
    }
    let Some(name) = identifier(first, place) else {
        return Err(not_a_path(path));
    };
    let declared = arguments.named(&name.unraw().to_string());
    let declared = declared.map_or(place, Ident::span);
    let argument = argument(name, path, arguments)?;
    Ok(Placeholder {
        root: argument.into(),
        declared,
        members,
        integer: false,
    })
}

// Input:  NAME, Self::NAME, Region::Europe
// Output: the same as a path
/// The constant that a word of a placeholder means, if it is written like one and is no argument.
fn constant(word: &str, place: Span, arguments: &Arguments) -> Option<Path> {
    let segments: Vec<&str> = word.split("::").collect();
    let last = segments.last()?;
    let is_like_one = match segments.as_slice() {
        // Also the parameter of a generic function, `N`.
        [name] => {
            let is_lower = |c: char| c.is_lowercase();
            name.starts_with(char::is_uppercase) && !name.contains(is_lower)
        }
        _ => last.starts_with(char::is_uppercase),
    };
    if !is_like_one || arguments.named(word).is_some() {
        return None;
    }
    let names = segments.into_iter().map(|name| match name {
        "Self" | "super" | "crate" | "self" => Some(Ident::new(name, place)),
        name => identifier(name, place),
    });
    let names = names.collect::<Option<Vec<Ident>>>()?;
    // A path of one word has to be a name.
    let is_name = names.len() > 1 || names.iter().all(|name| name != "Self");
    is_name.then(|| Path {
        leading_colon: None,
        segments: names.into_iter().map(PathSegment::from).collect(),
    })
}

/// The argument that the placeholder `<path>` means by `name`.
fn argument(name: Ident, path: &str, arguments: &Arguments) -> Result<Ident, String> {
    let word = name.unraw().to_string();
    if arguments.is_ambiguous(&word) {
        return Err(format!(
            "`<{path}>` could be two arguments of this name; rename one of them"
        ));
    }
    if let Some(argument) = arguments.named(&word) {
        // The literal's place, for messages; the argument's hygiene, so that it is found whichever
        // macro wrote either.
        let mut argument = argument.clone();
        argument.set_span(name.span().resolved_at(argument.span()));
        return Ok(argument);
    }
    if !arguments.all_named {
        return Ok(name);
    }
    Err(match closest(&word, arguments.names()) {
        Some(close) => {
            let rest = path.find('.').map_or("", |dot| &path[dot..]);
            format!(
                "`<{path}>` names no argument of this function; did you mean `<{close}{rest}>`?"
            )
        }
        None if word == "self" => format!("`<{path}>`: this function has no `self`"),
        None => format!(
            "`<{path}>` names no argument of this function{}",
            listed(arguments)
        ),
    })
}

fn listed(arguments: &Arguments) -> String {
    let names: Vec<String> = arguments
        .names()
        .map(|name| format!("`<{name}>`"))
        .collect();
    match names.as_slice() {
        [] => "; it has none".to_owned(),
        [one] => format!("; there is {one}"),
        [first @ .., last] => format!("; there are {} and {last}", first.join(", ")),
    }
}

fn not_a_path(path: &str) -> String {
    if let Some((value, _)) = path.split_once('(')
        && path.ends_with(')')
    {
        // Conversions that the key does not need.
        let value = ["to_string", "to_owned", "as_str", "as_ref", "clone"]
            .iter()
            .find_map(|conversion| value.strip_suffix(conversion)?.strip_suffix('.'));
        return match value {
            Some(value) => {
                format!("`<{path}>`: a template takes values, and calls nothing; write `<{value}>`")
            }
            None => format!(
                "`<{path}>`: a template takes values, and calls nothing, as the results for different values could be the same; use an argument, a field or a constant, or make the whole key by an expression"
            ),
        };
    }
    format!(
        "`<{path}>`: only an argument, a field of one or a constant can stand here, as in `<id>`, `<order.id>` or `<Self::NAME>`; write `<<` for a `<` of the key itself"
    )
}

/// `word` as an identifier, a raw one if it must be.
fn identifier(word: &str, span: Span) -> Option<Ident> {
    // The parser would overlook spaces and comments.
    if !word
        .chars()
        .all(|c| c.is_alphanumeric() || matches!(c, '_' | '#'))
    {
        return None;
    }
    let mut name = syn::parse_str::<Ident>(word)
        .or_else(|_| {
            let keyword = syn::parse::Parser::parse_str(Ident::parse_any, word)?;
            match word {
                "self" => Ok(keyword),
                // What cannot be raw is no name.
                "Self" | "super" | "crate" | "_" => Err(syn::Error::new(span, "no name")),
                _ => Ok(Ident::new_raw(word, span)),
            }
        })
        .ok()?;
    name.set_span(span);
    Some(name)
}

fn member(word: &str, span: Span) -> Option<Member> {
    if !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit()) {
        let index = word.parse().ok()?;
        return Some(Member::Unnamed(Index { index, span }));
    }
    identifier(word, span)
        .filter(|name| name != "self")
        .map(Member::Named)
}
