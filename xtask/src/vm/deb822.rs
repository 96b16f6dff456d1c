//! The format of dpkg's and apt's data: stanzas of `Name: value` lines (deb822(5)).

use std::collections::BTreeMap;

/// One stanza.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stanza(BTreeMap<String, String>);

impl Stanza {
    /// A field's value; of one with several lines, the first.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The first package that this one depends on whose name begins so.
    pub(super) fn dependency(&self, prefix: &str) -> Option<&str> {
        self.get("Depends")?
            .split([',', '|'])
            .filter_map(|one| one.split_ascii_whitespace().next())
            .find(|name| name.starts_with(prefix))
    }
}

/// The stanzas of a text.
pub(super) fn stanzas(text: &str) -> Vec<Stanza> {
    let mut all = Vec::new();
    let mut stanza = Stanza::default();
    for line in text.lines().chain([""]) {
        if line.is_empty() {
            if !stanza.0.is_empty() {
                all.push(std::mem::take(&mut stanza));
            }
        } else if !line.starts_with([' ', '\t'])
            && let Some((name, value)) = line.split_once(':')
        {
            stanza.0.insert(name.to_owned(), value.trim().to_owned());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stanzas_are_separated_by_empty_lines() {
        let read = stanzas("A: 1\nB: two words\n\n\nA: 2\nLong:\n more: lines\n");
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].get("B"), Some("two words"));
        assert_eq!(read[1].get("A"), Some("2"));
        assert_eq!(read[1].get("Long"), Some(""));
        assert_eq!(read[1].get(" more"), None);
        assert_eq!(stanzas("\n\n"), []);
    }

    #[test]
    fn dependencies_are_found_by_the_beginning_of_their_names() {
        let read =
            stanzas("Depends: kmod, dracut | initramfs-tools (>= 1), linux-image-7.3 (= 7.3-1)");
        assert_eq!(read[0].dependency("linux-image-"), Some("linux-image-7.3"));
        assert_eq!(read[0].dependency("initramfs"), Some("initramfs-tools"));
        assert_eq!(read[0].dependency("linux-binary-"), None);
    }
}
