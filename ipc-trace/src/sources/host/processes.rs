//! What `/proc` has of processes, read with bounds.
//!
//! Invariant: what a reading says of a process is of the process that is meant: its start is compared where
//! that is known, and of an executable its name, too.

use std::{
    fs,
    path::{Path, PathBuf},
};

use ipc_trace_common::record::{ARGS_LEN, UidExtent};

use super::patience::Patience;
use crate::{
    event::{OtherNs, value::OsBytes},
    input::process::{Called, Mapped, ProcessId},
    sources::clock::as_shown,
};

/// Bytes of `/proc/PID/maps` that are read.
const MAPS: u64 = 8 << 20;
/// Segments of a process that are looked at.
const SEGMENTS: usize = 1024;
/// Processes that are looked at for who lives in a namespace.
const PROCESSES: usize = 1 << 14;
/// Nanoseconds of `starttime` (`USER_HZ`, include/asm-generic/param.h).
const TICK_NS: u64 = 10_000_000;

/// Reads `/proc`.
#[derive(Debug)]
pub(crate) struct ProcfsReader {
    proc: PathBuf,
    patience: Patience,
}

impl ProcfsReader {
    /// That of this host, or another place that looks like it.
    #[must_use]
    pub(crate) fn in_directory(proc: impl Into<PathBuf>) -> Self {
        Self { proc: proc.into(), patience: Patience::default() }
    }

    fn folder(&self, pid: u32) -> PathBuf {
        self.proc.join(pid.to_string())
    }

    fn is(&self, (pid, start): ProcessId) -> bool {
        start == 0 || is_it(&self.folder(pid), start, None)
    }

    fn link(&self, tid: u32, name: &str) -> Option<u32> {
        let link = fs::read_link(self.folder(tid).join("ns").join(name)).ok()?;
        let text = link.to_str()?;
        text.split_once('[')?.1.strip_suffix(']')?.parse().ok()
    }

    /// The path of a process's executable; `comm`: the name that it has.
    #[must_use]
    pub(crate) fn executable(
        &self,
        (pid, start): ProcessId,
        comm: Option<&[u8; 16]>,
    ) -> Option<Vec<u8>> {
        let process = self.folder(pid);
        let path = fs::read_link(process.join("exe")).ok()?;
        is_it(&process, start, comm).then(|| path.into_os_string().into_encoded_bytes())
    }

    /// What a process was called with.
    #[must_use]
    pub(crate) fn called(&mut self, process: ProcessId) -> Called {
        let folder = self.folder(process.0);
        let Ok(mut bytes) = self.patience.read(&folder.join("cmdline"), ARGS_LEN as u64 + 1) else {
            return Called::default();
        };
        if !is_it(&folder, process.1, None) {
            return Called::default();
        }
        let truncated = bytes.len() > ARGS_LEN;
        bytes.truncate(ARGS_LEN);
        Called::from_bytes(&bytes, truncated)
    }

    /// The map of users of a process's namespace. Nothing, where it is not written yet.
    #[must_use]
    pub(crate) fn users(&self, (pid, start): ProcessId) -> Vec<UidExtent> {
        let process = self.folder(pid);
        match fs::read_to_string(process.join("uid_map")) {
            Ok(map) if is_it(&process, start, None) => extents(&map).collect(),
            Ok(_) | Err(_) => Vec::new(),
        }
    }

    /// The segments that a process has mapped; `None`: it is gone, or can't be looked at.
    #[must_use]
    pub(crate) fn mapped(&mut self, process: ProcessId) -> Option<Vec<Mapped>> {
        let path = self.folder(process.0).join("maps");
        let maps = self.patience.read(&path, MAPS).ok()?;
        let segments = maps.split(|byte| *byte == b'\n').filter_map(segment);
        let all = segments.take(SEGMENTS).collect();
        self.is(process).then_some(all)
    }

    /// The namespaces that a thread is in now, with the number of its IPC namespace.
    #[must_use]
    pub(crate) fn namespaces(&self, tid: u32) -> Option<(u32, OtherNs)> {
        let ns = OtherNs {
            pid: self.link(tid, "pid"),
            mnt: self.mount_namespace(tid),
            user: self.link(tid, "user"),
        };
        Some((self.link(tid, "ipc")?, ns))
    }

    /// The mount namespace that a thread is in now.
    #[must_use]
    pub(crate) fn mount_namespace(&self, tid: u32) -> Option<u32> {
        self.link(tid, "mnt")
    }

    /// Whether a process that is in an IPC namespace, other than `but`, is in this mount namespace.
    /// `None`: none is known to be in it.
    #[must_use]
    pub(crate) fn lives_with(&self, ipc_ns: u32, mnt_ns: u32, but: u32) -> Option<bool> {
        let numbers = fs::read_dir(&self.proc)
            .ok()?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let mut found = None;
        for pid in numbers.filter(|pid| *pid != but).take(PROCESSES) {
            if self.link(pid, "ipc") == Some(ipc_ns) {
                if self.link(pid, "mnt") == Some(mnt_ns) {
                    return Some(true);
                }
                found = Some(false);
            }
        }
        found
    }

    /// Whether there is no thread of that number.
    #[must_use]
    pub(crate) fn has_ended(&self, tid: u32) -> bool {
        !self.folder(tid).exists()
    }

    /// Where processes are.
    #[must_use]
    pub(crate) fn proc(&self) -> &Path {
        &self.proc
    }
}

/// Whether the process in a folder of `proc` is the one that started then, and has that name.
fn is_it(process: &Path, start_boot_ns: u64, comm: Option<&[u8; 16]>) -> bool {
    let is_it = || {
        // proc_pid_stat(5): the name, in parentheses, may hold anything; `starttime` is the 20th value
        // behind it, in hundredths of a second (USER_HZ, include/asm-generic/param.h) of boot time.
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
    is_it().unwrap_or(false)
}

/// The lines of a map: FIRST LOWER_FIRST COUNT (user_namespaces(7)). What is lower are the users of the reader's
/// namespace.
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
    // More before the name: it is another file's.
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
    fn a_segment_is_told_by_the_name_of_its_file() {
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

    /// When it started, as the eBPF programs have it, and when another would have.
    const START: u64 = 43_219_999_999;
    const OTHER: u64 = 43_220_000_000;

    #[test]
    fn an_executable_is_that_of_the_same_process_alone() {
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
    fn arguments_are_those_of_the_same_process_alone() {
        let (folder, mut processes) = proc();
        fs::write(folder.path().join("7/cmdline"), "worker\0-x\0").unwrap();
        assert_eq!(processes.called((7, START)).args.unwrap().len(), 2);
        assert_eq!(processes.called((7, OTHER)).args, None);
    }

    #[test]
    fn a_map_is_that_of_the_same_process_alone() {
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
    fn what_is_read_is_of_this_host() {
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
