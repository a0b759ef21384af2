//! The arguments of a function, under the names that its patterns bind.

use proc_macro2::Span;
use quote::format_ident;
use syn::ext::IdentExt;
use syn::{Attribute, FnArg, Ident, Pat, Signature, Type, parse_quote};

use crate::captures::Captures;
use crate::errors::Errors;

/// The arguments of a function, in order.
pub(crate) struct Arguments {
    list: Vec<Argument>,
    /// Whether there are no other names, as a macro among the patterns could make.
    pub(crate) all_named: bool,
}

/// A variable that a pattern of the signature binds.
pub(crate) struct Argument {
    pub(crate) ident: Ident,
    /// The name for users; none if the name is ours.
    name: Option<String>,
    /// The conditions under which there is such an argument.
    pub(crate) cfg: Vec<Attribute>,
    /// How the compiler is told if nothing uses the argument; not at all if it would not mind.
    pub(crate) unused: Option<Unused>,
    /// Whether the returned future must not hold it.
    pub(crate) excluded: bool,
    /// Whether its type is written as that of an integer, or not known.
    integer: bool,
}

/// What an unused argument is to the compiler, which has other advice for each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unused {
    /// A variable.
    Variable,
    /// A field by its own name, as in `Point { x, y }`.
    Field,
}

impl Arguments {
    /// Nothing known, because the function itself could not be read.
    pub(crate) fn unknown() -> Arguments {
        Arguments {
            list: Vec::new(),
            all_named: false,
        }
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Argument> {
        self.list.iter()
    }

    /// The names that a user may use.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.list
            .iter()
            .filter_map(|argument| argument.name.as_deref())
    }

    /// The argument that a user calls `name`.
    pub(crate) fn named(&self, name: &str) -> Option<&Ident> {
        let argument = self
            .list
            .iter()
            .find(|argument| argument.name.as_deref() == Some(name))?;
        Some(&argument.ident)
    }

    /// Whether the argument `name` can be an integer, for all that can be seen.
    pub(crate) fn may_be_integer(&self, name: &str) -> bool {
        self.list
            .iter()
            .any(|argument| argument.name.as_deref() == Some(name) && argument.integer)
    }

    /// Whether `name` could be two different arguments: `macro_rules!` can write two that only
    /// hygiene tells apart.
    pub(crate) fn is_ambiguous(&self, name: &str) -> bool {
        let same = self
            .list
            .iter()
            .filter(|argument| argument.name.as_deref() == Some(name));
        same.filter(|argument| argument.cfg.is_empty()).count() > 1
    }

    /// Whether `guard` hides nothing that the caller gave.
    pub(crate) fn check_guard(&self, guard: &Ident, errors: &mut Errors) -> bool {
        let name = guard.unraw().to_string();
        let hides = self.named(&name).is_some();
        if hides {
            errors.at(
                guard,
                format!("`guard = {name}` would hide the argument `{name}`; choose another name"),
            );
        }
        !hides
    }

    /// Tells the compiler of none that it is unused.
    pub(crate) fn report_no_unused(&mut self) {
        for argument in &mut self.list {
            argument.unused = None;
        }
    }

    /// Puts the names of `pattern` in the place of the argument `moved`; false if there is none.
    pub(crate) fn rename(&mut self, moved: &Ident, pattern: &Pat) -> bool {
        let found = self
            .list
            .iter()
            .position(|argument| argument.ident == *moved);
        let Some(at) = found else {
            return false;
        };
        let argument = self.list.remove(at);
        let mut renamed = Arguments {
            list: Vec::new(),
            all_named: true,
        };
        match pattern {
            Pat::Ident(name) if name.ident == *moved || moved == "self" => {
                let is_ours = moved.to_string().starts_with("__arg");
                renamed.list.push(Argument {
                    ident: name.ident.clone(),
                    name: argument.name.filter(|_| !is_ours),
                    cfg: argument.cfg,
                    unused: argument.unused.filter(|_| !is_ours),
                    excluded: argument.excluded,
                    integer: argument.integer,
                });
            }
            pattern => {
                let attributes = Attributes {
                    cfg: argument.cfg,
                    levels: argument.unused.is_none(),
                    excluded: argument.excluded,
                    integer: true,
                };
                renamed.push_pattern(pattern, &attributes);
            }
        }
        self.all_named &= renamed.all_named;
        self.list.splice(at..at, renamed.list);
        true
    }

    fn push(&mut self, ident: &Ident, attributes: &Attributes, unused: Unused) {
        let name = ident.unraw().to_string();
        // A capital name may be a constant or a unit struct, which is no harm anywhere but here.
        let is_reported = !attributes.levels
            && name != "self"
            && !name.starts_with(|first: char| first == '_' || first.is_uppercase());
        self.list.push(Argument {
            ident: ident.clone(),
            name: Some(name),
            cfg: attributes.cfg.clone(),
            unused: is_reported.then_some(unused),
            excluded: attributes.excluded,
            integer: attributes.integer,
        });
    }

    fn push_hidden(&mut self, ident: &Ident, attributes: &Attributes) {
        self.list.push(Argument {
            ident: ident.clone(),
            name: None,
            cfg: attributes.cfg.clone(),
            unused: None,
            excluded: attributes.excluded,
            integer: false,
        });
    }

    /// Every name that `pattern` binds.
    fn push_pattern(&mut self, pattern: &Pat, attributes: &Attributes) {
        match pattern {
            Pat::Ident(pattern) => {
                self.push(&pattern.ident, attributes, Unused::Variable);
                if let Some((_, inner)) = &pattern.subpat {
                    self.push_pattern(inner, attributes);
                }
            }
            Pat::Paren(pattern) => self.push_pattern(&pattern.pat, attributes),
            Pat::Reference(pattern) => self.push_pattern(&pattern.pat, attributes),
            Pat::Type(pattern) => self.push_pattern(&pattern.pat, attributes),
            Pat::Tuple(pattern) => self.push_patterns(&pattern.elems, attributes),
            Pat::TupleStruct(pattern) => self.push_patterns(&pattern.elems, attributes),
            Pat::Slice(pattern) => self.push_patterns(&pattern.elems, attributes),
            Pat::Struct(pattern) => {
                for field in &pattern.fields {
                    match &*field.pat {
                        Pat::Ident(name) if field.colon_token.is_none() => {
                            self.push(&name.ident, attributes, Unused::Field);
                        }
                        pattern => self.push_pattern(pattern, attributes),
                    }
                }
            }
            // Each alternative binds the same names.
            Pat::Or(pattern) => self.push_patterns(pattern.cases.first(), attributes),
            Pat::Macro(_) | Pat::Verbatim(_) => self.all_named = false,
            _ => {}
        }
    }

    fn push_patterns<'a>(
        &mut self,
        patterns: impl IntoIterator<Item = &'a Pat>,
        attributes: &Attributes,
    ) {
        for pattern in patterns {
            self.push_pattern(pattern, attributes);
        }
    }
}

/// The attributes of an argument that matter to its names.
struct Attributes {
    cfg: Vec<Attribute>,
    /// Whether the user decides about lints.
    levels: bool,
    /// Whether the returned future must not hold it.
    excluded: bool,
    /// Whether the type is that of an integer, or not known.
    integer: bool,
}

/// Collects the arguments. A `_` gets a name, so that it can be moved into the body and dropped
/// before the release.
pub(crate) fn name_arguments(signature: &mut Signature, captures: Option<&Captures>) -> Arguments {
    let mut arguments = Arguments {
        list: Vec::new(),
        all_named: true,
    };
    for (at, input) in signature.inputs.iter_mut().enumerate() {
        match input {
            FnArg::Receiver(receiver) => {
                let name = Ident::new("self", receiver.self_token.span);
                let excluded =
                    captures.is_some_and(|captures| captures.exclude_receiver(&receiver.kind));
                let attributes = attributes(&receiver.attrs, excluded);
                arguments.push(&name, &attributes, Unused::Variable);
            }
            FnArg::Typed(argument) => {
                let excluded = captures.is_some_and(|captures| captures.exclude(&argument.ty));
                let mut attributes = attributes(&argument.attrs, excluded);
                // What a pattern takes out of a value may be one.
                attributes.integer =
                    !matches!(*argument.pat, Pat::Ident(_)) || is_integer(&argument.ty);
                if let Pat::Wild(wild) = &*argument.pat {
                    let span = Span::mixed_site().located_at(wild.underscore_token.span);
                    let name = format_ident!("__arg{at}", span = span);
                    arguments.push_hidden(&name, &attributes);
                    *argument.pat = parse_quote!(#name);
                } else {
                    arguments.push_pattern(&argument.pat, &attributes);
                }
            }
        }
    }
    arguments
}

fn attributes(attributes: &[Attribute], excluded: bool) -> Attributes {
    let is_any = |attribute: &Attribute, names: &[&str]| {
        names.iter().any(|name| attribute.path().is_ident(name))
    };
    let conditional = |attribute: &&Attribute| is_any(attribute, &["cfg", "cfg_attr"]);
    Attributes {
        cfg: attributes.iter().filter(conditional).cloned().collect(),
        levels: attributes
            .iter()
            .any(|attribute| is_any(attribute, &["allow", "expect", "warn", "deny", "cfg_attr"])),
        excluded,
        integer: false,
    }
}

/// Whether a type is written as that of an integer, or of a reference to one.
fn is_integer(ty: &Type) -> bool {
    const NAMES: [&str; 12] = [
        "u8", "u16", "u32", "u64", "u128", "usize", "i8", "i16", "i32", "i64", "i128", "isize",
    ];
    match ty {
        Type::Reference(reference) => is_integer(&reference.elem),
        Type::Group(group) => is_integer(&group.elem),
        Type::Paren(paren) => is_integer(&paren.elem),
        Type::Path(path) => path
            .path
            .get_ident()
            .is_some_and(|name| NAMES.iter().any(|integer| name == integer)),
        _ => false,
    }
}
