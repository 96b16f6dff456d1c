//! Escapes names that others chose for a terminal: process names, queue names, paths, words of a command.
//!
//! Invariant: the output has no control or format character, takes no more cells than requested, and differs
//! for different names unless they are cut.

use std::fmt::{self, Write as _};

use unicode_width::UnicodeWidthChar as _;

/// Replaces the part that didn't fit.
const CUT: char = '…';

/// Bytes as safe text of at most `max` cells; padded as the format string asks.
///
/// `\n`, `\t`, `\r`, `\\`, `\xNN` for other control bytes and invalid UTF-8, `\u{…}` for characters
/// that are invisible or change the direction of the text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Escaped<'a> {
    bytes: &'a [u8],
    max: usize,
    quotes: bool,
}

/// `bytes` unchanged where they are safe.
#[must_use]
pub(crate) const fn escaped(bytes: &[u8], max: usize) -> Escaped<'_> {
    Escaped { bytes, max, quotes: false }
}

/// `bytes` in double quotes, so that adjacent text can't be taken for a part of them. The quotes count as
/// cells.
#[must_use]
pub(crate) const fn quoted(bytes: &[u8], max: usize) -> Escaped<'_> {
    Escaped { bytes, max, quotes: true }
}

/// The output for a piece of the bytes.
#[derive(Clone, Copy)]
enum Piece {
    Plain(char, usize),
    Letter(char),
    Byte(u8),
    Char(char),
}

impl Piece {
    fn classify(char: char, quotes: bool) -> Self {
        match char {
            '\n' => Self::Letter('n'),
            '\t' => Self::Letter('t'),
            '\r' => Self::Letter('r'),
            '\\' => Self::Letter('\\'),
            '"' if quotes => Self::Letter('"'),
            '\0'..='\x1f' | '\x7f' => Self::Byte(char as u8),
            // Invalid UTF-8 is \xNN as well, and must stay distinct: U+0085 is two bytes.
            '\u{80}'..='\u{9f}' => Self::Char(char),
            char if is_hidden(char) => Self::Char(char),
            char => match char.width() {
                // A combining mark is legitimate in some scripts, but any number of them fits into one cell,
                // and would cover the lines around it.
                None | Some(0) => Self::Char(char),
                Some(width) => Self::Plain(char, width),
            },
        }
    }

    fn width(self) -> usize {
        match self {
            Self::Plain(_, width) => width,
            Self::Letter(_) => 2,
            Self::Byte(_) => 4,
            Self::Char(char) => {
                let digits = (u32::BITS - u32::from(char).leading_zeros()).div_ceil(4);
                4 + digits.max(1) as usize
            }
        }
    }

    fn write(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(char, _) => f.write_char(char),
            Self::Letter(char) => {
                f.write_char('\\')?;
                f.write_char(char)
            }
            Self::Byte(byte) => write!(f, "\\x{byte:02x}"),
            Self::Char(char) => write!(f, "\\u{{{:x}}}", u32::from(char)),
        }
    }
}

/// Format characters (Unicode category Cf), line and paragraph separators, and invisible fillers: no honest
/// name needs them on a terminal.
const fn is_hidden(char: char) -> bool {
    matches!(char,
        '\u{ad}' | '\u{34f}'
        | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}'
        | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

impl Escaped<'_> {
    fn pieces(&self) -> impl Iterator<Item = Piece> {
        let quotes = self.quotes;
        self.bytes.utf8_chunks().flat_map(move |chunk| {
            let valid = chunk.valid().chars().map(move |char| Piece::classify(char, quotes));
            valid.chain(chunk.invalid().iter().map(|byte| Piece::Byte(*byte)))
        })
    }
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let around = if self.quotes { 2 } else { 0 };
        let Some(room) = self.max.checked_sub(around) else {
            return Ok(());
        };
        // Inspects only as much as fits, however long the name is.
        let mut rest = room;
        let fits = self.pieces().all(|piece| match rest.checked_sub(piece.width()) {
            Some(less) => {
                rest = less;
                true
            }
            None => false,
        });
        let mut left = if fits { room } else { room.saturating_sub(1) };
        let mut width = around;
        if self.quotes {
            f.write_char('"')?;
        }
        for piece in self.pieces() {
            let Some(less) = left.checked_sub(piece.width()) else {
                break;
            };
            left = less;
            width += piece.width();
            piece.write(f)?;
        }
        if !fits && room > 0 {
            f.write_char(CUT)?;
            width += 1;
        }
        if self.quotes {
            f.write_char('"')?;
        }
        pad(f, width)
    }
}

/// Pads on the right to the format string's width, like text.
pub(super) fn pad(f: &mut fmt::Formatter<'_>, width: usize) -> fmt::Result {
    for _ in width..f.width().unwrap_or(0) {
        f.write_char(' ')?;
    }
    Ok(())
}

/// Decodes a text in which `mark` and `digits` digits to the base `radix` stand for a byte.
pub(crate) fn unescaped(text: &[u8], mark: &[u8], digits: usize, radix: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, others)) = rest.split_first() {
        let code = rest.strip_prefix(mark).and_then(|rest| rest.split_at_checked(digits));
        let byte = code.and_then(|(code, after)| {
            // `from_str_radix` takes a sign, which is no digit.
            let code = std::str::from_utf8(code).ok().filter(|code| !code.starts_with('+'))?;
            Some((u8::from_str_radix(code, radix).ok()?, after))
        });
        let (byte, after) = byte.unwrap_or((*first, others));
        bytes.push(byte);
        rest = after;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use unicode_width::UnicodeWidthStr as _;

    use super::*;

    fn show(bytes: impl AsRef<[u8]>, max: usize) -> String {
        escaped(bytes.as_ref(), max).to_string()
    }

    #[test]
    fn ordinary_names_are_unchanged() {
        assert_eq!(show("worker", 15), "worker");
        assert_eq!(show("žába 蛙", 15), "žába 蛙");
        assert_eq!(show("", 15), "");
        assert_eq!(quoted(b"jobs", 15).to_string(), "\"jobs\"");
    }

    #[test]
    fn terminal_control_characters_are_escaped() {
        assert_eq!(show("\x1b[2J\n\t\r\x07\x7f", 80), "\\x1b[2J\\n\\t\\r\\x07\\x7f");
        assert_eq!(show(b"a\xff\xc3", 80), "a\\xff\\xc3");
        assert_eq!(show("\u{9b}31m", 80), "\\u{9b}31m");
        assert_eq!(show("a\u{202e}b\u{2066}\u{feff}\u{200d}", 80), {
            "a\\u{202e}b\\u{2066}\\u{feff}\\u{200d}"
        });
        assert_eq!(show("e\u{301}\u{301}", 80), "e\\u{301}\\u{301}");
        assert_eq!(show(r"\x1b", 80), r"\\x1b");
        assert_eq!(quoted(br#"a", x"#, 80).to_string(), r#""a\", x""#);
    }

    #[test]
    fn long_names_are_cut() {
        assert_eq!(show("abcdef", 6), "abcdef");
        assert_eq!(show("abcdefg", 6), "abcde…");
        assert_eq!(show("蛙蛙蛙", 4), "蛙…");
        assert_eq!(show("abc\n\n", 6), "abc\\n…");
        assert_eq!(show("abc", 1), "…");
        assert_eq!(show("abc", 0), "");
        assert_eq!(quoted(b"abcdef", 5).to_string(), "\"ab…\"");
        assert_eq!(quoted(b"abcdef", 2).to_string(), "\"\"");
        assert_eq!(quoted(b"abcdef", 1).to_string(), "");
    }

    #[test]
    fn padding_counts_cells() {
        assert_eq!(format!("{:<6}|", escaped("蛙".as_bytes(), 6)), "蛙    |");
        assert_eq!(format!("{:<6}|", escaped(b"abcdefgh", 6)), "abcde…|");
        assert_eq!(format!("{:<6}|", quoted(b"a", 6)), "\"a\"   |");
        assert_eq!(format!("{:<4}|", quoted(b"abc", 2)), "\"\"  |");
        assert_eq!(format!("{:<2}|", escaped(b"", 6)), "  |");
    }

    #[test]
    fn only_digits_stand_for_a_byte() {
        assert_eq!(unescaped(br"a\040b\134", b"\\", 3, 8), b"a b\\");
        assert_eq!(unescaped(br"\x2d\x+d\x-1\xg0\x2", b"\\x", 2, 16), br"-\x+d\x-1\xg0\x2");
        assert_eq!(unescaped(br"\777\+12\08", b"\\", 3, 8), br"\777\+12\08");
    }

    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let text = proptest::collection::vec(
            prop_oneof![
                any::<char>(),
                prop_oneof![
                    Just('\u{202e}'),
                    Just('\u{200d}'),
                    Just('\u{1f1e6}'),
                    Just('\u{1f469}'),
                    Just('\u{fe0f}'),
                    Just('\u{644}'),
                    Just('\u{627}'),
                    Just('\\'),
                    Just('"'),
                ],
                proptest::char::range('\0', '\u{ff}'),
            ],
            0..40,
        )
        .prop_map(|chars| chars.into_iter().collect::<String>().into_bytes());
        prop_oneof![text, any::<Vec<u8>>()]
    }

    proptest! {
        #[test]
        fn escaped_text_is_harmless_and_fits(
            bytes in hostile(), max in 0_usize..100, quotes: bool,
        ) {
            let escaped = Escaped { bytes: &bytes, max, quotes };
            let shown = escaped.to_string();
            prop_assert!(shown.width() <= max, "{shown:?}");
            for char in shown.chars() {
                prop_assert!(!char.is_control() && !is_hidden(char), "{char:?} in {shown:?}");
            }
            if quotes && max >= 2 {
                prop_assert!(shown.starts_with('"') && shown.ends_with('"'));
            }
            // Padding never changes the text before it.
            let padded = format!("{escaped:<120}");
            prop_assert_eq!(padded.trim_end_matches(' '), shown.trim_end_matches(' '));
        }

        #[test]
        fn different_names_stay_distinct(a in hostile(), b in hostile()) {
            prop_assume!(a != b);
            prop_assert_ne!(show(&a, 10_000), show(&b, 10_000));
        }
    }
}
