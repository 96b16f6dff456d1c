//! Installs `bpf-linker`, with cargo.
//!
//! Invariant: a linker's folder is there only when it is complete; it is made under another name
//! and renamed when `bpf-linker --version` has run.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, id},
};

use anyhow::{Context as _, bail};

use super::{clear_cargo_env, facts::linker_runs, recipe::Recipe};

/// Builds a `bpf-linker` into the first of these folders which can be written to.
pub(super) fn build_linker(recipe: &Recipe, homes: &[PathBuf]) -> anyhow::Result<()> {
    let mut refusals = Vec::new();
    for home in homes {
        let mut partial = recipe.folder_in(home).into_os_string();
        partial.push(format!(".partial-{}", id()));
        let partial = PathBuf::from(partial);
        if let Err(error) = fs::create_dir_all(&partial) {
            refusals.push(format!("{}: {error}", home.display()));
            continue;
        }
        let result = build_in(recipe, &partial).and_then(|()| publish(recipe, &partial, home));
        if result.is_err() {
            // The rest of it is useless, and the first error is the one to report.
            let _ = fs::remove_dir_all(&partial);
        }
        return result;
    }
    bail!(
        "no folder to keep it in can be written to ({}); set XDG_CACHE_HOME to one",
        refusals.join("; ")
    );
}

fn build_in(recipe: &Recipe, folder: &Path) -> anyhow::Result<()> {
    eprintln!("xtask: building {recipe}; this takes a minute, once");
    let (name, prefix) = recipe.llvm_location();
    let mut command = host_cargo_outside_workspace();
    let build = folder.join("build");
    command
        .current_dir(folder)
        .args(["install", "bpf-linker", "--locked", "--no-default-features"])
        .args(["--version", recipe.version])
        .args(["--features", &recipe.features()])
        .arg("--root")
        .arg(folder)
        .arg("--target-dir")
        .arg(&build)
        .env(name, prefix);
    let status = command.status().context("cannot run cargo install")?;
    if !status.success() {
        bail!("cargo install bpf-linker ended with {status}; its messages above say why");
    }
    fs::remove_dir_all(&build).with_context(|| format!("cannot remove {}", build.display()))?;
    let binary = folder.join("bin/bpf-linker");
    if !linker_runs(&binary) {
        bail!("`{} --version` fails", binary.display());
    }
    Ok(())
}

/// The cargo which runs us, since it is known to be there, without what it has set for us about
/// this workspace.
fn host_cargo_outside_workspace() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    clear_cargo_env(&mut command);
    // The one rustup chose for the workspace; another folder might mean another one.
    if let Some(toolchain) = env::var_os("RUSTUP_TOOLCHAIN") {
        command.env("RUSTUP_TOOLCHAIN", toolchain);
    }
    command
}

/// Renames the finished folder to its name.
fn publish(recipe: &Recipe, partial: &Path, home: &Path) -> anyhow::Result<()> {
    let folder = recipe.folder_in(home);
    if linker_runs(&recipe.binary_in(home)) {
        // Another process was quicker.
        fs::remove_dir_all(partial)
            .with_context(|| format!("cannot remove {}", partial.display()))?;
        return Ok(());
    }
    if folder.exists() {
        // It no longer runs: its LLVM has gone.
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::rename(partial, &folder)
        .with_context(|| format!("cannot rename {} to its name", partial.display()))
}
