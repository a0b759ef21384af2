//! The arguments of the attribute: names, values, and whether they fit together.

use proc_macro2::{Span, TokenStream};
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::{Error, Expr, Ident, Path, Token, parse_quote, token};

use crate::errors::Errors;
use crate::krate;
use crate::names::{example, unknown};
use crate::values::{self, Count, Guard, Handler, Key, Keys, OnTaken, Renew, Time, text_of};

/// The arguments, understood.
pub(crate) struct Args {
    pub(crate) key: Option<Key>,
    pub(crate) keys: Option<Keys>,
    pub(crate) ttl: Option<Time>,
    pub(crate) wait: Option<Time>,
    pub(crate) renew: Option<Renew>,
    pub(crate) max_hold: Option<Time>,
    pub(crate) min_hold: Option<Time>,
    /// Whether the key is shared.
    pub(crate) shared: bool,
    pub(crate) permits: Option<Count>,
    pub(crate) shards: Option<Count>,
    pub(crate) once_per: Option<Time>,
    pub(crate) continue_when_lost: bool,
    pub(crate) on_taken: OnTaken,
    pub(crate) on_error: Option<Handler>,
    pub(crate) guard: Option<Guard>,
    /// What all locks of the function are called in logs and metrics.
    pub(crate) name: Option<String>,
    /// The templates of the keys as they are written; nothing in the place of an expression.
    pub(crate) templates: Vec<Option<String>>,
    pub(crate) runtime: Option<Expr>,
    /// The path of the runtime crate.
    pub(crate) krate: Path,
}

// Input:  key = "coupon:<id>", ttl = "5s", on_lost = continue
// Output: Args { key: Template("coupon:<id>"), ttl: Known(5 s), continue_when_lost: true, .. }
pub(crate) fn parse(tokens: TokenStream, errors: &mut Errors) -> Args {
    let mut args = Args {
        key: None,
        keys: None,
        ttl: None,
        wait: None,
        renew: None,
        max_hold: None,
        min_hold: None,
        shared: false,
        permits: None,
        shards: None,
        once_per: None,
        continue_when_lost: false,
        on_taken: OnTaken::Error,
        on_error: None,
        guard: None,
        name: None,
        templates: Vec::new(),
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
                None => errors.at(name, unknown(&word, value.as_ref())),
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
    if args.once_per.is_some() && !seen.iter().any(|name| name == "on_taken") {
        args.on_taken = OnTaken::Skip;
    }
    let all_known = written.arguments.len() == seen.len();
    if written.complete && all_known && !seen.iter().any(|name| name == "key" || name == "keys") {
        errors.push(match written.value("name") {
            Some(name) => Error::new_spanned(
                name,
                "`name` is what logs and metrics call the lock; which lock it is, is said by `key = \"coupon:<id>\"`",
            ),
            None => Error::new(
                Span::call_site(),
                "missing `key`, e.g. `#[distributed_lock(key = \"coupon:<id>\")]`",
            ),
        });
    }
    if !seen.iter().any(|name| name == "crate")
        && let Some(fault) = krate::missing(std::env::args())
    {
        errors.push(Error::new(Span::call_site(), fault));
    }
    check_together(&args, &written, errors);
    args.templates = match (&args.key, &args.keys) {
        (Some(key), _) => vec![key.template()],
        (None, Some(Keys::List(keys))) => keys.iter().map(Key::template).collect(),
        (None, _) => vec![None],
    };
    args
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
        "key" => values::key(value).map(|key| args.key = Some(key)),
        "keys" => values::keys(value).map(|keys| args.keys = Some(keys)),
        "ttl" => values::ttl(value).map(|ttl| args.ttl = Some(ttl)),
        "wait" => values::time(value).map(|wait| args.wait = Some(wait)),
        "renew" => values::renew(value).map(|renew| args.renew = Some(renew)),
        "max_hold" => values::nonzero(value, name).map(|limit| args.max_hold = Some(limit)),
        "min_hold" => values::min_hold(value).map(|least| args.min_hold = Some(least)),
        "mode" => values::mode(value).map(|shared| args.shared = shared),
        "permits" => values::permits(value).map(|permits| args.permits = Some(permits)),
        "shards" => values::shards(value).map(|shards| args.shards = Some(shards)),
        "once_per" => values::once_per(value).map(|period| args.once_per = Some(period)),
        "on_lost" => values::on_lost(value).map(|goes_on| args.continue_when_lost = goes_on),
        "on_taken" => values::on_taken(value).map(|what| args.on_taken = what),
        "on_error" => values::on_error(value).map(|function| args.on_error = Some(function)),
        "guard" => values::guard(value).map(|name| args.guard = Some(name)),
        "name" => values::name(value).map(|name| args.name = Some(name)),
        "runtime" => {
            args.runtime = Some(value.clone());
            Ok(())
        }
        "crate" => values::crate_path(value).map(|path| args.krate = path),
        other => unreachable!("`{other}` is no known argument"),
    };
    if let Err(error) = result {
        errors.push(error);
    }
}

/// The mistakes that no argument makes alone.
fn check_together(args: &Args, written: &AllWritten, errors: &mut Errors) {
    check_keys(args, written, errors);
    check_mode(args, written, errors);
    let shown = humantime::format_duration;
    if let (Some(Time::Known(least)), Some(Time::Known(limit))) = (&args.min_hold, &args.max_hold)
        && least > limit
    {
        errors.at(
            written.value("min_hold"),
            format!(
                "`min_hold` ({}) is longer than `max_hold` ({}), which ends the body before",
                shown(*least),
                shown(*limit)
            ),
        );
    }
    if let (Some(Time::Known(least)), Some(Time::Known(period))) = (&args.min_hold, &args.once_per)
        && least >= period
    {
        errors.at(
            written.value("once_per"),
            format!(
                "`once_per` ({}) is over before `min_hold` ({}) is; leave one of them out",
                shown(*period),
                shown(*least)
            ),
        );
    }
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

/// Whether one thing is asked of the key, and the body can know what it got.
fn check_mode(args: &Args, written: &AllWritten, errors: &mut Errors) {
    let modes = [
        ("mode", args.shared),
        ("permits", args.permits.is_some()),
        ("shards", args.shards.is_some()),
    ];
    let mut modes = modes.iter().filter(|(_, is_given)| *is_given);
    let Some((mode, _)) = modes.next() else {
        return;
    };
    let shown = if args.shared { "mode = shared" } else { mode };
    if let Some((other, _)) = modes.next() {
        let fault = format!(
            "there is `{shown}` already; choose one of `mode = shared`, `permits` and `shards`"
        );
        errors.at(written.value(other), fault);
    } else if args.keys.is_some() {
        let fault = format!("with `keys` all of each key is locked; `{shown}` is for one `key`");
        errors.at(written.value(mode), fault);
    } else if args.shards.is_some() && args.guard.is_none() {
        errors.at(
            written.value("shards"),
            "the body must know its shard; write `guard = lock`, and in the body `lock.shard()`",
        );
    } else if args.shared && args.min_hold.is_some() {
        errors.at(
            written.value("min_hold"),
            "a reader does not keep others out, so there is no `min_hold` with `mode = shared`",
        );
    } else if args.shared && args.once_per.is_some() {
        errors.at(
            written.value("once_per"),
            "a reader does not keep others out, so there is no `once_per` with `mode = shared`",
        );
    }
}

/// Whether there is one kind of key, and a name for each lock.
fn check_keys(args: &Args, written: &AllWritten, errors: &mut Errors) {
    if args.key.is_some() && args.keys.is_some() {
        errors.at(
            written.value("keys"),
            "there is a `key` already; write all of them in `keys`, or the one as `key`",
        );
        return;
    }
    let fault = match (&args.keys, &args.guard) {
        (None, Some(Guard::Each(_))) if args.key.is_some() => {
            "one lock has one name; write e.g. `guard = lock`, or several `keys`".to_owned()
        }
        (Some(Keys::List(keys)), Some(guard)) if keys.len() != guard.names().len() => {
            let (locks, names) = (keys.len(), guard.names().len());
            format!("there are {locks} keys and {}; name each lock, as in `guard = [from, to]`", count(names))
        }
        (Some(Keys::Expression(_)), Some(Guard::Each(_))) => {
            "how many keys there are is known when the call is made; write e.g. `guard = locks`, which is a list".to_owned()
        }
        _ => return,
    };
    errors.at(written.value("guard"), fault);
}

fn count(names: usize) -> String {
    match names {
        0 => "no name".to_owned(),
        1 => "1 name".to_owned(),
        names => format!("{names} names"),
    }
}
