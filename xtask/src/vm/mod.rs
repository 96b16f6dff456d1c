//! `cargo xtask vm`: the live tests in virtual machines with other kernels than this machine's.
//!
//! | room | what is in it |
//! | --- | --- |
//! | `platforms` | what machines boot: which kernels, and how these preempt themselves |
//! | `kernels` | Debian's kernels, and the cache of them |
//! | `archive`, `stanza` | Debian's archive through an apt of our own |
//! | `initramfs`, `cpio` | a machine's file system, made of files of this machine |
//! | `place` | the cache, the emulator, and the queue of machines |
//! | `qemu` | starts a machine, and waits until it is off |
//! | `init` | the first program inside |
//! | `live` | what is run inside |
//! | `test_matrix` | which machine runs which tests |
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
mod platforms;
mod qemu;
mod results;
mod stanza;
mod test_matrix;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::bail;

use crate::{
    build::{self, Built},
    tally::{Tally, TestRun},
};
use live::MachinePrograms;
use place::LIMIT;
use platforms::PLATFORMS;
use results::KnownFailure;
use test_matrix::{BACKENDS, Selection};

pub(crate) use init::Job;
pub(crate) use initramfs::Initramfs;
pub(crate) use kernels::BootKernel;
pub(crate) use place::{Planned, VmCache, at_a_time, run_all};
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
    /// Look for newer kernels in any case, and not only once a day
    #[arg(long)]
    update: bool,
    /// How many machines run at a time [default: one for each processor, and one more; eight at most]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Run all tests on every kernel with every backend
    ///
    /// Without it, what kernels differ in is tested on each of them, and of the rest each test on one, by one
    /// processor and without mitigations; on those that preempt programs, what that might break. With --kernel,
    /// --platform or FILTER, all tests that these choose are run, but with one backend those of what is the same
    /// for each.
    #[arg(long)]
    all: bool,
    /// How many seconds a machine may run
    #[arg(long, value_name = "SECONDS", default_value_t = LIMIT)]
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
            limit: LIMIT,
            append: None,
            filter: None,
            command: vec![],
        }
    }

    /// What is asked for by name. `None`: nothing in particular.
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
    let targets = targets(args, &host.place.cache, tally);
    if !args.command.is_empty() {
        let queue = targets.iter().map(|target| Planned {
            name: format!("vm::{}::command", target.name()),
            machine: host.machine(target, "command", args),
            job: target.job(programs.command(&args.command)),
            what: Shows::Output,
        });
        return show(queue.collect(), args, tally);
    }
    let tests = programs.list()?;
    let mut queue = Vec::new();
    // Those that take longest begin first.
    for backend in BACKENDS.into_iter().rev() {
        for (nth, target) in targets.iter().enumerate().rev() {
            let selection = args.named().unwrap_or_else(|| target.dealt(nth, &targets));
            let names = test_matrix::select(&tests, backend, target.preemption, selection)?;
            if names.is_empty() {
                continue;
            }
            let name = format!("vm::{}::{backend}", target.name());
            eprintln!("xtask: {name}: {} of {} tests", names.len(), tests.len());
            let machine = host.machine(target, backend, args);
            let machine = match selection {
                // One processor need not wait for another.
                Selection::Dealt { .. } => QemuMachine { processors: 1, ..quick(machine) },
                Selection::Smoke => quick(machine),
                Selection::Named { .. } => machine,
            };
            queue.push(Planned {
                name,
                machine,
                job: target.job(programs.tests(backend, &names)),
                what: Shows::Tests(live::limits(&target.kernel.release, backend)),
            });
        }
    }
    show(queue, args, tally)
}

/// A machine that is emulated has none of the defects that kernels mitigate.
fn quick(machine: QemuMachine) -> QemuMachine {
    let append = format!("mitigations=off {}", machine.append);
    QemuMachine { append, ..machine }
}

/// Runs machines, and shows what each printed as it goes off.
fn show(queue: Vec<Planned<Shows>>, args: &VmArgs, tally: &mut Tally) -> anyhow::Result<()> {
    run_all(queue, args.jobs.unwrap_or_else(at_a_time), |planned, ran| {
        let text = match &planned.what {
            Shows::Tests(limits) => results::of_tests(&planned.name, &ran, limits),
            Shows::Output => results::of_command(&planned.name, &ran),
        };
        print!("{text}");
        let mut run = TestRun::new("vm");
        run.read(text.as_bytes());
        tally.add(run, !text.contains("\ntest result: FAILED"));
        Ok(())
    })
}

/// What a command prints on the kernels of these suites, or of all, as Debian has built them.
///
/// # Errors
///
/// When a kernel can't be had, or the command does not succeed there.
pub(crate) fn outputs(
    suites: &[String],
    built: &Built,
    command: &[String],
) -> anyhow::Result<Vec<String>> {
    let suites =
        if suites.is_empty() { SUITES.map(str::to_owned).to_vec() } else { suites.to_owned() };
    let args = VmArgs { platform: suites, ..VmArgs::new(false) };
    let host = VmHost::prepare(built)?;
    let mut tally = Tally::default();
    let targets = targets(&args, &host.place.cache, &mut tally);
    if tally.failed() > 0 {
        bail!("a kernel can't be had; the messages above say why");
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

/// What machines that run the live tests are made of, on this one.
struct VmHost {
    place: VmCache,
    programs: MachinePrograms,
    files: Initramfs,
}

impl VmHost {
    fn prepare(built: &Built) -> anyhow::Result<Self> {
        let place = VmCache::take(built)?;
        let programs = MachinePrograms::build(built)?;
        let files = programs.files(&place.busybox()?)?;
        Ok(Self { place, programs, files })
    }

    fn machine(&self, target: &BootTarget, what: &str, args: &VmArgs) -> QemuMachine {
        let what = format!("{what}{}", target.preemption.suffix());
        let words = [target.preemption.append(), args.append.as_deref().unwrap_or_default()];
        QemuMachine {
            append: words.join(" "),
            limit: Duration::from_secs(args.limit),
            ..self.place.machine(&target.kernel, self.files.clone(), &what)
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

    /// What it runs when nothing in particular is asked for, as the `nth` of all.
    fn dealt(&self, nth: usize, all: &[Self]) -> Selection<'static> {
        let shares = |target: &&Self| target.preemption == Preemption::Default;
        match self.preemption {
            Preemption::Default => Selection::Dealt {
                nth: all.iter().take(nth).filter(shares).count(),
                of: all.iter().filter(shares).count(),
            },
            Preemption::Full | Preemption::RealTime => Selection::Smoke,
        }
    }
}

/// What to boot. A kernel that can't be had is a failed test.
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

/// What the output of a job is.
#[derive(Debug)]
enum Shows {
    /// That of tests, of which these are expected to fail
    Tests(Vec<KnownFailure>),
    /// Something to be shown as it is; the job's exit status is its only result
    Output,
}
