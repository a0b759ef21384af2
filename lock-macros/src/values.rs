//! The values of the arguments, each understood by itself.

use std::time::Duration;

use syn::{Error, Expr, ExprClosure, ExprPath, Ident, Lit, LitStr, Path};

use crate::duration;

/// The shortest and the longest ttl, as the runtime has them too.
const TTL: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(24 * 60 * 60);

/// Where the key comes from.
pub(crate) enum Key {
    /// A template with placeholders.
    Template(LitStr),
    /// An expression whose text is the whole key.
    Expression(Expr),
}

impl Key {
    /// The template as it is written, if it is one.
    pub(crate) fn template(&self) -> Option<String> {
        match self {
            Key::Template(text) => Some(text.value()),
            Key::Expression(_) => None,
        }
    }
}

/// Where several keys come from.
pub(crate) enum Keys {
    /// One by one.
    List(Vec<Key>),
    /// An expression that gives their texts.
    Expression(Expr),
}

/// The names of the locks in the body.
pub(crate) enum Guard {
    /// That of the lock, or of a list of locks.
    One(Ident),
    /// One for each of several locks.
    Each(Vec<Ident>),
}

impl Guard {
    pub(crate) fn names(&self) -> &[Ident] {
        match self {
            Guard::One(name) => std::slice::from_ref(name),
            Guard::Each(names) => names,
        }
    }
}

/// A duration.
pub(crate) enum Time {
    /// Known now, and checked.
    Known(Duration),
    /// An expression of type `Duration`.
    Expression(Expr),
}

/// A number of permits or shards.
pub(crate) enum Count {
    /// Known now, and checked.
    Known(u32),
    /// An expression of type `u32`.
    Expression(Expr),
}

/// A function that makes a return value of a `LockError`.
pub(crate) enum Handler {
    Path(ExprPath),
    Closure(ExprClosure),
}

/// What becomes of a call whose lock another holds.
pub(crate) enum OnTaken {
    /// It returns the error, as any other.
    Error,
    /// It returns that nothing was done.
    Skip,
    /// It returns what this makes of the error.
    Function(Handler),
}

/// How the watchdog renews.
pub(crate) enum Renew {
    Every(Time),
    Off,
}

pub(crate) fn key(value: &Expr) -> syn::Result<Key> {
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

pub(crate) fn keys(value: &Expr) -> syn::Result<Keys> {
    const FORM: &str = "write e.g. `keys = [\"account:<from>\", \"account:<to>\"]`";
    let list = match bare(value) {
        Expr::Array(list) => list,
        Expr::Lit(_) => {
            return Err(Error::new_spanned(
                value,
                format!("`keys` is a list; {FORM}, or `key` for one lock"),
            ));
        }
        _ => return Ok(Keys::Expression(value.clone())),
    };
    match list.elems.len() {
        0 => {
            return Err(Error::new_spanned(
                value,
                format!("there is nothing to lock; {FORM}"),
            ));
        }
        1 => {
            return Err(Error::new_spanned(
                value,
                "one lock has a `key`; write `key = …`, without the brackets",
            ));
        }
        _ => {}
    }
    let mut texts = Vec::new();
    for text in list.elems.iter().filter_map(text_of) {
        if texts.contains(&text.value()) {
            return Err(Error::new_spanned(
                text,
                "this key is there twice, and is one lock; leave it out, or write what the other one is",
            ));
        }
        texts.push(text.value());
    }
    let keys = list.elems.iter().map(key);
    Ok(Keys::List(keys.collect::<syn::Result<_>>()?))
}

/// What locks are called in logs and metrics: one of few names, known now.
pub(crate) fn name(value: &Expr) -> syn::Result<String> {
    const FORM: &str = "a name is text, the same for all calls; write e.g. `name = \"coupon\"`";
    let Some(text) = text_of(value) else {
        return Err(Error::new_spanned(value, FORM));
    };
    let name = text.value();
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(Error::new_spanned(
            value,
            "a name is neither empty nor has control characters; write e.g. `name = \"coupon\"`",
        ));
    }
    Ok(name)
}

pub(crate) fn time(value: &Expr) -> syn::Result<Time> {
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

pub(crate) fn nonzero(value: &Expr, name: &str) -> syn::Result<Time> {
    match time(value)? {
        Time::Known(Duration::ZERO) => Err(Error::new_spanned(
            value,
            format!("`{name}` cannot be zero"),
        )),
        time => Ok(time),
    }
}

pub(crate) fn ttl(value: &Expr) -> syn::Result<Time> {
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

pub(crate) fn min_hold(value: &Expr) -> syn::Result<Time> {
    kept(value, "min_hold")
}

pub(crate) fn once_per(value: &Expr) -> syn::Result<Time> {
    kept(value, "once_per")
}

/// For how long a key is kept.
fn kept(value: &Expr, name: &str) -> syn::Result<Time> {
    match nonzero(value, name)? {
        Time::Known(kept) if kept > *TTL.end() => Err(Error::new_spanned(
            value,
            format!(
                "`{name}` must be at most 24h; what has to happen more seldom needs a note that it has been done"
            ),
        )),
        kept => Ok(kept),
    }
}

/// Whether the key is shared.
pub(crate) fn mode(value: &Expr) -> syn::Result<bool> {
    let word = match bare(value) {
        Expr::Path(path) => path.path.get_ident().map(ToString::to_string),
        _ => text_of(value).map(LitStr::value),
    };
    let is_text = text_of(value).is_some();
    let fault = match word.as_deref() {
        Some("shared") if !is_text => return Ok(true),
        Some("exclusive") if !is_text => return Ok(false),
        Some(word @ ("shared" | "exclusive")) => format!("write `mode = {word}`, without quotes"),
        Some(word @ ("read" | "reader" | "readers" | "share")) => {
            format!("`{word}` is called `shared` here; write `mode = shared`")
        }
        Some(word @ ("write" | "writer" | "exclude")) => {
            format!("`{word}` is called `exclusive` here, which is the default; leave it out")
        }
        Some(word @ ("permits" | "shards")) => {
            format!("`{word}` has a number of its own; write e.g. `{word} = 5`")
        }
        _ => "`mode` is `shared` (readers together) or `exclusive` (alone, the default)".to_owned(),
    };
    Err(Error::new_spanned(value, fault))
}

pub(crate) fn permits(value: &Expr) -> syn::Result<Count> {
    let count = count(value, "permits")?;
    let fault = match count {
        Count::Known(0) => "with no permit nobody would ever run; write e.g. `permits = 5`",
        Count::Known(1) => "one permit is the plain lock; leave `permits` out",
        Count::Known(permits) if permits > 1_000_000 => "`permits` must be at most 1,000,000",
        _ => return Ok(count),
    };
    Err(Error::new_spanned(value, fault))
}

pub(crate) fn shards(value: &Expr) -> syn::Result<Count> {
    let count = count(value, "shards")?;
    let fault = match count {
        Count::Known(1) => "one shard is the whole key; leave `shards` out",
        Count::Known(shards) if !(2..=64).contains(&shards) => "`shards` must be from 2 to 64",
        _ => return Ok(count),
    };
    Err(Error::new_spanned(value, fault))
}

fn count(value: &Expr, name: &str) -> syn::Result<Count> {
    let fault = match bare(value) {
        Expr::Lit(lit) => match &lit.lit {
            Lit::Int(number) if ["", "u32"].contains(&number.suffix()) => {
                match number.base10_parse() {
                    Ok(count) => return Ok(Count::Known(count)),
                    Err(_) => format!("`{name}` is a number from 0 to 4,294,967,295"),
                }
            }
            Lit::Int(number) => format!(
                "`{name}` is a `u32`; write `{name} = {}`",
                number.base10_digits()
            ),
            Lit::Str(text) if text.value().parse::<u32>().is_ok() => {
                format!(
                    "`{name}` is a number; write `{name} = {}`, without quotes",
                    text.value()
                )
            }
            _ => format!("`{name}` is a number; write e.g. `{name} = 5`"),
        },
        Expr::Unary(unary) if matches!(*unary.expr, Expr::Lit(_)) => {
            format!("`{name}` is a number, and not negative; write e.g. `{name} = 5`")
        }
        _ => return Ok(Count::Expression(value.clone())),
    };
    Err(Error::new_spanned(value, fault))
}

pub(crate) fn renew(value: &Expr) -> syn::Result<Renew> {
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
pub(crate) fn on_lost(value: &Expr) -> syn::Result<bool> {
    match bare(value) {
        Expr::Continue(word) if word.label.is_none() => Ok(true),
        Expr::Path(word) if word.path.is_ident("cancel") => Ok(false),
        _ => Err(Error::new_spanned(
            value,
            "`on_lost` is `cancel` (the body is dropped) or `continue` (it goes on without the lock)",
        )),
    }
}

/// What becomes of a call whose lock another holds.
pub(crate) fn on_taken(value: &Expr) -> syn::Result<OnTaken> {
    match bare(value) {
        Expr::Path(word) if word.path.is_ident("error") => Ok(OnTaken::Error),
        Expr::Path(word) if word.path.is_ident("skip") => Ok(OnTaken::Skip),
        other => handler(other).map(OnTaken::Function).ok_or_else(|| {
            Error::new_spanned(
                value,
                "`on_taken` is `skip` (the call does nothing), `error`, or a function that makes a return value of a `LockError`, as in `on_taken = busy`",
            )
        }),
    }
}

pub(crate) fn on_error(value: &Expr) -> syn::Result<Handler> {
    handler(value).ok_or_else(|| {
        Error::new_spanned(
            value,
            "`on_error` is a function that makes a return value of a `LockError`: a path, as in `on_error = busy`, or a closure",
        )
    })
}

fn handler(value: &Expr) -> Option<Handler> {
    match bare(value) {
        Expr::Path(path) => Some(Handler::Path(path.clone())),
        Expr::Closure(closure) => Some(Handler::Closure(closure.clone())),
        _ => None,
    }
}

pub(crate) fn guard(value: &Expr) -> syn::Result<Guard> {
    let Expr::Array(list) = bare(value) else {
        return guard_name(value).map(Guard::One);
    };
    let mut names: Vec<Ident> = Vec::new();
    for element in &list.elems {
        let name = guard_name(element)?;
        if names.contains(&name) {
            return Err(Error::new_spanned(
                element,
                format!("`{name}` would name two locks; choose another name"),
            ));
        }
        names.push(name);
    }
    Ok(Guard::Each(names))
}

fn guard_name(value: &Expr) -> syn::Result<Ident> {
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

/// The expression without what `macro_rules!` and parentheses put around it.
///
/// A value that came through `$k:literal` or `$k:expr` is in an invisible group; taken for an
/// expression, a template would be no template any more, but one key for all calls.
pub(crate) fn bare(value: &Expr) -> &Expr {
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
