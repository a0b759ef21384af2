//! What a returned future says that it borrows.
//!
//! The lock is acquired when the future is first polled, so all of the body waits until then, and
//! the future keeps the arguments that the body and the key use. Without the attribute, what stands
//! before the future runs at once, and may use an argument that the future must not keep.

use syn::{
    CapturedParam, GenericArgument, GenericParam, PathArguments, ReceiverKind, ReturnType,
    Signature, Type, TypeParamBound, WherePredicate,
};

use crate::returned::boxed_future;

/// The lifetimes that a returned future may hold.
pub(crate) struct Captures {
    /// Those it states, with those that outlive them; none if it states nothing.
    stated: Option<Vec<String>>,
    /// Whether `'_` there is the lifetime of `&self` alone.
    elided_is_self: bool,
}

impl Captures {
    /// None for an `async fn`, whose future holds all.
    pub(crate) fn of(signature: &Signature) -> Option<Captures> {
        if signature.asyncness.is_some() {
            return None;
        }
        let mut stated = stated(&signature.output);
        if let Some(lifetimes) = &mut stated {
            add_longer(lifetimes, signature);
        }
        let elided_is_self = signature
            .receiver()
            .is_some_and(|receiver| matches!(receiver.kind, ReceiverKind::Reference(..)));
        Some(Captures {
            stated,
            elided_is_self,
        })
    }

    /// Whether the future states its lifetimes.
    pub(crate) fn are_stated(&self) -> bool {
        self.stated.is_some()
    }

    /// Whether the future may not hold what has the type `ty`.
    pub(crate) fn exclude(&self, ty: &Type) -> bool {
        let mut lifetimes = Vec::new();
        collect(ty, &mut lifetimes);
        lifetimes
            .iter()
            .any(|lifetime| !self.allow(lifetime, !self.elided_is_self))
    }

    /// Whether the future may not hold `self`.
    pub(crate) fn exclude_receiver(&self, kind: &ReceiverKind) -> bool {
        match kind {
            ReceiverKind::Reference(_, lifetime, _) => {
                let name = lifetime
                    .as_ref()
                    .map_or("_".to_owned(), |name| name.ident.to_string());
                !self.allow(&name, true)
            }
            ReceiverKind::Typed(_, ty) => self.exclude(ty),
            _ => false,
        }
    }

    fn allow(&self, lifetime: &str, elided: bool) -> bool {
        let stated = |name: &str| match &self.stated {
            Some(stated) => stated.iter().any(|stated| stated == name),
            None => false,
        };
        lifetime == "static" || (stated(lifetime) && (lifetime != "_" || elided))
    }
}

// Input:  -> impl Future<Output = u8> + use<'a, T>
// Output: a
fn stated(output: &ReturnType) -> Option<Vec<String>> {
    let ReturnType::Type(_, ty) = output else {
        return None;
    };
    if let Type::ImplTrait(future) = &**ty {
        let outlived = outlived(&future.bounds);
        return if outlived.is_empty() {
            future.bounds.iter().find_map(used)
        } else {
            Some(outlived)
        };
    }
    if let Some(Type::TraitObject(future)) = boxed_future(ty) {
        let outlived = outlived(&future.bounds);
        return Some(if outlived.is_empty() {
            vec!["static".to_owned()]
        } else {
            outlived
        });
    }
    // `BoxFuture<'a, T>`; an alias without a lifetime tells nothing.
    let mut lifetimes = Vec::new();
    match &**ty {
        Type::Path(path) => {
            let PathArguments::AngleBracketed(arguments) = &path.path.segments.last()?.arguments
            else {
                return None;
            };
            lifetimes.extend(arguments.args.iter().filter_map(|argument| match argument {
                GenericArgument::Lifetime(lifetime) => Some(lifetime.ident.to_string()),
                _ => None,
            }));
        }
        _ => return None,
    }
    (!lifetimes.is_empty()).then_some(lifetimes)
}

fn outlived<'a>(bounds: impl IntoIterator<Item = &'a TypeParamBound>) -> Vec<String> {
    let lifetimes = bounds.into_iter().filter_map(|bound| match bound {
        TypeParamBound::Lifetime(lifetime) => Some(lifetime.ident.to_string()),
        _ => None,
    });
    lifetimes.collect()
}

fn used(bound: &TypeParamBound) -> Option<Vec<String>> {
    let TypeParamBound::PreciseCapture(capture) = bound else {
        return None;
    };
    let lifetimes = capture
        .params
        .iter()
        .filter_map(|parameter| match parameter {
            CapturedParam::Lifetime(lifetime) => Some(lifetime.ident.to_string()),
            _ => None,
        });
    Some(lifetimes.collect())
}

/// Adds the lifetimes that outlive one of `lifetimes`.
fn add_longer(lifetimes: &mut Vec<String>, signature: &Signature) {
    let mut bounds: Vec<(String, String)> = Vec::new();
    for parameter in &signature.generics.params {
        if let GenericParam::Lifetime(longer) = parameter {
            bounds.extend(
                longer
                    .bounds
                    .iter()
                    .map(|shorter| (longer.lifetime.ident.to_string(), shorter.ident.to_string())),
            );
        }
    }
    let predicates = signature.generics.where_clause.iter();
    for predicate in predicates.flat_map(|clause| &clause.predicates) {
        if let WherePredicate::Lifetime(longer) = predicate {
            bounds.extend(
                longer
                    .bounds
                    .iter()
                    .map(|shorter| (longer.lifetime.ident.to_string(), shorter.ident.to_string())),
            );
        }
    }
    while let Some(at) = bounds
        .iter()
        .position(|(_, shorter)| lifetimes.contains(shorter))
    {
        lifetimes.push(bounds.swap_remove(at).0);
    }
}

/// The lifetimes in a type, an elided one as `_`; not those that a function among them is generic
/// over.
fn collect(ty: &Type, lifetimes: &mut Vec<String>) {
    match ty {
        Type::Reference(reference) => {
            let name = reference.lifetime.as_ref();
            lifetimes.push(name.map_or("_".to_owned(), |name| name.ident.to_string()));
            collect(&reference.elem, lifetimes);
        }
        Type::Path(path) => {
            for segment in &path.path.segments {
                if let PathArguments::AngleBracketed(arguments) = &segment.arguments {
                    for argument in &arguments.args {
                        match argument {
                            GenericArgument::Lifetime(name) => {
                                lifetimes.push(name.ident.to_string());
                            }
                            GenericArgument::Type(ty) => collect(ty, lifetimes),
                            _ => {}
                        }
                    }
                }
            }
        }
        Type::TraitObject(object) => lifetimes.extend(outlived(&object.bounds)),
        Type::ImplTrait(object) => lifetimes.extend(outlived(&object.bounds)),
        Type::Array(array) => collect(&array.elem, lifetimes),
        Type::Slice(slice) => collect(&slice.elem, lifetimes),
        Type::Group(group) => collect(&group.elem, lifetimes),
        Type::Paren(paren) => collect(&paren.elem, lifetimes),
        Type::Tuple(tuple) => tuple.elems.iter().for_each(|ty| collect(ty, lifetimes)),
        _ => {}
    }
}
