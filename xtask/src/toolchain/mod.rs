//! The toolchain of the eBPF programs: a Rust compiler with unstable features and the sources of
//! `core`, and a `bpf-linker` for the same LLVM.
//!
//! Invariant: [`ensure`] gives a toolchain whose parts have been seen to be there; what it does
//! about a missing part is chosen by [`plan::plan`] alone, from facts gathered anew after every
//! change.

mod facts;
mod install;
mod plan;
mod recipe;
mod release;

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

use crate::apt::Apt;
use facts::ToolchainFacts;
use plan::{Compiler, SetupAction};

/// A toolchain which is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Toolchain {
    compiler: Compiler,
    linker: PathBuf,
}

impl Toolchain {
    /// A `cargo` of this toolchain, without what the cargo around us has put in the environment.
    pub(crate) fn cargo(&self) -> Command {
        match self.compiler {
            Compiler::Nightly => {
                let mut command = Command::new("rustup");
                clear_cargo_env(&mut command);
                command.args(["run", "nightly", "cargo"]).env("RUSTUP_AUTO_INSTALL", "0");
                command
            }
            Compiler::Debian => {
                let mut command = Command::new(facts::DEBIAN_CARGO);
                clear_cargo_env(&mut command);
                command.env("RUSTC", facts::DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
                command
            }
        }
    }

    /// The `bpf-linker` of this toolchain.
    pub(crate) fn linker(&self) -> &Path {
        &self.linker
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let compiler = match self.compiler {
            Compiler::Nightly => "rustup's nightly",
            Compiler::Debian => facts::DEBIAN_RUSTC,
        };
        write!(f, "kernel-side toolchain: {compiler}, {}", self.linker.display())
    }
}

/// Returns the toolchain, after installing what is missing.
///
/// # Errors
///
/// When something is missing which cannot be installed from here; the error says how to.
pub(crate) fn ensure(workspace: &Path) -> anyhow::Result<Toolchain> {
    let mut apt = Apt::default();
    let mut linker_built = false;
    loop {
        let facts = ToolchainFacts::gather(workspace);
        match plan::plan(&facts) {
            SetupAction::Use(toolchain) => return Ok(toolchain),
            SetupAction::Refuse(reason) => bail!(reason),
            SetupAction::InstallPackages(packages) => {
                if !apt.install(&packages)? {
                    bail!(plan::packages_did_not_help(&facts, &packages));
                }
            }
            SetupAction::BuildLinker(recipe) => {
                if linker_built {
                    bail!("{recipe} was built, but `bpf-linker --version` does not run");
                }
                install::build_linker(&recipe, &facts::linker_homes(workspace))
                    .with_context(|| format!("cannot build {recipe}"))?;
                linker_built = true;
            }
        }
    }
}

/// Removes what an outer cargo, rustup or user has said about another compiler.
pub(crate) fn clear_cargo_env(command: &mut Command) {
    const NAMES: [&str; 16] = [
        "CARGO",
        "CARGO_BUILD_RUSTC",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_TARGET_DIR",
        // rustup's and `cargo run`'s, for the libraries of the other compiler.
        "LD_LIBRARY_PATH",
        "RUSTC",
        "RUSTC_BOOTSTRAP",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_WRAPPER",
        "RUSTDOC",
        "RUSTDOCFLAGS",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "RUST_RECURSION_COUNT",
    ];
    const PREFIXES: [&str; 3] = ["CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_BIN_"];
    for (name, _) in env::vars_os() {
        let known = name.to_str().is_some_and(|name| {
            NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        });
        if known {
            command.env_remove(name);
        }
    }
}
