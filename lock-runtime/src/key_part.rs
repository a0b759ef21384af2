//! What may stand between `<` and `>` in a key template, and how it is escaped.

use crate::error::LockError;

/// A value that can be part of a lock key.
pub trait KeyPart {
    /// Appends the value to the key.
    fn add(&self, key: &mut KeyBuilder);
}

/// A lock key being put together by an annotated function.
#[derive(Debug)]
pub struct KeyBuilder {
    text: String,
}

impl KeyBuilder {
    #[doc(hidden)]
    #[must_use]
    #[expect(clippy::new_without_default, reason = "called by generated code alone")]
    pub fn new() -> KeyBuilder {
        KeyBuilder {
            text: String::new(),
        }
    }

    #[doc(hidden)]
    pub fn text(&mut self, text: &str) {
        self.text.push_str(text);
    }

    #[doc(hidden)]
    pub fn finish(self) -> Result<String, LockError> {
        Ok(self.text)
    }
}

impl KeyPart for u64 {
    fn add(&self, key: &mut KeyBuilder) {
        key.text(&self.to_string());
    }
}

impl<T: KeyPart + ?Sized> KeyPart for &T {
    fn add(&self, key: &mut KeyBuilder) {
        (**self).add(key);
    }
}
