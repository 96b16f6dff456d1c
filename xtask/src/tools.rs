//! Checks of `cargo xtask test --all` that need other tools: dependencies, spelling, the minimum Rust version.
//!
//! Invariant: a tool is installed below `target`, in the version that this file names.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, ensure};

use crate::{
    apt::find_on_path,
    build::{Built, host_cargo},
    toolchain::clear_cargo_env,
};

/// A program that `cargo install` builds.
#[derive(Clone, Copy, Debug)]
struct Tool {
    package: &'static str,
    version: &'static str,
    program: &'static str,
}

const DENY: Tool = Tool { package: "cargo-deny", version: "0.20.2", program: "cargo-deny" };
const TYPOS: Tool = Tool { package: "typos-cli", version: "1.52.0", program: "typos" };

/// The minimum Rust version: the workspace's `rust-version`.
const MINIMUM_RUST: &str = env!("CARGO_PKG_RUST_VERSION");

/// A check and its name.
pub(crate) type ToolCheck = (&'static str, fn(&Built) -> anyhow::Result<bool>);

/// All checks. Each returns whether it succeeded.
pub(crate) const CHECKS: [ToolCheck; 3] = [
    ("dependencies", dependencies),
    ("spelling", spelling),
    ("minimum Rust version", minimum_rust),
];

/// Licences, sources and bans of all dependencies, by `deny.toml`. Advisories would need a database from elsewhere.
fn dependencies(built: &Built) -> anyhow::Result<bool> {
    let mut command = Command::new(ensure_installed(DENY, built)?);
    command.current_dir(built.root()).args([
        "--workspace",
        "--locked",
        "check",
        "licenses",
        "bans",
        "sources",
    ]);
    succeeds(&mut command)
}

/// Spelling, by `typos.toml`.
fn spelling(built: &Built) -> anyhow::Result<bool> {
    succeeds(Command::new(ensure_installed(TYPOS, built)?).current_dir(built.root()))
}

/// Builds the program with the minimum Rust version.
fn minimum_rust(built: &Built) -> anyhow::Result<bool> {
    ensure!(
        find_on_path("rustup").is_some(),
        "rustup is not installed; it is needed to install Rust {MINIMUM_RUST}"
    );
    let rustup = || {
        let mut command = Command::new("rustup");
        clear_cargo_env(&mut command);
        command.current_dir(built.root());
        command
    };
    let mut install = rustup();
    install.args([
        "toolchain",
        "install",
        MINIMUM_RUST,
        "--profile",
        "minimal",
        "--no-self-update",
    ]);
    ensure!(succeeds(&mut install)?, "rustup could not install Rust {MINIMUM_RUST}");
    let mut check = rustup();
    check.args(["run", MINIMUM_RUST, "cargo", "check", "--locked", "--package", "ipc-trace"]);
    succeeds(check.args(["--target-dir", "target/minimum-rust"]))
}

/// The tool's path. Installs the tool if it is missing.
fn ensure_installed(tool: Tool, built: &Built) -> anyhow::Result<PathBuf> {
    let Tool { package, version, program } = tool;
    let folder = built.target().join("tools").join(format!("{package}-{version}"));
    let path = folder.join("bin").join(program);
    if path.is_file() {
        return Ok(path);
    }
    eprintln!("xtask: building {package} {version}; this takes minutes, once");
    let mut command = host_cargo(built.root());
    clear_cargo_env(&mut command);
    command.args(["install", package, "--version", version, "--locked", "--root"]).arg(&folder);
    ensure!(succeeds(&mut command)?, "cargo could not install {package} {version}");
    Ok(path)
}

fn succeeds(command: &mut Command) -> anyhow::Result<bool> {
    let program = command.get_program().to_owned();
    let status = command.status().with_context(|| format!("cannot run {}", program.display()))?;
    Ok(status.success())
}
