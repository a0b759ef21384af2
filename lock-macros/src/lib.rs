//! The attribute `#[distributed_lock]`, re-exported by the crate `lock-runtime`.
//!
//! A pipeline: `args` reads the attribute's arguments, `key` the key among them (`foreign` knows
//! the placeholders of other languages), `item` the function, `future` the one that a function
//! returns, and `expand` puts the lock around the body. Mistakes are collected on the way and
//! reported together.

mod args;
mod arguments;
mod blocks;
mod by_hand;
mod captures;
mod derive;
mod duration;
mod errors;
mod expand;
mod foreign;
mod format;
mod future;
mod item;
mod key;
mod krate;
mod mention;
mod names;
mod returned;
mod spelling;
mod template;
#[cfg(test)]
mod tests;
mod values;

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::quote;

use crate::arguments::Arguments;
use crate::errors::Errors;
use crate::item::Function;
use crate::key::CheckedKeys;

/// Makes an async function mutually exclusive across processes.
///
/// A call acquires the lock, runs the body, and releases the lock: at the end of the body, an early
/// `return`, a `?` or a panic, or when the caller drops the future. Locals and arguments are
/// dropped before the lock is released. The signature does not change.
///
/// The lock belongs to the [`LockRuntime`] that was [installed] at startup. The examples here use a
/// [scope] with their own runtime instead.
///
/// ```
/// use lock_runtime::{LockError, LockRuntime, distributed_lock};
///
/// #[distributed_lock(key = "coupon:<id>", ttl = "5s", wait = "2s")]
/// async fn claim(id: u64) -> Result<u64, LockError> {
///     Ok(id)
/// }
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), LockError> {
/// let locks = LockRuntime::in_memory().build().await?;
/// LockRuntime::scope(locks, async {
///     assert_eq!(claim(42).await?, 42);
///     Ok(())
/// })
/// .await
/// # }
/// ```
///
/// Put it on an `async fn`, a method with any receiver, or a function that returns
/// `Pin<Box<dyn Future>>` or `impl Future`; below `#[async_trait]`, above `#[tokio::main]` and
/// `#[tokio::test]`. Of two `#[distributed_lock]` on one function the lower is taken first.
///
/// In a function that returns a future, the key and the whole body, including the code before the
/// future, run when the future is polled, under the lock. So an argument that they use must live as
/// long as the future. If its type says otherwise (`'static`, `use<'a>`), put the attribute on an
/// `async fn` that takes values, and call that function. A borrowed argument that nothing uses is
/// not held.
///
/// Coverage and lints see the body as it is written. An argument that neither the body nor the
/// attribute uses is reported, because it may be missing in the key.
///
/// # `key`
///
/// Required. A text is a template: `<argument>`, `<argument.field>` or a constant (`<NAME>`,
/// `<Self::NAME>`, a const parameter `<N>`) stands for a value, escaped so that two different lists
/// of values never take the same lock. Two placeholders need a `:`, `{` or `}` between them. After
/// an integer, any text that does not begin with a digit is enough, as in `"<year>-<month>"`. `<<`
/// and `>>` stand for `<` and `>`, and braces are Redis Cluster's hash tags.
///
/// Values in a key implement [`KeyPart`]: numbers, texts, addresses, dates, combinations of these,
/// and by `#[derive(KeyPart)]` types of your own. A template cannot contain calls: a call may
/// return one text for different values, and a program in another language that makes the same key
/// could not know what it does. Placeholders of other languages (`{0}`, `{id}`, `#id`, `$id`,
/// `/:id`) would mean one lock for all calls. They are errors if the template does not use that
/// argument. If a text only looks like a placeholder, make it a constant, which is the whole key by
/// `key = ALL_USERS`.
///
/// In a value `%`, `:`, `{` and `}` are written `%25`, `%3A`, `%7B` and `%7D`, so where `name` has
/// one of them, `format!("file:{name}")` is another lock than `"file:<name>"`.
/// [`key!`](../lock_runtime/macro.key.html) makes the same key by hand; its page has the whole
/// rule, and what to do in other languages.
///
/// ```
/// # use lock_runtime::{LockError, distributed_lock};
/// struct Order { id: u64 }
///
/// #[distributed_lock(key = "order:{<tenant>}:<order.id>")]
/// async fn ship(tenant: &str, order: &Order) -> Result<(), LockError> {
///     Ok(())
/// }
/// ```
///
/// Any other expression is the whole key: nothing is escaped, and nothing replaced. So `format!` of
/// several arguments is refused if a template can express the same: with `"{a}:{b}"`, the values
/// `"x:y"`, `"z"` and `"x"`, `"y:z"` would make the same key.
///
/// ```
/// # use lock_runtime::{LockError, distributed_lock};
/// const NIGHTLY: &str = "report:nightly";
///
/// #[distributed_lock(key = NIGHTLY)]
/// async fn report() -> Result<(), LockError> {
///     Ok(())
/// }
///
/// #[distributed_lock(key = format!("report:{}", name.to_lowercase()))]
/// async fn report_on(name: &str) -> Result<(), LockError> {
///     Ok(())
/// }
/// ```
///
/// # `keys`
///
/// Instead of `key`, for a body that needs several locks: all of them, or none. It is a list of
/// templates (and of other expressions of text), or any expression that can be iterated over and
/// yields text, for a number of locks that is known only at the call. They are taken in one order,
/// whatever the order in which they are written, so two calls never wait for each other. A key that
/// appears twice, as in a transfer to oneself, is one lock. The `wait` is for all together, and
/// `max_hold` counts from when all are held. If one is lost, the body ends.
///
/// `guard` has a name for each, `guard = [from, to]`, because each has its own fencing token, for
/// the writes that it protects. For an expression, `guard = locks` is a `Vec` of all.
///
/// ```
/// # use lock_runtime::{LockError, LockRuntime, distributed_lock, key};
/// #[distributed_lock(keys = ["account:<from>", "account:<to>"], guard = [source, target])]
/// async fn transfer(from: u64, to: u64, cents: u64) -> Result<(), LockError> {
///     println!("debit with {}", source.fencing_token());
///     println!("credit with {}", target.fencing_token());
///     Ok(())
/// }
///
/// #[distributed_lock(keys = items.iter().map(|item| key!("item:<item>")))]
/// async fn reserve(items: &[u64]) -> Result<(), LockError> {
///     Ok(())
/// }
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), LockError> {
/// # let locks = LockRuntime::in_memory().build().await?;
/// # LockRuntime::scope(locks, async {
/// tokio::try_join!(transfer(1, 2, 100), transfer(2, 1, 5), transfer(1, 1, 7))?;
/// reserve(&[3, 1, 2]).await
/// # })
/// # .await
/// # }
/// ```
///
/// # `ttl`
///
/// How long the lock outlives a process that dies. A living process renews it. From 10 ms to 24 h,
/// as text (`"500ms"`, `"5s"`, `"1m 30s"`, `"2h"`) or as an expression of type `Duration`, like
/// every duration here. Default: that of the runtime, 30 s.
///
/// ```
/// # use lock_runtime::{LockError, distributed_lock};
/// # use std::time::Duration;
/// #[distributed_lock(key = "job", ttl = Duration::from_secs(seconds))]
/// async fn job(seconds: u64) -> Result<(), LockError> {
///     Ok(())
/// }
/// ```
///
/// # `wait`
///
/// How long to wait for a lock that another holds; `"0s"` tries once. Default: that of the runtime,
/// 10 s.
///
/// ```
/// # use lock_runtime::{LockError, LockRuntime, distributed_lock};
/// #[distributed_lock(key = "seat:<id>", wait = "0s")]
/// async fn reserve(id: u32) -> Result<(), LockError> {
///     Ok(())
/// }
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), LockError> {
/// let locks = LockRuntime::in_memory().build().await?;
/// let taken = locks.lock("seat:1").acquire().await?;
/// let refused = LockRuntime::scope(locks, reserve(1)).await.unwrap_err();
/// assert!(refused.is_taken());
/// # taken.release().await
/// # }
/// ```
///
/// # `renew`
///
/// How often the lease is renewed while the body runs; at most half of `ttl`. `false` turns it off:
/// the body must then be shorter than the ttl. Default: that of the runtime, a tenth of the ttl.
///
/// ```
/// # use lock_runtime::{LockError, distributed_lock};
/// #[distributed_lock(key = "cache:<name>", ttl = "2s", renew = false)]
/// async fn refresh(name: &str) -> Result<(), LockError> {
///     Ok(())
/// }
/// ```
///
/// # `max_hold`
///
/// The longest time that a body may hold the lock, renewals included. Then the body is dropped, the
/// lock is released, and the call returns [`LockError::MaxHold`]. Default: none.
///
/// ```
/// # use lock_runtime::{LockError, LockRuntime, distributed_lock};
/// #[distributed_lock(key = "import", max_hold = "50ms")]
/// async fn import() -> Result<(), LockError> {
///     std::future::pending().await
/// }
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), LockError> {
/// let locks = LockRuntime::in_memory().build().await?;
/// assert!(LockRuntime::scope(locks, import()).await.unwrap_err().is_max_hold());
/// # Ok(())
/// # }
/// ```
///
/// # `min_hold`
///
/// The shortest time that the key stays taken, counted from the start of the body on the monotonic
/// clock of this process, even if the body ends earlier, fails, or the process dies. During the
/// rest, nobody holds the key and nobody is handed it; waiters wait for its end. With
/// `on_taken = skip`, a job that many servers start at about the same time runs on one of them, as
/// long as their clocks differ by less than this. The job is *started* at most once in that time;
/// whether it succeeded is not known. At most 24 h, and not longer than `max_hold`. Default: none.
///
/// ```
/// # use lock_runtime::{LockError, LockRuntime, distributed_lock};
/// // Called once a minute, on every server.
/// #[distributed_lock(key = "cron:report", on_taken = skip, min_hold = "55s")]
/// async fn report() -> Result<Option<&'static str>, LockError> {
///     Ok(Some("written"))
/// }
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), LockError> {
/// let locks = LockRuntime::in_memory().build().await?;
/// assert_eq!(LockRuntime::scope(locks.clone(), report()).await?, Some("written"));
/// assert_eq!(LockRuntime::scope(locks, report()).await?, None);
/// # Ok(())
/// # }
/// ```
///
#[doc = include_str!("../doc/once_per.md")]
///
#[doc = include_str!("../doc/modes.md")]
/// # `on_lost`
///
/// What happens when the lease can no longer be proven, because the store did not answer for too
/// long or somebody took the lock. `cancel`, the default, drops the body at its `.await` and
/// returns [`LockError::Lost`]. With `continue` the body goes on, and can ask its guard.
///
/// ```
/// # use lock_runtime::{LockError, distributed_lock};
/// #[distributed_lock(key = "mail:<id>", on_lost = continue, guard = lock)]
/// async fn send(id: u64) -> Result<bool, LockError> {
///     Ok(lock.is_held())
/// }
/// ```
///
/// # `on_taken`
///
/// What a call returns if another still holds the lock at the end of its `wait`:
///
/// - `error`, the default: the `LockError`, as for any other reason.
/// - `skip`: that nothing was done, which is a success. The trait [`LockSkip`] covers the return
///   types that can say so: `()`, `Option<T>`, `Result<(), E>` and `Result<Option<T>, E>`. The
///   default of `wait` is then zero.
/// - A function, by its path or as a closure, that turns the error into a return value.
///
/// A call is never skipped because the store does not answer: nobody knows then who holds the lock.
///
/// ```
/// # use lock_runtime::{LockError, LockRuntime, distributed_lock};
/// #[distributed_lock(key = "sweep", on_taken = skip)]
/// async fn sweep() -> Result<Option<usize>, LockError> {
///     Ok(Some(3))
/// }
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), LockError> {
/// let locks = LockRuntime::in_memory().build().await?;
/// let other = locks.lock("sweep").acquire().await?;
/// assert_eq!(LockRuntime::scope(locks.clone(), sweep()).await?, None);
/// other.release().await?;
/// assert_eq!(LockRuntime::scope(locks, sweep()).await?, Some(3));
/// # Ok(())
/// # }
/// ```
///
/// # `on_error`
///
/// A function that turns a `LockError` into the return value, by its path or as a closure that
/// captures nothing. It is for functions that do not return `Result<T, E>` with
/// `E: From<LockError>`: a number, an `Option`, or a `Result` whose error is `String`, `StatusCode`
/// or another foreign type. Default: the trait [`LockReturn`].
///
/// ```
/// # use lock_runtime::{LockError, LockRuntime, distributed_lock};
/// #[distributed_lock(key = "price:<id>", on_error = unknown)]
/// async fn price(id: u64) -> Option<u64> {
///     Some(id * 100)
/// }
///
/// fn unknown(_: LockError) -> Option<u64> {
///     None
/// }
///
/// # #[tokio::main]
/// # async fn main() {
/// // No runtime is installed.
/// assert_eq!(price(1).await, None);
/// # }
/// ```
///
/// # `guard`
///
/// A name for the lock within the body, a [`LockHandle`]: it has the fencing token and the rest of
/// the lease. It can neither release the lock nor keep it. Default: none.
///
/// ```
/// # use lock_runtime::{LockError, distributed_lock};
/// #[distributed_lock(key = "account:<id>", guard = lock)]
/// async fn withdraw(id: u64) -> Result<u64, LockError> {
///     // Send it with the write, so that the store can refuse a holder that is too late.
///     Ok(lock.fencing_token().as_u64())
/// }
/// ```
///
/// # `name`
///
/// The name of the lock in logs and metrics, as in `name = "invoice"`. Default: the template of the
/// key.
///
/// # `runtime`
///
/// A runtime other than the one in scope or the installed one: any `AsRef<LockRuntime>`, by
/// reference, or a `LazyLock` of one. With an `Arc<App>`, write `*app` or `app.locks`. It may use
/// the arguments. The body runs in the scope of that runtime: annotated functions that it calls use
/// the same one.
///
/// ```
/// # use lock_runtime::{LockError, LockRuntime, distributed_lock};
/// struct App { locks: LockRuntime }
///
/// impl App {
///     #[distributed_lock(key = "app", runtime = self.locks)]
///     async fn sweep(&self) -> Result<(), LockError> {
///         Ok(())
///     }
/// }
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), LockError> {
/// App { locks: LockRuntime::in_memory().build().await? }.sweep().await
/// # }
/// ```
///
/// # `crate`
///
/// The path of the crate `lock_runtime`, if it is re-exported or the dependency has another name: a
/// path, or a path as text. Default: `::lock_runtime`.
///
/// ```
/// mod facade {
///     pub use lock_runtime;
/// }
///
/// use facade::lock_runtime::{LockError, distributed_lock};
///
/// #[distributed_lock(key = "facade", crate = crate::facade::lock_runtime)]
/// async fn through_a_facade() -> Result<(), LockError> {
///     Ok(())
/// }
/// # fn main() {}
/// ```
///
/// # Nested calls
///
/// If a body holds a key and, on the same task, calls an annotated function with the same key of
/// the same runtime, that function runs under the held lock. Several such calls run one at a time.
/// Of the arguments of the nested function, `wait` bounds its turn, and `max_hold`, `on_lost`,
/// `on_error` and `guard` apply to its body. `ttl` and `renew` are checked but have no effect.
///
/// ```
/// # use lock_runtime::{LockError, LockRuntime, distributed_lock};
/// #[distributed_lock(key = "stock", ttl = "30s")]
/// async fn order() -> Result<(), LockError> {
///     // It ends, and `order` goes on with the lock.
///     assert!(count().await.unwrap_err().is_max_hold());
///     Ok(())
/// }
///
/// #[distributed_lock(key = "stock", max_hold = "50ms")]
/// async fn count() -> Result<(), LockError> {
///     std::future::pending().await
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), LockError> {
/// # let locks = LockRuntime::in_memory().build().await?;
/// # LockRuntime::scope(locks, order()).await
/// # }
/// ```
///
/// # What it does not do
///
/// * The parts of a pattern without a name (the rest of `Point { x, .. }`, a `ref` argument) stay
///   in the function and are dropped after the release. A `_` is dropped before it.
/// * A key expression is checked for placeholders only as far as obvious mistakes go.
///
/// [`KeyPart`]: ../lock_runtime/trait.KeyPart.html
/// [`LockError::Lost`]: ../lock_runtime/enum.LockError.html#variant.Lost
/// [`LockError::MaxHold`]: ../lock_runtime/enum.LockError.html#variant.MaxHold
/// [`LockHandle`]: ../lock_runtime/struct.LockHandle.html
/// [`LockDone`]: ../lock_runtime/trait.LockDone.html
/// [`LockError::Config`]: ../lock_runtime/enum.LockError.html#variant.Config
/// [`LockSkip`]: ../lock_runtime/trait.LockSkip.html
/// [`LockReturn`]: ../lock_runtime/trait.LockReturn.html
/// [`LockRuntime`]: ../lock_runtime/struct.LockRuntime.html
/// [installed]: ../lock_runtime/struct.LockRuntime.html#method.install
/// [scope]: ../lock_runtime/struct.LockRuntime.html#method.scope
#[proc_macro_attribute]
pub fn distributed_lock(args: TokenStream, item: TokenStream) -> TokenStream {
    lock(args.into(), item.into()).into()
}

/// Makes a key from a template, as the attribute does, for locks that are taken by hand and for
/// tests.
///
/// The template is that of [`distributed_lock`](macro@distributed_lock)'s `key`. Between `<` and
/// `>` are variables in scope, or their fields. The result is a `String`, without the prefix of a
/// runtime.
///
/// ```
/// use lock_runtime::{LockError, LockRuntime, distributed_lock, key};
///
/// #[distributed_lock(key = "file:<name>", wait = "0s")]
/// async fn convert(name: &str) -> Result<(), LockError> {
///     Ok(())
/// }
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), LockError> {
/// let name = "C:report";
/// assert_eq!(key!("file:<name>"), "file:C%3Areport");
///
/// let locks = LockRuntime::in_memory().build().await?;
/// let _held = locks.lock(key!("file:<name>")).acquire().await?;
/// assert!(LockRuntime::scope(locks, convert(name)).await.is_err_and(|error| error.is_taken()));
/// # Ok(())
/// # }
/// ```
///
/// If the crate is renamed or re-exported: `key!("file:<name>", crate = facade::lock_runtime)`.
///
/// # How a key is written
///
/// This section is for programs in other languages that take the same locks. In Redis, a lock is
/// the string at the runtime's prefix (`lock:`) followed by the key.
///
/// * The template's own text stays as it is.
/// * Integers are decimal, `bool` is `true` or `false`, `char` and text are UTF-8, a `Uuid` is in
///   lower case and has hyphens; addresses, dates and times are as their `Display` has them, an
///   instant in UTC. Then each `%` becomes `%25`, `:` `%3A`, `{` `%7B`, and `}` `%7D`; nothing else
///   is escaped.
/// * A [`KeyPart`](../lock_runtime/trait.KeyPart.html) of several parts, as a tuple or a list, is
///   `%(`, the parts with `%,` between them, and `%)`. A part that itself has several is written in
///   the same way; one that has a single part, as that part. One of no parts, as `None`, is `%(%)`.
/// * If the template ends in a placeholder, and its value is written `waiters`, `counter`,
///   `holders`, `queue` or `fence`, the value is enclosed, as in `%(queue%)`: the names of a lock's
///   companions end so.
///
/// A key longer than 1024 bytes, prefix included, is refused by every method that takes a lock, and
/// may be cut short before that.
///
/// In Python, for `"file:<name>"`:
///
/// ```python
/// def part(value, last=False):
///     text = str(value)
///     for plain, escaped in (("%", "%25"), (":", "%3A"), ("{", "%7B"), ("}", "%7D")):
///         text = text.replace(plain, escaped)
///     ends = ("waiters", "counter", "holders", "queue", "fence")
///     return f"%({text}%)" if last and text in ends else text
///
/// def lock_name(name):
///     return "lock:file:" + part(name, last=True)
/// ```
#[proc_macro]
pub fn key(input: TokenStream) -> TokenStream {
    by_hand::expand(input.into()).into()
}

/// Makes a newtype, or an enum without fields, a part of lock keys.
///
/// A newtype is written in a key like the value that it wraps; fields of type `PhantomData` are
/// ignored. A variant is written by its name, so renaming the variant renames the lock.
///
/// ```
/// use lock_runtime::{KeyPart, LockError, distributed_lock};
///
/// #[derive(KeyPart)]
/// struct CustomerId(u64);
///
/// #[derive(KeyPart)]
/// enum Region { Europe, Asia }
///
/// #[distributed_lock(key = "customer:<region>:<id>")]
/// async fn bill(region: Region, id: CustomerId) -> Result<(), LockError> {
///     Ok(())
/// }
/// ```
///
/// `#[key_part(crate = path)]` sets the path of the crate `lock_runtime`, as `crate` does for
/// [`macro@distributed_lock`].
#[proc_macro_derive(KeyPart, attributes(key_part))]
pub fn derive_key_part(item: TokenStream) -> TokenStream {
    derive::expand(item.into())
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}

fn lock(args: Tokens, item: Tokens) -> Tokens {
    let mut errors = Errors::default();
    let mut args = args::parse(args, &mut errors);
    let function = Function::parse(item.clone())
        .map_err(|error| errors.push(error))
        .ok();

    let unknown = Arguments::unknown();
    let arguments = function
        .as_ref()
        .map_or(&unknown, |function| &function.arguments);
    args.guard = args.guard.filter(|guard| {
        let names = guard.names().iter();
        let hiding = names.filter(|name| !arguments.check_guard(name, &mut errors));
        hiding.count() == 0
    });
    let key = match (args.key.take(), args.keys.take()) {
        (Some(key), _) => Some(CheckedKeys::One(key::check(key, arguments, &mut errors))),
        (None, Some(keys)) => Some(key::check_all(keys, arguments, &mut errors)),
        (None, None) => None,
    };
    if let (Some(function), Some(key)) = (&function, &key) {
        function.check_captures(
            |name| expand::is_in_the_attribute(name, &args, key),
            &mut errors,
        );
    }

    match (errors.into_compile_errors(), key, function) {
        (None, Some(key), Some(function)) => expand::expand(&args, &key, &function),
        // The item stays: an editor goes on to know it, and the compiler says nothing that only
        // follows from the errors.
        (errors, key, Some(function)) if args.guard.is_some() => {
            let is_list = matches!(key, Some(CheckedKeys::Expression(_)));
            let item = expand::expand_without_lock(&args, is_list, &function);
            quote!(#item #errors)
        }
        (errors, _, _) => quote!(#item #errors),
    }
}
