//! What a misspelt word was meant to be.

use strsim::osa_distance;

/// The candidate that `word` is a slip of the fingers away from.
pub(crate) fn closest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let tolerance = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (osa_distance(word, candidate), candidate))
        .filter(|&(distance, candidate)| {
            // Of two words of one letter neither is a misspelling of the other.
            distance <= tolerance && distance < candidate.chars().count()
        })
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::closest;

    #[test]
    fn slips_are_recognised_and_other_words_are_not() {
        let known = ["key", "ttl", "wait", "max_hold"];
        assert_eq!(closest("kye", known), Some("key"));
        assert_eq!(closest("tll", known), Some("ttl"));
        assert_eq!(closest("wiat", known), Some("wait"));
        assert_eq!(closest("maxhold", known), Some("max_hold"));
        assert_eq!(closest("colour", known), None);
        assert_eq!(closest("a", ["b"]), None);
    }
}
