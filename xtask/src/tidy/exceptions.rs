//! What breaks a rule today, and why. The list is to become empty: an exception that nothing needs is a failure,
//! too.

use super::violation::{TidyRule, Violation};

/// Files that may break a rule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exception {
    /// The rule
    pub(super) check: TidyRule,
    /// Files; with a slash at its end, a folder with all that is in it
    pub(super) paths: &'static [&'static str],
    /// Why they may, and until when
    pub(super) reason: &'static str,
}

/// All of them.
pub(super) const EXCEPTIONS: &[Exception] = &[];

/// The messages: what no exception is for, and exceptions that are for nothing.
pub(super) fn apply(found: &[Violation], exceptions: &[Exception]) -> Vec<String> {
    let is_for = |check: TidyRule, path: &str, one: &Violation| {
        let is_there =
            if path.ends_with('/') { one.path.starts_with(path) } else { one.path == path };
        one.check == check && is_there
    };
    let paths = || {
        exceptions.iter().flat_map(|exception| {
            exception.paths.iter().map(move |path| (exception.check, *path, exception.reason))
        })
    };
    let broken = found
        .iter()
        .filter(|one| !paths().any(|(check, path, _)| is_for(check, path, one)))
        .map(Violation::to_string);
    let idle = paths()
        .filter(|(check, path, _)| !found.iter().any(|one| is_for(*check, path, one)))
        .map(|(check, path, reason)| {
            format!("{path} keeps the rule {check:?}, and has an exception ({reason}): remove it from {}", file!())
        });
    broken.chain(idle).collect()
}
