//! A pattern of names or paths, as in a policy: literal, or with `*`, `**`, `?`, `[…]` and `{…}`.
//!
//! Invariant: matching takes time that is linear in the name's length, whatever the pattern.

use globset::{GlobBuilder, GlobMatcher};
use ipc_trace_common::cbor::{self, Cbor, Encoded, encode_as_cbor};
use minicbor::{Decoder, Encoder, decode::Error, encode::Write};

/// The special characters.
const SPECIAL: [char; 7] = ['*', '?', '[', ']', '{', '}', '\\'];
/// Maximal length of a pattern in bytes: any traced path fits with each of its characters escaped.
pub(crate) const MAX_PATTERN_BYTES: usize = 4096;

/// A pattern of names.
#[derive(Clone, Debug)]
pub(crate) enum Pattern {
    /// A literal name.
    Exactly(Box<[u8]>),
    /// A glob. Boxed: it is large.
    Like(Box<GlobMatcher>),
}

impl Pattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// It is too long or malformed; the error says why.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("an empty name matches nothing".to_owned());
        }
        if text.len() > MAX_PATTERN_BYTES {
            return Err(format!("a pattern has at most {MAX_PATTERN_BYTES} bytes"));
        }
        if !text.contains(SPECIAL) {
            return Ok(Self::Exactly(text.as_bytes().into()));
        }
        // A `*` ends at a slash, as in a shell: image = "registry/*" has no further directories.
        let glob = GlobBuilder::new(text).literal_separator(true).build();
        match glob {
            Ok(glob) => Ok(Self::Like(Box::new(glob.compile_matcher()))),
            Err(error) => Err(format!("not a pattern: {}", error.kind())),
        }
    }

    /// Whether a name matches.
    #[must_use]
    pub(crate) fn matches(&self, name: &[u8]) -> bool {
        use std::os::unix::ffi::OsStrExt as _;
        match self {
            Self::Exactly(text) => **text == *name,
            Self::Like(glob) => glob.is_match(std::ffi::OsStr::from_bytes(name)),
        }
    }

    /// Whether it is a prefix of an id of at least 12 digits, as runtimes show ids.
    #[must_use]
    pub(crate) fn begins(&self, id: &[u8]) -> bool {
        match self {
            Self::Exactly(text) => {
                text.len() >= 12 && text.iter().all(u8::is_ascii_hexdigit) && id.starts_with(text)
            }
            Self::Like(_) => false,
        }
    }
}

/// The pattern that matches only this name, as text. Bytes that can't be text become `?`.
#[must_use]
pub(crate) fn literally(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        for char in chunk.valid().chars() {
            if SPECIAL.contains(&char) {
                text.push('\\');
            }
            text.push(char);
        }
        text.extend(chunk.invalid().iter().map(|_| '?'));
    }
    text
}

impl Cbor for Pattern {
    fn put<W: Write>(&self, to: &mut Encoder<W>) -> Encoded<W> {
        match self {
            Self::Exactly(text) => to.bytes(text.as_ref())?,
            Self::Like(glob) => to.bytes(glob.glob().glob().as_bytes())?,
        };
        Ok(())
    }

    fn take(from: &mut Decoder<'_>) -> Result<Self, Error> {
        let text = std::str::from_utf8(from.bytes()?).map_err(|_| cbor::invalid("no text"))?;
        Self::new(text).map_err(|_| cbor::invalid("no pattern"))
    }
}

encode_as_cbor!(Pattern);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::new(pattern).unwrap().matches(name.as_bytes())
    }

    #[test]
    fn a_star_stops_at_a_slash_and_two_do_not() {
        assert!(matches("app-*", "app-17") && !matches("app-*", "app-1/7"));
        assert!(matches("/docker/**", "/docker/abc/init") && !matches("/docker/**", "/podman/x"));
        assert!(matches("**/postgres:1[0-9]", "registry:5000/db/postgres:15"));
        assert!(matches("{db,cache}-?", "cache-1") && !matches("{db,cache}-?", "web-1"));
        assert!(matches("a+b", "a+b") && !matches("a+b", "aab"));
    }

    #[test]
    fn an_invalid_pattern_is_an_error() {
        for bad in ["", "[a", "{a", "[z-a]"] {
            assert!(Pattern::new(bad).is_err(), "{bad}");
        }
        assert!(Pattern::new(&"a".repeat(MAX_PATTERN_BYTES + 1)).is_err());
    }

    #[test]
    fn a_short_container_id_matches() {
        let id = b"d8522205927a0123456789abcdef";
        assert!(Pattern::new("d8522205927a").unwrap().begins(id));
        assert!(!Pattern::new("d8522").unwrap().begins(id));
        assert!(!Pattern::new("application-12").unwrap().begins(b"application-12-b"));
    }

    proptest! {
        #[test]
        fn a_literal_name_matches_only_itself(
            name in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'*'), Just(b'['), Just(b'\\')], 1..40),
            other in prop::collection::vec(any::<u8>(), 1..40),
        ) {
            let name: Vec<u8> = name.into_iter().filter(|b| *b != 0 && *b != b'/').collect();
            prop_assume!(!name.is_empty());
            let pattern = Pattern::new(&literally(&name)).unwrap();
            prop_assert!(pattern.matches(&name));
            if std::str::from_utf8(&name).is_ok() && other != name {
                prop_assert!(!pattern.matches(&other));
            }
        }
    }
}
