//! The frames of RESP2 and RESP3, as far as somebody in between has to know them: where each ends.

/// The first complete frame of `bytes`; `None` if more has to come.
pub(super) fn frame(bytes: &[u8]) -> Option<&[u8]> {
    end(bytes, 0).map(|end| &bytes[..end])
}

/// The words of a command, which clients send as an array of bulk strings; empty if it is none.
pub(super) fn words(frame: &[u8]) -> Vec<&[u8]> {
    let Some((b'*', count, mut at)) = head(frame, 0) else {
        return Vec::new();
    };
    let mut words = Vec::new();
    for _ in 0..count {
        let Some((b'$', len, start)) = head(frame, at) else {
            return Vec::new();
        };
        let end = start + usize::try_from(len).unwrap_or(0);
        words.push(&frame[start..end]);
        at = end + 2;
    }
    words
}

/// The bytes of a frame that is a bulk string.
pub(super) fn bulk(frame: &[u8]) -> Option<&[u8]> {
    let (b'$', len, start) = head(frame, 0)? else {
        return None;
    };
    frame.get(start..start + usize::try_from(len).ok()?)
}

/// The kind of message in a frame that was not asked for.
pub(super) fn push_kind(frame: &[u8]) -> Option<&[u8]> {
    let (b'>', _, at) = head(frame, 0)? else {
        return None;
    };
    bulk(&frame[at..])
}

/// Whether the frame was not asked for.
pub(super) fn is_push(frame: &[u8]) -> bool {
    frame.first() == Some(&b'>')
}

/// Where the frame ends that begins at `at`.
fn end(bytes: &[u8], at: usize) -> Option<usize> {
    let (kind, number, mut next) = head(bytes, at)?;
    match kind {
        // Strings with a length; a negative one is null.
        b'$' | b'=' | b'!' => match usize::try_from(number) {
            Ok(len) => Some(next + len + 2).filter(|end| *end <= bytes.len()),
            Err(_) => Some(next),
        },
        b'*' | b'~' | b'>' => {
            for _ in 0..number.max(0) {
                next = end(bytes, next)?;
            }
            Some(next)
        }
        b'%' => {
            for _ in 0..number.max(0) * 2 {
                next = end(bytes, next)?;
            }
            Some(next)
        }
        // An attribute comes in front of the frame it belongs to.
        b'|' => {
            for _ in 0..number.max(0) * 2 + 1 {
                next = end(bytes, next)?;
            }
            Some(next)
        }
        // Numbers, simple strings, errors, booleans and null are one line.
        _ => Some(next),
    }
}

/// The kind of the frame at `at`, the number behind it if there is one, and where its first line
/// ends.
fn head(bytes: &[u8], at: usize) -> Option<(u8, i64, usize)> {
    let rest = bytes.get(at..)?;
    let line = rest.windows(2).position(|pair| pair == b"\r\n")?;
    let kind = *rest.first()?;
    let number = std::str::from_utf8(rest.get(1..line)?).ok();
    let number = number.and_then(|text| text.parse().ok()).unwrap_or(0);
    Some((kind, number, at + line + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_ends_where_its_last_part_ends() {
        for whole in [
            "+OK\r\n",
            "$-1\r\n",
            "$3\r\na\r\n\r\n",
            "*2\r\n$1\r\na\r\n:1\r\n",
            "*-1\r\n",
            "%1\r\n+a\r\n*1\r\n:1\r\n",
            ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$0\r\n\r\n",
            "|1\r\n+a\r\n+b\r\n:7\r\n",
            "_\r\n",
        ] {
            let bytes = format!("{whole}+more\r\n");
            assert_eq!(frame(bytes.as_bytes()), Some(whole.as_bytes()), "{whole:?}");
            for cut in 0..whole.len() {
                assert_eq!(
                    frame(&whole.as_bytes()[..cut]),
                    None,
                    "{whole:?} cut at {cut}"
                );
            }
        }
    }

    #[test]
    fn a_command_is_its_words() {
        let words = words(b"*2\r\n$4\r\nECHO\r\n$4\r\n\r\n\r\n\r\n");
        assert_eq!(words, [b"ECHO".as_slice(), b"\r\n\r\n"]);
    }
}
