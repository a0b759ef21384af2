//! Durations as text, in humantime's syntax.

use std::time::Duration;

use humantime::DurationError;

/// What a user may write, shown in every message.
const FORMS: &str = r#""500ms", "5s", "1m 30s" or "2h""#;

// Input:  "1m 30s"
// Output: 90 s, or the fault in the user's words
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    if let Some(unit) = calendar_unit(text) {
        return Err(format!(
            "`{unit}` has no fixed length; write days, hours, minutes (`m`) or seconds"
        ));
    }
    if text.trim_start().starts_with('-') {
        return Err(format!(
            "`{text}` is negative, and no duration; write e.g. {FORMS}"
        ));
    }
    humantime::parse_duration(text).map_err(|error| match error {
        DurationError::Empty => format!("an empty text is no duration; write e.g. {FORMS}"),
        DurationError::UnknownUnit { unit, value, .. } if unit.is_empty() => {
            format!("`{text}` has no unit; write e.g. \"{value}s\" or \"{value}ms\"")
        }
        DurationError::UnknownUnit { unit, .. } => {
            format!("`{text}` is no duration: unknown unit `{unit}`; write e.g. {FORMS}")
        }
        DurationError::NumberExpected(_) => {
            format!(
                "`{text}` is no duration: a number must come before each unit; write e.g. {FORMS}"
            )
        }
        DurationError::NumberOverflow => {
            format!("`{text}` is too long or too fine to be a duration; write e.g. {FORMS}")
        }
        DurationError::InvalidCharacter(_) => {
            format!("`{text}` is no duration; write e.g. {FORMS}")
        }
    })
}

/// The first unit whose length depends on the calendar; humantime would take `1M` for 30 days,
/// where a minute was meant.
fn calendar_unit(text: &str) -> Option<&str> {
    text.split(|c: char| !c.is_alphabetic()).find(|unit| {
        matches!(
            *unit,
            "M" | "month" | "months" | "y" | "yr" | "yrs" | "year" | "years"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_syntax_is_that_of_humantime() {
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("0s"), Ok(Duration::ZERO));
    }

    #[test]
    fn every_other_text_is_refused() {
        for text in [
            "",
            " ",
            "5",
            "s",
            "-1s",
            "5 parsecs",
            "1M",
            "1month",
            "2 years",
            "5s!",
            "1e3s",
            "99999999999999999999s",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_duration_beyond_u64_milliseconds_does_not_wrap() {
        // In milliseconds this is 2^64 + 384.
        if let Ok(duration) = parse("18446744073709552s") {
            assert!(duration > Duration::from_secs(24 * 60 * 60));
        }
    }
}
