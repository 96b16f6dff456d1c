//! No file is too long.

use std::{fs, path::Path};

use anyhow::Result;

use super::{
    crates::files,
    violation::{TidyRule, Violation},
};

/// So many lines a file may have, with its tests.
const MOST: usize = 600;

/// The files of a crate that are too long, tests and build scripts included.
pub(super) fn check(root: &Path, name: &str) -> Result<Vec<Violation>> {
    let mut found = Vec::new();
    for path in files(root, name)? {
        let lines = fs::read_to_string(root.join(&path))?.lines().count();
        if lines > MOST {
            let what = format!(
                "{lines} lines, and {MOST} are the most: split the file by what its parts are for"
            );
            found.push(Violation { check: TidyRule::Size, path, line: MOST + 1, what });
        }
    }
    Ok(found)
}
