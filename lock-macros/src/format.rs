//! Keys made by `format!`, which joins its values as they are: `("a:b", "c")` and `("a", "b:c")`
//! make one text of `"{}:{}"`. A template escapes them.

use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::{Expr, Ident, LitStr, Member, Token};

use crate::arguments::Arguments;

// Input:  format!("{a}:{}", order.id)
// Output: "<a>:<order.id>"
/// The template that says the same as the macro call, if each of its values could stand in one and
/// there are several; a single one is not mistaken for another.
pub(crate) fn as_template(expression: &Expr, arguments: &Arguments) -> Option<String> {
    let Expr::Macro(call) = inner(expression) else {
        return None;
    };
    if call.mac.path.segments.last()?.ident != "format" {
        return None;
    }
    let Call { text, values } = Call::parse.parse2(call.mac.tokens.clone()).ok()?;
    let values: Option<Vec<(Option<String>, String)>> = values
        .iter()
        .map(|(name, value)| Some((name.clone(), placeholder(value, arguments)?)))
        .collect();
    let values = values?;
    let text = text.value();
    let mut template = String::new();
    let (mut count, mut unnumbered) = (0, values.iter());
    let mut rest = text.as_str();
    while let Some(at) = rest.find(['{', '}']) {
        template.push_str(&doubled(&rest[..at]));
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            template.push_str(brace);
            rest = after;
            continue;
        }
        let (hole, after) = rest.split_once('}')?;
        rest = after;
        let value = match hole.parse::<usize>() {
            Ok(index) => values.get(index)?.1.clone(),
            Err(_) if hole.is_empty() => unnumbered.next()?.1.clone(),
            // A width or the like has no counterpart.
            Err(_) => {
                let named = values
                    .iter()
                    .find(|(name, _)| name.as_deref() == Some(hole));
                let argument = || arguments.named(hole).map(|_| hole.to_owned());
                named.map(|(_, value)| value.clone()).or_else(argument)?
            }
        };
        count += 1;
        template.push_str(&format!("<{value}>"));
    }
    template.push_str(&doubled(rest));
    (count > 1).then_some(template)
}

/// Text as a template has it.
fn doubled(text: &str) -> String {
    text.replace('<', "<<").replace('>', ">>")
}

/// The expression without parentheses, and without `&`.
fn inner(expression: &Expr) -> &Expr {
    match expression {
        Expr::Group(group) => inner(&group.expr),
        Expr::Paren(paren) => inner(&paren.expr),
        Expr::Reference(reference) => inner(&reference.expr),
        other => other,
    }
}

// Input:  order.id
// Output: order.id, if there is an argument `order`
fn placeholder(value: &Expr, arguments: &Arguments) -> Option<String> {
    match inner(value) {
        Expr::Path(path) => {
            let name = path.path.get_ident()?.unraw().to_string();
            arguments.named(&name).is_some().then_some(name)
        }
        Expr::Field(field) => {
            let base = placeholder(&field.base, arguments)?;
            Some(match &field.member {
                Member::Named(name) => format!("{base}.{name}"),
                Member::Unnamed(index) => format!("{base}.{}", index.index),
            })
        }
        _ => None,
    }
}

/// What stands between the parentheses of `format!`.
struct Call {
    text: LitStr,
    values: Vec<(Option<String>, Expr)>,
}

impl Parse for Call {
    fn parse(input: ParseStream<'_>) -> syn::Result<Call> {
        let text = input.parse()?;
        if !input.is_empty() {
            input.parse::<Token![,]>()?;
        }
        let values = Punctuated::<Value, Token![,]>::parse_terminated(input)?;
        Ok(Call {
            text,
            values: values.into_iter().map(|Value(value)| value).collect(),
        })
    }
}

/// `value` or `name = value`.
struct Value((Option<String>, Expr));

impl Parse for Value {
    fn parse(input: ParseStream<'_>) -> syn::Result<Value> {
        let mut name = None;
        if input.peek(Ident::peek_any) && input.peek2(Token![=]) && !input.peek2(Token![==]) {
            name = Some(input.call(Ident::parse_any)?.unraw().to_string());
            input.parse::<Token![=]>()?;
        }
        Ok(Value((name, input.parse()?)))
    }
}

#[cfg(test)]
mod tests {
    use proc_macro2::TokenStream;
    use quote::quote;

    use super::as_template;
    use crate::item::Function;

    fn template(expression: TokenStream) -> Option<String> {
        let function = quote!(
            async fn f(&self, a: &str, order: Order, r#type: u8) {}
        );
        let arguments = Function::parse(function).expect("a function").arguments;
        as_template(&syn::parse2(expression).expect("an expression"), &arguments)
    }

    #[test]
    fn values_of_arguments_have_their_template() {
        for (expression, expected) in [
            (quote!(format!("k:{a}:{}", order.id)), "k:<a>:<order.id>"),
            (
                quote!(&format!("{0}{1}{0}", a, self.x.0)),
                "<a><self.x.0><a>",
            ),
            (
                quote!((std::format!("{{{a}}}<{n}>", n = &order.id,))),
                "{<a>}<<<order.id>>>",
            ),
            (quote!(format!("{}:{type}", a)), "<a>:<type>"),
        ] {
            assert_eq!(template(expression).as_deref(), Some(expected));
        }
    }

    #[test]
    fn what_no_template_says_stays_an_expression() {
        for expression in [
            quote!(format!("k:{a}")),
            quote!(format!("k:{a}:{}", order.id())),
            quote!(format!("k:{a}:{order:?}")),
            quote!(format!("k:{a}:{MAX}")),
            quote!(format!("k:{a}:{")),
            quote!(concat!("{a}", "{order}")),
            quote!(key_of(a, order)),
        ] {
            assert_eq!(template(expression.clone()), None, "{expression}");
        }
    }
}
