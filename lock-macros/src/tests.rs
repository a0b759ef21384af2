//! What the attribute makes of an item.

use proc_macro2::{TokenStream, TokenTree};
use quote::quote;

use crate::lock;

#[test]
fn a_half_typed_body_reaches_the_compiler_as_it_is() {
    let body = quote!({ let x = self. ; match });
    let item = quote!(async fn claim(&self, id: u64) -> Result<(), E> #body);
    let output = lock(quote!(key = "coupon:<id>"), item).to_string();
    assert!(output.contains(&body.to_string()), "{output}");
    assert!(!output.contains("compile_error"), "{output}");
}

#[test]
fn an_item_stays_whatever_is_wrong_with_the_attribute() {
    for args in [
        quote!(),
        quote!(key = ),
        quote!(=),
        quote!(key = "<"),
        quote!(tll = "5s", 5),
    ] {
        let output = lock(
            args,
            quote!(
                async fn claim(id: u64) -> Result<u64, E> {
                    Ok(id)
                }
            ),
        )
        .to_string();
        assert!(output.contains("async fn claim (id : u64)"), "{output}");
        assert!(output.contains("compile_error"), "{output}");
    }
    let output = lock(
        quote!(key = "k"),
        quote!(
            struct Coupon;
        ),
    )
    .to_string();
    assert!(output.starts_with("struct Coupon ;"), "{output}");
}

/// The names of the methods that are called, `.await` apart.
fn method_calls(tokens: TokenStream) -> Vec<String> {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        if let TokenTree::Group(group) = token {
            found.extend(method_calls(group.stream()));
        }
        if let (TokenTree::Punct(dot), Some(TokenTree::Ident(name))) = (token, tokens.get(at + 1))
            && dot.as_char() == '.'
            && name != "await"
            && matches!(
                tokens.get(at + 2),
                Some(TokenTree::Group(_) | TokenTree::Punct(_))
            )
            && !matches!(tokens.get(at + 2), Some(TokenTree::Punct(next)) if next.as_char() != ':')
        {
            found.push(name.to_string());
        }
    }
    found
}

#[test]
fn generated_code_calls_no_methods() {
    let settings = [
        quote!(),
        quote!(, ttl = "5s", wait = "1s", renew = "1s", max_hold = "1m", guard = lock),
        quote!(, ttl = a, wait = b, renew = c, max_hold = d, runtime = e, on_error = f),
        quote!(, wait = "1s", on_taken = skip, on_error = f, guard = lock),
        quote!(, renew = false, on_lost = continue, crate = some::path),
    ];
    let keys = [quote!("k:<id>:<order.id>:<self.0>:"), quote!(id)];
    let body = quote!({
        if id {
            return id;
        }
        order
    });
    let functions = [
        quote!(async fn f(&self, id: u8, order: Order, _: Tx) -> Res<u8> #body),
        quote!(fn f(&self, id: u8, order: Order) -> Pin<Box<dyn Future<Output = u8> + '_>> {
            Box::pin(async move #body)
        }),
        quote!(fn f(&self, id: u8, order: Order) -> impl Future<Output = u8> {
            let id = id;
            async move #body
        }),
        quote!(fn f(&self, __arg1: Id, order: Order) -> BoxFuture<'_, Res<u8>> {
            Box::pin(async move {
                let __self = self;
                let Id(id) = { let __arg1 = __arg1; __arg1 };
                #body
            })
        }),
    ];
    for function in &functions {
        for key in &keys {
            for settings in &settings {
                let output = lock(quote!(key = #key #settings), function.clone());
                assert!(!output.to_string().contains("compile_error"), "{output}");
                let calls = method_calls(output.clone());
                assert!(calls.is_empty(), "{calls:?} in {output}");
            }
        }
        // What stands in for the guard where the attribute is wrong.
        let output = lock(quote!(key = "k", ttl = "x", guard = lock), function.clone());
        assert_eq!(method_calls(output), [""; 0]);
    }
    let control = quote!({
        a.b.c;
        x.one();
        { y.await.two::<u8>(z) }
    });
    assert_eq!(method_calls(control), ["one", "two"]);
}
