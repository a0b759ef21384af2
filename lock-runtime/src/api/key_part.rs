//! The values of a key template, and how they are written into the key.
//!
//! Two different lists of values never make the same key of one template. In a value, `%`, `:`, `{`
//! and `}` are percent-encoded, and the attribute demands one of `:`, `{`, `}` in the template
//! between two placeholders: so the template's own text can be told from the values, and no value
//! moves a Redis Cluster hash tag. Within one placeholder, a `%` that no hexadecimal digit follows
//! marks the structure, which no value can imitate: `%,` separates parts, and `%(`, `%)` enclose
//! what is not one plain value.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::rc::Rc;
use std::sync::Arc;

use lock_protocol::LockKey;

/// A value that can stand in a key template: `<id>` in `key = "coupon:<id>"`.
///
/// Parts of a key are integers, `bool`, `char`, strings, and IP and socket addresses. With a
/// feature for each crate, `uuid::Uuid` and the dates and times of `time`, `chrono` and `jiff` are
/// parts; instants are written in UTC. Tuples, arrays, lists and `Option`s of parts are parts, and
/// so are references and smart pointers to them. `None` has a key that no `Some` makes: all calls
/// without a value take one lock.
///
/// Equal values make the same key, and different values make different keys. So not every type with
/// a `Display` is a part: two values that look alike would share a lock. Floating-point numbers are
/// not parts either: `0.0 == -0.0`, and `NaN` is not even equal to itself.
///
/// # Examples
///
/// `#[derive(KeyPart)]` makes a part of a newtype, or of an enum without fields:
///
/// ```
/// # #[cfg(feature = "macros")] {
/// use lock_runtime::KeyPart;
///
/// #[derive(KeyPart)]
/// struct CustomerId(u64);
///
/// #[derive(KeyPart)]
/// enum Region { Europe, Asia }
/// # }
/// ```
///
/// Any other type of your own adds the fields that identify it:
///
/// ```
/// use lock_runtime::{KeyBuilder, KeyPart};
///
/// struct Seat { row: u16, number: u16 }
///
/// impl KeyPart for Seat {
///     fn add(&self, key: &mut KeyBuilder) {
///         key.part(&self.row).part(&self.number);
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be part of a lock key",
    label = "used in the key",
    note = "use a field of it, as in `<order.id>`, or a type of your own that derives or implements `lock_runtime::KeyPart`"
)]
pub trait KeyPart {
    /// Adds the value to the key, by [`KeyBuilder::part`].
    fn add(&self, key: &mut KeyBuilder);
}

/// A place in a lock key, to be filled by a [`KeyPart`].
///
/// It takes parts and no raw text, so no implementation can make two different values look the
/// same.
#[derive(Debug)]
pub struct KeyBuilder {
    text: String,
    /// How many parts the innermost open value has so far.
    parts: usize,
}

impl KeyBuilder {
    /// Adds a part; several parts of one value are kept apart.
    ///
    /// # Examples
    ///
    /// ```
    /// # use lock_runtime::{KeyBuilder, KeyPart};
    /// struct CustomerId(u64);
    ///
    /// impl KeyPart for CustomerId {
    ///     fn add(&self, key: &mut KeyBuilder) {
    ///         key.part(&self.0);
    ///     }
    /// }
    /// ```
    pub fn part<P: KeyPart + ?Sized>(&mut self, part: &P) -> &mut KeyBuilder {
        self.separate();
        let start = self.text.len();
        let outer = std::mem::take(&mut self.parts);
        part.add(self);
        self.close(start);
        self.parts = outer + 1;
        self
    }

    /// Adds a plain value as it displays itself, escaped.
    pub(crate) fn plain(&mut self, value: impl fmt::Display) {
        self.separate();
        self.parts += 1;
        write!(Escaped(&mut self.text), "{value}")
            .expect("the values of this file display without an error");
    }

    fn separate(&mut self) {
        if self.parts > 0 {
            self.text.push_str("%,");
        }
    }

    /// Ends the value that began at `start`: encloses it unless it is one plain value.
    fn close(&mut self, start: usize) {
        if self.parts != 1 || self.text[start..].starts_with("%(") {
            self.text.insert_str(start, "%(");
            self.text.push_str("%)");
        }
    }
}

/// Writes text into a key so that it cannot be taken for the template's own.
struct Escaped<'a>(&'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            // Such a key is refused anyway: a huge value shall not be copied first.
            if self.0.len() > LockKey::MAX_LEN {
                break;
            }
            match c {
                '%' => self.0.push_str("%25"),
                ':' => self.0.push_str("%3A"),
                '{' => self.0.push_str("%7B"),
                '}' => self.0.push_str("%7D"),
                plain => self.0.push(plain),
            }
        }
        Ok(())
    }
}

/// A key template being filled in by an annotated function, or by `key!`.
///
/// Apart from [`KeyBuilder`], because the template's own text goes into the key as it is.
#[doc(hidden)]
#[derive(Debug)]
pub struct KeyTemplate {
    key: KeyBuilder,
    /// Where the value of the placeholder begins that is being filled in.
    open: Option<usize>,
}

impl KeyTemplate {
    #[must_use]
    #[expect(clippy::new_without_default, reason = "called by generated code alone")]
    pub fn new() -> KeyTemplate {
        KeyTemplate {
            key: KeyBuilder {
                text: String::new(),
                parts: 0,
            },
            open: None,
        }
    }

    /// Adds text of the template.
    pub fn text(&mut self, text: &str) {
        self.close();
        self.key.text.push_str(text);
    }

    /// The place for the value of the next placeholder.
    pub fn value(&mut self) -> &mut KeyBuilder {
        self.close();
        self.open = Some(self.key.text.len());
        &mut self.key
    }

    /// The key. One that is too long for a lock stays too long, and is refused where a lock is made
    /// of it.
    pub fn finish(mut self) -> String {
        let last_value = self.open;
        self.close();
        let mut text = self.key.text;
        // What a value says must not decide whether a key can be used: no key with a hash tag may
        // end like a companion.
        if let Some(start) = last_value
            && LockKey::COMPANIONS.contains(&&*format!(":{}", &text[start..]))
        {
            text.insert_str(start, "%(");
            text.push_str("%)");
        }
        text
    }

    fn close(&mut self) {
        if let Some(start) = self.open.take() {
            self.key.close(start);
            self.key.parts = 0;
        }
    }
}

// `do_not_recommend`, here and below: a list of some of these types is no help to someone whose
// type is not among them.
macro_rules! plain_parts {
    ($($ty:ty),* $(,)?) => {$(
        #[diagnostic::do_not_recommend]
        impl $crate::KeyPart for $ty {
            fn add(&self, key: &mut $crate::KeyBuilder) {
                key.plain(self);
            }
        }
    )*};
}

plain_parts! {
    u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize,
    std::num::NonZeroU8, std::num::NonZeroU16, std::num::NonZeroU32, std::num::NonZeroU64, std::num::NonZeroU128, std::num::NonZeroUsize,
    std::num::NonZeroI8, std::num::NonZeroI16, std::num::NonZeroI32, std::num::NonZeroI64, std::num::NonZeroI128, std::num::NonZeroIsize,
    bool, char, str, String,
}

pub(crate) use plain_parts;

#[cfg(feature = "uuid")]
plain_parts!(uuid::Uuid);

macro_rules! pointers {
    ($($ty:ty),* $(,)?) => {$(
        #[diagnostic::do_not_recommend]
        impl<T: KeyPart + ?Sized> KeyPart for $ty {
            fn add(&self, key: &mut KeyBuilder) {
                (**self).add(key);
            }
        }
    )*};
}

pointers!(&T, &mut T, Box<T>, Rc<T>, Arc<T>);

#[diagnostic::do_not_recommend]
impl<T: KeyPart + ToOwned + ?Sized> KeyPart for Cow<'_, T> {
    fn add(&self, key: &mut KeyBuilder) {
        (**self).add(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(value: &(impl KeyPart + ?Sized)) -> String {
        let mut key = KeyTemplate::new();
        value.add(key.value());
        key.finish()
    }

    /// Any number of parts.
    struct List<T>(Vec<T>);

    impl<T: KeyPart> KeyPart for List<T> {
        fn add(&self, key: &mut KeyBuilder) {
            for item in &self.0 {
                key.part(item);
            }
        }
    }

    #[test]
    fn plain_values_are_written_as_they_are_read() {
        assert_eq!(key(&u64::MAX), "18446744073709551615");
        assert_eq!(key(&i128::MIN), "-170141183460469231731687303715884105728");
        assert_eq!(key(&std::num::NonZeroU8::MIN), "1");
        assert_eq!(key(&true), "true");
        assert_eq!(key(&'é'), "é");
        assert_eq!(key("a b"), "a b");
        assert_eq!(key(&Cow::Borrowed("cow")), "cow");
        assert_eq!(key(&Arc::<str>::from("arc")), "arc");
        assert_eq!(key(&Rc::new(Box::new(7_u8))), "7");
    }

    #[cfg(feature = "uuid")]
    #[test]
    fn a_uuid_is_written_with_hyphens() {
        assert_eq!(
            key(&uuid::Uuid::nil()),
            "00000000-0000-0000-0000-000000000000"
        );
    }

    #[test]
    fn the_marks_of_a_template_are_escaped_in_values() {
        assert_eq!(key("a:b%{c}"), "a%3Ab%25%7Bc%7D");
    }

    #[test]
    fn no_value_makes_a_key_end_like_a_companion() {
        let keys = ["queue", "fence", "fences"].map(|value| {
            let mut template = KeyTemplate::new();
            template.text("{t}:");
            value.add(template.value());
            template.finish()
        });
        assert_eq!(keys, ["{t}:%(queue%)", "{t}:%(fence%)", "{t}:fences"]);
    }

    #[test]
    fn a_newtype_looks_like_what_it_wraps() {
        assert_eq!(key(&List(vec![List(vec![42])])), "42");
    }

    #[test]
    fn lists_of_parts_that_differ_make_keys_that_differ() {
        let words = [
            "", "a", "b", "%", ",", "(", ")", "%,", "%(", "%)", "%2", "2C",
        ];
        let mut lists = vec![vec![]];
        for one in words {
            lists.push(vec![one]);
            for two in words {
                lists.push(vec![one, two]);
            }
        }
        let mut seen = std::collections::HashMap::new();
        let mut check = |value: Vec<Vec<&'static str>>| {
            let text = key(&List(value.iter().cloned().map(List).collect()));
            if let Some(other) = seen.insert(text.clone(), value.clone()) {
                panic!("{value:?} and {other:?} both make {text}");
            }
        };
        check(vec![]);
        for one in &lists {
            check(vec![one.clone()]);
            for two in &lists {
                check(vec![one.clone(), two.clone()]);
            }
        }
    }

    #[test]
    fn a_huge_value_is_refused_before_it_is_copied() {
        let mut template = KeyTemplate::new();
        "x".repeat(1 << 20).add(template.value());
        assert!(template.key.text.len() <= LockKey::MAX_LEN + 4);
        assert!(LockKey::new("", &template.finish()).is_err());
    }
}
