//! A list that is most often empty.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};

/// A list that takes no more room than a pointer while it is empty.
#[derive(Clone, Debug, Hash)]
#[expect(clippy::box_collection, reason = "a list is three times as large")]
pub(super) struct Seldom<T>(Option<Box<Vec<T>>>);

impl<T> Seldom<T> {
    pub(super) const fn new() -> Seldom<T> {
        Seldom(None)
    }

    pub(super) fn push(&mut self, item: T) {
        self.0.get_or_insert_default().push(item);
    }

    /// Takes out the item at `index`, if there is one.
    pub(super) fn remove(&mut self, index: usize) -> Option<T> {
        let items = self.0.as_mut()?;
        let item = (index < items.len()).then(|| items.remove(index));
        if items.is_empty() {
            self.0 = None;
        }
        item
    }
}

impl<T> Deref for Seldom<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.0.as_ref().map_or(&[], |items| items)
    }
}

impl<T> DerefMut for Seldom<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.0.as_mut().map_or(&mut [], |items| items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_empty_takes_no_room() {
        let mut list = Seldom::new();
        assert_eq!(size_of_val(&list), size_of::<usize>());
        assert!(list.is_empty() && list.remove(0).is_none());
        list.push(1);
        list.push(2);
        list[1] = 3;
        assert_eq!((list.remove(2), list.remove(0)), (None, Some(1)));
        assert_eq!(*list, [3]);
        assert_eq!(list.remove(0), Some(3));
        assert!(list.0.is_none());
    }
}
