//! `cargo xtask scenarios`: small events on a host, each with the findings that it must lead to, run under the
//! tracer.
//!
//! | module | contents |
//! | --- | --- |
//! | [`kind`] | what a scenario is |
//! | [`registry`] | all of them |
//! | [`objects`], [`mounts`], [`mappings`], [`views`], [`moves`] | access across namespaces |
//! | [`attempts`], [`sharing`] | failed lookups, containers that share a namespace |
//! | [`benign`], [`benign_containers`] | what must lead to no finding |
//! | [`fixture`], [`process`], [`pipe`], [`actions`], [`own`] | what scenarios are made of |
//! | [`runner`] | runs them under one tracer |
//! | [`checker`] | compares findings with the expected ones: pure |
//! | [`results`] | the table in `docs/DETECTION.md`: pure |
//!
//! Invariant: findings are assigned to scenarios by process and container, so other activity on the host makes no
//! difference.

mod actions;
mod attempts;
mod benign;
mod benign_containers;
mod checker;
mod fixture;
mod kind;
mod mappings;
mod mounts;
mod moves;
mod objects;
mod own;
mod pipe;
mod process;
mod registry;
mod results;
mod runner;
mod sharing;
mod views;

use std::{
    env,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{build, tracer, vm};
use checker::KernelOutcome;
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
    /// Trace with `report` instead of `live`
    #[arg(long)]
    report: bool,
    /// Trace with `report --counts`
    #[arg(long, conflicts_with = "report")]
    counts: bool,
    /// Print outcomes as JSON, too
    #[arg(long)]
    json: bool,
    /// Run them without starting a tracer
    #[arg(long, conflicts_with_all = ["backend", "report", "counts", "json"])]
    unseen: bool,
    /// List them, and run none
    #[arg(long)]
    list: bool,
    /// Run all on this kernel and in emulated machines, and write the table of docs/DETECTION.md
    #[arg(long, conflicts_with_all = ["filter", "backend", "report", "counts", "json", "list"])]
    update: bool,
    /// A process of a scenario
    #[command(subcommand)]
    part: Option<ScenarioPart>,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum ScenarioPart {
    /// Run one, until standard input ends
    #[command(hide = true)]
    Run {
        /// Which
        name: String,
    },
    /// Be the process with an executable of its own
    #[command(hide = true)]
    Own(own::Own),
}

/// Runs `cargo xtask scenarios`.
pub(crate) fn main(args: &Scenarios) -> Result<ExitCode> {
    match &args.part {
        Some(ScenarioPart::Run { name }) => runner::drive(name).map(|()| ExitCode::SUCCESS),
        Some(ScenarioPart::Own(own)) => own::be(own).map(|()| ExitCode::SUCCESS),
        None if args.list => {
            for scenario in registry::all() {
                println!("{:<28} {}", scenario.name, scenario.what);
            }
            Ok(ExitCode::SUCCESS)
        }
        None if args.update => update(),
        None if args.unseen => runner::unseen(&args.filter).map(|()| ExitCode::SUCCESS),
        None => here(args),
    }
}

/// Runs them on this kernel.
fn here(args: &Scenarios) -> Result<ExitCode> {
    let Some(program) = tracer::given() else {
        // The scenarios' own programs find it in the environment.
        return run_with(&tracer::given_or_built()?);
    };
    let mode = match (args.report, args.counts) {
        (_, true) => TracerMode::Counts,
        (true, false) => TracerMode::Report,
        (false, false) => TracerMode::Live,
    };
    let backends = args.backend.as_deref().map_or(BACKENDS.to_vec(), |one| vec![one]);
    let mut outcomes = Vec::new();
    for backend in &backends {
        outcomes.extend(runner::run(&program, backend, mode, &args.filter)?);
    }
    if outcomes.is_empty() {
        bail!("none of the backends {backends:?} is available here");
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

/// Runs all on all kernels, and stores the outcomes.
fn update() -> Result<ExitCode> {
    let root = build::workspace_root()?;
    let built = build::everything(&root, false)?;
    let output = Command::new(env::current_exe()?)
        .args(["scenarios", "--json"])
        .env("IPC_TRACE_BIN", built.program())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run them on this kernel")?;
    let mut outputs = vec![String::from_utf8_lossy(&output.stdout).into_owned()];
    // The outcome reports a failure.
    let words = ["/bin/sh", "-c", "xtask scenarios --json || true"].map(str::to_owned);
    outputs.extend(vm::outputs(&[], &built, &[], &words)?);
    let mut outcomes: Vec<KernelOutcome> = Vec::new();
    for output in &outputs {
        let lines = output.lines().filter_map(|line| line.trim_end().strip_prefix(MARK));
        let these: Vec<KernelOutcome> =
            lines.map(serde_json::from_str).collect::<Result<_, _>>()?;
        if these.is_empty() {
            bail!("no scenario ran:\n{output}");
        }
        outcomes.extend(these);
    }
    for outcome in &outcomes {
        print!("{outcome}");
    }
    let path = root.join(results::FILE);
    results::write(&path, &outcomes)?;
    println!("{} is written", path.display());
    let good = outcomes.iter().all(|outcome| outcome.failures.is_empty());
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
