//! Who imports whom in the tracer, against the table of folders in `ARCHITECTURE.md`.
//!
//! A row's first cell names folders and files, its last one what these import, both in backquotes; `all below`
//! are the rows after it. A name includes the folders in it that have no row of their own. What the crate's root
//! itself defines all may import, and within one row's folder each file every other.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};

use super::{
    crates::{Crate, Import, Module, SourceFile},
    violation::{TidyRule, Violation},
};

/// Where the table is.
const FILE: &str = "ARCHITECTURE.md";
/// Its section.
const HEADING: &str = "## Folders and what each may import";
/// How it begins.
const COLUMNS: &str = "| folder | job | imports |";
/// The table's word for the crate that both sides share, and the crate.
const COMMON: (&str, &str) = ("common", "ipc_trace_common");
/// The row of the crate's own root.
const ROOT: &str = "lib.rs";
/// A crate of its own that has the tracer's folder.
const PROGRAM: &str = "main.rs";

/// A folder or a file of the table.
#[derive(Debug)]
struct LayerRow {
    /// As the table has it
    name: String,
    module: Module,
    imports: Vec<String>,
    line: usize,
}

/// The table.
#[derive(Debug)]
struct LayerTable(Vec<LayerRow>);

/// Imports that the table does not have, and files and rows that have no counterpart.
pub(super) fn check(root: &Path, sources: &Crate) -> Result<Vec<Violation>> {
    let table = LayerTable::read(&fs::read_to_string(root.join(FILE)).context(FILE)?)?;
    let mut found = Vec::new();
    for row in &table.0 {
        if !sources.sources.iter().any(|source| table.row_of(source).is_some_and(|of| of.is(row))) {
            let what = format!("no source belongs to `{}`: remove the row", row.name);
            found.push(violation(FILE, row.line, what));
        }
    }
    for source in sources.tested() {
        match table.row_of(source) {
            Some(row) => {
                let imports = sources.imports(source).into_iter();
                let wrong: Vec<_> = imports
                    .filter_map(|import| Some((table.check_import(row, &import)?, import)))
                    .collect();
                // What is behind an imported name is no import of its own.
                let is_behind = |import: &Import| {
                    let mut others = wrong.iter().map(|(_, other)| &other.path);
                    others.any(|other| {
                        import.path.len() > other.len() && import.path.starts_with(other)
                    })
                };
                let wrong = wrong.iter().filter(|(_, import)| !is_behind(import));
                found.extend(
                    wrong.map(|(what, import)| violation(&source.path, import.line, what.clone())),
                );
            }
            // The roof of folders that have rows names these and does no more.
            None if table.is_roof(&source.module) => {}
            None => {
                let what =
                    format!("belongs to no row of \"{HEADING}\" in {FILE}: add one, or move it");
                found.push(violation(&source.path, 1, what));
            }
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn violation(path: &str, line: usize, what: String) -> Violation {
    Violation { check: TidyRule::Layers, path: path.to_owned(), line, what }
}

/// What a cell has in backquotes.
fn names(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2).map(|name| name.trim_end_matches('/'))
}

impl LayerRow {
    fn is(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl LayerTable {
    fn read(text: &str) -> Result<Self> {
        let lines = text.lines().enumerate().skip_while(|(_, line)| *line != HEADING);
        let mut lines = lines.skip_while(|(_, line)| *line != COLUMNS).skip(2).peekable();
        ensure!(lines.peek().is_some(), "{FILE} has no table of folders under \"{HEADING}\"");
        let mut rows: Vec<LayerRow> = Vec::new();
        let mut all_below = Vec::new();
        for (at, line) in lines.take_while(|(_, line)| line.starts_with('|')) {
            let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
            let [folders, _, imports] = cells[..] else {
                anyhow::bail!("{FILE}:{}: a row of the table of folders has three cells", at + 1);
            };
            for name in names(folders) {
                let module = match name {
                    ROOT | PROGRAM => Module::new(),
                    _ => name.trim_end_matches(".rs").split('/').map(str::to_owned).collect(),
                };
                if imports.contains("all below") {
                    all_below.push(rows.len());
                }
                let imports = names(imports).map(str::to_owned).collect();
                rows.push(LayerRow { name: name.to_owned(), module, imports, line: at + 1 });
            }
        }
        for at in all_below {
            let below = rows[at + 1..].iter().filter(|row| row.line > rows[at].line);
            let mut below: Vec<String> = below.map(|row| row.name.clone()).collect();
            below.push(COMMON.0.to_owned());
            rows[at].imports.extend(below);
        }
        Ok(Self(rows))
    }

    /// The row that a file belongs to.
    fn row_of(&self, source: &SourceFile) -> Option<&LayerRow> {
        if source.module.is_empty() {
            let name = if source.path.ends_with(PROGRAM) { PROGRAM } else { ROOT };
            return self.0.iter().find(|row| row.name == name);
        }
        self.row_of_module(&source.module)
    }

    fn row_of_module(&self, module: &[String]) -> Option<&LayerRow> {
        let rows =
            self.0.iter().filter(|row| !row.module.is_empty() && module.starts_with(&row.module));
        rows.max_by_key(|row| row.module.len())
    }

    /// Whether there are rows for what is below a module.
    fn is_roof(&self, module: &[String]) -> bool {
        self.0.iter().any(|row| row.module.len() > module.len() && row.module.starts_with(module))
    }

    /// What is wrong with an import.
    fn check_import(&self, row: &LayerRow, import: &Import) -> Option<String> {
        let wrong = match &import.modules {
            Some(modules) => modules
                .iter()
                .filter(|module| !module.is_empty())
                .filter_map(|module| self.row_of_module(module))
                .find(|to| !to.is(row) && !self.may(row, to))
                .map(|to| (to.name.as_str(), format!("crate::{}", import.path.join("::"))))?,
            None if import.path.first().is_some_and(|name| name == COMMON.1) => {
                let known = row.imports.iter().any(|name| name == COMMON.0);
                (!known).then(|| (COMMON.0, import.path.join("::")))?
            }
            None => return None,
        };
        let (to, path) = wrong;
        let imports = match &row.imports[..] {
            [] => "nothing".to_owned(),
            imports => format!("only {}", imports.join(", ")),
        };
        Some(format!(
            "`{}` imports `{path}` of `{to}`, and by the table of folders in {FILE} it imports {imports}: move what \
             is needed to where both may import it, or have it handed in",
            row.name
        ))
    }

    fn may(&self, row: &LayerRow, to: &LayerRow) -> bool {
        row.imports.iter().any(|name| *name == to.name || to.name.starts_with(&format!("{name}/")))
    }
}
