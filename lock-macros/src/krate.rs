//! Under which name the compiler was given the crate `lock-runtime`.
//!
//! A crate that renames the dependency, or has it from a facade, must say so by `crate = …`.
//! Without, each generated path would be an error of its own, and none would say what to write. The
//! compiler's command line tells the names before that.

/// What a crate says that has `lock-runtime` under another name, or not at all; none if all is
/// well, or if the command line does not tell.
pub(crate) fn missing(command_line: impl Iterator<Item = String>) -> Option<String> {
    let (names, own_name) = read(command_line);
    let is_there = names.is_empty()
        || own_name.as_deref() == Some(NAME)
        || names.iter().any(|(name, _)| name == NAME);
    if is_there {
        return None;
    }
    let renamed = names.iter().find(|(_, file)| is_library(file));
    Some(match renamed {
        Some((name, _)) => {
            format!("the crate `{NAME}` is called `{name}` here; add `crate = {name}`")
        }
        None => format!(
            "this crate does not depend on `{NAME}` itself; add `crate = path`, as in `crate = my_facade::{NAME}`"
        ),
    })
}

const NAME: &str = "lock_runtime";

/// The names of the crates in `--extern name=file`, each with its file, and that of `--crate-name`.
fn read(command_line: impl Iterator<Item = String>) -> (Vec<(String, String)>, Option<String>) {
    let mut names = Vec::new();
    let mut own_name = None;
    let mut words = command_line;
    while let Some(word) = words.next() {
        let (option, value) = match word.split_once('=') {
            Some((option, value)) => (option.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        match option.as_str() {
            "--extern" => {
                let value = value.or_else(|| words.next()).unwrap_or_default();
                let (name, file) = value.split_once('=').unwrap_or((&value, ""));
                // `priv:name` and the like.
                let name = name.rsplit(':').next().unwrap_or(name);
                names.push((name.to_owned(), file.to_owned()));
            }
            "--crate-name" => own_name = value.or_else(|| words.next()),
            _ => {}
        }
    }
    (names, own_name)
}

/// Whether `file` is the library of `lock-runtime`: `…/liblock_runtime-0123456789abcdef.rlib`.
fn is_library(file: &str) -> bool {
    let name = file.rsplit(['/', '\\']).next().unwrap_or(file);
    name.strip_prefix("lib")
        .and_then(|name| name.strip_prefix(NAME))
        .is_some_and(|rest| rest.starts_with(['-', '.']))
}

#[cfg(test)]
mod tests {
    use super::missing;

    fn missing_in(command_line: &str) -> Option<String> {
        missing(command_line.split(' ').map(str::to_owned))
    }

    #[test]
    fn a_crate_by_its_own_name_is_found() {
        for line in [
            "rustc --crate-name app --extern lock_runtime=/d/liblock_runtime-0f.rlib",
            "rustc --extern=priv:lock_runtime=/d/liblock_runtime-0f.rmeta --extern tokio=/d/libtokio-1.rlib",
            // Within the crate itself, and where the line does not tell.
            "rustc --crate-name lock_runtime --extern tokio=/d/libtokio-1.rlib",
            "rust-analyzer-proc-macro-srv",
            "rustc @arguments",
        ] {
            assert_eq!(missing_in(line), None, "{line}");
        }
    }

    #[test]
    fn a_renamed_crate_is_called_by_its_name() {
        let line =
            "rustc --extern tokio=/d/libtokio-1.rlib --extern locks=/d/liblock_runtime-0f.rlib";
        let message = missing_in(line).expect("renamed");
        assert!(message.ends_with("add `crate = locks`"), "{message}");
        // Another crate whose name begins alike.
        let line = "rustc --extern more=/d/liblock_runtime_more-0f.rlib";
        let message = missing_in(line).expect("not there");
        assert!(message.contains("does not depend on"), "{message}");
    }
}
