//! What a check says.

use std::fmt;

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TidyRule {
    /// A folder imports what the table of folders lets it import
    Layers,
    /// No circle
    Cycles,
    /// The engine is pure
    Purity,
    /// No file is too long
    Size,
    /// Names are plain, and each is a type's own
    Names,
}

/// A place where a rule is broken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Violation {
    /// The rule
    pub(super) check: TidyRule,
    /// The file, from the workspace's folder on
    pub(super) path: String,
    /// Where in it
    pub(super) line: usize,
    /// What is wrong, and what to do
    pub(super) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}
