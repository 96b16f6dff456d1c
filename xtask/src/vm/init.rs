//! The first program in a virtual machine: this very one.
//!
//! Invariant: whatever happens, the machine is powered off in the end, and the last line of the
//! results port reports how the job ended; without that line it did not end.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    },
    process::{self, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};
use nix::{
    mount::MsFlags,
    sys::{
        reboot::{RebootMode, reboot},
        resource::{Resource, setrlimit},
        wait::{WaitStatus, waitpid},
    },
};
use serde::{Deserialize, Serialize};

use super::platforms::Preemption;

/// The path at which the kernel finds its first program.
pub(super) const PATH: &str = "/init";
/// The `PATH` of programs in the machine.
pub(super) const COMMANDS: &str = "/bin";
/// Where the job is written down.
pub(super) const JOB: &str = "/etc/job.json";
/// The second serial port: the kernel's messages go to the first one.
const RESULTS: &str = "/dev/ttyS1";
/// How the last line of the results begins.
const END: &str = "job ended: ";

/// How long to wait for output after the job's end. A process that it left running in the background
/// may hold its standard output open forever.
const OUTPUT_WAIT: Duration = Duration::from_secs(2);

/// What a machine is to do.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Job {
    /// The program and its arguments
    pub(crate) argv: Vec<String>,
    /// Its environment, besides `PATH`
    pub(crate) env: BTreeMap<String, String>,
    /// It runs only where the kernel preempts itself so
    pub(crate) preemption: Preemption,
}

/// A file system of the kernel's own.
#[derive(Debug)]
pub(super) struct KernelMount {
    kind: &'static str,
    /// Where
    pub(super) to: &'static str,
    /// Not every kernel has it.
    optional: bool,
}

/// What is mounted, in this order.
pub(super) const MOUNTS: [KernelMount; 7] = [
    KernelMount { kind: "proc", to: "/proc", optional: false },
    KernelMount { kind: "sysfs", to: "/sys", optional: false },
    KernelMount { kind: "devtmpfs", to: "/dev", optional: false },
    KernelMount { kind: "cgroup2", to: "/sys/fs/cgroup", optional: true },
    KernelMount { kind: "bpf", to: "/sys/fs/bpf", optional: true },
    KernelMount { kind: "debugfs", to: "/sys/kernel/debug", optional: true },
    KernelMount { kind: "tracefs", to: "/sys/kernel/tracing", optional: true },
];

/// Whether this process is a machine's first program.
pub(crate) fn is_wanted() -> bool {
    process::id() == 1 && std::env::args_os().next().is_some_and(|name| name == PATH)
}

/// Does the job and powers the machine off.
pub(crate) fn main() -> ! {
    if let Err(error) = run() {
        // The console is standard error, and the missing last line says that this went wrong.
        eprintln!("init: {error:#}");
    }
    let error = reboot(RebootMode::RB_POWER_OFF);
    eprintln!("init: cannot power off: {error:?}");
    // The kernel panics when its first program ends, and that ends the machine too.
    process::exit(1)
}

fn run() -> anyhow::Result<()> {
    for mount in &MOUNTS {
        let none: Option<&str> = None;
        let done = fs::create_dir_all(mount.to).map_err(anyhow::Error::from).and_then(|()| {
            Ok(nix::mount::mount(none, mount.to, Some(mount.kind), MsFlags::empty(), none)?)
        });
        if let Err(error) = done
            && !mount.optional
        {
            return Err(error.context(format!("cannot mount {}", mount.to)));
        }
    }
    // No file system of its own: the programs may lie there, if that is where they were built.
    fs::set_permissions("/tmp", Permissions::from_mode(0o1777)).context("/tmp")?;
    setrlimit(Resource::RLIMIT_NOFILE, 65_536, 65_536).context("cannot raise the file limit")?;
    let mut lo = Command::new("/bin/busybox");
    lo.args(["ip", "link", "set", "lo", "up"]).status().context("cannot run busybox")?;
    let job = fs::read(JOB).with_context(|| format!("cannot read {JOB}"))?;
    let job: Job = serde_json::from_slice(&job).with_context(|| format!("cannot read {JOB}"))?;
    let port = || OpenOptions::new().write(true).open(RESULTS).context(RESULTS);
    let end = match job.preemption.verify().and_then(|()| perform(&job, port()?)) {
        Ok(status) => JobEnd::from(status),
        Err(error) => {
            writeln!(port()?, "{error:#}")?;
            JobEnd::Exited(127)
        }
    };
    // The last close of a serial port waits until all is sent.
    writeln!(port()?, "\n{END}{}", serde_json::to_string(&end)?).context(RESULTS)
}

/// Runs the job's program, and passes on what it and its children print.
fn perform(job: &Job, mut port: File) -> anyhow::Result<ExitStatus> {
    let Some((program, args)) = job.argv.split_first() else { bail!("the job names no program") };
    let (output, input) = io::pipe()?;
    let child = Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", COMMANDS)
        .envs(&job.env)
        .stdin(Stdio::null())
        .stdout(OwnedFd::from(input.try_clone()?))
        .stderr(OwnedFd::from(input))
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    let (done, copied) = mpsc::channel();
    thread::spawn(move || {
        let mut output = output;
        let copy = io::copy(&mut output, &mut port);
        // After a timeout the receiver is gone.
        let _ = done.send(copy);
    });
    // Whatever loses its parent becomes a child of the first program.
    let status = loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid.as_raw() as u32 == child.id() => {
                break ExitStatus::from_raw(code << 8);
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid.as_raw() as u32 == child.id() => {
                break ExitStatus::from_raw(signal as i32);
            }
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for the job"),
        }
    };
    match copied.recv_timeout(OUTPUT_WAIT) {
        Ok(copy) => copy.map(|_| ()).context("cannot pass on the job's output")?,
        Err(_) => eprintln!("init: the job has left something running"),
    }
    Ok(status)
}

/// How a job ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum JobEnd {
    /// With this exit status
    Exited(i32),
    /// By this signal
    Killed(i32),
}

impl From<ExitStatus> for JobEnd {
    fn from(status: ExitStatus) -> Self {
        match status.code() {
            Some(code) => Self::Exited(code),
            None => Self::Killed(status.signal().unwrap_or(0)),
        }
    }
}

/// Takes the results apart: what the job printed, and how it ended if it did.
pub(super) fn read_results(bytes: &[u8]) -> (String, Option<JobEnd>) {
    // The port is a terminal, which makes "\r\n" of every "\n".
    let text = String::from_utf8_lossy(bytes).replace('\r', "");
    let end = text.trim_end().rsplit_once('\n').and_then(|(output, last)| {
        let end = serde_json::from_str(last.strip_prefix(END)?).ok()?;
        Some((format!("{}\n", output.trim_end()), Some(end)))
    });
    end.unwrap_or((text, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_line_has_the_end_of_the_job() {
        let results = b"one\r\njob ended: nothing\r\ntwo\r\n\r\njob ended: {\"exited\":101}\r\n";
        let (output, end) = read_results(results);
        assert_eq!(output, "one\njob ended: nothing\ntwo\n");
        assert_eq!(end, Some(JobEnd::Exited(101)));
    }

    #[test]
    fn job_without_last_line_did_not_end() {
        assert_eq!(read_results(b"one\r\ntw"), ("one\ntw".to_owned(), None));
        assert_eq!(read_results(b""), (String::new(), None));
    }
}
