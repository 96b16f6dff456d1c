//! `cargo xtask vm`: the live tests in virtual machines with other kernels than this machine's.
//!
//! | module | contents |
//! | --- | --- |
//! | `platforms` | what machines boot: which kernels, and how these preempt themselves |
//! | `kernels` | Debian's kernels, and the cache of them |
//! | `archive`, `deb822` | Debian's archive through a private apt |
//! | `initramfs`, `cpio` | a machine's file system, made of files of this machine |
//! | `cache` | the cache, the emulator, and the queue of machines |
//! | `qemu` | starts a machine, and waits until it is off |
//! | `init` | the first program inside |
//! | `live` | what is run inside |
//! | `test_matrix` | which machine runs which tests |
//! | `results` | prints what was printed inside, as tests of that kernel |
//!
//! Invariant: a machine sees only copies of this one's files, and needs no privileges here; only a
//! missing qemu must be installed.

mod archive;
mod cache;
mod cpio;
mod deb822;
pub(crate) mod init;
mod initramfs;
mod kernels;
mod live;
mod platforms;
mod qemu;
mod results;
mod test_matrix;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};

use crate::{
    build::{self, Built},
    tally::{Tally, TestRun},
};
use cache::LIMIT_SECONDS;
use live::MachinePrograms;
use platforms::PLATFORMS;
use results::KnownFailure;
use test_matrix::{BACKENDS, Selection};

pub(crate) use cache::{Planned, VmCache, default_jobs, run_all};
pub(crate) use init::Job;
pub(crate) use initramfs::Initramfs;
pub(crate) use kernels::BootKernel;
pub(crate) use platforms::{Preemption, SUITES};
pub(crate) use qemu::{MachineClock, QemuMachine, Ran};

/// Options of `cargo xtask vm`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct VmArgs {
    /// Boot this kernel image instead; may be given several times
    #[arg(long, value_name = "FILE", conflicts_with = "platform")]
    kernel: Vec<PathBuf>,
    /// Boot only this one: the kernel of a suite of Debian, as it is, with preempt=full, or its real-time
    /// kernel; may be given several times
    #[arg(long, value_name = "NAME", value_parser = platforms::names())]
    platform: Vec<String>,
    /// Always check for newer kernels, not only once a day
    #[arg(long)]
    update: bool,
    /// How many machines run at a time [default: one for each processor, and one more; eight at most]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Run all tests on every kernel with every backend
    ///
    /// Without it, tests of what differs between kernels run on each of them, and each other test runs on one of
    /// them, with one processor and without mitigations. Kernels that preempt programs run only the tests that
    /// preemption might break. With --kernel, --platform or FILTER, all selected tests run; those that do not
    /// depend on the backend run with one backend.
    #[arg(long)]
    all: bool,
    /// How many seconds a machine may run
    #[arg(long, value_name = "SECONDS", default_value_t = LIMIT_SECONDS)]
    limit: u64,
    /// More words for the kernels' command lines, as `nokaslr`
    #[arg(long, value_name = "WORDS")]
    append: Option<String>,
    /// Run only tests whose names contain this
    filter: Option<String>,
    /// Run this in the machines instead of the tests, and print what it prints
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl VmArgs {
    /// What machines run as a part of `cargo xtask test`.
    pub(crate) fn new(all: bool) -> Self {
        Self {
            kernel: vec![],
            platform: vec![],
            update: false,
            jobs: None,
            all,
            limit: LIMIT_SECONDS,
            append: None,
            filter: None,
            command: vec![],
        }
    }

    /// The selection by name. `None`: no such option was given.
    fn named(&self) -> Option<Selection<'_>> {
        let chosen = !self.kernel.is_empty() || !self.platform.is_empty();
        let part = self.filter.as_deref();
        (self.all || chosen || part.is_some())
            .then(|| Selection::Named { part: part.unwrap_or(""), all: self.all })
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
    let host = VmHost::prepare(built)?;
    let programs = &host.programs;
    let targets = targets(args, &host.cache.folder, tally);
    if !args.command.is_empty() {
        let queue = targets.iter().map(|target| Planned {
            name: format!("vm::{}::command", target.name()),
            machine: host.machine(target, "command", args),
            job: target.job(programs.command(&args.command)),
            what: JobOutput::Raw,
        });
        return show(queue.collect(), args, tally);
    }
    let tests = programs.list()?;
    let mut queue = Vec::new();
    // The slowest start first.
    for backend in BACKENDS.into_iter().rev() {
        for (nth, target) in targets.iter().enumerate().rev() {
            let selection = args.named().unwrap_or_else(|| target.share(nth, &targets));
            let names = test_matrix::select(&tests, backend, target.preemption, selection)?;
            if names.is_empty() {
                continue;
            }
            let name = format!("vm::{}::{backend}", target.name());
            eprintln!("xtask: {name}: {} of {} tests", names.len(), tests.len());
            let machine = host.machine(target, backend, args);
            let machine = match selection {
                // One processor need not wait for another.
                Selection::Share { .. } => QemuMachine { processors: 1, ..quick(machine) },
                Selection::Smoke => quick(machine),
                Selection::Named { .. } => machine,
            };
            queue.push(Planned {
                name,
                machine,
                job: target.job(programs.tests(backend, &names)),
                what: JobOutput::Tests(live::limits(&target.kernel.release, backend)),
            });
        }
    }
    show(queue, args, tally)
}

/// An emulated machine has none of the defects that kernels mitigate.
fn quick(machine: QemuMachine) -> QemuMachine {
    let append = format!("mitigations=off {}", machine.append);
    QemuMachine { append, ..machine }
}

/// Runs machines, and shows what each printed as it goes off.
fn show(queue: Vec<Planned<JobOutput>>, args: &VmArgs, tally: &mut Tally) -> anyhow::Result<()> {
    run_all(queue, args.jobs.unwrap_or_else(default_jobs), |planned, ran| {
        let text = match &planned.what {
            JobOutput::Tests(limits) => results::of_tests(&planned.name, &ran, limits),
            JobOutput::Raw => results::of_command(&planned.name, &ran),
        };
        print!("{text}");
        let mut run = TestRun::new("vm");
        run.read(text.as_bytes());
        tally.add(run, !text.contains("\ntest result: FAILED"));
        Ok(())
    })
}

/// What a command prints on the kernels of these suites, or of all, as Debian has built them. `programs`: those of this
/// host that the machines have, too.
///
/// # Errors
///
/// When a kernel is not available, a program has no name, or the command fails there.
pub(crate) fn outputs(
    suites: &[String],
    built: &Built,
    programs: &[PathBuf],
    command: &[String],
) -> anyhow::Result<Vec<String>> {
    let suites =
        if suites.is_empty() { SUITES.map(str::to_owned).to_vec() } else { suites.to_owned() };
    let args = VmArgs { platform: suites, ..VmArgs::new(false) };
    let mut host = VmHost::prepare(built)?;
    for program in programs {
        let name =
            program.file_name().and_then(|name| name.to_str()).context("a program's name")?;
        host.files.program(program)?;
        host.files.command(name, program)?;
    }
    let mut tally = Tally::default();
    let targets = targets(&args, &host.cache.folder, &mut tally);
    if tally.failed() > 0 {
        bail!("a kernel is not available; the messages above say why");
    }
    let output = |target: &BootTarget| {
        let name = format!("vm::{}", target.name());
        eprintln!("xtask: {name}: booting");
        let job = target.job(host.programs.command(command));
        let ran = host.machine(target, "output", &args).run(&job)?;
        match ran.end {
            Some(init::JobEnd::Exited(0)) => Ok(ran.output),
            _ => bail!("{}", results::of_command(&name, &ran)),
        }
    };
    targets.iter().map(output).collect()
}

/// What machines need from this one to run the live tests.
struct VmHost {
    cache: VmCache,
    programs: MachinePrograms,
    files: Initramfs,
}

impl VmHost {
    fn prepare(built: &Built) -> anyhow::Result<Self> {
        let cache = VmCache::take(built)?;
        let programs = MachinePrograms::build(built)?;
        let files = programs.files(&cache.busybox()?)?;
        Ok(Self { cache, programs, files })
    }

    fn machine(&self, target: &BootTarget, what: &str, args: &VmArgs) -> QemuMachine {
        let what = format!("{what}{}", target.preemption.suffix());
        let words = [target.preemption.append(), args.append.as_deref().unwrap_or_default()];
        QemuMachine {
            append: words.join(" "),
            limit: Duration::from_secs(args.limit),
            ..self.cache.machine(&target.kernel, self.files.clone(), &what)
        }
    }
}

/// A kernel to boot, and how it is to preempt itself.
#[derive(Debug)]
struct BootTarget {
    kernel: BootKernel,
    preemption: Preemption,
}

impl BootTarget {
    fn name(&self) -> String {
        format!("{}{}", self.kernel.version(), self.preemption.suffix())
    }

    fn job(&self, job: Job) -> Job {
        Job { preemption: self.preemption, ..job }
    }

    /// What it runs by default, as the `nth` of all.
    fn share(&self, nth: usize, all: &[Self]) -> Selection<'static> {
        let is_default = |target: &&Self| target.preemption == Preemption::Default;
        match self.preemption {
            Preemption::Default => Selection::Share {
                nth: all.iter().take(nth).filter(is_default).count(),
                of: all.iter().filter(is_default).count(),
            },
            Preemption::Full | Preemption::RealTime => Selection::Smoke,
        }
    }
}

/// What to boot. A kernel that is not available is a failed test.
fn targets(args: &VmArgs, cache: &Path, tally: &mut Tally) -> Vec<BootTarget> {
    let mut all = Vec::new();
    let mut add = |name: &str, preemption, kernel: anyhow::Result<BootKernel>| match kernel {
        Ok(kernel) => all.push(BootTarget { kernel, preemption }),
        Err(error) => {
            println!("test vm::{name} ... FAILED\n{error:#}");
            tally.fail(&format!("vm::{name}"));
        }
    };
    for image in &args.kernel {
        add(&image.display().to_string(), Preemption::Default, BootKernel::open(image));
    }
    if args.kernel.is_empty() {
        for platform in PLATFORMS {
            if args.platform.is_empty() || args.platform.iter().any(|name| name == platform.name) {
                let kernel = platform.kernel(cache, args.update);
                add(platform.name, platform.preemption, kernel);
            }
        }
    }
    all
}

/// The kind of a job's output.
#[derive(Debug)]
enum JobOutput {
    /// Of tests, of which these are expected to fail
    Tests(Vec<KnownFailure>),
    /// Printed unchanged; the job's exit status is its only result
    Raw,
}
