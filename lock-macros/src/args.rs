//! The arguments of the attribute: names, values, and whether they fit together.

use std::time::Duration;

use proc_macro2::{Span, TokenStream};
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::{
    Error, Expr, ExprClosure, ExprPath, Ident, Lit, LitStr, Path, Token, parse_quote, token,
};

use crate::duration;
use crate::errors::Errors;
use crate::krate;
use crate::spelling::closest;

/// The shortest and the longest ttl, as the runtime has them too.
const TTL: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(24 * 60 * 60);

/// The arguments, understood.
pub(crate) struct Args {
    pub(crate) key: Option<Key>,
    pub(crate) ttl: Option<Time>,
    pub(crate) wait: Option<Time>,
    pub(crate) renew: Option<Renew>,
    pub(crate) max_hold: Option<Time>,
    pub(crate) continue_when_lost: bool,
    pub(crate) on_error: Option<OnError>,
    pub(crate) guard: Option<Ident>,
    pub(crate) runtime: Option<Expr>,
    /// The path of the runtime crate.
    pub(crate) krate: Path,
}

/// Where the key comes from.
pub(crate) enum Key {
    /// A template with placeholders.
    Template(LitStr),
    /// An expression whose text is the whole key.
    Expression(Expr),
}

/// A duration.
pub(crate) enum Time {
    /// Known now, and checked.
    Known(Duration),
    /// An expression of type `Duration`.
    Expression(Expr),
}

/// What makes a return value of a `LockError`.
pub(crate) enum OnError {
    Path(ExprPath),
    Closure(ExprClosure),
}

/// How the watchdog renews.
pub(crate) enum Renew {
    Every(Time),
    Off,
}

/// Every argument, with an example of its use.
const KNOWN: [(&str, &str); 10] = [
    ("key", r#"key = "coupon:<id>""#),
    ("ttl", r#"ttl = "5s""#),
    ("wait", r#"wait = "2s""#),
    ("renew", r#"renew = "500ms""#),
    ("max_hold", r#"max_hold = "1m""#),
    ("on_lost", "on_lost = cancel"),
    ("on_error", "on_error = path::to::function"),
    ("guard", "guard = lock"),
    ("runtime", "runtime = locks"),
    ("crate", "crate = lock_runtime"),
];

/// What other lock libraries call our arguments.
const ELSEWHERE: [(&str, &[&str]); 8] = [
    ("key", &["name", "resource", "lock", "lock_key", "id"]),
    (
        "ttl",
        &[
            "expire",
            "expires",
            "expiry",
            "expiration",
            "px",
            "ex",
            "lease",
            "lease_time",
            "duration",
            "hold",
        ],
    ),
    (
        "wait",
        &[
            "timeout",
            "acquire_timeout",
            "blocking_timeout",
            "wait_time",
            "wait_timeout",
            "max_wait",
        ],
    ),
    (
        "renew",
        &[
            "heartbeat",
            "watchdog",
            "extend",
            "auto_renew",
            "renew_every",
            "renewal",
        ],
    ),
    (
        "max_hold",
        &["max_time", "max_duration", "hold_limit", "limit"],
    ),
    (
        "on_error",
        &["error", "map_err", "fallback", "on_busy_return"],
    ),
    ("guard", &["handle", "lease_guard"]),
    (
        "runtime",
        &["rt", "client", "redis", "pool", "store", "backend", "locks"],
    ),
];

// Input:  key = "coupon:<id>", ttl = "5s", on_lost = continue
// Output: Args { key: Template("coupon:<id>"), ttl: Known(5 s), continue_when_lost: true, .. }
pub(crate) fn parse(tokens: TokenStream, errors: &mut Errors) -> Args {
    let mut args = Args {
        key: None,
        ttl: None,
        wait: None,
        renew: None,
        max_hold: None,
        continue_when_lost: false,
        on_error: None,
        guard: None,
        runtime: None,
        krate: parse_quote!(::lock_runtime),
    };
    let written = split(tokens, errors);
    let mut seen: Vec<String> = Vec::new();
    for Written { name, value } in &written.arguments {
        let word = name.unraw().to_string();
        let Some(example) = example(&word) else {
            match value_of_the_key(&word, value.as_ref(), &written) {
                // One mistake: what the template lacks is said here.
                Some(message) => {
                    if args.key.take().is_some() {
                        errors.at(name, message);
                    }
                }
                None => errors.at(name, unknown(&word)),
            }
            continue;
        };
        if seen.contains(&word) {
            errors.at(name, format!("`{word}` is given twice"));
            continue;
        }
        seen.push(word.clone());
        match value {
            Some(value) => set(&mut args, &word, value, errors),
            None => errors.at(name, format!("`{word}` needs a value: `{example}`")),
        }
    }
    let all_known = written.arguments.len() == seen.len();
    if written.complete && all_known && !seen.iter().any(|name| name == "key") {
        errors.push(Error::new(
            Span::call_site(),
            "missing `key`, e.g. `#[distributed_lock(key = \"coupon:<id>\")]`",
        ));
    }
    if !seen.iter().any(|name| name == "crate")
        && let Some(fault) = krate::missing(std::env::args())
    {
        errors.push(Error::new(Span::call_site(), fault));
    }
    check_together(&args, &written, errors);
    args
}

/// The arguments as they are written.
struct AllWritten {
    arguments: Vec<Written>,
    /// Whether there was no syntax error that hides the rest.
    complete: bool,
}

impl AllWritten {
    /// The value of the argument `name`, to point at.
    fn value(&self, name: &str) -> Option<&Expr> {
        let written = self.arguments.iter().find(|written| written.name == name)?;
        written.value.as_ref()
    }
}

/// `name = value`.
struct Written {
    name: Ident,
    value: Option<Expr>,
}

// Input:  key = "coupon:<id>", ttl = "5s"
// Output: (key, "coupon:<id>"), (ttl, "5s")
fn split(tokens: TokenStream, errors: &mut Errors) -> AllWritten {
    let mut arguments = Vec::new();
    let all = |input: ParseStream<'_>| {
        while !input.is_empty() {
            arguments.push(argument(input)?);
            if !input.is_empty() {
                comma(input)?;
            }
        }
        Ok(())
    };
    let syntax = Parser::parse2(all, tokens);
    let complete = syntax.is_ok();
    if let Err(error) = syntax {
        errors.push(error);
    }
    AllWritten {
        arguments,
        complete,
    }
}

fn argument(input: ParseStream<'_>) -> syn::Result<Written> {
    // `parse_any`, because `crate` is a keyword.
    let Ok(name) = input.call(Ident::parse_any) else {
        return Err(nameless(input));
    };
    if input.is_empty() || input.peek(Token![,]) {
        return Ok(Written { name, value: None });
    }
    if input.peek(token::Paren) || input.peek(Token![:]) {
        let word = name.unraw().to_string();
        let form = example(&word).map_or_else(|| format!("{word} = value"), str::to_owned);
        return Err(input.error(format!("a value comes after `=`: `{form}`")));
    }
    input
        .parse::<Token![=]>()
        .map_err(|error| Error::new(error.span(), format!("expected `=` after `{name}`")))?;
    if input.is_empty() || input.peek(Token![,]) {
        return Ok(Written { name, value: None });
    }
    let place = input.span();
    let value = input.parse::<Expr>().map_err(|_| {
        let word = name.unraw().to_string();
        let form = example(&word).unwrap_or("name = value");
        Error::new(
            place,
            format!("this is no value for `{word}`; write e.g. `{form}`"),
        )
    })?;
    Ok(Written {
        name,
        value: Some(value),
    })
}

fn comma(input: ParseStream<'_>) -> syn::Result<()> {
    let comma = input.parse::<Token![,]>();
    comma.map(drop).map_err(|error| {
        let hint = if input.peek(Ident::peek_any) {
            " before the next argument"
        } else {
            ""
        };
        Error::new(error.span(), format!("expected `,`{hint}"))
    })
}

/// What is wrong with an argument that does not begin with a name.
fn nameless(input: ParseStream<'_>) -> Error {
    match input.fork().parse::<Expr>() {
        Ok(value) if text_of(&value).is_some() => {
            Error::new_spanned(value, "arguments have names; write `key = \"…\"`")
        }
        _ => input.error("expected the name of an argument, e.g. `key = \"coupon:<id>\"`"),
    }
}

fn example(name: &str) -> Option<&'static str> {
    let known = KNOWN.iter().find(|(known, _)| *known == name);
    known.map(|(_, example)| *example)
}

fn unknown(name: &str) -> String {
    let elsewhere = ELSEWHERE.iter().find(|(_, others)| others.contains(&name));
    if let Some((ours, _)) = elsewhere {
        return format!("unknown argument `{name}`; it is called `{ours}` here");
    }
    let names = KNOWN.map(|(known, _)| known);
    match closest(name, names) {
        Some(close) => format!("unknown argument `{name}`; did you mean `{close}`?"),
        None => format!(
            "unknown argument `{name}`; there are `{}`",
            names.join("`, `")
        ),
    }
}

// Input:  key = "coupon:{}", id
// Output: what to write: key = "coupon:<id>"
/// The message about a name that was meant to be a value of the key, as `format!` takes them.
fn value_of_the_key(name: &str, value: Option<&Expr>, written: &AllWritten) -> Option<String> {
    let template = text_of(written.value("key")?)?.value();
    let named = matches!(value, Some(Expr::Path(path)) if path.path.is_ident(name));
    if value.is_some() && !named {
        return None;
    }
    let braced = format!("{{{name}}}");
    let hole = if template.contains(&braced) {
        &braced
    } else {
        "{}"
    };
    let form = match template.split_once(hole) {
        Some((before, after)) => format!("{before}<{name}>{after}"),
        None if template.contains(&format!("<{name}>")) => template,
        None => format!("{template}:<{name}>"),
    };
    Some(format!(
        "the values of a key stand in its text; write `key = \"{form}\"`"
    ))
}

/// Understands the value of one argument.
fn set(args: &mut Args, name: &str, value: &Expr, errors: &mut Errors) {
    if let Some(text) = text_of(value)
        && !text.suffix().is_empty()
    {
        // The compiler does not see it.
        let (text, suffix) = (text.value(), text.suffix());
        errors.at(
            value,
            format!("a text has no suffix; write \"{text}\" without `{suffix}`"),
        );
        return;
    }
    let result = match name {
        "key" => key(value).map(|key| args.key = Some(key)),
        "ttl" => ttl(value).map(|ttl| args.ttl = Some(ttl)),
        "wait" => time(value).map(|wait| args.wait = Some(wait)),
        "renew" => renew(value).map(|renew| args.renew = Some(renew)),
        "max_hold" => nonzero(value, "max_hold").map(|limit| args.max_hold = Some(limit)),
        "on_lost" => on_lost(value).map(|goes_on| args.continue_when_lost = goes_on),
        "on_error" => on_error(value).map(|function| args.on_error = Some(function)),
        "guard" => guard(value).map(|name| args.guard = Some(name)),
        "runtime" => {
            args.runtime = Some(value.clone());
            Ok(())
        }
        "crate" => crate_path(value).map(|path| args.krate = path),
        other => unreachable!("`{other}` is no known argument"),
    };
    if let Err(error) = result {
        errors.push(error);
    }
}

fn key(value: &Expr) -> syn::Result<Key> {
    match bare(value) {
        Expr::Lit(lit) => match &lit.lit {
            Lit::Str(text) => Ok(Key::Template(text.clone())),
            _ => Err(Error::new_spanned(
                value,
                "a key is text; write e.g. `key = \"coupon:<id>\"`",
            )),
        },
        _ => Ok(Key::Expression(value.clone())),
    }
}

fn time(value: &Expr) -> syn::Result<Time> {
    let fault = match bare(value) {
        Expr::Lit(lit) => match &lit.lit {
            Lit::Str(text) => match duration::parse(&text.value()) {
                Ok(duration) => return Ok(Time::Known(duration)),
                Err(fault) => fault,
            },
            Lit::Int(number) if number.suffix().is_empty() => {
                format!("a bare number has no unit; write \"{number}s\"")
            }
            Lit::Int(number) => format!("a duration is text; write \"{number}\""),
            Lit::Float(number) if number.suffix().is_empty() => {
                format!("a bare number has no unit; write e.g. \"{number}s\"")
            }
            _ => "a duration is text with a unit; write e.g. \"5s\"".to_owned(),
        },
        Expr::Unary(unary) if matches!(*unary.expr, Expr::Lit(_)) => {
            "a duration is text with a unit, and not negative; write e.g. \"5s\"".to_owned()
        }
        _ => return Ok(Time::Expression(value.clone())),
    };
    Err(Error::new_spanned(value, fault))
}

fn nonzero(value: &Expr, name: &str) -> syn::Result<Time> {
    match time(value)? {
        Time::Known(Duration::ZERO) => Err(Error::new_spanned(
            value,
            format!("`{name}` cannot be zero"),
        )),
        time => Ok(time),
    }
}

fn ttl(value: &Expr) -> syn::Result<Time> {
    let ttl = nonzero(value, "ttl")?;
    let fault = match ttl {
        Time::Known(ttl) if ttl < *TTL.start() => "`ttl` must be at least 10ms",
        Time::Known(ttl) if ttl > *TTL.end() => {
            "`ttl` must be at most 24h; a longer job keeps its lock by renewals"
        }
        _ => return Ok(ttl),
    };
    Err(Error::new_spanned(value, fault))
}

fn renew(value: &Expr) -> syn::Result<Renew> {
    match bool_of(value) {
        Some(false) => Ok(Renew::Off),
        Some(true) => Err(Error::new_spanned(
            value,
            "`renew` is on by default; write how often, as in \"500ms\", or `false`",
        )),
        None => match nonzero(value, "renew")? {
            Time::Known(every) if every < Duration::from_millis(1) => {
                Err(Error::new_spanned(value, "`renew` must be at least 1ms"))
            }
            every => Ok(Renew::Every(every)),
        },
    }
}

/// Whether the body goes on when the lease is lost.
fn on_lost(value: &Expr) -> syn::Result<bool> {
    match bare(value) {
        Expr::Continue(word) if word.label.is_none() => Ok(true),
        Expr::Path(word) if word.path.is_ident("cancel") => Ok(false),
        _ => Err(Error::new_spanned(
            value,
            "`on_lost` is `cancel` (the body is dropped) or `continue` (it goes on without the lock)",
        )),
    }
}

fn on_error(value: &Expr) -> syn::Result<OnError> {
    match bare(value) {
        Expr::Path(path) => Ok(OnError::Path(path.clone())),
        Expr::Closure(closure) => Ok(OnError::Closure(closure.clone())),
        _ => Err(Error::new_spanned(
            value,
            "`on_error` is a function that makes a return value of a `LockError`: a path, as in `on_error = busy`, or a closure",
        )),
    }
}

fn guard(value: &Expr) -> syn::Result<Ident> {
    if let Expr::Path(ExprPath {
        qself: None, path, ..
    }) = bare(value)
        && let Some(name) = path.get_ident()
        && !["self", "Self", "super", "crate"]
            .iter()
            .any(|word| name == word)
    {
        return Ok(name.clone());
    }
    Err(Error::new_spanned(
        value,
        "`guard` is a new name for the lock within the body, as in `guard = lock`",
    ))
}

pub(crate) fn crate_path(value: &Expr) -> syn::Result<Path> {
    let path = match bare(value) {
        Expr::Path(ExprPath {
            qself: None, path, ..
        }) => Some(path.clone()),
        _ => text_of(value).and_then(|text| text.parse_with(Path::parse_mod_style).ok()),
    };
    path.ok_or_else(|| {
        Error::new_spanned(
            value,
            "`crate` is the path under which `lock_runtime` is found here, as in `crate = my_facade::lock_runtime`",
        )
    })
}

/// The mistakes that no argument makes alone.
fn check_together(args: &Args, written: &AllWritten, errors: &mut Errors) {
    let shown = humantime::format_duration;
    let Some(Time::Known(ttl)) = args.ttl else {
        return;
    };
    if let Some(Renew::Every(Time::Known(every))) = args.renew
        && every > ttl / 2
    {
        errors.at(
            written.value("renew"),
            format!(
                "`renew` ({}) must be at most half of `ttl` ({}), so that one more try fits in",
                shown(every),
                shown(ttl)
            ),
        );
    }
    if let (Some(Renew::Off), Some(Time::Known(limit))) = (&args.renew, &args.max_hold)
        && *limit >= ttl
    {
        errors.at(
            written.value("max_hold"),
            format!(
                "`max_hold` ({}) is never reached: with `renew = false` the lease ends after `ttl` ({})",
                shown(*limit),
                shown(ttl)
            ),
        );
    }
}

/// The expression without what `macro_rules!` and parentheses put around it.
///
/// A value that came through `$k:literal` or `$k:expr` is in an invisible group; taken for an expression, a template would be no
/// template any more, but one key for all calls.
fn bare(value: &Expr) -> &Expr {
    match value {
        Expr::Group(group) => bare(&group.expr),
        Expr::Paren(paren) => bare(&paren.expr),
        other => other,
    }
}

pub(crate) fn text_of(value: &Expr) -> Option<&LitStr> {
    match bare(value) {
        Expr::Lit(lit) => match &lit.lit {
            Lit::Str(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

fn bool_of(value: &Expr) -> Option<bool> {
    match bare(value) {
        Expr::Lit(lit) => match &lit.lit {
            Lit::Bool(lit) => Some(lit.value),
            _ => None,
        },
        _ => None,
    }
}
