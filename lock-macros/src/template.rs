//! A template as it is written: text, and groups that are or look like placeholders.

/// A piece of a template, as it is written.
pub(crate) enum Piece {
    Text(String),
    /// What stands between `<` and `>`.
    Path(String),
}

// Input:  "a<<b:<id>"
// Output: Text("a<b:"), Path("id")
pub(crate) fn pieces(template: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = template;
    while let Some(at) = rest.find(['<', '>']) {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("<<") {
            text.push('<');
            rest = after;
        } else if let Some(after) = rest.strip_prefix(">>") {
            text.push('>');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('<') {
            let end = after
                .find(['<', '>'])
                .filter(|&end| after[end..].starts_with('>'));
            let Some(end) = end else {
                return Err(format!(
                    "`<{after}` is not closed; write e.g. `<id>`, or `<<` for a `<` of the key itself"
                ));
            };
            if !text.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut text)));
            }
            pieces.push(Piece::Path(after[..end].to_owned()));
            rest = &after[end + 1..];
        } else {
            return Err(
                "this `>` closes no placeholder; write `>>` for a `>` of the key itself".to_owned(),
            );
        }
    }
    text.push_str(rest);
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

/// What `text` has between an `open` and the next `close`.
pub(crate) fn groups(text: &str, open: char, close: char) -> impl Iterator<Item = &str> {
    text.split(open)
        .skip(1)
        .filter_map(move |rest| Some(rest.split_once(close)?.0))
}

/// A group as a placeholder: without a format specification.
pub(crate) fn path(group: &str) -> &str {
    group.split(':').next().unwrap_or_default().trim()
}

/// The argument that a group would name.
pub(crate) fn root(group: &str) -> &str {
    let root = path(group).split('.').next().unwrap_or_default();
    root.strip_prefix("r#").unwrap_or(root)
}
