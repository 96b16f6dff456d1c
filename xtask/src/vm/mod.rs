//! `cargo xtask vm`: the live tests in virtual machines with other kernels than this machine's.
//!
//! | room | what is in it |
//! | --- | --- |
//! | `kernels` | which kernels, and the cache of them |
//! | `archive`, `stanza` | Debian's archive through an apt of our own |
//! | `initramfs`, `cpio` | a machine's file system, made of files of this machine |
//! | `place` | the cache, the emulator, and the queue of machines |
//! | `qemu` | starts a machine, and waits until it is off |
//! | `init` | the first program inside |
//! | `live` | what is run inside |
//! | `share` | which machine runs which tests |
//! | `results` | what was printed inside, as tests of that kernel |
//!
//! Invariant: a machine sees nothing of this one but copies of files, and this one needs no rights
//! for it; only a missing qemu must be installed.

mod archive;
mod cpio;
pub(crate) mod init;
mod initramfs;
mod kernels;
mod live;
mod place;
mod qemu;
mod results;
mod share;
mod stanza;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::bail;

use crate::{
    build::{self, Built},
    test::tally::{Run, Tally},
};
use live::{BACKENDS, Programs};
use place::LIMIT;
use results::Expected;
use share::Share;

pub(crate) use init::Job;
pub(crate) use initramfs::Initramfs;
pub(crate) use kernels::{Kernel, SUITES};
pub(crate) use place::{Place, Planned, at_a_time, run_all};
pub(crate) use qemu::{Clock, Machine, Ran};

/// Options of `cargo xtask vm`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct VmArgs {
    /// Boot this kernel image instead; may be given several times
    #[arg(long, value_name = "FILE", conflicts_with = "suite")]
    kernel: Vec<PathBuf>,
    /// Boot only the kernel of this suite of Debian; may be given several times
    #[arg(long, value_name = "SUITE", value_parser = SUITES)]
    suite: Vec<String>,
    /// Look for newer kernels in any case, and not only once a day
    #[arg(long)]
    update: bool,
    /// How many machines run at a time [default: one for each processor, and one more; eight at most]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Run all tests on every kernel with every backend
    ///
    /// Without it, what kernels differ in is tested on each of them, and of the rest each test on one, by one
    /// processor and without mitigations. With --kernel, --suite or FILTER, all tests that these choose
    /// are run, but with one backend those of what is the same for each.
    #[arg(long)]
    all: bool,
    /// How many seconds a machine may run
    #[arg(long, value_name = "SECONDS", default_value_t = LIMIT)]
    limit: u64,
    /// More words for the kernels' command lines, as `preempt=full`
    #[arg(long, value_name = "WORDS")]
    append: Option<String>,
    /// Run only tests whose names contain this
    filter: Option<String>,
    /// Run this in the machines instead of the tests, and print what it prints
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl VmArgs {
    /// All kernels, and the tests whose names contain this.
    pub(crate) fn filtered(filter: Option<String>) -> Self {
        Self {
            kernel: vec![],
            suite: vec![],
            update: false,
            jobs: None,
            all: false,
            limit: LIMIT,
            append: None,
            filter,
            command: vec![],
        }
    }

    /// What the machine of that number runs.
    fn share(&self, nth: usize, of: usize) -> Share<'_> {
        let all = self.all;
        let chosen = !self.kernel.is_empty() || !self.suite.is_empty();
        match self.filter.as_deref() {
            None if !all && !chosen => Share::Dealt { nth, of },
            filter => Share::Named { part: filter.unwrap_or(""), all },
        }
    }
}

/// Runs `cargo xtask vm`.
pub(crate) fn main(args: &VmArgs) -> anyhow::Result<ExitCode> {
    let root = build::workspace_root()?;
    let built = build::everything(&root, false)?;
    let mut tally = Tally::default();
    run(args, &built, &mut tally)?;
    println!("{tally}");
    Ok(if tally.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the live tests on every kernel.
pub(crate) fn run(args: &VmArgs, built: &Built, tally: &mut Tally) -> anyhow::Result<()> {
    let host = Host::prepare(built)?;
    let programs = &host.programs;
    let mut queue = Vec::new();
    let kernels = chosen(args, &host.place.cache, tally);
    let tests = programs.list()?;
    let name = |kernel: &Kernel, what: &str| format!("vm::{}::{what}", kernel.version());
    if !args.command.is_empty() {
        queue.extend(kernels.iter().map(|kernel| Planned {
            name: name(kernel, "command"),
            machine: host.machine(kernel, "command", args),
            job: programs.command(&args.command),
            what: Shows::Output,
        }));
        return show(queue, args, tally);
    }
    // Those that take longest begin first.
    for backend in BACKENDS.into_iter().rev() {
        for (nth, kernel) in kernels.iter().enumerate().rev() {
            let share = args.share(nth, kernels.len());
            let names = share::of(&tests, backend, share)?;
            let name = name(kernel, backend);
            eprintln!("xtask: {name}: {} of {} tests", names.len(), tests.len());
            if names.is_empty() {
                continue;
            }
            let machine = host.machine(kernel, backend, args);
            let machine = match share {
                Share::Dealt { .. } => quick(machine),
                Share::Named { .. } => machine,
            };
            queue.push(Planned {
                name,
                machine,
                job: programs.tests(backend, &names),
                what: Shows::Tests(live::limits(&kernel.release, backend)),
            });
        }
    }
    show(queue, args, tally)
}

/// A machine that wastes no time: one processor need not wait for another, and one that is emulated has none of
/// the defects that kernels mitigate.
fn quick(machine: Machine) -> Machine {
    let append = format!("mitigations=off {}", machine.append);
    Machine { processors: 1, append, ..machine }
}

/// Runs machines, and shows what each printed as it goes off.
fn show(queue: Vec<Planned<Shows>>, args: &VmArgs, tally: &mut Tally) -> anyhow::Result<()> {
    run_all(queue, args.jobs.unwrap_or_else(at_a_time), |planned, ran| {
        let text = match &planned.what {
            Shows::Tests(limits) => results::of_tests(&planned.name, &ran, limits),
            Shows::Output => results::of_command(&planned.name, &ran),
        };
        print!("{text}");
        let mut run = Run::new("vm");
        run.read(text.as_bytes());
        tally.add(run, !text.contains("\ntest result: FAILED"));
        Ok(())
    })
}

/// What a command prints on the kernels of these suites, or of all.
///
/// # Errors
///
/// When a kernel can't be had, or the command does not succeed there.
pub(crate) fn outputs(
    suites: &[String],
    built: &Built,
    command: &[String],
) -> anyhow::Result<Vec<String>> {
    let args = VmArgs { suite: suites.to_owned(), ..VmArgs::filtered(None) };
    let host = Host::prepare(built)?;
    let mut tally = Tally::default();
    let kernels = chosen(&args, &host.place.cache, &mut tally);
    if tally.failed() > 0 {
        bail!("a kernel can't be had; the messages above say why");
    }
    let output = |kernel: &Kernel| {
        eprintln!("xtask: vm::{}: booting", kernel.version());
        let ran = host.machine(kernel, "output", &args).run(&host.programs.command(command))?;
        match ran.end {
            Some(init::End::Exited(0)) => Ok(ran.output),
            _ => bail!("{}", results::of_command(&format!("vm::{}", kernel.version()), &ran)),
        }
    };
    kernels.iter().map(output).collect()
}

/// What machines that run the live tests are made of, on this one.
struct Host {
    place: Place,
    programs: Programs,
    files: Initramfs,
}

impl Host {
    fn prepare(built: &Built) -> anyhow::Result<Self> {
        let place = Place::take(built)?;
        let programs = Programs::build(built)?;
        let files = programs.files(&place.busybox()?)?;
        Ok(Self { place, programs, files })
    }

    fn machine(&self, kernel: &Kernel, what: &str, args: &VmArgs) -> Machine {
        Machine {
            append: args.append.clone().unwrap_or_default(),
            limit: Duration::from_secs(args.limit),
            ..self.place.machine(kernel, self.files.clone(), what)
        }
    }
}

/// The kernels to boot. One that can't be had is a failed test.
fn chosen(args: &VmArgs, cache: &Path, tally: &mut Tally) -> Vec<Kernel> {
    let mut all = Vec::new();
    let mut add = |name: &str, kernel: anyhow::Result<Kernel>| match kernel {
        Ok(kernel) => all.push(kernel),
        Err(error) => {
            println!("test vm::{name} ... FAILED\n{error:#}");
            tally.fail(&format!("vm::{name}"));
        }
    };
    for image in &args.kernel {
        add(&image.display().to_string(), Kernel::open(image));
    }
    if args.kernel.is_empty() {
        for suite in SUITES {
            if args.suite.is_empty() || args.suite.iter().any(|wanted| wanted == suite) {
                add(suite, kernels::of_suite(suite, cache, args.update));
            }
        }
    }
    all
}

/// What the output of a job is.
#[derive(Debug)]
enum Shows {
    /// That of tests, of which these are expected to fail
    Tests(Vec<Expected>),
    /// Something to be shown as it is; the job's exit status is its only result
    Output,
}
