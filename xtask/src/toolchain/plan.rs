//! Chooses where the kernel-side toolchain comes from.
//!
//! Invariant: [`plan`] is a function of the facts alone; it prefers what is already there.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use super::{
    Toolchain,
    facts::{DEBIAN_RUSTC, Facts, RustVersion, llvm_prefix},
};

/// The oldest release which aya-ebpf says it builds with.
const OLDEST_RUST: Release = Release(1, 87, 0);
/// Debian's current Rust, which it keeps up to date for its browsers.
const RUST_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
const NIGHTLY_COMMAND: &str = "rustup toolchain install nightly --component rust-src";
const SOURCES_COMMAND: &str = "rustup component add rust-src --toolchain nightly";
const LINKER_COMMAND: &str = "cargo install bpf-linker";

/// A release of Rust. The order is that of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Release(pub(super) u32, pub(super) u32, pub(super) u32);

impl FromStr for Release {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("not a release of Rust: {text:?}");
        let numbers = text.split(['-', '+']).next().unwrap_or(text);
        let mut parts = numbers.split('.').map(str::parse);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch)), None) => {
                Ok(Self(major, minor, patch))
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// Whose compiler builds the kernel side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compiler {
    /// rustup's nightly toolchain.
    Nightly,
    /// `/usr/bin/rustc`, with `RUSTC_BOOTSTRAP=1`.
    Debian,
}

/// The next thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// All is there.
    Use(Toolchain),
    /// Have apt install these, and look again.
    InstallPackages(Vec<String>),
    /// Build a `bpf-linker`, and look again.
    BuildLinker(Recipe),
    /// Nothing can be done from here; the text says what the user can do.
    Refuse(String),
}

/// Chooses the next thing to do.
pub(super) fn plan(facts: &Facts) -> Action {
    if facts.nightly_sources
        && let Some(linker) = &facts.path_linker
    {
        return Action::Use(Toolchain { compiler: Compiler::Nightly, linker: linker.clone() });
    }
    if !facts.debian {
        return Action::Refuse(format!(
            "the toolchain for the kernel side is not complete. Run:\n{}",
            nightly_commands(facts)
        ));
    }
    let rust = match facts.debian_rust {
        Some(rust) if rust.release >= OLDEST_RUST && facts.debian_sources => rust,
        Some(_) | None => return install(facts, RUST_PACKAGES.map(str::to_owned).into()),
    };
    let Some(recipe) = Recipe::for_llvm(rust.llvm) else {
        return Action::Refuse(unknown_llvm(facts, rust));
    };
    if let Some(linker) = &facts.built_linker {
        return Action::Use(Toolchain { compiler: Compiler::Debian, linker: linker.clone() });
    }
    if !facts.llvm_dev {
        return install(facts, vec![format!("llvm-{}-dev", rust.llvm)]);
    }
    Action::BuildLinker(recipe)
}

fn install(facts: &Facts, packages: Vec<String>) -> Action {
    if facts.root {
        return Action::InstallPackages(packages);
    }
    Action::Refuse(format!(
        "packages for the kernel side are missing, and only root can install them. Run:\n\
         \x20   sudo apt-get update\n\
         \x20   sudo apt-get install --no-install-recommends {}\n\
         and then this command again; or instead:\n{}",
        packages.join(" "),
        nightly_commands(facts)
    ))
}

fn unknown_llvm(facts: &Facts, rust: RustVersion) -> String {
    format!(
        "{DEBIAN_RUSTC} {} has LLVM {}, and no bpf-linker is known here for it. Run:\n{}",
        rust.release,
        rust.llvm,
        nightly_commands(facts)
    )
}

/// What to say when apt has done its work and something is missing still.
pub(super) fn packages_did_not_help(facts: &Facts, packages: &[String]) -> String {
    let found = match facts.debian_rust {
        Some(rust) if rust.release < OLDEST_RUST => format!(
            "{DEBIAN_RUSTC} is {}, and the kernel side needs {OLDEST_RUST} or newer",
            rust.release
        ),
        Some(_) if !facts.debian_sources => {
            format!("the sources of the release of {DEBIAN_RUSTC} are not there")
        }
        Some(_) => "the files of that LLVM are not there".to_owned(),
        None => format!("{DEBIAN_RUSTC} is not there"),
    };
    format!(
        "apt has the newest {} it can find installed, but {found}. Use another mirror, or run:\n{}",
        packages.join(", "),
        nightly_commands(facts)
    )
}

/// The commands which complete the toolchain of rustup, on any system.
fn nightly_commands(facts: &Facts) -> String {
    let mut commands = Vec::new();
    if !facts.nightly {
        commands.push(format!("    {NIGHTLY_COMMAND}"));
    } else if !facts.nightly_sources {
        commands.push(format!("    {SOURCES_COMMAND}"));
    }
    if facts.path_linker.is_none() {
        commands.push(format!("    {LINKER_COMMAND}"));
    }
    commands.join("\n")
}

/// How to build a `bpf-linker` which links with a given LLVM of Debian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recipe {
    /// The version of `bpf-linker`.
    pub(super) version: &'static str,
    /// The major version of LLVM.
    pub(super) llvm: u32,
}

impl Recipe {
    /// The recipe for a major version of LLVM.
    pub(super) fn for_llvm(llvm: u32) -> Option<Self> {
        let version = match llvm {
            19 | 20 => "0.9.15",
            21 | 22 => "0.13.0",
            _ => return None,
        };
        Some(Self { version, llvm })
    }

    /// Does this version have llvm-sys find and link LLVM, rather than a build script of its own?
    fn links_by_llvm_sys(&self) -> bool {
        self.llvm <= 20
    }

    /// The features to build with: Debian's shared libLLVM rather than rustc's own, or static
    /// libraries which would want more packages.
    pub(super) fn features(&self) -> String {
        let llvm = self.llvm;
        if self.links_by_llvm_sys() {
            format!("llvm-{llvm},llvm-sys-{llvm}/force-dynamic")
        } else {
            format!("llvm-{llvm}")
        }
    }

    /// The environment variable which says where LLVM is, and its value.
    pub(super) fn llvm_location(&self) -> (String, String) {
        let name = if self.links_by_llvm_sys() {
            format!("LLVM_SYS_{}1_PREFIX", self.llvm)
        } else {
            "LLVM_PREFIX".to_owned()
        };
        (name, llvm_prefix(self.llvm))
    }

    /// The folder in `home` which this linker is installed to.
    pub(super) fn folder_in(&self, home: &Path) -> PathBuf {
        home.join(format!("bpf-linker-{}-llvm{}", self.version, self.llvm))
    }

    /// The linker itself, in `home`.
    pub(super) fn binary_in(&self, home: &Path) -> PathBuf {
        self.folder_in(home).join("bin/bpf-linker")
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bpf-linker {} for LLVM {}", self.version, self.llvm)
    }
}

#[cfg(test)]
mod tests;
