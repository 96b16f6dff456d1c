//! `cargo xtask scenarios`: small things that happen on hosts, each with the findings that it has to lead to,
//! played under the tracer.
//!
//! | room | what is in it |
//! | --- | --- |
//! | [`kind`] | what a scenario is |
//! | [`table`] | all of them |
//! | [`objects`], [`mounts`], [`mappings`], [`views`], [`moves`] | access across namespaces |
//! | [`attempts`], [`sharing`] | lookups that fail, containers that meet |
//! | [`benign`], [`benign_containers`] | what must stay silent |
//! | [`stage`], [`actor`], [`wire`], [`acts`], [`own`] | what scenarios are made of |
//! | [`runner`] | plays them under one tracer |
//! | [`judge`] | what was found against what was to be found: pure |
//! | [`document`] | the table in `docs/DETECTION.md`: pure |
//!
//! Invariant: findings are told apart by the processes and containers that they are about, so whatever else
//! happens on the host makes no difference.

mod actor;
mod acts;
mod attempts;
mod benign;
mod benign_containers;
mod document;
mod judge;
mod kind;
mod mappings;
mod mounts;
mod moves;
mod objects;
mod own;
mod runner;
mod sharing;
mod stage;
mod table;
mod views;
mod wire;

use std::{
    env,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{build, tracer, vm};
use judge::KernelOutcome;
use runner::TracerMode;

/// Before an outcome as JSON.
const MARK: &str = "outcome ";
/// The backends, each of which a kernel may refuse.
const BACKENDS: [&str; 2] = ["function", "syscall"];

/// Options of `cargo xtask scenarios`.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Scenarios {
    /// Only those whose names contain this
    #[arg(default_value = "")]
    filter: String,
    /// With this backend of the tracer alone [default: each that the kernel has]
    #[arg(long, value_parser = BACKENDS)]
    backend: Option<String>,
    /// Let the tracer report, instead of telling live
    #[arg(long)]
    report: bool,
    /// Print outcomes as JSON, too
    #[arg(long)]
    json: bool,
    /// Play them with no tracer of their own
    #[arg(long, conflicts_with_all = ["backend", "report", "json"])]
    unseen: bool,
    /// List them, and play none
    #[arg(long)]
    list: bool,
    /// Play all on this kernel and in emulated machines, and write the table of docs/DETECTION.md
    #[arg(long, conflicts_with_all = ["filter", "backend", "report", "json", "list"])]
    update: bool,
    /// A part in one
    #[command(subcommand)]
    part: Option<ScenarioPart>,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum ScenarioPart {
    /// Direct one, until standard input ends
    #[command(hide = true)]
    Play {
        /// Which
        name: String,
    },
    /// Be the actor with an executable of its own
    #[command(hide = true)]
    Own(own::Own),
}

/// Runs `cargo xtask scenarios`.
pub(crate) fn main(args: &Scenarios) -> Result<ExitCode> {
    match &args.part {
        Some(ScenarioPart::Play { name }) => runner::direct(name).map(|()| ExitCode::SUCCESS),
        Some(ScenarioPart::Own(own)) => own::be(own).map(|()| ExitCode::SUCCESS),
        None if args.list => {
            for scenario in table::all() {
                println!("{:<28} {}", scenario.name, scenario.what);
            }
            Ok(ExitCode::SUCCESS)
        }
        None if args.update => update(),
        None if args.unseen => runner::unseen(&args.filter).map(|()| ExitCode::SUCCESS),
        None => here(args),
    }
}

/// Plays them on this kernel.
fn here(args: &Scenarios) -> Result<ExitCode> {
    let Some(program) = tracer::given() else {
        // The scenarios' own programs look for it there.
        return run_with(&tracer::given_or_built()?);
    };
    let mode = if args.report { TracerMode::Report } else { TracerMode::Live };
    let backends = args.backend.as_deref().map_or(BACKENDS.to_vec(), |one| vec![one]);
    let mut outcomes = Vec::new();
    for backend in &backends {
        outcomes.extend(runner::run(&program, backend, mode, &args.filter)?);
    }
    if outcomes.is_empty() {
        bail!("none of the backends {backends:?} can be had here");
    }
    for outcome in &outcomes {
        print!("{outcome}");
        if args.json {
            println!("{MARK}{}", serde_json::to_string(outcome)?);
        }
    }
    let good = outcomes.iter().all(|outcome| outcome.failures.is_empty());
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs this program anew with the same arguments, and with the tracer's path in its environment.
fn run_with(tracer: &std::path::Path) -> Result<ExitCode> {
    let status = Command::new(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env("IPC_TRACE_BIN", tracer)
        .status()
        .context("cannot run this program")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Plays all on all kernels, and stores the outcomes.
fn update() -> Result<ExitCode> {
    let root = build::workspace_root()?;
    let built = build::everything(&root, false)?;
    let output = Command::new(env::current_exe()?)
        .args(["scenarios", "--json"])
        .env("IPC_TRACE_BIN", built.program())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot play them on this kernel")?;
    let mut outputs = vec![String::from_utf8_lossy(&output.stdout).into_owned()];
    // A failure is told by the outcome.
    let words = ["/bin/sh", "-c", "xtask scenarios --json || true"].map(str::to_owned);
    outputs.extend(vm::outputs(&[], &built, &words)?);
    let mut outcomes: Vec<KernelOutcome> = Vec::new();
    for output in &outputs {
        let lines = output.lines().filter_map(|line| line.trim_end().strip_prefix(MARK));
        let these: Vec<KernelOutcome> =
            lines.map(serde_json::from_str).collect::<Result<_, _>>()?;
        if these.is_empty() {
            bail!("nothing was played:\n{output}");
        }
        outcomes.extend(these);
    }
    for outcome in &outcomes {
        print!("{outcome}");
    }
    let path = root.join(document::FILE);
    document::write(&path, &outcomes)?;
    println!("{} is written", path.display());
    let good = outcomes.iter().all(|outcome| outcome.failures.is_empty());
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
