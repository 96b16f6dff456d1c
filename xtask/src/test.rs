//! `cargo xtask test`: builds, checks the style, and runs all tests.
//!
//! Invariant: the last line of standard output is `N passed, N failed, N skipped` over all that
//! has run, and a step which did not succeed never leaves it at `0 failed`.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;

use crate::{
    build::{self, Built},
    fuzz, programs, soak,
    tally::{self, Tally},
    tools, vm,
};

/// For how long a busy host is traced.
const BUSY: Duration = Duration::from_secs(300);

/// For how many seconds each fuzz target runs.
const FUZZ_SECONDS: u64 = 3;

/// A folder in which files are modules by a macro.
const BY_MACROS: &str = "ipc-trace/src/engine/detect";

/// Options of `cargo xtask test`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TestArgs {
    /// Run only the tests which trace the running kernel
    #[arg(long, conflicts_with = "no_live")]
    live_only: bool,
    /// Leave out the tests which trace the running kernel
    #[arg(long)]
    no_live: bool,
    /// Leave out the tests which trace other kernels
    #[arg(long)]
    no_vm: bool,
    /// Run all tests on all kernels with all backends, and trace a busy host for five minutes: hours, on two
    /// processors
    #[arg(long, conflicts_with_all = ["no_vm", "no_live", "live_only", "filter"])]
    all: bool,
    /// Run only tests whose names contain this, on this kernel, and no checks of the style; `cargo xtask vm`
    /// runs them on others
    filter: Option<String>,
}

impl TestArgs {
    fn machines(&self) -> bool {
        !self.live_only && !self.no_live && !self.no_vm && self.filter.is_none()
    }
}

/// Runs `cargo xtask test`.
pub(crate) fn main(args: &TestArgs) -> anyhow::Result<ExitCode> {
    let root = build::workspace_root()?;
    let mut tally = Tally::default();
    heading("build");
    let begin = Instant::now();
    match build::everything(&root, false) {
        Ok(built) => {
            println!("    {:.1} s", begin.elapsed().as_secs_f64());
            let needed = [
                (!args.live_only).then(programs::ensure_git_and_python),
                (!args.no_live).then(programs::ensure),
            ];
            for error in needed.into_iter().flatten().filter_map(Result::err) {
                eprintln!("error: {error:#}");
                tally.fail("programs");
            }
            for step in steps(args, &built)? {
                step.run(&mut tally)?;
            }
            if !args.live_only && args.filter.is_none() {
                in_fuzz_targets(&root, &mut tally);
            }
            if args.all {
                by_tools(&built, &mut tally);
                on_a_busy_host(&built, &mut tally);
            }
            if args.machines() {
                in_machines(args, &built, &mut tally);
            }
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            tally.fail("build");
        }
    }
    if !tally.failures().is_empty() {
        heading("failures");
        for failure in tally.failures() {
            println!("    {failure}");
        }
    }
    println!("{tally}");
    Ok(if tally.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn in_machines(args: &TestArgs, built: &Built, tally: &mut Tally) {
    heading("vm");
    let begin = Instant::now();
    let machines = vm::VmArgs::new(args.all);
    if let Err(error) = vm::run(&machines, built, tally) {
        eprintln!("error: {error:#}");
        tally.fail("vm");
    }
    println!("    {:.1} s", begin.elapsed().as_secs_f64());
}

fn in_fuzz_targets(root: &Path, tally: &mut Tally) {
    heading("fuzz");
    let begin = Instant::now();
    if let Err(error) = fuzz::run_all(root, FUZZ_SECONDS, tally) {
        eprintln!("error: {error:#}");
        tally.fail("fuzz");
    }
    println!("    {:.1} s", begin.elapsed().as_secs_f64());
}

fn by_tools(built: &Built, tally: &mut Tally) {
    for (name, check) in tools::CHECKS {
        heading(name);
        let begin = Instant::now();
        match check(built) {
            Ok(true) => tally.pass(),
            Ok(false) => tally.fail(name),
            Err(error) => {
                eprintln!("error: {error:#}");
                tally.fail(name);
            }
        }
        println!("    {:.1} s", begin.elapsed().as_secs_f64());
    }
}

fn on_a_busy_host(built: &Built, tally: &mut Tally) {
    heading("soak");
    match soak::run(built.program(), BUSY, "auto") {
        Ok(true) => tally.pass(),
        Ok(false) => tally.fail("soak"),
        Err(error) => {
            eprintln!("error: {error:#}");
            tally.fail("soak");
        }
    }
}

fn heading(text: &str) {
    println!("==> {text}");
}

/// A part of `cargo xtask test`.
#[derive(Debug)]
struct TestStep {
    name: &'static str,
    kind: StepKind,
    commands: Vec<Command>,
}

#[derive(Clone, Copy, Debug)]
enum StepKind {
    /// Counts as one test.
    Check {
        /// What rustup calls that which this check needs, and the cargo command which it is.
        needs: Option<(&'static str, &'static str)>,
    },
    /// Its output says how many tests it ran.
    Tests,
}

fn steps(args: &TestArgs, built: &Built) -> anyhow::Result<Vec<TestStep>> {
    let cargo = |words: &[&str]| {
        let mut command = built.cargo();
        command.args(words).env("IPC_TRACE_BIN", built.program()).env_remove("RUSTDOCFLAGS");
        command
    };
    let check =
        |name, needs, commands| TestStep { name, kind: StepKind::Check { needs }, commands };
    let mut steps = Vec::new();
    if !args.live_only && args.filter.is_none() {
        let mut fmt = cargo(&["fmt", "--all", "--check", "--"]);
        fmt.args(by_macros(built.root()));
        fmt.args(fuzz::sources(built.root())?);
        let mut clippy = cargo(&["clippy"]);
        clippy.args(build::TESTED_CRATES).args(["--all-targets", "--", "-D", "warnings"]);
        // `--all-targets` leaves them out, being no part of a plain `cargo test`.
        let mut clippy_more = cargo(&["clippy"]);
        clippy_more.args(build::TESTED_CRATES);
        clippy_more.args(["--test", "live", "--test", "extend", "--test", "engines"]);
        clippy_more.args(["--", "-D", "warnings"]);
        let mut clippy_lean = cargo(&["clippy"]);
        clippy_lean.args(build::LEAN_CRATES).args(["--all-targets", "--", "-D", "warnings"]);
        let mut doc = cargo(&["doc", "--no-deps", "--document-private-items"]);
        doc.args(build::TESTED_CRATES).env("RUSTDOCFLAGS", "-D warnings");
        steps.push(check("fmt", Some(("rustfmt", "fmt")), vec![fmt]));
        let clippy = vec![clippy, clippy_more, clippy_lean];
        steps.push(check("clippy", Some(("clippy", "clippy")), clippy));
        steps.push(check("rustdoc", None, vec![doc]));
    }
    let filter = args.filter.as_slice();
    if !args.live_only {
        let mut tests = cargo(&["test", "--no-fail-fast"]);
        tests.args(build::TESTED_CRATES).args(filter);
        steps.push(TestStep { name: "tests", kind: StepKind::Tests, commands: vec![tests] });
        let mut extend = cargo(&["test"]);
        extend.args(build::TESTED_CRATES).args(["--test", "extend", "--"]).args(filter);
        steps.push(TestStep { name: "extensions", kind: StepKind::Tests, commands: vec![extend] });
        let mut engines = cargo(&["test"]);
        engines.args(build::TESTED_CRATES).args(["--test", "engines", "--"]).args(filter);
        steps.push(TestStep { name: "engines", kind: StepKind::Tests, commands: vec![engines] });
    }
    if !args.no_live {
        let mut live = cargo(&["test"]);
        live.args(build::TESTED_CRATES).args(["--test", "live", "--", "--test-threads=1"]);
        live.args(filter);
        steps.push(TestStep { name: "live tests", kind: StepKind::Tests, commands: vec![live] });
    }
    Ok(steps)
}

/// The files that are modules by a macro, which `cargo fmt` does not find.
fn by_macros(root: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(root.join(BY_MACROS)).into_iter().flatten().flatten();
    all.map(|entry| entry.path()).filter(|path| path.extension() == Some("rs".as_ref())).collect()
}

impl TestStep {
    fn run(self, tally: &mut Tally) -> anyhow::Result<()> {
        heading(self.name);
        let begin = Instant::now();
        match self.kind {
            StepKind::Check { needs } => {
                let mut ok = needs.is_none_or(|(component, command)| has(component, command));
                for mut command in self.commands {
                    ok = ok && status(&mut command)?;
                }
                if ok {
                    tally.pass();
                } else {
                    tally.fail(self.name);
                }
            }
            StepKind::Tests => {
                for mut command in self.commands {
                    run_tests(&mut command, self.name, tally)?;
                }
            }
        }
        println!("    {:.1} s", begin.elapsed().as_secs_f64());
        Ok(())
    }
}

/// Whether a part of the Rust toolchain is there; prints how to get it when not.
fn has(component: &str, subcommand: &str) -> bool {
    let there = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([subcommand, "--version"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !there {
        eprintln!(
            "error: {component} is not installed. Run:\n    rustup component add {component}"
        );
    }
    there
}

fn status(command: &mut Command) -> anyhow::Result<bool> {
    let status = command.status().context("cannot run cargo")?;
    Ok(status.success())
}

/// Runs `cargo test`, and forwards its output while reading it.
fn run_tests(command: &mut Command, name: &str, tally: &mut Tally) -> anyhow::Result<()> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot run cargo test")?;
    let mut output = child.stdout.take().context("cargo test has no output")?;
    let mut run = tally::TestRun::new(name);
    let mut bytes = [0; 8192];
    loop {
        let length = match output.read(&mut bytes) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("cannot read the output of cargo test"),
        };
        let part = bytes.get(..length).unwrap_or_default();
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(part)
            .and_then(|()| stdout.flush())
            .context("cannot write to standard output")?;
        run.read(part);
    }
    let status = child.wait().context("cannot wait for cargo test")?;
    tally.add(run, status.success());
    Ok(())
}
