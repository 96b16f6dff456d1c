//! `cargo xtask budget`: compares the size of the kernel's programs with the stored budget.
//!
//! | module | its job |
//! | --- | --- |
//! | [`measure`] | asks the running kernel about a running tracer's programs |
//! | [`table`] | what is stored, and the comparison: pure |
//!
//! Invariant: the stored figures are those of the released build of the eBPF programs, and come from
//! running tracers alone.

mod measure;
mod table;

use std::{
    env, fs,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

use crate::{build, tracer, vm};
use measure::MODES;
use table::{BudgetKernel, BudgetTable, Program, ProgramSize, Sizes};

/// Where the table is, in the workspace.
const FILE: &str = "xtask/budget.txt";
/// The table as it was when this was built: machines have no workspace.
const STORED: &str = include_str!("../../budget.txt");
/// The backends, each of which a kernel may refuse.
const BACKENDS: [&str; 2] = ["function", "syscall"];
/// Before each line of [`BudgetCommand::Measure`].
const MARK: &str = "size";

/// What to do.
#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum BudgetCommand {
    /// Compare the programs of this kernel with the table (needs root)
    Check {
        /// With this backend of the tracer
        #[arg(long, value_parser = BACKENDS, default_value = "syscall")]
        backend: String,
        /// Only those of this command [default: of both]
        #[arg(long, value_parser = MODES)]
        mode: Option<String>,
    },
    /// Print the sizes of the programs of this kernel, with each backend that it has (needs root)
    Measure,
    /// Measure on this kernel and in emulated machines, and write the table (needs root)
    Update {
        /// Only on the kernels of these suites of Debian, and on this one
        #[arg(long, value_name = "SUITE", value_parser = vm::SUITES)]
        suite: Vec<String>,
    },
}

/// Runs `cargo xtask budget`.
pub(crate) fn main(what: &BudgetCommand) -> Result<ExitCode> {
    match what {
        BudgetCommand::Check { backend, mode } => match mode.as_deref() {
            Some(mode) => check(backend, &[mode]),
            None => check(backend, &MODES),
        },
        BudgetCommand::Measure => measure_all().map(|()| ExitCode::SUCCESS),
        BudgetCommand::Update { suite } => update(suite).map(|()| ExitCode::SUCCESS),
    }
}

fn running_kernel() -> Result<BudgetKernel> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    release.parse()
}

fn check(backend: &str, modes: &[&str]) -> Result<ExitCode> {
    let kernel = running_kernel()?;
    let stored: BudgetTable = STORED.parse().with_context(|| format!("cannot read {FILE}"))?;
    let measured = measure::measure(&tracer::given_or_built()?, backend, modes)?;
    let comparison = stored.compare(kernel, (backend, modes), &measured);
    if !comparison.known {
        eprintln!(
            "note: {FILE} has no kernel {kernel} with --backend {backend}: its programs are held to the \
             largest sizes of all kernels there"
        );
    }
    for problem in &comparison.problems {
        eprintln!("kernel {kernel}: {problem}");
    }
    if comparison.problems.is_empty() {
        println!("{} programs are within {FILE}", measured.len());
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("if that is intended, run:\n    cargo xtask budget update");
    Ok(ExitCode::FAILURE)
}

/// Prints a line `size KERNEL BACKEND MODE NAME SIZE` for each program.
fn measure_all() -> Result<()> {
    let (kernel, tracer) = (running_kernel()?, tracer::given_or_built()?);
    for backend in BACKENDS {
        match measure::measure(&tracer, backend, &MODES) {
            Ok(sizes) => {
                for (Program { backend, mode, name }, size) in sizes {
                    println!("{MARK} {kernel} {backend} {mode} {name} {size}");
                }
            }
            Err(error) => eprintln!("note: kernel {kernel} has no sizes for the table: {error:#}"),
        }
    }
    Ok(())
}

fn update(suites: &[String]) -> Result<()> {
    let root = build::workspace_root()?;
    let built = build::everything(&root, false)?;
    let output = Command::new(env::current_exe()?)
        .args(["budget", "measure"])
        .env("IPC_TRACE_BIN", built.program())
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot measure on this kernel")?;
    if !output.status.success() {
        bail!("measuring on this kernel ended with {}; the messages above say why", output.status);
    }
    let mut outputs = vec![String::from_utf8_lossy(&output.stdout).into_owned()];
    let words = ["xtask", "budget", "measure"].map(str::to_owned);
    outputs.extend(vm::outputs(suites, &built, &[], &words)?);
    let path = root.join(FILE);
    write(&path, &outputs)?;
    println!("{} is written", path.display());
    Ok(())
}

/// Stores what was measured, and keeps what was not.
fn write(path: &Path, outputs: &[String]) -> Result<()> {
    let name = || format!("cannot use {}", path.display());
    let mut table: BudgetTable = fs::read_to_string(path)?.parse().with_context(name)?;
    for output in outputs {
        let lines = output.lines().map(str::trim_end);
        // What else a machine prints is for people.
        let lines = lines.filter_map(|line| line.strip_prefix(MARK)?.strip_prefix(' '));
        let all: Vec<_> = lines.map(row).collect::<Result<_>>()?;
        let (kernel, ..) =
            all.first().with_context(|| format!("nothing was measured:\n{output}"))?;
        for backend in BACKENDS {
            let sizes = all.iter().filter(|(_, program, _)| program.backend == backend);
            let sizes: Sizes = sizes.map(|(_, program, size)| (program.clone(), *size)).collect();
            println!("kernel {kernel}: {} programs with --backend {backend}", sizes.len());
            table.replace(*kernel, backend, sizes);
        }
    }
    fs::write(path, table.to_string()).with_context(name)
}

fn row(line: &str) -> Result<(BudgetKernel, Program, ProgramSize)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [kernel, backend, mode, name, size] = words.as_slice() else {
        bail!("{line:?} is no size of a program");
    };
    let [backend, mode, name] = [backend, mode, name].map(|word| (*word).to_owned());
    Ok((kernel.parse()?, Program { backend, mode, name }, size.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_table_round_trips() {
        let table: BudgetTable = STORED.parse().unwrap();
        assert_eq!(table.to_string(), STORED);
    }

    #[test]
    fn size_line_round_trips() {
        let (kernel, program, size) = row("6.12 syscall live sys_exit 4/5").unwrap();
        assert_eq!((kernel.to_string().as_str(), size.jited), ("6.12", 5));
        assert_eq!(program.to_string(), "sys_exit of live --backend syscall");
        assert!(row("6.12 syscall live sys_exit").is_err());
    }
}
