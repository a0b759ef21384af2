//! Functions that are not `async` themselves, and return a future: written by hand, or by
//! `#[async_trait]`.

use proc_macro2::{Group, Ident, Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::parse::Parser;
use syn::{Attribute, Block, Expr, ExprAsync, Local, Pat, Path, Stmt};

use crate::arguments::Arguments;
use crate::blocks::future;
use crate::returned::ReturnedFuture;

/// The future that a function returns which is not `async` itself.
pub(crate) struct Frame {
    /// What the future is put into, `Box::pin` or nothing, if the user wrote it.
    pin: TokenStream,
    /// What `#[async_trait]` puts at the beginning of the future: the arguments under their real
    /// names.
    head: TokenStream,
    /// Whether the asynchronous part calls the user's body, which makes the future.
    pub(crate) calls: bool,
    /// Whether such a future has to be boxed.
    boxes: bool,
}

impl Frame {
    /// The future, with `locked` as its asynchronous part.
    pub(crate) fn around(
        &self,
        locked: &TokenStream,
        place: Span,
        private: &TokenStream,
    ) -> TokenStream {
        let at = Span::mixed_site();
        let Frame { pin, head, .. } = self;
        let future = future(place, &quote!(#head #locked));
        if self.boxes {
            // By way of the runtime: a crate may be without `std`.
            quote_spanned!(at=> #private::Box::pin(#future))
        } else if pin.is_empty() {
            future
        } else {
            quote_spanned!(at=> #pin(#future))
        }
    }
}

impl ReturnedFuture {
    /// Splits the body into what stays around the lock and the block to be locked.
    pub(crate) fn open(&self, body: Group, arguments: &mut Arguments) -> (Frame, TokenStream) {
        if let Some((pin, future)) = only_a_future(&body) {
            let (head, rest) = split_head(&future.block, arguments);
            let body = quote_spanned!(future.block.brace_token.span.join()=> { #(#rest)* });
            let frame = Frame {
                pin,
                head,
                calls: false,
                boxes: false,
            };
            return (frame, body);
        }
        let frame = Frame {
            pin: TokenStream::new(),
            head: TokenStream::new(),
            calls: true,
            boxes: self.named.is_some(),
        };
        (frame, self.call(&body))
    }

    /// The body as a call, because it may `return` the future.
    fn call(&self, body: &Group) -> TokenStream {
        let ty = self.named.iter();
        quote_spanned! {Span::mixed_site()=> {
            #[allow(clippy::redundant_closure_call)]
            let __future = (move || #(-> #ty)* #body)();
            __future.await
        }}
    }
}

/// `Box::pin(async move { .. })` or `async move { .. }`, if the body is nothing else.
fn only_a_future(body: &Group) -> Option<(TokenStream, ExprAsync)> {
    let statements = Block::parse_within.parse2(body.stream()).ok()?;
    let [Stmt::Expr(expression, None)] = <[Stmt; 1]>::try_from(statements).ok()? else {
        return None;
    };
    match expression {
        Expr::Async(future) => Some((TokenStream::new(), future)),
        Expr::Call(call) => {
            let arguments: Vec<Expr> = call.args.into_iter().collect();
            match (*call.func, <[Expr; 1]>::try_from(arguments).ok()?) {
                (Expr::Path(pin), [Expr::Async(future)]) if ends_in_box_pin(&pin.path) => {
                    Some((pin.to_token_stream(), future))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

fn ends_in_box_pin(path: &Path) -> bool {
    let mut words = path.segments.iter().rev();
    words.next().is_some_and(|word| word.ident == "pin")
        && words.next().is_some_and(|word| word.ident == "Box")
}

// Input:  if let Some(__ret) = None::<R> { return __ret; } let __self = self;
//         let Path(id) = { let __arg1 = __arg1; __arg1 }; REST
// Output: what stands before REST, REST, and the arguments under the names that REST knows them by
//
// The head runs before the lock is acquired. So it ends where a statement could do more than rename
// an argument: the user's own may look much alike, and in doubt it is locked.
fn split_head<'a>(block: &'a Block, arguments: &mut Arguments) -> (TokenStream, &'a [Stmt]) {
    let mut end = usize::from(block.stmts.first().is_some_and(is_return_type_hint));
    while let Some(Stmt::Local(local)) = block.stmts.get(end) {
        let renamed =
            moved_argument(local).is_some_and(|moved| arguments.rename(moved, &local.pat));
        if !renamed {
            break;
        }
        end += 1;
    }
    let (head, rest) = block.stmts.split_at(end);
    (quote!(#(#head)*), rest)
}

/// `if let Some(__ret) = None::<R> { return __ret; }`: it tells the compiler a type, and never
/// runs.
fn is_return_type_hint(statement: &Stmt) -> bool {
    let Stmt::Expr(Expr::If(hint), None) = statement else {
        return false;
    };
    let (Expr::Let(condition), None, [Stmt::Expr(Expr::Return(end), Some(_))]) = (
        &*hint.cond,
        &hint.else_branch,
        hint.then_branch.stmts.as_slice(),
    ) else {
        return false;
    };
    let (Pat::TupleStruct(some), Expr::Path(none)) = (&*condition.pat, &*condition.expr) else {
        return false;
    };
    let last = none.path.segments.last();
    ends_in(&some.path, "Some")
        && ends_in(&none.path, "None")
        && last.is_some_and(|last| !last.arguments.is_none())
        && matches!(some.elems.first(), Some(Pat::Ident(name)) if name.ident == "__ret")
        && end
            .expr
            .as_deref()
            .and_then(variable)
            .is_some_and(|name| name == "__ret")
}

/// The argument that a statement gives its real name, and does nothing else.
///
/// `x` of `let x = x;`; `self` of `let __self = self;`; `__arg1` of `let PATTERN = __arg1;` and of
/// `let PATTERN = { let __arg1 = __arg1; __arg1 };`.
fn moved_argument(local: &Local) -> Option<&Ident> {
    let init = local.init.as_ref().filter(|init| init.diverge.is_none())?;
    let is_conditional = |attribute: &Attribute| attribute.path().is_ident("cfg");
    if !local.attrs.iter().all(is_conditional) {
        return None;
    }
    let moved = match &*init.expr {
        Expr::Block(block) if block.label.is_none() && block.attrs.is_empty() => {
            moved_through(&block.block)?
        }
        other => variable(other)?,
    };
    let renames = match &local.pat {
        _ if moved.to_string().starts_with("__arg") => true,
        pattern if !matches!(*init.expr, Expr::Block(_)) => {
            let name = plain_name(pattern)?;
            name == moved || (moved == "self" && name == "__self")
        }
        _ => false,
    };
    renames.then_some(moved)
}

/// `x` of `{ let x = x; x }`.
fn moved_through(block: &Block) -> Option<&Ident> {
    let [Stmt::Local(inner), Stmt::Expr(last, None)] = block.stmts.as_slice() else {
        return None;
    };
    let init = inner.init.as_ref().filter(|init| init.diverge.is_none())?;
    let moved = variable(last)?;
    let same = plain_name(&inner.pat)? == moved && variable(&init.expr)? == moved;
    same.then_some(moved)
}

/// The expression, if it is one name.
fn variable(expression: &Expr) -> Option<&Ident> {
    match expression {
        Expr::Path(path) if path.attrs.is_empty() && path.qself.is_none() => path.path.get_ident(),
        _ => None,
    }
}

/// The name, mutable or not, that a pattern binds to the whole value.
fn plain_name(pattern: &Pat) -> Option<&Ident> {
    match pattern {
        Pat::Ident(name) if name.by_ref.is_none() && name.subpat.is_none() => Some(&name.ident),
        _ => None,
    }
}

fn ends_in(path: &Path, word: &str) -> bool {
    path.segments.last().is_some_and(|last| last.ident == word)
}
