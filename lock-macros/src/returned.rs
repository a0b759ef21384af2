//! Return types that are futures.

use syn::{GenericArgument, PathArguments, ReturnType, Type, TypeParamBound};

/// A return type that is a future.
pub(crate) struct ReturnedFuture {
    /// What the future puts out.
    pub(crate) output: Type,
    /// Its type, if that can be named.
    pub(crate) named: Option<Type>,
}

// Input:  -> Pin<Box<dyn Future<Output = Res<u64>> + Send + '_>>
// Output: Res<u64>
pub(crate) fn returned_future(output: &ReturnType) -> Option<ReturnedFuture> {
    let ReturnType::Type(_, ty) = output else {
        return None;
    };
    let (bounds, named) = match &**ty {
        Type::ImplTrait(future) => (&future.bounds, None),
        Type::Path(path) => {
            let last = path.path.segments.last()?;
            if last.ident == "BoxFuture" || last.ident == "LocalBoxFuture" {
                return Some(ReturnedFuture {
                    output: type_argument(&last.arguments)?.clone(),
                    named: Some((**ty).clone()),
                });
            }
            match boxed_future(ty)? {
                Type::TraitObject(future) => (&future.bounds, Some((**ty).clone())),
                _ => return None,
            }
        }
        _ => return None,
    };
    let output = bounds.iter().find_map(future_output)?.clone();
    Some(ReturnedFuture { output, named })
}

/// `T` of `Pin<Box<T>>`.
pub(crate) fn boxed_future(ty: &Type) -> Option<&Type> {
    inside(ty, "Pin").and_then(|ty| inside(ty, "Box"))
}

/// `T` of `Wrapper<T>`.
fn inside<'a>(ty: &'a Type, wrapper: &str) -> Option<&'a Type> {
    match ty {
        Type::Path(path) => {
            let last = path.path.segments.last()?;
            (last.ident == wrapper).then(|| type_argument(&last.arguments))?
        }
        _ => None,
    }
}

fn type_argument(arguments: &PathArguments) -> Option<&Type> {
    let PathArguments::AngleBracketed(arguments) = arguments else {
        return None;
    };
    arguments.args.iter().find_map(|argument| match argument {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    })
}

/// `T` of `Future<Output = T>`.
fn future_output(bound: &TypeParamBound) -> Option<&Type> {
    let TypeParamBound::Trait(bound) = bound else {
        return None;
    };
    let last = bound
        .path
        .segments
        .last()
        .filter(|last| last.ident == "Future")?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else {
        return None;
    };
    arguments.args.iter().find_map(|argument| match argument {
        GenericArgument::AssocType(output) if output.ident == "Output" => Some(&output.ty),
        _ => None,
    })
}
