//! The table in `docs/DETECTION.md`: the scenarios' results by class, backend and kernel.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};

use super::{
    checker::{ClassTally, KernelOutcome},
    kind::ScenarioKernel,
};

/// Where it is, in the workspace.
pub(super) const FILE: &str = "docs/DETECTION.md";
/// The markers before and behind it.
const MARKERS: [&str; 2] = ["<!-- scenarios -->", "<!-- /scenarios -->"];

/// Writes the table into the document.
///
/// # Errors
///
/// When the document isn't there, or has no place for it.
pub(super) fn write(path: &Path, outcomes: &[KernelOutcome]) -> Result<()> {
    let name = || format!("cannot use {}", path.display());
    let text = fs::read_to_string(path).with_context(name)?;
    let (before, table, after) = parts(&text).with_context(name)?;
    let _ = table;
    let [begin, end] = MARKERS;
    let text = format!("{before}{begin}\n{}{end}{after}", tables(outcomes));
    fs::write(path, text).with_context(name)
}

/// What is before the markers, between them, and behind them.
fn parts(text: &str) -> Result<(&str, &str, &str)> {
    let [begin, end] = MARKERS;
    let missing = || format!("{begin} … {end} is missing");
    let (before, rest) = text.split_once(begin).with_context(missing)?;
    let (table, after) = rest.split_once(end).with_context(missing)?;
    Ok((before, table, after))
}

/// A table for each backend: a row a class, a column a kernel.
fn tables(outcomes: &[KernelOutcome]) -> String {
    let mut backends: BTreeMap<&str, BTreeMap<ScenarioKernel, &KernelOutcome>> = BTreeMap::new();
    for outcome in outcomes {
        backends.entry(&outcome.backend).or_default().insert(outcome.kernel, outcome);
    }
    let mut text = String::from(
        "\nIn each cell: how many scenarios led to the finding that they have to lead to, of how many; and \
         how many findings were true, of how many. Written by `cargo xtask scenarios --update`.\n",
    );
    for (backend, kernels) in backends {
        // Writing to a string does not fail.
        let _ = writeln!(text, "\nBackend `{backend}`:\n");
        row(&mut text, "class", kernels.keys().map(|(major, minor)| format!("{major}.{minor}")));
        row(&mut text, "---", kernels.keys().map(|_| "---".to_owned()));
        let mut classes: Vec<&String> =
            kernels.values().flat_map(|outcome| outcome.classes.keys()).collect();
        classes.sort_unstable();
        classes.dedup();
        for class in classes {
            row(&mut text, class, kernels.values().map(|outcome| cell(outcome.classes.get(class))));
        }
        let silent = |outcome: &&KernelOutcome| format!("{}/{}", outcome.silent, outcome.benign);
        row(&mut text, "benign and silent", kernels.values().map(silent));
    }
    text.push('\n');
    text
}

fn cell(tally: Option<&ClassTally>) -> String {
    let tally = tally.copied().unwrap_or_default();
    format!("{}/{}, {}/{}", tally.found, tally.expected, tally.right, tally.reported)
}

fn row(text: &mut String, first: &str, cells: impl Iterator<Item = String>) {
    let _ = write!(text, "| {first} |");
    for cell in cells {
        let _ = write!(text, " {cell} |");
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORED: &str = include_str!("../../../docs/DETECTION.md");

    /// The rows of the stored tables, by backend.
    fn stored() -> BTreeMap<String, Vec<Vec<String>>> {
        let (_, table, _) = parts(STORED).unwrap();
        let mut all: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
        let mut backend = String::new();
        for line in table.lines() {
            if let Some(rest) = line.strip_prefix("Backend `") {
                backend = rest.split('`').next().unwrap().to_owned();
            } else if let Some(row) = line.strip_prefix("| ") {
                let cells = row.trim_end_matches(" |").split(" | ").map(str::to_owned).collect();
                all.entry(backend.clone()).or_default().push(cells);
            }
        }
        all
    }

    #[test]
    fn stored_table_has_full_recall_and_precision() {
        let stored = stored();
        for (backend, kernels, classes) in [("function", 4, 12), ("syscall", 5, 12)] {
            let rows = &stored[backend];
            assert_eq!(rows[0].len(), 1 + kernels, "{backend}: {:?}", rows[0]);
            assert_eq!(rows.len(), 2 + classes + 1, "{backend}");
            for row in &rows[2..] {
                for ratio in row[1..].iter().flat_map(|cell| cell.split(", ")) {
                    let (part, total) = ratio.split_once('/').unwrap();
                    assert_eq!(part, total, "{backend}: {row:?}");
                }
            }
        }
    }

    #[test]
    fn table_has_a_row_per_class_and_a_column_per_kernel() {
        let mut outcome = KernelOutcome::new((5, 10), "syscall");
        let tally = ClassTally { expected: 3, found: 2, reported: 4, right: 3 };
        outcome.classes.insert("probe-id".to_owned(), tally);
        let later = KernelOutcome { kernel: (6, 1), ..outcome.clone() };
        let text = tables(&[later, outcome]);
        assert!(text.contains("| class | 5.10 | 6.1 |\n"), "{text}");
        assert!(text.contains("| probe-id | 2/3, 3/4 | 2/3, 3/4 |\n"), "{text}");
    }
}
