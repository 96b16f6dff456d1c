//! Chooses the source of the eBPF toolchain.
//!
//! Invariant: [`plan`] is a function of the facts alone; it prefers what is already there.

use super::{
    Toolchain,
    facts::{DEBIAN_RUSTC, ToolchainFacts},
    recipe::Recipe,
    release::{Release, RustVersion},
};

/// The oldest release which aya-ebpf says it builds with.
const OLDEST_RUST: Release = Release(1, 87, 0);
/// Debian's current Rust, which it keeps up to date for its browsers.
const RUST_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
const NIGHTLY_COMMAND: &str = "rustup toolchain install nightly --component rust-src";
const SOURCES_COMMAND: &str = "rustup component add rust-src --toolchain nightly";
const LINKER_COMMAND: &str = "cargo install bpf-linker";

/// Whose compiler builds the eBPF programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compiler {
    /// rustup's nightly toolchain.
    Nightly,
    /// `/usr/bin/rustc`, with `RUSTC_BOOTSTRAP=1`.
    Debian,
}

/// The next thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SetupAction {
    /// All is there.
    Use(Toolchain),
    /// Install these with apt, and check again.
    InstallPackages(Vec<String>),
    /// Build a `bpf-linker`, and check again.
    BuildLinker(Recipe),
    /// Nothing can be done from here; the text says what the user can do.
    Refuse(String),
}

/// Chooses the next thing to do.
pub(super) fn plan(facts: &ToolchainFacts) -> SetupAction {
    if facts.nightly_sources
        && let Some(linker) = &facts.path_linker
    {
        return SetupAction::Use(Toolchain { compiler: Compiler::Nightly, linker: linker.clone() });
    }
    if !facts.debian {
        return SetupAction::Refuse(format!(
            "the toolchain for the eBPF programs are not complete. Run:\n{}",
            nightly_commands(facts)
        ));
    }
    let rust = match facts.debian_rust {
        Some(rust) if rust.release >= OLDEST_RUST && facts.debian_sources => rust,
        Some(_) | None => return install(facts, RUST_PACKAGES.map(str::to_owned).into()),
    };
    let Some(recipe) = Recipe::for_llvm(rust.llvm) else {
        return SetupAction::Refuse(unknown_llvm(facts, rust));
    };
    if let Some(linker) = &facts.built_linker {
        return SetupAction::Use(Toolchain { compiler: Compiler::Debian, linker: linker.clone() });
    }
    if !facts.llvm_dev {
        return install(facts, vec![format!("llvm-{}-dev", rust.llvm)]);
    }
    SetupAction::BuildLinker(recipe)
}

fn install(facts: &ToolchainFacts, packages: Vec<String>) -> SetupAction {
    if facts.root {
        return SetupAction::InstallPackages(packages);
    }
    SetupAction::Refuse(format!(
        "packages for the eBPF programs are missing, and only root can install them. Run:\n\
         \x20   sudo apt-get update\n\
         \x20   sudo apt-get install --no-install-recommends {}\n\
         and then this command again; or instead:\n{}",
        packages.join(" "),
        nightly_commands(facts)
    ))
}

fn unknown_llvm(facts: &ToolchainFacts, rust: RustVersion) -> String {
    format!(
        "{DEBIAN_RUSTC} {} has LLVM {}, and no bpf-linker is known here for it. Run:\n{}",
        rust.release,
        rust.llvm,
        nightly_commands(facts)
    )
}

/// The message when apt has succeeded and something is still missing.
pub(super) fn packages_did_not_help(facts: &ToolchainFacts, packages: &[String]) -> String {
    let found = match facts.debian_rust {
        Some(rust) if rust.release < OLDEST_RUST => format!(
            "{DEBIAN_RUSTC} is {}, and the eBPF programs need {OLDEST_RUST} or newer",
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
fn nightly_commands(facts: &ToolchainFacts) -> String {
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

#[cfg(test)]
mod tests;
