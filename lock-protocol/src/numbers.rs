//! Which questions come too late: clause 7 of the contract of a backend.

use alloc::collections::VecDeque;

use crate::claim::AskNumber;
use crate::name::LockKey;

/// The largest number of a question that was asked of each key, for a few keys that were asked of
/// last.
///
/// A question is overtaken within moments or never, so a few are enough.
#[derive(Debug, Default)]
pub struct Numbers {
    /// The last at the front.
    latest: VecDeque<(LockKey, AskNumber)>,
}

/// Why a question is not asked: another, which was made after it, went ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a later question about the same lock was asked before")]
pub struct Overtaken;

impl Numbers {
    /// How many keys are remembered.
    const KEYS: usize = 4;

    /// Takes in that a question with this `number` is about to be asked of `key`. Zero is no
    /// number.
    ///
    /// # Errors
    ///
    /// [`Overtaken`] if the question is not to be asked.
    pub fn admit(&mut self, key: &LockKey, number: AskNumber) -> Result<(), Overtaken> {
        if number == 0 {
            return Ok(());
        }
        let place = self.latest.iter().position(|(known, _)| known == key);
        match place {
            Some(place) if self.latest[place].1 > number => return Err(Overtaken),
            Some(place) => {
                self.latest[place].1 = number;
                self.latest.swap(0, place);
            }
            None => {
                self.latest.truncate(Numbers::KEYS - 1);
                self.latest.push_front((key.clone(), number));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    fn key(name: &str) -> LockKey {
        LockKey::new("lock:", name).expect("a valid key")
    }

    #[test]
    fn a_question_behind_a_larger_number_of_its_key_is_overtaken() {
        let (mut numbers, one, other) = (Numbers::default(), key("one"), key("other"));
        assert_eq!(numbers.admit(&one, 7), Ok(()));
        assert_eq!(numbers.admit(&one, 6), Err(Overtaken));
        // The same question, once more.
        assert_eq!(numbers.admit(&one, 7), Ok(()));
        assert_eq!(numbers.admit(&one, 0), Ok(()));
        assert_eq!(numbers.admit(&other, 1), Ok(()));
        assert_eq!(numbers.admit(&one, 8), Ok(()));
        assert_eq!(numbers.admit(&one, 7), Err(Overtaken));
    }

    #[test]
    fn a_key_in_use_is_remembered_and_the_others_take_no_room() {
        let mut numbers = Numbers::default();
        for number in 1..1000 {
            assert_eq!(numbers.admit(&key("busy"), 1000 + number), Ok(()));
            assert_eq!(numbers.admit(&key(&number.to_string()), number), Ok(()));
            assert_eq!(numbers.admit(&key("busy"), 1), Err(Overtaken));
        }
        assert!(numbers.latest.len() <= Numbers::KEYS);
    }
}
