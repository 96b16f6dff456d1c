//! Each type has a name of its own, functions say what they do, and no retired word comes back.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use syn::visit::{self, Visit};

use super::{
    CRATES,
    crates::files,
    violation::{TidyRule, Violation},
};

/// Names that say nothing of what a function does.
const BARE: [&str; 6] = ["of", "known", "met", "judge", "look", "tell"];

/// Words that the field has no use for, each with what to write instead.
const RETIRED: &[(&str, &str)] = &[
    ("a look", "snapshot"),
    ("acquainted", "accessors"),
    ("birth", "creation"),
    ("births", "creations"),
    ("census", "namespace list"),
    ("crowd", "many namespaces"),
    ("deed", "effect, or stimulus in the self-test"),
    ("deeds", "effects, or stimuli in the self-test"),
    ("deliberate", "allowed"),
    ("garbled", "malformed"),
    ("in vain", "without success"),
    ("judge", "evaluate, or policy"),
    ("judged", "evaluated"),
    ("judges", "evaluates"),
    ("kernel side", "eBPF programs"),
    ("letgo", "detach"),
    ("lingering", "pending removals"),
    ("looked at", "inspected"),
    ("looks at", "inspects"),
    ("sighting", "observation"),
    ("sightings", "observations"),
    ("steady", "non-preemptible"),
    ("survey", "task iterators"),
    ("tell", "report, emit, or say"),
    ("tells", "reports, emits, or says"),
    ("the look", "the snapshot"),
    ("told", "reported, emitted, or said"),
    ("twin", "non-preemptible variant"),
    ("twins", "non-preemptible variants"),
    ("user side", "user space"),
    ("witness", "inspector"),
    ("zoo", "all arguments"),
];

/// Crates whose types are compared: the eBPF crate has its own.
const OF_USER_SPACE: [&str; 3] = ["ipc-trace", "ipc-trace-common", "xtask"];

/// A name that is defined.
struct Definition {
    name: String,
    line: usize,
}

#[derive(Default)]
struct Definitions {
    types: Vec<Definition>,
    functions: Vec<Definition>,
}

impl Definitions {
    fn add_type(&mut self, ident: &syn::Ident) {
        let line = ident.span().start().line;
        self.types.push(Definition { name: ident.to_string(), line });
    }

    fn add_function(&mut self, signature: &syn::Signature) {
        let line = signature.ident.span().start().line;
        self.functions.push(Definition { name: signature.ident.to_string(), line });
    }
}

impl<'ast> Visit<'ast> for Definitions {
    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.add_type(&item.ident);
        visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.add_type(&item.ident);
        visit::visit_item_enum(self, item);
    }

    fn visit_item_union(&mut self, item: &'ast syn::ItemUnion) {
        self.add_type(&item.ident);
        visit::visit_item_union(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.add_type(&item.ident);
        visit::visit_item_trait(self, item);
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.add_type(&item.ident);
        visit::visit_item_type(self, item);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        self.add_function(signature);
        visit::visit_signature(self, signature);
    }
}

/// Types that are defined twice, functions with a bare name, and retired words in sources and documents.
pub(super) fn check(root: &Path) -> Result<Vec<Violation>> {
    let mut found = Vec::new();
    let violation = |path: &str, line, what| Violation {
        check: TidyRule::Names,
        path: path.to_owned(),
        line,
        what,
    };
    let mut types: BTreeMap<String, Vec<(String, usize)>> = BTreeMap::new();
    for name in CRATES {
        for path in files(root, name)? {
            let text = fs::read_to_string(root.join(&path))?;
            let file = syn::parse_file(&text).with_context(|| path.clone())?;
            let mut definitions = Definitions::default();
            definitions.visit_file(&file);
            if OF_USER_SPACE.contains(&name) {
                for one in definitions.types {
                    types.entry(one.name).or_default().push((path.clone(), one.line));
                }
            }
            for one in definitions.functions {
                if BARE.contains(&one.name.as_str()) {
                    let what = format!("fn {} says nothing: name what it does", one.name);
                    found.push(violation(&path, one.line, what));
                }
            }
        }
    }
    for (name, places) in types {
        if let [(first, at), others @ ..] = &places[..] {
            for (path, line) in others {
                let what = format!("{name} is also a type of {first}:{at}: say of what it is one");
                found.push(violation(path, *line, what));
            }
        }
    }
    for path in texts(root)? {
        let text = fs::read_to_string(root.join(&path))?;
        for (at, line) in text.lines().enumerate() {
            for (word, instead) in RETIRED {
                if has_word(line, word) {
                    let what = format!("`{word}` is retired: {instead}");
                    found.push(violation(&path, at + 1, what));
                }
            }
        }
    }
    Ok(found)
}

/// Sources and documents; not this file, and not the changelog, which has words as they were.
fn texts(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for name in CRATES {
        found.extend(files(root, name)?);
    }
    for folder in [root.to_owned(), root.join("docs")] {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        let paths: Result<Vec<PathBuf>, _> = entries.map(|entry| Ok(entry?.path())).collect();
        let documents = paths.map_err(|error: std::io::Error| error)?.into_iter();
        for path in documents.filter(|path| path.extension().is_some_and(|is| is == "md")) {
            let path = path.strip_prefix(root)?;
            found.push(path.to_str().context("a path is no UTF-8")?.to_owned());
        }
    }
    found.retain(|path| !path.ends_with("tidy/names.rs") && path != "CHANGELOG.md");
    found.sort();
    Ok(found)
}

/// Whether a line has a word, by itself, as a part of `snake_case` or of `CamelCase`.
fn has_word(line: &str, word: &str) -> bool {
    let lower = line.to_lowercase();
    let boundary = |before: Option<char>, at: Option<char>| {
        !(before.is_some_and(char::is_alphanumeric) && at.is_some_and(char::is_alphanumeric))
            || before.is_some_and(char::is_lowercase) && at.is_some_and(char::is_uppercase)
    };
    lower.match_indices(word).any(|(start, _)| {
        let end = start + word.len();
        // Lower-case letters of other scripts may be longer: then there is no word of ours.
        let (Some(before), Some(from)) = (line.get(..start), line.get(start..)) else {
            return false;
        };
        let (Some(within), Some(after)) = (line.get(..end), line.get(end..)) else { return false };
        boundary(before.chars().next_back(), from.chars().next())
            && boundary(within.chars().next_back(), after.chars().next())
    })
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn a_word_is_found_in_each_way_to_write_it() {
        for line in ["a deed.", "Deed", "my_deed_count", "let MyDeed = 1", "CallDeed::new"] {
            assert!(has_word(line, "deed"), "{line}");
        }
        for line in ["indeed", "deeds", "MyDeedful"] {
            assert!(!has_word(line, "deed"), "{line}");
        }
        assert!(has_word("The kernel side's object", "kernel side"));
    }
}
