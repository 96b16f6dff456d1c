//! Processes' metadata from `/proc`, read with limits.
//!
//! Invariant: the metadata belongs to the intended process: its start is compared if it is known, and for an
//! executable its name, too.

use std::{
    fs,
    path::{Path, PathBuf},
};

use ipc_trace_common::record::{ARGS_LEN, UidExtent};

use super::timed_read::TimedReader;
use crate::{
    event::{NsInodes, value::OsBytes},
    input::process::{Called, Mapped, ProcessId},
    sources::clock::as_shown,
};

/// The largest number of bytes read from `/proc/PID/maps`.
const MAX_MAPS_BYTES: u64 = 8 << 20;
/// The largest number of segments read for a process.
const MAX_SEGMENTS: usize = 1024;
/// The largest number of processes searched for the members of a namespace.
const MAX_PROCESSES: usize = 1 << 14;
/// Nanoseconds per unit of `starttime` (`USER_HZ`, include/asm-generic/param.h).
const TICK_NS: u64 = 10_000_000;

/// Reads `/proc`.
#[derive(Debug)]
pub(crate) struct ProcfsReader {
    proc: PathBuf,
    timed_reader: TimedReader,
}

impl ProcfsReader {
    /// This host's `/proc`, or a directory with the same structure.
    #[must_use]
    pub(crate) fn in_directory(proc: impl Into<PathBuf>) -> Self {
        Self { proc: proc.into(), timed_reader: TimedReader::default() }
    }

    fn folder(&self, pid: u32) -> PathBuf {
        self.proc.join(pid.to_string())
    }

    fn is(&self, (pid, start): ProcessId) -> bool {
        start == 0 || is_same_process(&self.folder(pid), start, None)
    }

    fn link(&self, tid: u32, name: &str) -> Option<u32> {
        let link = fs::read_link(self.folder(tid).join("ns").join(name)).ok()?;
        let text = link.to_str()?;
        text.split_once('[')?.1.strip_suffix(']')?.parse().ok()
    }

    /// The path of a process's executable; `comm`: the process's name.
    #[must_use]
    pub(crate) fn executable(
        &self,
        (pid, start): ProcessId,
        comm: Option<&[u8; 16]>,
    ) -> Option<Vec<u8>> {
        let process = self.folder(pid);
        let path = fs::read_link(process.join("exe")).ok()?;
        is_same_process(&process, start, comm).then(|| path.into_os_string().into_encoded_bytes())
    }

    /// A process's arguments.
    #[must_use]
    pub(crate) fn called(&mut self, process: ProcessId) -> Called {
        let folder = self.folder(process.0);
        let Ok(mut bytes) = self.timed_reader.read(&folder.join("cmdline"), ARGS_LEN as u64 + 1)
        else {
            return Called::default();
        };
        if !is_same_process(&folder, process.1, None) {
            return Called::default();
        }
        let truncated = bytes.len() > ARGS_LEN;
        bytes.truncate(ARGS_LEN);
        Called::from_bytes(&bytes, truncated)
    }

    /// The user map of a process's user namespace. Empty if it is not written yet.
    #[must_use]
    pub(crate) fn users(&self, (pid, start): ProcessId) -> Vec<UidExtent> {
        let process = self.folder(pid);
        match fs::read_to_string(process.join("uid_map")) {
            Ok(map) if is_same_process(&process, start, None) => extents(&map).collect(),
            Ok(_) | Err(_) => Vec::new(),
        }
    }

    /// The segments that a process has mapped; `None`: it is gone, or can't be read.
    #[must_use]
    pub(crate) fn mapped(&mut self, process: ProcessId) -> Option<Vec<Mapped>> {
        let path = self.folder(process.0).join("maps");
        let maps = self.timed_reader.read(&path, MAX_MAPS_BYTES).ok()?;
        let segments = maps.split(|byte| *byte == b'\n').filter_map(segment);
        let all = segments.take(MAX_SEGMENTS).collect();
        self.is(process).then_some(all)
    }

    /// A thread's current namespaces, with the number of its IPC namespace.
    #[must_use]
    pub(crate) fn namespaces(&self, tid: u32) -> Option<(u32, NsInodes)> {
        let ns = NsInodes {
            pid: self.link(tid, "pid"),
            mnt: self.mount_namespace(tid),
            user: self.link(tid, "user"),
        };
        Some((self.link(tid, "ipc")?, ns))
    }

    /// A thread's current mount namespace.
    #[must_use]
    pub(crate) fn mount_namespace(&self, tid: u32) -> Option<u32> {
        self.link(tid, "mnt")
    }

    /// Whether a process in an IPC namespace, other than `but`, is in this mount namespace. `None`: no process is
    /// known to be in it.
    #[must_use]
    pub(crate) fn lives_with(&self, ipc_ns: u32, mnt_ns: u32, but: u32) -> Option<bool> {
        let numbers = fs::read_dir(&self.proc)
            .ok()?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let mut found = None;
        for pid in numbers.filter(|pid| *pid != but).take(MAX_PROCESSES) {
            if self.link(pid, "ipc") == Some(ipc_ns) {
                if self.link(pid, "mnt") == Some(mnt_ns) {
                    return Some(true);
                }
                found = Some(false);
            }
        }
        found
    }

    /// Whether there is no thread with that tid.
    #[must_use]
    pub(crate) fn has_ended(&self, tid: u32) -> bool {
        !self.folder(tid).exists()
    }

    /// The root of `/proc`.
    #[must_use]
    pub(crate) fn proc(&self) -> &Path {
        &self.proc
    }
}

/// Whether the process in a directory of `proc` started at that time, and has that name.
fn is_same_process(process: &Path, start_boot_ns: u64, comm: Option<&[u8; 16]>) -> bool {
    let is_same_process = || {
        // proc_pid_stat(5): the name, in parentheses, may contain anything; `starttime` is the 20th value after it,
        // in hundredths of a second (USER_HZ, include/asm-generic/param.h) of boot time.
        let stat = std::fs::read(process.join("stat")).ok()?;
        let close = stat.iter().rposition(|byte| *byte == b')')?;
        let open = stat.iter().position(|byte| *byte == b'(')?;
        let name = stat.get(open + 1..close)?;
        let behind = stat.get(close + 1..)?;
        let started = behind.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).nth(19)?;
        let started: u64 = std::str::from_utf8(started).ok()?.parse().ok()?;
        let same_name = comm.is_none_or(|comm| OsBytes::until_nul(comm).0.as_ref() == name);
        Some(started == as_shown(start_boot_ns) / TICK_NS && same_name)
    };
    is_same_process().unwrap_or(false)
}

/// The lines of a map: FIRST LOWER_FIRST COUNT (user_namespaces(7)). The lower ids are in the reader's namespace.
fn extents(map: &str) -> impl Iterator<Item = UidExtent> {
    map.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(UidExtent { first: next()?, lower_first: next()?, count: next()? })
    })
}

/// The segment of a line of `/proc/PID/maps`: `7f0-7f1 rw-s 00000000 00:01 32769  /SYSV0000002a (deleted)`
/// (`newseg`, ipc/shm.c: the name has the key, the inode number is the id).
fn segment(line: &[u8]) -> Option<Mapped> {
    let at = line.windows(5).position(|bytes| bytes == b"/SYSV")?;
    let (fields, name) = line.split_at(at);
    let text = std::str::from_utf8(fields).ok()?;
    let mut words = text.split_ascii_whitespace();
    let start = u64::from_str_radix(words.next()?.split_once('-')?.0, 16).ok()?;
    let shared = words.next()?.ends_with('s');
    let (_offset, _device) = (words.next()?, words.next()?);
    // A longer path is another file.
    let id = words.next()?.parse::<u32>().ok()?.cast_signed();
    let key = std::str::from_utf8(name.get(5..13)?).ok()?;
    let key = u32::from_str_radix(key, 16).ok()?;
    let ends = matches!(name.get(13), None | Some(b' ' | b'\n'));
    (shared && ends && words.next().is_none()).then_some(Mapped { start, id, key })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] =
        b"7f21c4a00000-7f21c4a01000 rw-s 00000000 00:01 32769   /SYSV0000002a (deleted)\n";

    #[test]
    fn segment_is_recognised_by_file_name() {
        let known = Mapped { start: 0x7f21_c4a0_0000, id: 32769, key: 42 };
        assert_eq!(segment(LINE), Some(known));
        for other in [
            b"7f21-7f22 rw-s 00000000 00:01 5 /tmp/SYSV0000002a\n".as_slice(),
            b"7f21-7f22 rw-p 00000000 00:01 5 /SYSV0000002a (deleted)\n",
            b"7f21-7f22 rw-s 00000000 00:01 5 /SYSVkey\n",
            b"7f21-7f22 rw-s 00000000 00:01 5 /SYSV0000002abc\n",
            b"7f21-7f22 r--p 00000000 08:01 99 /usr/lib/libc.so.6\n",
            b"/SYSV0000002a",
            b"",
        ] {
            assert_eq!(segment(other), None, "{}", String::from_utf8_lossy(other));
        }
    }

    /// A `/proc` in which process 7 started 4,321 hundredths of a second after the boot.
    fn proc() -> (tempfile::TempDir, ProcfsReader) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("7")).unwrap();
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4321 1 1\n";
        fs::write(folder.path().join("7/stat"), stat).unwrap();
        let processes = ProcfsReader::in_directory(folder.path());
        (folder, processes)
    }

    /// When it started, in the eBPF programs' form, and when another process would have.
    const START: u64 = 43_219_999_999;
    const OTHER: u64 = 43_220_000_000;

    #[test]
    fn executable_of_reused_pid_is_not_read() {
        let (folder, processes) = proc();
        std::os::unix::fs::symlink("/usr/bin/worker", folder.path().join("7/exe")).unwrap();
        let mut comm = [0; 16];
        comm[..8].copy_from_slice(b"a) b (c\0");
        let path = |start, comm| processes.executable((7, start), comm);
        assert_eq!(path(START, None).as_deref(), Some(b"/usr/bin/worker".as_slice()));
        assert_eq!(path(START, Some(&comm)).as_deref(), Some(b"/usr/bin/worker".as_slice()));
        assert_eq!(path(START, Some(&[0; 16])), None);
        assert_eq!(path(OTHER, None), None);
    }

    #[test]
    fn arguments_of_reused_pid_are_not_read() {
        let (folder, mut processes) = proc();
        fs::write(folder.path().join("7/cmdline"), "worker\0-x\0").unwrap();
        assert_eq!(processes.called((7, START)).args.unwrap().len(), 2);
        assert_eq!(processes.called((7, OTHER)).args, None);
    }

    #[test]
    fn user_map_of_reused_pid_is_not_read() {
        let (folder, processes) = proc();
        let map = folder.path().join("7/uid_map");
        fs::write(&map, "").unwrap();
        assert_eq!(processes.users((7, START)), []);
        fs::write(&map, "  0       1000          1\n   1     100000      65536\n").unwrap();
        let second = UidExtent { first: 1, lower_first: 100_000, count: 65_536 };
        assert_eq!(processes.users((7, START))[1], second);
        assert_eq!(processes.users((7, OTHER)), []);
    }

    #[test]
    fn reads_this_host() {
        let own = std::process::id();
        let mut here = ProcfsReader::in_directory("/proc");
        let (ipc, ns) = here.namespaces(own).unwrap();
        assert!(here.lives_with(ipc, ns.mnt.unwrap(), own + 1).is_some());
        assert_eq!(here.lives_with(1, 1, own), None);
        assert_eq!(here.mapped((own, 0)), Some(Vec::new()));
        assert_eq!(here.mapped((own, 1)), None);
        assert!(!here.has_ended(own) && here.has_ended(1 << 30));
    }
}
