//! The files of a crate, and what the paths in them lead to.

use std::{
    collections::HashMap,
    fs,
    path::{Component, Path},
    slice::from_ref,
};

use anyhow::{Context as _, Result};

use super::reading::{self, File, Mention};

/// Names of modules, from the crate's root on.
pub(super) type Module = Vec<String>;

/// No import goes through so many others.
const FAR: usize = 8;

/// A file of a crate.
#[derive(Debug)]
pub(super) struct SourceFile {
    /// From the workspace's folder on
    pub(super) path: String,
    /// The module that it is
    pub(super) module: Module,
    /// Whether it is for tests alone
    pub(super) is_test: bool,
    /// What is in it
    pub(super) file: File,
}

/// What a path in a file leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Import {
    /// Where
    pub(super) line: usize,
    /// The complete path: after `crate`, or with the name of another crate
    pub(super) path: Vec<String>,
    /// Modules of this crate: the one that is named, and the one that defines what it hands on. None: another
    /// crate's
    pub(super) modules: Option<[Module; 2]>,
}

/// A crate.
#[derive(Debug)]
pub(super) struct Crate {
    /// Its folder of sources, from the workspace's folder on
    pub(super) folder: String,
    /// Its files
    pub(super) sources: Vec<SourceFile>,
    by_module: HashMap<Module, usize>,
}

/// A path without `use` and `super`.
enum Absolute {
    /// In this crate
    Inside(Vec<String>),
    /// In another, or no path of modules
    Outside(Vec<String>),
}

/// All files of Rust in a crate's folder, from the workspace's folder on, in order.
pub(super) fn files(root: &Path, name: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![root.join(name)];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                if !path.ends_with("target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let path = path.strip_prefix(root)?;
                found.push(path.to_str().context("a path is no UTF-8")?.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The module that a file is, by its path within the folder of sources.
fn module_of(path: &Path) -> Module {
    let name = |part: Component<'_>| part.as_os_str().to_string_lossy().into_owned();
    let mut module: Module = path.with_extension("").components().map(name).collect();
    let is_root = module.len() == 1 && module.iter().all(|name| name == "lib" || name == "main");
    if is_root || module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    module
}

impl Crate {
    /// Reads all sources of a crate.
    pub(super) fn read(root: &Path, name: &str) -> Result<Self> {
        let folder = format!("{name}/src/");
        let mut sources = Vec::new();
        let mut by_module = HashMap::new();
        for path in files(root, name)? {
            let Some(within) = path.strip_prefix(&folder) else { continue };
            let module = module_of(Path::new(within));
            let text = fs::read_to_string(root.join(&path))?;
            let file = reading::read(&text).with_context(|| path.clone())?;
            // lib.rs comes before main.rs, which is a crate of its own then.
            by_module.entry(module.clone()).or_insert(sources.len());
            sources.push(SourceFile { path, module, is_test: false, file });
        }
        let mut for_tests: Vec<Module> = Vec::new();
        for source in &sources {
            let names = source.file.for_tests.iter();
            for_tests.extend(names.map(|name| [&source.module[..], from_ref(name)].concat()));
        }
        for source in &mut sources {
            let module = &source.module;
            source.is_test = module.iter().any(|name| name == "tests")
                || for_tests.iter().any(|test| module.starts_with(test));
        }
        Ok(Self { folder, sources, by_module })
    }

    /// The sources that are not for tests.
    pub(super) fn tested(&self) -> impl Iterator<Item = &SourceFile> {
        self.sources.iter().filter(|source| !source.is_test)
    }

    /// What a file imports.
    pub(super) fn imports(&self, source: &SourceFile) -> Vec<Import> {
        let imports = source.file.mentions.iter().map(|mention| {
            let line = mention.line;
            match self.absolute(source, mention, 0) {
                Absolute::Inside(path) => {
                    let modules = Some([self.module_in(&path), self.defining(&path, 0)]);
                    Import { line, path, modules }
                }
                Absolute::Outside(path) => Import { line, path, modules: None },
            }
        });
        imports.collect()
    }

    /// The module that a path of this crate leads through last.
    fn module_in(&self, path: &[String]) -> Module {
        let is_module = |len: &usize| self.by_module.contains_key(&path[..*len]);
        path[..(0..=path.len()).rev().find(is_module).unwrap_or(0)].to_vec()
    }

    /// The module that defines what a path of this crate leads to, which others may hand on.
    fn defining(&self, path: &[String], steps: usize) -> Module {
        let module = self.module_in(path);
        let (Some(name), Some(at)) = (path.get(module.len()), self.by_module.get(&module)) else {
            return module;
        };
        let source = &self.sources[*at];
        if steps == FAR || source.file.items.contains(name) {
            return module;
        }
        let rest = &path[module.len() + 1..];
        let mut aliases = source.file.aliases.iter();
        if let Some(alias) = aliases.find(|alias| alias.outermost && alias.name == *name) {
            return match self.absolute(source, &alias.means, steps + 1) {
                Absolute::Inside(means) if means != path => {
                    self.defining(&[&means, rest].concat(), steps + 1)
                }
                Absolute::Inside(_) | Absolute::Outside(_) => module,
            };
        }
        for glob in &source.file.globs {
            if let Absolute::Inside(means) = self.absolute(source, glob, steps + 1)
                && let Some(at) = self.by_module.get(&means)
                && self.makes(*at, name)
            {
                return self.defining(&[&means, &path[module.len()..]].concat(), steps + 1);
            }
        }
        module
    }

    fn makes(&self, at: usize, name: &str) -> bool {
        let file = &self.sources[at].file;
        file.items.contains(name)
            || file.aliases.iter().any(|alias| alias.outermost && alias.name == name)
    }

    fn absolute(&self, source: &SourceFile, mention: &Mention, steps: usize) -> Absolute {
        let mut module = [&source.module[..], &mention.inline].concat();
        let mut rest = &mention.segments[..];
        let mut is_anchored = false;
        while let Some((first, after)) = rest.split_first() {
            match first.as_str() {
                "crate" => module.clear(),
                "super" => drop(module.pop()),
                "self" => {}
                _ => break,
            }
            is_anchored = true;
            rest = after;
        }
        let Some((first, after)) = rest.split_first() else { return Absolute::Inside(module) };
        if is_anchored {
            return Absolute::Inside([&module[..], rest].concat());
        }
        let is_alias = |alias: &&reading::Alias| {
            alias.name == *first && alias.means.segments.first() != Some(first)
        };
        if steps < FAR
            && let Some(alias) = source.file.aliases.iter().find(is_alias)
        {
            return match self.absolute(source, &alias.means, steps + 1) {
                Absolute::Inside(means) => Absolute::Inside([&means, after].concat()),
                Absolute::Outside(means) => Absolute::Outside([&means, after].concat()),
            };
        }
        let child = [&module[..], from_ref(first)].concat();
        if self.by_module.contains_key(&child) {
            return Absolute::Inside([&child, after].concat());
        }
        Absolute::Outside(rest.to_vec())
    }
}
