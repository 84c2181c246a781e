//! Keys and values as text: printed so that a terminal shows them and nothing in them acts on it, and read back.
//!
//! Printable UTF-8 stands for itself. A tab is `\t`, a newline `\n`, a carriage return `\r`, a backslash `\\`; every
//! other byte that could act on a terminal, hide or reorder what stands beside it, or is no UTF-8, is `\x` and two
//! hexadecimal digits. So different bytes are different text, and one line is one record.

use std::fmt::Write;

/// The text of some bytes.
pub(super) fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\t' => text.push_str("\\t"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\\' => text.push_str("\\\\"),
                _ if acts(character) => {
                    escape_bytes(&mut text, character.encode_utf8(&mut [0; 4]).as_bytes())
                }
                _ => text.push(character),
            }
        }
        escape_bytes(&mut text, chunk.invalid());
    }
    text
}

fn escape_bytes(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        write!(text, "\\x{byte:02x}").expect("invariant: writing to a string does not fail");
    }
}

/// Whether a terminal does something else with it than to show it in its place.
fn acts(character: char) -> bool {
    let is_format = matches!(
        character,
        '\u{00ad}'
            | '\u{061c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    );
    character.is_control() || is_format
}

/// The bytes of a text; the other way of [`escape`]. An error says what is wrong and where.
pub(super) fn unescape(text: &[u8]) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'\\' {
            bytes.push(*byte);
            continue;
        }
        let at = text.len() - rest.len();
        let (escaped, length) = match rest {
            [b't', ..] => (b'\t', 1),
            [b'n', ..] => (b'\n', 1),
            [b'r', ..] => (b'\r', 1),
            [b'\\', ..] => (b'\\', 1),
            [b'x', high, low, ..] => {
                let digits = std::str::from_utf8(&rest[1..3]).ok();
                let digits = digits.filter(|_| high.is_ascii_hexdigit() && low.is_ascii_hexdigit());
                let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                (byte.ok_or_else(|| unknown(at))?, 3)
            }
            _ => return Err(unknown(at)),
        };
        bytes.push(escaped);
        rest = &rest[length..];
    }
    Ok(bytes)
}

fn unknown(at: usize) -> String {
    format!(
        "what follows the backslash at byte {at} is no escape; write \\\\, \\t, \\n, \\r or \\x and two hexadecimal digits"
    )
}

/// A text as one word of a shell's command line.
pub(super) fn shell_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_terminal_would_act_on_is_escaped() {
        for (bytes, text) in [
            (&b"user:1"[..], "user:1"),
            ("grün 数".as_bytes(), "grün 数"),
            (b"a\tb\nc\rd\\e", "a\\tb\\nc\\rd\\\\e"),
            (b"\x1b[2J\x00\x7f", "\\x1b[2J\\x00\\x7f"),
            (b"\xff\xc3", "\\xff\\xc3"),
            ("\u{9b}1m".as_bytes(), "\\xc2\\x9b1m"),
            ("a\u{202e}b".as_bytes(), "a\\xe2\\x80\\xaeb"),
        ] {
            assert_eq!(escape(bytes), text);
            assert_eq!(unescape(text.as_bytes()).as_deref(), Ok(bytes));
        }
    }

    #[test]
    fn what_is_no_escape_is_refused_with_its_place() {
        for wrong in ["ab\\", "ab\\q", "ab\\x1", "ab\\xg0", "ab\\x+1"] {
            let error = unescape(wrong.as_bytes()).unwrap_err();
            assert!(error.contains("at byte 3"), "{wrong}: {error}");
        }
        assert_eq!(shell_word("it's"), "'it'\\''s'");
    }

    proptest! {
        #[test]
        fn different_bytes_are_different_text_on_one_line(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let text = escape(&bytes);
            prop_assert!(!text.contains(|c: char| c.is_control()));
            prop_assert_eq!(unescape(text.as_bytes()), Ok(bytes));
        }
    }
}
