//! `#[derive(KeyPart)]`: a newtype is a part of a key as what it wraps, an enum by the names of its
//! variants.

use proc_macro2::{Span, TokenStream};
use quote::quote_spanned;
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{
    Attribute, Error, Field, Fields, Generics, Ident, Index, Item, ItemEnum, ItemStruct, Member,
    Path, Token, Type, parse_quote,
};

use crate::krate;

// Input:  struct CustomerId(u64);
// Output: impl KeyPart for CustomerId {
//             fn add(&self, key: &mut KeyBuilder) { KeyPart::add(&self.0, key); }
//         }
pub(crate) fn expand(item: TokenStream) -> syn::Result<TokenStream> {
    let at = Span::mixed_site();
    let implementation = match syn::parse2::<Item>(item)? {
        Item::Struct(item) => newtype(item)?,
        Item::Enum(item) => plain_enum(item)?,
        other => {
            return Err(Error::new_spanned(
                other,
                "`KeyPart` can be derived for a newtype and for an enum without fields",
            ));
        }
    };
    let Implementation {
        name,
        krate,
        generics,
        part,
    } = implementation;
    let (parameters, arguments, bounds) = generics.split_for_impl();
    Ok(quote_spanned! {at=>
        #[automatically_derived]
        impl #parameters #krate::KeyPart for #name #arguments #bounds {
            // There are enums without variants, and variants that are deprecated.
            #[allow(deprecated, unreachable_code)]
            fn add(&self, key: &mut #krate::KeyBuilder) {
                #krate::KeyPart::add(#part, key);
            }
        }
    })
}

struct Implementation {
    name: Ident,
    krate: Path,
    generics: Generics,
    /// A reference to what makes up the value.
    part: TokenStream,
}

fn newtype(item: ItemStruct) -> syn::Result<Implementation> {
    let krate = path_of_the_crate(&item.attrs)?;
    let fields = item.fields.iter().enumerate();
    let mut parts = fields.filter(|(_, field)| !is_phantom(field));
    let (Some((at, field)), None) = (parts.next(), parts.next()) else {
        let message = "only a newtype, a struct with one field, derives `KeyPart`; of another, say by `impl KeyPart` which fields make it up";
        return Err(Error::new_spanned(&item.ident, message));
    };
    let member = match &field.ident {
        Some(name) => Member::Named(name.clone()),
        None => Member::Unnamed(Index::from(at)),
    };
    let mut generics = item.generics.clone();
    if generics.type_params().next().is_some() {
        let ty = &field.ty;
        let bound = parse_quote!(#ty: #krate::KeyPart);
        generics.make_where_clause().predicates.push(bound);
    }
    // An error about its type belongs to the field.
    let place = Span::mixed_site().located_at(field.ty.span());
    let part = quote_spanned!(place=> &self.#member);
    Ok(Implementation {
        name: item.ident,
        krate,
        generics,
        part,
    })
}

/// A field without a value, as in `Id<T>(u64, PhantomData<T>)`.
fn is_phantom(field: &Field) -> bool {
    match &field.ty {
        Type::Path(path) => {
            let last = path.path.segments.last();
            last.is_some_and(|last| last.ident == "PhantomData")
        }
        _ => false,
    }
}

// Input:  enum Region { Europe, Asia }
// Output: match self { Region::Europe => "Europe", Region::Asia => "Asia" }
fn plain_enum(item: ItemEnum) -> syn::Result<Implementation> {
    let at = Span::mixed_site();
    let krate = path_of_the_crate(&item.attrs)?;
    let name = &item.ident;
    let mut arms = Vec::new();
    for variant in &item.variants {
        if !matches!(variant.fields, Fields::Unit) {
            let message = "a variant with fields does not derive `KeyPart`; say by `impl KeyPart` what makes up the value";
            return Err(Error::new_spanned(variant, message));
        }
        let word = &variant.ident;
        let text = word.unraw().to_string();
        arms.push(quote_spanned!(at=> #name::#word => #text,));
    }
    let part = quote_spanned! {at=> {
        let part: &::core::primitive::str = match *self { #(#arms)* };
        part
    }};
    Ok(Implementation {
        name: item.ident.clone(),
        krate,
        generics: item.generics,
        part,
    })
}

// Input:  #[key_part(crate = facade::lock_runtime)]
// Output: facade::lock_runtime
fn path_of_the_crate(attributes: &[Attribute]) -> syn::Result<Path> {
    let mut path = None;
    for attribute in attributes {
        if attribute.path().is_ident("key_part") {
            attribute.parse_nested_meta(|meta| {
                if !meta.path.is_ident("crate") {
                    return Err(meta.error("there is `crate = path` alone, as in `#[key_part(crate = facade::lock_runtime)]`"));
                }
                meta.input.parse::<Token![=]>()?;
                path = Some(meta.input.call(Path::parse_mod_style)?);
                Ok(())
            })?;
        }
    }
    match (path, krate::missing(std::env::args())) {
        (Some(path), _) => Ok(path),
        (None, None) => Ok(parse_quote!(::lock_runtime)),
        (None, Some(fault)) => Err(Error::new(
            Span::call_site(),
            format!("{fault} in `#[key_part(…)]`"),
        )),
    }
}
