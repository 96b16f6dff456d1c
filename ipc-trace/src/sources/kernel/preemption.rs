//! The running kernel's preemption model: whether a thread can be preempted inside a program.
//!
//! There are four sources, and no host has all of them. `/sys/kernel/realtime` exists only on real-time kernels.
//! `uname -v` reports how the kernel was built. `preempt=` on its command line decides where the build leaves a
//! choice (`PREEMPT_DYNAMIC`). `/sys/kernel/debug/sched/preempt` reports the active model, and can be written to
//! while the kernel runs (`sched_dynamic_write`, kernel/sched/debug.c, 6.12).

use std::{
    fmt, fs,
    path::Path,
    time::{Duration, Instant},
};

use super::fsmount;

/// A preemption model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum PreemptionModel {
    /// Nothing is preempted in the kernel
    None,
    /// Threads yield at certain places in the kernel, none of which is in a program
    Voluntary,
    /// Threads are preempted in the kernel, by others of their kind from the next tick on
    Lazy,
    /// Threads are preempted in the kernel
    Full,
    /// Threads are preempted nearly everywhere
    Rt,
    /// Unknown; treated as [`Self::Full`]
    #[default]
    Unknown,
}

impl PreemptionModel {
    /// Whether threads may be preempted inside programs that run with preemption on.
    #[must_use]
    pub(crate) const fn preempts(self) -> bool {
        match self {
            Self::None | Self::Voluntary => false,
            Self::Lazy | Self::Full | Self::Rt | Self::Unknown => true,
        }
    }

    /// The model with a name that `preempt=` and the file in debugfs use.
    fn named(name: &str) -> Option<Self> {
        match name {
            "none" => Some(Self::None),
            "voluntary" => Some(Self::Voluntary),
            "lazy" => Some(Self::Lazy),
            "full" => Some(Self::Full),
            _ => None,
        }
    }
}

impl fmt::Display for PreemptionModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Voluntary => "voluntary",
            Self::Lazy => "lazy",
            Self::Full => "full",
            Self::Rt => "rt",
            Self::Unknown => "unknown",
        })
    }
}

/// The contents of the sources. `None`: the file is missing, or can't be read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    /// `/sys/kernel/realtime`
    pub realtime: Option<String>,
    /// `uname -v`
    pub version: String,
    /// `/proc/cmdline`
    pub cmdline: Option<String>,
    /// `/sys/kernel/debug/sched/preempt`
    pub debugfs: Option<String>,
}

impl Sources {
    /// Reads them, below `proc` and `sys`. Reads debugfs even if it is not mounted.
    #[must_use]
    pub(crate) fn read(proc: &Path, sys: &Path, version: &str) -> Self {
        let text = |path| fs::read_to_string(path).ok();
        let debugfs = text(sys.join("kernel/debug/sched/preempt"));
        let detached = || fsmount::read_detached(c"debugfs", "sched/preempt").ok();
        Self {
            realtime: text(sys.join("kernel/realtime")),
            version: version.to_owned(),
            cmdline: text(proc.join("cmdline")),
            debugfs: debugfs.or_else(|| (sys == Path::new("/sys")).then(detached).flatten()),
        }
    }

    /// The model that follows from them.
    #[must_use]
    pub(crate) fn model(&self) -> PreemptionModel {
        let is_built_as = |flag| self.version.split_whitespace().any(|word| word == flag);
        let is_realtime = self.realtime.as_deref().is_some_and(|text| text.trim() == "1");
        if is_realtime || is_built_as("PREEMPT_RT") {
            return PreemptionModel::Rt;
        }
        if let Some(model) = self.debugfs.as_deref().and_then(in_force) {
            return model;
        }
        // The flags of init/Makefile. Without any, it is none or voluntary.
        match () {
            () if is_built_as("PREEMPT_DYNAMIC") => {
                self.cmdline.as_deref().and_then(chosen).unwrap_or_default()
            }
            () if is_built_as("PREEMPT_LAZY") => PreemptionModel::Lazy,
            () if is_built_as("PREEMPT") => PreemptionModel::Full,
            () if self.version.contains("PREEMPT") || self.version.is_empty() => {
                PreemptionModel::Unknown
            }
            () => PreemptionModel::None,
        }
    }
}

/// The model in parentheses in the list of models: `none voluntary (full)`.
fn in_force(list: &str) -> Option<PreemptionModel> {
    let (_, rest) = list.split_once('(')?;
    PreemptionModel::named(rest.split_once(')')?.0)
}

/// The last `preempt=` that the kernel accepts, which is the one that it uses. Parameters after `--` are for its
/// first program.
fn chosen(cmdline: &str) -> Option<PreemptionModel> {
    let words = cmdline.split_whitespace().take_while(|word| *word != "--");
    words.filter_map(|word| PreemptionModel::named(word.strip_prefix("preempt=")?)).last()
}

/// How often the model is read again.
const INTERVAL: Duration = Duration::from_secs(60);

/// The running kernel's model, as last read.
#[derive(Debug)]
pub(crate) struct Watch {
    model: PreemptionModel,
    version: String,
    read: Instant,
}

/// The preemption model has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PreemptionChange {
    /// The model before
    pub from: PreemptionModel,
    /// The model now
    pub to: PreemptionModel,
}

impl Watch {
    /// Reads the model. `version`: the output of `uname -v`.
    #[must_use]
    pub(crate) fn new(version: &str) -> Self {
        Self { model: read(version), version: version.to_owned(), read: Instant::now() }
    }

    /// Reads it again, if a minute has passed. Returns the change, if any.
    pub(crate) fn update(&mut self, now: Instant) -> Option<PreemptionChange> {
        if now.saturating_duration_since(self.read) < INTERVAL {
            return None;
        }
        self.read = now;
        let from = std::mem::replace(&mut self.model, read(&self.version));
        (from != self.model).then_some(PreemptionChange { from, to: self.model })
    }
}

/// The running kernel's model. `version`: the output of `uname -v`.
#[must_use]
pub(crate) fn read(version: &str) -> PreemptionModel {
    Sources::read(Path::new("/proc"), Path::new("/sys"), version).model()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `uname -v` of Debian's kernels.
    const BULLSEYE: &str = "#1 SMP Debian 5.10.223-1 (2024-08-10)";
    const BOOKWORM: &str = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-07-02)";
    const BOOKWORM_RT: &str = "#1 SMP PREEMPT_RT Debian 6.1.176-1 (2026-07-02)";
    const BACKPORTS: &str = "#1 SMP PREEMPT_DYNAMIC Debian 7.3.4-1~bpo13+1 (2026-11-15)";

    fn fixed_sources(version: &str) -> Sources {
        Sources { version: version.to_owned(), ..Sources::default() }
    }

    fn with(version: &str, cmdline: &str, debugfs: &str) -> PreemptionModel {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Sources { cmdline: some(cmdline), debugfs: some(debugfs), ..fixed_sources(version) }.model()
    }

    #[test]
    fn build_decides_without_dynamic_preemption() {
        assert_eq!(fixed_sources(BULLSEYE).model(), PreemptionModel::None);
        assert_eq!(fixed_sources(BOOKWORM_RT).model(), PreemptionModel::Rt);
        assert_eq!(
            fixed_sources("#1 SMP PREEMPT Thu Jan 1 00:00:00 UTC 1970").model(),
            PreemptionModel::Full
        );
        assert_eq!(
            fixed_sources("#1 SMP PREEMPT_LAZY Thu Jan 1 00:00:00 UTC 1970").model(),
            PreemptionModel::Lazy
        );
        // Patched real-time kernels before 5.15.
        let patched = "#1 SMP PREEMPT RT Debian 4.19.194-3 (2021-07-18)";
        let realtime = Sources { realtime: Some("1\n".to_owned()), ..fixed_sources(patched) };
        assert_eq!(realtime.model(), PreemptionModel::Rt);
        // The build leaves no choice, so the command line has no effect.
        assert_eq!(with(BULLSEYE, "quiet preempt=full", ""), PreemptionModel::None);
    }

    #[test]
    fn debugfs_overrides_command_line() {
        let line = "BOOT_IMAGE=/boot/vmlinuz-6.1.0-50-amd64 root=/dev/sda1 ro quiet";
        for (words, debugfs, model) in [
            ("preempt=full", "", PreemptionModel::Full),
            ("preempt=voluntary", "", PreemptionModel::Voluntary),
            ("preempt=full preempt=none", "", PreemptionModel::None),
            ("preempt=full preempt=never", "", PreemptionModel::Full),
            ("preempt=none -- preempt=full", "", PreemptionModel::None),
            ("preempt=full", "none (voluntary) full\n", PreemptionModel::Voluntary),
            ("", "none voluntary (full)\n", PreemptionModel::Full),
            ("", "(none) voluntary full\n", PreemptionModel::None),
        ] {
            assert_eq!(with(BOOKWORM, &format!("{line} {words}\n"), debugfs), model, "{words}");
        }
        assert_eq!(with(BACKPORTS, line, "full (lazy)\n"), PreemptionModel::Lazy);
        assert_eq!(with(BOOKWORM_RT, line, "(full) lazy\n"), PreemptionModel::Rt);
    }

    #[test]
    fn unknown_model_counts_as_full() {
        for model in [
            with(BOOKWORM, "", ""),
            with(BOOKWORM, "quiet preemptive=1", ""),
            with(BOOKWORM, "", "none voluntary full\n"),
            with("", "", ""),
            with("#1 SMP PREEMPT_NEW Debian", "", ""),
        ] {
            assert_eq!(model, PreemptionModel::Unknown);
            assert!(model.preempts());
        }
        assert!(PreemptionModel::Lazy.preempts() && !PreemptionModel::Voluntary.preempts());
    }

    #[test]
    fn model_is_read_again_after_a_minute() {
        let mut watch = Watch::new(BULLSEYE);
        watch.model = PreemptionModel::Rt;
        let begin = Instant::now();
        assert_eq!(watch.update(begin + INTERVAL / 2), None);
        let change = watch.update(begin + INTERVAL).unwrap();
        assert_eq!(change.from, PreemptionModel::Rt);
        assert_eq!(watch.update(begin + INTERVAL * 3), None);
    }
}
