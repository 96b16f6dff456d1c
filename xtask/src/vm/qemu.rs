//! Runs one virtual machine to its end.
//!
//! Invariant: when [`QemuMachine::run`] returns, its qemu has ended, by itself or by our hand; and when
//! the thread in it dies, the kernel ends it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::sys::signal::Signal;

use super::{
    init::{Job, JobEnd, read_results},
    initramfs::Initramfs,
};
use crate::child::ends_with_us;

/// The emulator, and the package of Debian that it is in.
pub(super) const QEMU: (&str, &str) = ("qemu-system-x86_64", "qemu-system-x86");

/// The interval between checks whether qemu has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// What a machine's clock follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MachineClock {
    /// The time that passes outside.
    Host,
    /// The instructions that it executes, one a nanosecond: the same on every run. One processor.
    Instructions,
}

impl MachineClock {
    fn options(self) -> &'static [&'static str] {
        match self {
            // With a thread for each processor, a 6.12 guest crashed while it patched its own code.
            Self::Host => &["-accel", "tcg,thread=single"],
            Self::Instructions => &["-accel", "tcg", "-icount", "shift=0,sleep=off"],
        }
    }
}

/// A machine that can be started any number of times.
#[derive(Clone, Debug)]
pub(crate) struct QemuMachine {
    /// The emulator
    pub(crate) qemu: PathBuf,
    /// A bzImage
    pub(crate) kernel: PathBuf,
    /// Its files
    pub(crate) files: Initramfs,
    /// How many processors it has
    pub(crate) processors: u32,
    /// Its memory
    pub(crate) mebibytes: u32,
    /// Its clock
    pub(crate) clock: MachineClock,
    /// Words for the kernel's command line
    pub(crate) append: String,
    /// How long it may run
    pub(crate) limit: Duration,
    /// A folder of its own: the archive of its files and its ports' output are left there
    pub(crate) folder: PathBuf,
}

/// Of the kernel's command line. No check of the timer: while this machine is busy, it may see no tick for
/// so long that it gives up (`check_timer`, arch/x86/kernel/apic/io_apic.c). Programs at the same addresses
/// in every process: else the emulator would translate them anew for each.
const WORDS: &str = "console=ttyS0 panic=-1 oops=panic no_timer_check norandmaps";

/// The result of a machine.
#[derive(Clone, Debug)]
pub(crate) struct Ran {
    /// How the job ended; `None`: it did not
    pub(crate) end: Option<JobEnd>,
    /// Why it did not end
    pub(crate) trouble: Option<String>,
    /// What the job printed
    pub(crate) output: String,
    /// What the kernel printed
    pub(crate) console: String,
    /// How long it took
    pub(crate) took: Duration,
}

impl QemuMachine {
    /// Boots the machine, has it do `job`, and waits until it is off.
    ///
    /// # Errors
    ///
    /// When it can't be started. All that happens afterwards is part of the result.
    pub(crate) fn run(&self, job: &Job) -> anyhow::Result<Ran> {
        let ran = self.run_once(job)?;
        // Then nothing that the guest did counts. Once: a second time would be no accident.
        match impossible_flags(&ran.console) {
            Some(flags) if ran.end.is_none() => {
                eprintln!(
                    "xtask: {}: the emulator broke the guest: no processor can have EFLAGS {flags:08x}; it boots again",
                    self.folder.display()
                );
                self.run_once(job)
            }
            _ => Ok(ran),
        }
    }

    fn run_once(&self, job: &Job) -> anyhow::Result<Ran> {
        let [archive, console, results] =
            ["initramfs.cpio", "console.log", "results.log"].map(|name| self.folder.join(name));
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot make {}", self.folder.display()))?;
        self.files.write(job, &archive)?;
        let begin = Instant::now();
        let mut child = self
            .command(&archive, [&console, &results])
            .spawn()
            .with_context(|| format!("cannot run {}", self.qemu.display()))?;
        let trouble = wait(&mut child, self.limit)?;
        let took = begin.elapsed();
        let read = |path: &Path| {
            fs::read(path).with_context(|| format!("qemu has not written {}", path.display()))
        };
        let (output, end) = read_results(&read(&results)?);
        let console = String::from_utf8_lossy(&read(&console)?).replace('\r', "");
        let trouble = match (end, trouble) {
            (Some(_), _) => None,
            (None, Some(trouble)) => Some(trouble),
            (None, None) if console.contains("Kernel panic") => {
                Some("its kernel panicked".to_owned())
            }
            (None, None) => Some("it went off before the job had ended".to_owned()),
        };
        Ok(Ran { end, trouble, output, console, took })
    }

    fn command(&self, archive: &Path, ports: [&Path; 2]) -> Command {
        let mut command = Command::new(&self.qemu);
        command
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            // With `panic=-1`: a panic ends it.
            .arg("-no-reboot")
            .args(self.clock.options())
            .args(["-smp", &self.processors.to_string()])
            .args(["-m", &self.mebibytes.to_string()])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(archive)
            .args(["-append", &format!("{WORDS} {}", self.append)])
            .stdin(Stdio::null());
        ends_with_us(&mut command, Signal::SIGKILL);
        for port in ports {
            let mut file = std::ffi::OsString::from("file:");
            file.push(port);
            command.arg("-serial").arg(file);
        }
        command
    }
}

/// The flags register in a kernel's report of its own death, if no processor can have such flags: then the emulator
/// has lost track of them. qemu computes flags when they are asked for, and a 6.12 guest with code that it patches while
/// it runs died with an address in them.
fn impossible_flags(console: &str) -> Option<u32> {
    /// Bits 3, 5, 15, and from 22 on are always 0, bit 1 is always 1 (Intel SDM, volume 1, 3.4.3).
    const ALWAYS_0: u32 = !0 << 22 | 1 << 15 | 1 << 5 | 1 << 3;
    const ALWAYS_1: u32 = 1 << 1;
    console.contains("Kernel panic").then_some(())?;
    let flags = console.split("EFLAGS: ").skip(1);
    flags
        .filter_map(|rest| u32::from_str_radix(rest.get(..8)?, 16).ok())
        .find(|flags| flags & ALWAYS_0 != 0 || flags & ALWAYS_1 == 0)
}

/// Waits for qemu, up to a limit. Returns what went wrong.
fn wait(child: &mut Child, limit: Duration) -> anyhow::Result<Option<String>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for qemu")? {
            return Ok((!status.success()).then(|| format!("qemu ended with {status}")));
        }
        if Instant::now() >= deadline {
            child.kill().context("cannot kill qemu")?;
            child.wait().context("cannot wait for qemu")?;
            return Ok(Some(format!("it was not done after {} s", limit.as_secs())));
        }
        thread::sleep(POLL_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::impossible_flags;

    #[test]
    fn only_flags_that_no_processor_has_are_impossible() {
        let console = |flags: &str| {
            format!(
                "[   49.781310] RSP: 002b:00007ffff7bb7780 EFLAGS: 00000246 ORIG_RAX: 00000000000001a2\n\
                 [   49.782128] RSP: 0000:ffffd3f240fbfa40 EFLAGS: {flags}\n\
                 [   49.782555] Kernel panic - not syncing: Fatal exception in interrupt\n"
            )
        };
        assert_eq!(impossible_flags(&console("beaae302")), Some(0xbeaa_e302));
        assert_eq!(impossible_flags(&console("00000244")), Some(0x244));
        // Carry to overflow, interrupts, alignment check, identification.
        for possible in ["00010002", "00240ed7", "00000246", "not hex!", ""] {
            assert_eq!(impossible_flags(&console(possible)), None, "{possible}");
        }
        assert_eq!(impossible_flags("EFLAGS: beaae302"), None);
    }
}
