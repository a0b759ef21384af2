//! The function with the lock around its body.
//!
//! Generated tokens have the hygiene of this macro (`mixed_site`): no name of a user is taken for
//! one of ours, nor the other way round. Functions are called by their path, never as methods: a
//! trait of the user's may have a method of the same name, and would take the call.

use std::time::Duration;

use proc_macro2::{Group, Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Expr, GenericArgument, Path, PathArguments, ReturnType, Type, parse_quote};

use crate::args::Args;
use crate::arguments::{Argument, Unused};
use crate::blocks::future;
use crate::item::Function;
use crate::key::{CheckedKey, CheckedKeys, Placeholder, Segment};
use crate::mention::mentions;
use crate::values::{Count, Guard, Handler, OnTaken, Renew, Time};

// Input:  #[distributed_lock(key = "coupon:<id>", ttl = "5s", guard = lock)]
//         async fn redeem(&self, Path(id): Path<u64>, _tx: Tx) -> Res<u64> { BODY }
// Output: async fn redeem(&self, Path(id): Path<u64>, _tx: Tx) -> Res<u64> {
//             let __spec = Spec::ttl(Spec::named(Spec::new({
//                 let mut __key = KeyTemplate::new();
//                 KeyTemplate::text(&mut __key, "coupon:");
//                 { let __value = &id; KeyPart::add(__value, KeyTemplate::value(&mut __key)); }
//                 KeyTemplate::finish(__key)
//             }), &Named {
//                 function: concat!(module_path!(), "::redeem"),
//                 locks: &["coupon:<id>"],
//             }), Duration::from_millis(5000));
//             let __slot = Spec::slot(&__spec);
//             let __body = pin!(Some(async move {
//                 if let Some(__ret) = None::<Res<u64>> { return __ret; }
//                 let _ = &_tx;
//                 let _ = &id;
//                 let _ = &self;
//                 let lock = Slot::handle(__slot);
//                 { BODY }
//             }));
//             run(__spec, __body, LockReturn::from_lock_error).await
//         }
pub(crate) fn expand(args: &Args, key: &CheckedKeys, function: &Function) -> TokenStream {
    let at = Span::mixed_site();
    let private = private(&args.krate);
    let spec = spec(args, key, function);
    let slot = args
        .guard
        .iter()
        .map(|_| quote_spanned!(at=> let __slot = #private::Spec::slot(&__spec);));
    let once = args
        .once_per
        .iter()
        .map(|_| quote_spanned!(at=> let __once = #private::Spec::once(&__spec);));
    let mut body = future(function.place, &body(args, key, function));
    if args.once_per.is_some() {
        body = watched(&body, args, function);
    }
    let refuse = refuse(args, function);
    let locked = quote_spanned! {at=>
        let __spec = #spec;
        #(#slot)*
        #(#once)*
        #[allow(unused_braces)]
        let __body = ::core::pin::pin!(::core::option::Option::Some(#body));
        #[allow(clippy::implicit_return)]
        #private::run(__spec, __body, #refuse).await
    };
    function.with_body(&locked, &private)
}

/// The function as it was, with the guard that its body expects: an error in the attribute shall be
/// the only one.
pub(crate) fn expand_without_lock(args: &Args, is_list: bool, function: &Function) -> TokenStream {
    let at = Span::mixed_site();
    let krate = &args.krate;
    let names = args.guard.iter().flat_map(Guard::names);
    let ty = match (&args.guard, is_list) {
        (Some(Guard::One(_)), true) => {
            quote_spanned!(at=> #krate::__private::Vec<#krate::LockHandle>)
        }
        _ => quote_spanned!(at=> #krate::LockHandle),
    };
    let guard = names.map(|name| {
        quote_spanned!(at=> let #name = ::core::option::Option::unwrap(
            ::core::option::Option::<#ty>::None
        );)
    });
    let body = &function.body;
    function.with_body(&quote_spanned!(at=> #(#guard)* #body), &private(krate))
}

pub(crate) fn private(krate: &Path) -> TokenStream {
    quote_spanned!(Span::mixed_site()=> #krate::__private)
}

/// What to lock and how, put together before the body may move the arguments.
fn spec(args: &Args, key: &CheckedKeys, function: &Function) -> TokenStream {
    let at = Span::mixed_site();
    let krate = &args.krate;
    let private = private(krate);
    let expression = |expression: &dyn ToTokens| {
        let tokens = expression.to_token_stream();
        match function.receiver() {
            Some(receiver) if receiver != "self" => rename_self(tokens, receiver),
            _ => tokens,
        }
    };
    let duration = |time: &Time| match time {
        Time::Known(duration) => known(*duration),
        Time::Expression(value) => {
            let value = expression(value);
            // Its own `let`, so that a wrong type is an error at the value; the type stands there
            // too, lest it be pointed at.
            let ty = quote_spanned!(at.located_at(value.span())=> ::core::time::Duration);
            quote_spanned!(at=> { let __duration: #ty = #value; __duration })
        }
    };

    let count = |count: &Count| match count {
        Count::Known(count) => quote_spanned!(at=> #count),
        Count::Expression(value) => {
            let value = expression(value);
            // As of a duration.
            let ty = quote_spanned!(at.located_at(value.span())=> ::core::primitive::u32);
            quote_spanned!(at=> { let __count: #ty = #value; __count })
        }
    };
    let text = |key: &CheckedKey| match key {
        CheckedKey::Template(segments) => template(segments, &private),
        CheckedKey::Expression(value) => {
            let value = expression(value);
            let text = as_ref(&value, &quote!(::core::primitive::str));
            quote_spanned!(at=> #private::key_text(#text))
        }
    };
    let mut spec = match key {
        CheckedKeys::One(key) => {
            let text = text(key);
            quote_spanned!(at=> #private::Spec::new(#text))
        }
        CheckedKeys::Each(keys) => {
            let texts = keys.iter().map(text);
            quote_spanned!(at=> #private::Spec::all([#(#texts),*]))
        }
        CheckedKeys::Expression(value) => {
            // All of it at the value, where the error belongs if it gives no texts.
            let value = expression(value);
            let place = at.located_at(value.span());
            let here = relocate(private.clone(), place);
            let texts = quote_spanned!(place=> #here::Texts::texts(#value));
            quote_spanned!(at=> #private::Spec::all(#texts))
        }
    };
    let mut set = |name: &str, value: &dyn ToTokens| {
        let name = Ident::new(name, at);
        spec = quote_spanned!(at=> #private::Spec::#name(#spec, #value));
    };
    set("named", &named(args, function));
    if let Some(ttl) = &args.ttl {
        set("ttl", &duration(ttl));
    }
    match &args.wait {
        Some(wait) => set("wait", &duration(wait)),
        // Whoever skips does not wait first, unless told so.
        None if matches!(args.on_taken, OnTaken::Skip) => {
            set("wait", &quote_spanned!(at=> ::core::time::Duration::ZERO));
        }
        None => {}
    }
    match &args.renew {
        Some(Renew::Every(every)) => set("renew", &duration(every)),
        Some(Renew::Off) => set("renew_off", &TokenStream::new()),
        None => {}
    }
    if let Some(limit) = &args.max_hold {
        set("max_hold", &duration(limit));
    }
    if let Some(least) = &args.min_hold {
        set("min_hold", &duration(least));
    }
    if args.shared {
        set("shared", &TokenStream::new());
    }
    if let Some(permits) = &args.permits {
        set("permits", &count(permits));
    }
    if let Some(shards) = &args.shards {
        set("shards", &count(shards));
    }
    if let Some(period) = &args.once_per {
        set("once_per", &duration(period));
    }
    if args.continue_when_lost {
        set("continue_when_lost", &TokenStream::new());
    }
    if let Some(runtime) = &args.runtime {
        // All of it at the value, where the error belongs if it has no runtime.
        let runtime = expression(runtime);
        let place = at.located_at(runtime.span());
        let private = relocate(private.clone(), place);
        set(
            "runtime",
            &quote_spanned!(place=> #private::HasRuntime::runtime(&#runtime)),
        );
    }
    spec
}

// Input:  redeem, "coupon:<id>"
// Output: &Named { function: concat!(module_path!(), "::redeem"), locks: &["coupon:<id>"] }
/// What the function and its locks are called: a lock whose key is an expression like the function.
fn named(args: &Args, function: &Function) -> TokenStream {
    let at = Span::mixed_site();
    let private = private(&args.krate);
    let end = format!("::{}", function.name());
    let path = quote_spanned!(at=> ::core::concat!(::core::module_path!(), #end));
    let names = match &args.name {
        Some(name) => vec![quote_spanned!(at=> #name)],
        None => {
            let templates = args.templates.iter();
            let names = templates.map(|template| match template {
                Some(template) => quote_spanned!(at=> #template),
                None => path.clone(),
            });
            names.collect()
        }
    };
    quote_spanned!(at=> &#private::Named { function: #path, locks: &[#(#names),*] })
}

/// `value` as a `&ty`, by reference; all of it at the value, where the error belongs if it is none.
fn as_ref(value: &TokenStream, ty: &TokenStream) -> TokenStream {
    let place = Span::mixed_site().located_at(value.span());
    let ty = relocate(ty.clone(), place);
    quote_spanned!(place=> ::core::convert::AsRef::<#ty>::as_ref(&#value))
}

// Input:  Text("coupon:"), Value(id)
// Output: {
//             let mut __key = KeyTemplate::new();
//             KeyTemplate::text(&mut __key, "coupon:");
//             { let __value = &id; KeyPart::add(__value, KeyTemplate::value(&mut __key)); }
//             KeyTemplate::finish(__key)
//         }
pub(crate) fn template(segments: &[Segment], private: &TokenStream) -> TokenStream {
    let at = Span::mixed_site();
    let steps = segments.iter().map(|segment| match segment {
        Segment::Text(text) => {
            quote_spanned!(at=> #private::KeyTemplate::text(&mut __key, #text);)
        }
        Segment::Value(Placeholder {
            root,
            declared,
            members,
            integer,
        }) => {
            // A member that does not exist is an error at the template; a value that cannot be part
            // of a key is one at the argument, which says which of several it is.
            let place = at.located_at(root.span());
            let private = relocate(private.clone(), place);
            let value = Ident::new("__value", at.located_at(*declared));
            let check = integer.then(|| quote_spanned!(place=> #private::Integer::check(#value);));
            quote_spanned! {place=> {
                let #value = &#root #(.#members)*;
                #check
                #private::KeyPart::add(#value, #private::KeyTemplate::value(&mut __key));
            }}
        }
    });
    quote_spanned! {at=> {
        let mut __key = #private::KeyTemplate::new();
        #(#steps)*
        #private::KeyTemplate::finish(__key)
    }}
}

fn known(duration: Duration) -> TokenStream {
    let at = Span::mixed_site();
    match u64::try_from(duration.as_millis()) {
        Ok(millis) if Duration::from_millis(millis) == duration => {
            quote_spanned!(at=> ::core::time::Duration::from_millis(#millis))
        }
        _ => {
            let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
            quote_spanned!(at=> ::core::time::Duration::new(#seconds, #nanos))
        }
    }
}

/// The future that runs under the lock.
fn body(args: &Args, key: &CheckedKeys, function: &Function) -> TokenStream {
    let at = Span::mixed_site();
    let private = private(&args.krate);
    let is_unused = |argument: &Argument| {
        let name = argument.ident.unraw().to_string();
        !mentions(function.body.clone(), &name) && !is_in_the_attribute(&name, args, key)
    };
    let arguments = function.arguments.iter();
    // What the future must not hold, and nothing uses, is left where it is; the compiler reports
    // it.
    let moved: Vec<&Argument> = arguments
        .filter(|argument| !(argument.excluded && is_unused(argument)))
        .collect();
    let unused = moved.iter().filter(|argument| is_unused(argument));
    let unused = unused.filter_map(|argument| report(argument)).collect();
    let hint = return_type_hint(&function.output, unused);
    // A captured variable is dropped in the order of its first mention. The last argument first, as
    // the language does it, and every one, so that none outlives the lock.
    let keep = moved.iter().rev().map(|argument| keep(argument));
    let guard = match (&args.guard, key) {
        (None, _) => TokenStream::new(),
        (Some(Guard::One(name)), CheckedKeys::One(_)) => {
            quote_spanned!(at=> let #name = #private::Slot::handle(__slot);)
        }
        (Some(Guard::One(name)), _) => {
            quote_spanned!(at=> let #name = #private::Slot::handles(__slot);)
        }
        (Some(Guard::Each(names)), _) => {
            let places = 0..names.len();
            quote_spanned!(at=> #(let #names = #private::Slot::handle_at(&__slot, #places);)*)
        }
    };
    let body = &function.body;
    quote_spanned! {at=>
        #hint
        #(#keep)*
        #guard
        #body
    }
}

/// The same future, which also says whether it ended well.
fn watched(body: &TokenStream, args: &Args, function: &Function) -> TokenStream {
    let at = Span::mixed_site();
    // At the return type: there belongs the error if that cannot say it.
    let place = at.located_at(function.output.span());
    let krate = relocate(args.krate.to_token_stream(), place);
    let is_done = quote_spanned!(place=> #krate::LockDone::is_done(&__ret));
    let private = private(&args.krate);
    quote_spanned! {at=> async move {
        let __ret = #body.await;
        #private::Once::ended(&__once, #is_done);
        __ret
    }}
}

/// A line that moves an argument into the body.
fn keep(argument: &Argument) -> TokenStream {
    let at = Span::mixed_site();
    let Argument { ident, cfg, .. } = argument;
    let allow = ident
        .to_string()
        .starts_with('_')
        .then(|| quote_spanned!(at=> #[allow(clippy::used_underscore_binding)]));
    quote_spanned!(at=> #(#cfg)* #allow let _ = &#ident;)
}

/// Whether the key or a setting is made of the argument `name`.
pub(crate) fn is_in_the_attribute(name: &str, args: &Args, key: &CheckedKeys) -> bool {
    let durations = [
        &args.ttl,
        &args.wait,
        &args.max_hold,
        &args.min_hold,
        &args.once_per,
    ];
    let mut durations = durations.into_iter().flatten().chain(match &args.renew {
        Some(Renew::Every(every)) => Some(every),
        _ => None,
    });
    let is_in = |expression: &Expr| mentions(expression.to_token_stream(), name);
    let is_in_key = |key: &CheckedKey| match key {
        CheckedKey::Template(segments) => segments.iter().any(|segment| match segment {
            Segment::Value(value) => {
                let argument = value.root.get_ident();
                argument.is_some_and(|argument| argument.unraw() == name)
            }
            Segment::Text(_) => false,
        }),
        CheckedKey::Expression(value) => is_in(value),
    };
    key.list().iter().any(is_in_key)
        || matches!(key, CheckedKeys::Expression(value) if is_in(value))
        || durations.any(|time| matches!(time, Time::Expression(value) if is_in(value)))
        || [&args.permits, &args.shards]
            .into_iter()
            .flatten()
            .any(|count| matches!(count, Count::Expression(value) if is_in(value)))
        || args.runtime.as_ref().is_some_and(is_in)
}

// Input:  unused, Point { x, .. }
// Output: let unused = 0; struct Field { x: u8 } let Field { x } = Field { x: 0 };
/// A variable by the name of an argument that nothing uses, so that the compiler says so: to it,
/// the line that moves the argument into the body is a use.
fn report(argument: &Argument) -> Option<TokenStream> {
    let at = Span::mixed_site();
    let Argument { ident, cfg, .. } = argument;
    let variable = match argument.unused? {
        Unused::Variable => quote_spanned!(at=> let #ident = 0_u8;),
        // Its advice for a field is another one.
        Unused::Field => quote_spanned! {at=>
            struct __Field {
                #ident: ::core::primitive::u8,
            }
            let __Field { #ident } = __Field { #ident: 0 };
        },
    };
    // Conditions on the statements of the block.
    Some(quote_spanned!(at=> #(#cfg)* { #variable }))
}

/// A line that never runs, and tells the compiler what the body returns: values are coerced to it,
/// and errors point into the body.
fn return_type_hint(output: &Type, unused: TokenStream) -> Option<TokenStream> {
    let mut output = output.clone();
    if matches!(output, Type::Never(_)) {
        return None;
    }
    let place = Span::mixed_site().located_at(output.span());
    infer_impl_trait(&mut output);
    Some(quote_spanned! {place=>
        if let ::core::option::Option::Some(__ret) = ::core::option::Option::None::<#output> {
            #unused
            #[allow(unreachable_code)]
            return __ret;
        }
    })
}

// Input:  Result<impl Display, Error>
// Output: Result<_, Error>
fn infer_impl_trait(ty: &mut Type) {
    match ty {
        Type::ImplTrait(_) => *ty = parse_quote!(_),
        Type::Array(array) => infer_impl_trait(&mut array.elem),
        Type::Group(group) => infer_impl_trait(&mut group.elem),
        Type::Paren(paren) => infer_impl_trait(&mut paren.elem),
        Type::Ptr(pointer) => infer_impl_trait(&mut pointer.elem),
        Type::Reference(reference) => infer_impl_trait(&mut reference.elem),
        Type::Slice(slice) => infer_impl_trait(&mut slice.elem),
        Type::Tuple(tuple) => tuple.elems.iter_mut().for_each(infer_impl_trait),
        Type::Path(path) => {
            for segment in &mut path.path.segments {
                infer_in_arguments(&mut segment.arguments);
            }
        }
        _ => {}
    }
}

fn infer_in_arguments(arguments: &mut PathArguments) {
    match arguments {
        PathArguments::AngleBracketed(arguments) => {
            for argument in &mut arguments.args {
                match argument {
                    GenericArgument::Type(ty) => infer_impl_trait(ty),
                    GenericArgument::AssocType(assoc) => infer_impl_trait(&mut assoc.ty),
                    _ => {}
                }
            }
        }
        PathArguments::Parenthesized(arguments) => {
            if let ReturnType::Type(_, ty) = &mut arguments.output {
                infer_impl_trait(ty);
            }
        }
        PathArguments::None => {}
    }
}

/// What makes a return value of a `LockError`.
fn refuse(args: &Args, function: &Function) -> TokenStream {
    let at = Span::mixed_site();
    let place = at.located_at(function.output.span());
    // All of it at the return type, the crate's path too: there belongs the error if that cannot
    // carry what it has to.
    let krate = relocate(args.krate.to_token_stream(), place);
    let taken = match &args.on_taken {
        OnTaken::Error => None,
        OnTaken::Skip => Some(quote_spanned!(place=> #krate::LockSkip::skipped())),
        OnTaken::Function(function) => Some(call(function)),
    };
    let Some(taken) = taken else {
        return match &args.on_error {
            Some(Handler::Closure(closure)) => closure.to_token_stream(),
            Some(function) => {
                let call = call(function);
                quote_spanned!(at.located_at(call.span())=> |__error| #call)
            }
            None => quote_spanned!(place=> #krate::__private::LockReturn::from_lock_error),
        };
    };
    let otherwise = match &args.on_error {
        Some(function) => call(function),
        None => quote_spanned!(place=> #krate::__private::LockReturn::from_lock_error(__error)),
    };
    let private = private(&args.krate);
    quote_spanned! {at=>
        |__error| if #private::is_taken(&__error) { #taken } else { #otherwise }
    }
}

/// What a function makes of the error.
fn call(function: &Handler) -> TokenStream {
    let at = Span::mixed_site();
    match function {
        Handler::Path(path) => {
            quote_spanned!(at.located_at(path.span())=> #path(__error))
        }
        Handler::Closure(closure) => {
            quote_spanned!(at.located_at(closure.span())=> (#closure)(__error))
        }
    }
}

/// The same tokens with the same hygiene, at another place.
fn relocate(tokens: TokenStream, place: Span) -> TokenStream {
    let relocated = tokens.into_iter().map(|mut token| {
        if let TokenTree::Group(group) = &token {
            token = Group::new(group.delimiter(), relocate(group.stream(), place)).into();
        }
        token.set_span(token.span().located_at(place));
        token
    });
    relocated.collect()
}

/// `#[async_trait]` renames `self` in the body; the attribute's expressions must follow.
fn rename_self(tokens: TokenStream, receiver: &Ident) -> TokenStream {
    let renamed = tokens.into_iter().map(|token| match token {
        TokenTree::Ident(word) if word == "self" => {
            let mut name = receiver.clone();
            name.set_span(word.span());
            name.into()
        }
        TokenTree::Group(group) => {
            let mut renamed = Group::new(group.delimiter(), rename_self(group.stream(), receiver));
            renamed.set_span(group.span());
            renamed.into()
        }
        other => other,
    });
    renamed.collect()
}
