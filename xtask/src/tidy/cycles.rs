//! No circle between siblings: the files and folders of one folder, where a folder counts as one.
//!
//! A folder's own file (`mod.rs`, `lib.rs`, `main.rs`, or `foo.rs` beside `foo/`) is its roof: it may name what is
//! below it, and those may name what it defines. Through a roof that hands on a sibling's item, the sibling is
//! imported.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    crates::{Crate, Module},
    violation::{TidyRule, Violation},
};

/// Of the siblings in a folder, who imports whom.
type Arrows = BTreeMap<Module, BTreeMap<String, BTreeSet<String>>>;

/// An import from one sibling by another.
struct Arrow<'a> {
    folder: Module,
    from: String,
    to: String,
    path: &'a str,
    line: usize,
}

/// All imports that are part of a circle; of a file from a sibling, the first.
pub(super) fn check(sources: &Crate) -> Vec<Violation> {
    let all = arrows(sources);
    let mut graph = Arrows::new();
    for arrow in &all {
        let from = graph.entry(arrow.folder.clone()).or_default();
        from.entry(arrow.from.clone()).or_default().insert(arrow.to.clone());
    }
    let mut found = BTreeMap::new();
    for arrow in &all {
        let Some(mut back) = way(&graph[&arrow.folder], &arrow.to, &arrow.from) else { continue };
        back.insert(0, arrow.from.as_str());
        let folder = [&[sources.folder.trim_end_matches('/').to_owned()], &arrow.folder[..]];
        let what = format!(
            "closes a circle in {}/: {}. Put what both need into a file below them, or hand it over as an argument",
            folder.concat().join("/"),
            back.join(" -> "),
        );
        let key = (arrow.path, &arrow.folder, &arrow.to);
        let path = arrow.path.to_owned();
        found.entry(key).or_insert(Violation {
            check: TidyRule::Cycles,
            path,
            line: arrow.line,
            what,
        });
    }
    found.into_values().collect()
}

fn arrows(sources: &Crate) -> Vec<Arrow<'_>> {
    let mut arrows = Vec::new();
    for source in sources.tested() {
        for import in sources.imports(source) {
            for target in import.modules.iter().flatten() {
                let same = source.module.iter().zip(target).take_while(|(a, b)| a == b).count();
                if let (Some(from), Some(to)) = (source.module.get(same), target.get(same)) {
                    arrows.push(Arrow {
                        folder: target[..same].to_vec(),
                        from: from.clone(),
                        to: to.clone(),
                        path: &source.path,
                        line: import.line,
                    });
                }
            }
        }
    }
    arrows
}

/// The shortest way between siblings, both included.
fn way<'a>(
    arrows: &'a BTreeMap<String, BTreeSet<String>>,
    from: &'a str,
    to: &str,
) -> Option<Vec<&'a str>> {
    let mut ways = vec![vec![from]];
    let mut seen = BTreeSet::from([from]);
    let mut at = 0;
    while let Some(way) = ways.get(at).cloned() {
        let last = way.last().copied()?;
        if last == to {
            return Some(way);
        }
        for next in arrows.get(last).into_iter().flatten() {
            if seen.insert(next) {
                ways.push([&way[..], &[next.as_str()]].concat());
            }
        }
        at += 1;
    }
    None
}
