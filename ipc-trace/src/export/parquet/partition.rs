//! Where rows belong: a folder for each table, host and day.

use std::{fmt::Write as _, path::PathBuf};

/// What engines read as null: an empty name would be no folder.
const EMPTY: &str = "__HIVE_DEFAULT_PARTITION__";
/// The characters that Hive escapes in names of folders, but for control characters.
const ESCAPED: &str = "\"#%'*/:=?\\{[]^";

/// A folder of files.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Partition {
    /// The table
    pub table: &'static str,
    /// The host
    pub host: String,
    /// The day; `None`: the table has none
    pub date: Option<String>,
}

/// The day of a row, in days since 1970; `None`: the table has none.
pub(super) type DayOf = Option<i64>;

impl Partition {
    /// Its folder.
    pub(super) fn path(&self) -> PathBuf {
        let mut path = PathBuf::from(self.table);
        path.push(format!("host={}", escape(&self.host)));
        if let Some(date) = &self.date {
            path.push(format!("date={}", escape(date)));
        }
        path
    }
}

/// A value as the name of a folder. A host's name is untrusted.
pub(super) fn escape(value: &str) -> String {
    if value.is_empty() {
        return EMPTY.to_owned();
    }
    // A host that has that name isn't one without a name.
    let first = if value == EMPTY { "%5F" } else { "" };
    let mut escaped = first.to_owned();
    for char in value.chars().skip(first.len().min(1)) {
        match char {
            '\0'..='\x1f' | '\x7f' => escape_one(char, &mut escaped),
            char if ESCAPED.contains(char) => escape_one(char, &mut escaped),
            char => escaped.push(char),
        }
    }
    escaped
}

/// An ASCII character.
fn escape_one(char: char, to: &mut String) {
    // Writing to memory doesn't fail.
    let _ = write!(to, "%{:02X}", u32::from(char));
}
