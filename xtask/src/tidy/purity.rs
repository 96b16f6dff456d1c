//! The engine is pure: the same inputs give the same events, so it asks nobody but its inputs.

use super::{
    crates::{Crate, Import},
    violation::{TidyRule, Violation},
};

/// The folder that is pure.
const ENGINE: &str = "engine";

/// Paths that begin so are of what an engine does not know.
const BEGIN: [(&str, &str); 16] = [
    ("aya", "the kernel"),
    ("libc", "the system"),
    ("nix", "the system"),
    ("std::env", "the environment"),
    ("std::fs", "a file"),
    ("std::io::stderr", "a file"),
    ("std::io::stdin", "a file"),
    ("std::io::stdout", "a file"),
    ("std::net", "the network"),
    ("std::os::fd", "a file"),
    ("std::os::linux", "the system"),
    ("std::os::unix::fs", "a file"),
    ("std::os::unix::net", "the network"),
    ("std::process", "a process"),
    ("std::thread", "a thread"),
    ("tokio", "a thread"),
];

/// Paths that end so, too.
const END: [(&str, &str); 4] = [
    ("Instant::now", "a clock"),
    ("SystemTime::now", "a clock"),
    ("clock::boot_ns", "a clock"),
    ("clock_gettime", "a clock"),
];

/// Methods that read a clock or a file.
const METHODS: [(&str, &str); 8] = [
    ("canonicalize", "a file"),
    ("elapsed", "a clock"),
    ("exists", "a file"),
    ("metadata", "a file"),
    ("read_dir", "a file"),
    ("read_link", "a file"),
    ("symlink_metadata", "a file"),
    ("try_exists", "a file"),
];

/// What the engine uses and may not.
pub(super) fn check(sources: &Crate) -> Vec<Violation> {
    let mut found = Vec::new();
    for source in sources.tested() {
        if source.module.first().is_none_or(|first| first != ENGINE) {
            continue;
        }
        let mut say = |line, used: &str, is: &str| {
            let what = format!(
                "the engine uses {is} (`{used}`), and is to be pure: let a source find it out, and hand it in as \
                 an input"
            );
            found.push(Violation {
                check: TidyRule::Purity,
                path: source.path.clone(),
                line,
                what,
            });
        };
        for import in sources.imports(source) {
            if let Some(is) = is_impure(&import) {
                say(import.line, &import.path.join("::"), is);
            }
        }
        for method in &source.file.methods {
            if let Some((_, is)) = METHODS.iter().find(|(name, _)| *name == method.name) {
                say(method.line, &format!(".{}()", method.name), is);
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

fn is_impure(import: &Import) -> Option<&'static str> {
    let path = import.path.join("::");
    let begins = |word: &str| {
        import.modules.is_none()
            && path.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    let ends = |word: &str| {
        path.strip_suffix(word).is_some_and(|rest| rest.is_empty() || rest.ends_with("::"))
    };
    let begin = BEGIN.iter().find(|(word, _)| begins(word));
    begin.or_else(|| END.iter().find(|(word, _)| ends(word))).map(|(_, is)| *is)
}
