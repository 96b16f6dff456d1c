//! The cache of kernels, the emulator, and a queue of machines.
//!
//! Invariant: one process at a time uses the cache.

use std::{
    env, fs,
    fs::File,
    path::PathBuf,
    sync::{Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use super::{
    init::Job,
    initramfs::Initramfs,
    kernels::{self, BUSYBOX_SUITE, BootKernel, KernelFlavour},
    qemu::{MachineClock, QEMU, QemuMachine, Ran},
};
use crate::{apt, build::Built};

/// How many seconds a machine may run: emulated processors are many times slower than real ones, and
/// others may be busy here.
pub(super) const LIMIT_SECONDS: u64 = 1800;
const MEBIBYTES: u32 = 1024;
const PROCESSORS: u32 = 2;

/// The cache and the emulator.
#[derive(Debug)]
pub(crate) struct VmCache {
    pub(super) folder: PathBuf,
    qemu: PathBuf,
    /// Held as long as this lives
    _lock: File,
}

impl VmCache {
    /// Creates the cache, and waits until no other process uses it.
    ///
    /// # Errors
    ///
    /// This machine has another architecture, or no emulator is available.
    pub(crate) fn take(built: &Built) -> anyhow::Result<Self> {
        if env::consts::ARCH != "x86_64" {
            bail!(
                "the machines are x86_64: this machine must be x86_64, too, to build programs for them"
            );
        }
        let folder = built.target().join("vm");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let lock = File::create(folder.join("lock")).context("cannot make the cache's lock")?;
        lock.lock().context("cannot lock the cache")?;
        Ok(Self { folder, qemu: apt::program(QEMU.0, QEMU.1)?, _lock: lock })
    }

    /// The newest kernel of a suite.
    pub(crate) fn kernel(&self, suite: &str) -> anyhow::Result<BootKernel> {
        kernels::of_suite(suite, KernelFlavour::Cloud, &self.folder, false)
    }

    /// The busybox of all machines.
    pub(crate) fn busybox(&self) -> anyhow::Result<PathBuf> {
        kernels::busybox(BUSYBOX_SUITE, &self.folder)
    }

    /// A machine with two processors and this machine's clock. `what` it does names its folder.
    pub(crate) fn machine(&self, kernel: &BootKernel, files: Initramfs, what: &str) -> QemuMachine {
        QemuMachine {
            qemu: self.qemu.clone(),
            kernel: kernel.image.clone(),
            files,
            processors: PROCESSORS,
            mebibytes: MEBIBYTES,
            clock: MachineClock::Host,
            append: String::new(),
            limit: Duration::from_secs(LIMIT_SECONDS),
            folder: self.folder.join("runs").join(format!("{}-{what}", kernel.release)),
        }
    }
}

/// One machine for each processor, and one more for when another waits, as it does while programs are detached from
/// functions; eight at most. More machines slow each other down by more than the waiting.
pub(crate) fn default_jobs() -> usize {
    thread::available_parallelism().map_or(1, |processors| (processors.get() + 1).min(8))
}

/// A machine that waits for its turn.
#[derive(Debug)]
pub(crate) struct Planned<T> {
    pub(crate) name: String,
    pub(crate) machine: QemuMachine,
    pub(crate) job: Job,
    /// The kind of its output
    pub(crate) what: T,
}

/// Runs machines, some at a time, and passes each one that is off to `done`.
///
/// # Errors
///
/// A machine can't be started, or `done` fails.
pub(crate) fn run_all<T: Send>(
    queue: Vec<Planned<T>>,
    jobs: usize,
    mut done: impl FnMut(Planned<T>, Ran) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let begin = Instant::now();
    let queue = Mutex::new(queue.into_iter());
    let next = || queue.lock().ok().and_then(|mut queue| queue.next());
    let (off, results) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let (off, next) = (off.clone(), &next);
            scope.spawn(move || {
                while let Some(planned) = next() {
                    // In one piece, as others print at the same time.
                    let message = format!("xtask: {}: booting\n", planned.name);
                    eprint!("{message}");
                    let ran = planned.machine.run(&planned.job);
                    // The receiver is there until all senders are gone.
                    let _ = off.send((planned, ran));
                }
            });
        }
        drop(off);
        for (planned, ran) in results {
            let ran = ran.with_context(|| planned.name.clone())?;
            done(planned, ran)?;
        }
        anyhow::Ok(())
    })?;
    eprintln!("xtask: the machines took {:.0} s", begin.elapsed().as_secs_f64());
    Ok(())
}
