//! Text that is put together from parts and then shared.

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;

use smallvec::SmallVec;

/// The parts so far. Short ones need no allocation but that of the shared text.
#[derive(Default)]
pub(crate) struct Text(SmallVec<[u8; 128]>);

impl Text {
    pub(crate) fn push(&mut self, part: &str) {
        self.0.extend_from_slice(part.as_bytes());
    }

    pub(crate) fn share(&self) -> Arc<str> {
        // It was made of texts, so nothing is replaced.
        Arc::from(&*String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        self.push(part);
        Ok(())
    }
}
