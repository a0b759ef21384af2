//! Placeholders of other languages in a template: they are text here, and one lock for all calls.
//!
//! A form that names an argument, or could stand for one, is a mistake only while the template
//! leaves that argument out: `"order#id:<id>"` has its value.

use crate::arguments::Arguments;
use crate::spelling::closest;
use crate::template::{Piece, groups, path, root};

/// The forms in `pieces` that somebody meant to be replaced, each with what to write.
pub(crate) fn faults(pieces: &[Piece], arguments: &Arguments) -> Vec<String> {
    let used: Vec<&str> = pieces
        .iter()
        .filter_map(|piece| match piece {
            Piece::Path(path) => Some(root(path)),
            Piece::Text(_) => None,
        })
        .collect();
    let unused: Vec<&str> = arguments
        .names()
        .filter(|name| !used.contains(name))
        .collect();
    let texts = pieces.iter().enumerate();
    let texts = texts.filter_map(|(at, piece)| match piece {
        Piece::Text(text) => Some((at, text)),
        Piece::Path(_) => None,
    });
    let mut faults = Vec::new();
    for (at, text) in texts {
        let braced = groups(text, '{', '}');
        faults.extend(braced.filter_map(|group| in_braces(group, arguments, &unused)));
        faults.extend(after_a_sign(text, at == 0, &unused));
    }
    faults
}

// Input:  "id", "id:?", "0", ":?", "", "idd"
// Output: `{id}` is no placeholder: every call would take the same lock; write `<id>`
fn in_braces(group: &str, arguments: &Arguments, unused: &[&str]) -> Option<String> {
    if arguments.named(root(group)).is_some() {
        let path = path(group);
        return Some(format!(
            "{}; write `<{path}>`, or `{{<{path}>}}` for a hash tag",
            no_placeholder(group)
        ));
    }
    if path(group).bytes().all(|byte| byte.is_ascii_digit()) {
        let mut values = unused.iter().filter(|name| **name != "self");
        let value = values.next()?;
        let for_example = values.next().map_or("", |_| "e.g. ");
        return Some(format!(
            "{}; write {for_example}`<{value}>`",
            no_placeholder(group)
        ));
    }
    let close = closest(root(group), unused.iter().copied())?;
    Some(format!(
        "{}; did you mean `<{close}>`?",
        no_placeholder(group)
    ))
}

fn no_placeholder(group: &str) -> String {
    format!("`{{{group}}}` is no placeholder: every call would take the same lock")
}

// Input:  "coupon:#id", "coupon:$id", "/coupons/:id"
// Output: `#id` is no placeholder: every call would take the same lock; write `<id>`
fn after_a_sign(text: &str, first: bool, unused: &[&str]) -> Vec<String> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let signs = text.match_indices(['#', '$', ':']);
    let meant = signs.filter_map(|(at, sign)| {
        // A colon is what separates values; it stands for one only where routes have it.
        let route = text[..at].ends_with('/') || (first && at == 0);
        if sign == ":" && !route {
            return None;
        }
        let rest = &text[at + 1..];
        let name = &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())];
        unused.contains(&name).then(|| {
            format!("`{sign}{name}` is no placeholder: every call would take the same lock; write `<{name}>`")
        })
    });
    meant.collect()
}
