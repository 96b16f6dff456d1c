//! What machines boot: a kernel of Debian's, and the words of its command line.
//!
//! Invariant: a machine does its job only where the kernel preempts itself as the platform says.

use std::{fs, path::Path};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use super::kernels::{self, BootKernel, KernelFlavour};

/// How a kernel preempts itself.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Preemption {
    /// As Debian has built it
    Default,
    /// Everywhere but in critical sections, as it does by default on other distributions
    Full,
    /// Almost everywhere: PREEMPT_RT
    RealTime,
}

/// A kernel, and the words of its command line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Platform {
    /// Its name
    pub(super) name: &'static str,
    /// The suite of Debian that has the kernel
    suite: &'static str,
    /// Which of the suite's kernels, and how it must preempt itself
    pub(super) preemption: Preemption,
}

/// The suites of Debian, by their kernels' versions: 5.10, 6.1, 6.12, and the newest one that there is.
pub(crate) const SUITES: [&str; 4] = [BULLSEYE, BOOKWORM, TRIXIE, BACKPORTS];
const BULLSEYE: &str = "bullseye";
const BOOKWORM: &str = "bookworm";
const TRIXIE: &str = "trixie";
const BACKPORTS: &str = "trixie-backports";

const fn platform(name: &'static str, suite: &'static str, preemption: Preemption) -> Platform {
    Platform { name, suite, preemption }
}

/// All of them: first each suite's kernel as Debian has built it, named as the suite.
pub(super) const PLATFORMS: [Platform; 9] = [
    platform(BULLSEYE, BULLSEYE, Preemption::Default),
    platform(BOOKWORM, BOOKWORM, Preemption::Default),
    platform(TRIXIE, TRIXIE, Preemption::Default),
    platform(BACKPORTS, BACKPORTS, Preemption::Default),
    platform("bookworm-full", BOOKWORM, Preemption::Full),
    platform("trixie-full", TRIXIE, Preemption::Full),
    platform("trixie-backports-full", BACKPORTS, Preemption::Full),
    platform("bookworm-rt", BOOKWORM, Preemption::RealTime),
    platform("trixie-rt", TRIXIE, Preemption::RealTime),
];

/// Their names.
pub(super) fn names() -> [&'static str; PLATFORMS.len()] {
    PLATFORMS.map(|platform| platform.name)
}

impl Platform {
    /// Its kernel, from the cache while that was filled not long ago.
    pub(super) fn kernel(&self, cache: &Path, refresh: bool) -> anyhow::Result<BootKernel> {
        let flavour = match self.preemption {
            Preemption::Default | Preemption::Full => KernelFlavour::Cloud,
            Preemption::RealTime => KernelFlavour::RealTime,
        };
        kernels::of_suite(self.suite, flavour, cache, refresh)
    }
}

impl Preemption {
    /// Words for the kernel's command line.
    pub(super) fn append(self) -> &'static str {
        match self {
            Self::Default => "",
            Self::Full => "preempt=full",
            // Interrupts have threads: so many of the serial port's find nothing to do that 6.1 gives up on them
            // (note_interrupt, kernel/irq/spurious.c), and the rest of the output never comes.
            Self::RealTime => "noirqdebug",
        }
    }

    /// What it adds to the kernel's version in names.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Default => "",
            Self::Full => "-full",
            Self::RealTime => "-rt",
        }
    }

    /// Whether the running kernel preempts itself so.
    ///
    /// # Errors
    ///
    /// It does not, or does not say.
    pub(super) fn verify(self) -> anyhow::Result<()> {
        let (file, mark) = match self {
            Self::Default => return Ok(()),
            // sched_dynamic_show, kernel/sched/debug.c, v5.13: the one in force is in parentheses.
            Self::Full => ("/sys/kernel/debug/sched/preempt", "(full)"),
            Self::RealTime => ("/proc/version", " PREEMPT_RT "),
        };
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
        ensure!(text.contains(mark), "{file} does not contain {mark:?}: {}", text.trim());
        Ok(())
    }
}
