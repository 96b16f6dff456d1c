//! `cargo xtask demo`: traces the demo workload and reports.
//!
//! Invariant: the exit status is that of `ipc-trace`, since this process becomes it.

use std::{
    env,
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, bail};

use crate::build;

/// Options of `cargo xtask demo`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// Report in JSON
    #[arg(long)]
    json: bool,
}

/// Runs `cargo xtask demo`. Returns only when that failed.
pub(crate) fn main(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let root = build::workspace_root()?;
    // The first build takes minutes: then its progress is worth seeing.
    let quiet = root.join("target/release/ipc-trace").exists();
    let built = build::lean(&root, quiet)?;
    let xtask = env::current_exe().context("cannot find this program's own file")?;
    let mut words = vec!["report"];
    if args.json {
        words.extend(["-o", "json"]);
    }
    words.push("--");
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "loading BPF programs needs root. Run:\n    sudo {} {} {} workload demo --silent",
            built.program().display(),
            words.join(" "),
            xtask.display()
        );
    }
    let error = Command::new(built.program())
        .args(words)
        .arg(xtask)
        .args(["workload", "demo", "--silent"])
        .exec();
    Err(error).with_context(|| format!("cannot run {}", built.program().display()))
}
