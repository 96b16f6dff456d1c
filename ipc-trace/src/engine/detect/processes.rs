//! The witness that reads `/proc`: bounded, and asked seldom.
//!
//! Invariant: what a reading says of a process is of the process that is meant: its start is compared where
//! that is known.

use std::{cell::RefCell, fs, path::PathBuf};

use super::{
    sighting::ProcessKey,
    witness::{Mapped, Witness},
};
use crate::{engine::track::clock::as_shown, event::OtherNs, sources::host::patience::Patience};

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
pub(crate) struct Processes {
    proc: PathBuf,
    patience: RefCell<Patience>,
}

impl Processes {
    /// That of this host, or another place that looks like it.
    #[must_use]
    pub(crate) fn in_directory(proc: impl Into<PathBuf>) -> Self {
        Self { proc: proc.into(), patience: RefCell::default() }
    }

    /// When a process started, in [`TICK_NS`]. proc_pid_stat(5): the name, in parentheses, may hold anything.
    fn started(&self, pid: u32) -> Option<u64> {
        let stat = fs::read(self.proc.join(pid.to_string()).join("stat")).ok()?;
        let close = stat.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
        // The 22nd value; the third is the first of these.
        rest.split_ascii_whitespace().nth(19)?.parse().ok()
    }

    fn is(&self, (pid, start): ProcessKey) -> bool {
        start == 0 || self.started(pid) == Some(as_shown(start) / TICK_NS)
    }

    fn link(&self, tid: u32, name: &str) -> Option<u32> {
        let link = fs::read_link(self.proc.join(tid.to_string()).join("ns").join(name)).ok()?;
        let text = link.to_str()?;
        text.split_once('[')?.1.strip_suffix(']')?.parse().ok()
    }
}

impl Witness for Processes {
    fn mapped(&self, process: ProcessKey) -> Option<Vec<Mapped>> {
        let path = self.proc.join(process.0.to_string()).join("maps");
        let maps = self.patience.borrow_mut().read(&path, MAPS).ok()?;
        let segments = maps.split(|byte| *byte == b'\n').filter_map(segment);
        let all = segments.take(SEGMENTS).collect();
        self.is(process).then_some(all)
    }

    fn namespaces(&self, tid: u32) -> Option<(u32, OtherNs)> {
        let ns = OtherNs {
            pid: self.link(tid, "pid"),
            mnt: self.link(tid, "mnt"),
            user: self.link(tid, "user"),
        };
        Some((self.link(tid, "ipc")?, ns))
    }

    fn lives_with(&self, ipc_ns: u32, mnt_ns: u32, but: u32) -> Option<bool> {
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

    #[test]
    fn what_is_read_is_of_the_process_that_is_meant() {
        let own = std::process::id();
        let here = Processes::in_directory("/proc");
        let started = here.started(own).unwrap();
        assert!(here.is((own, started * TICK_NS + 5)));
        assert!(!here.is((own, (started + 1) * TICK_NS)));
        let (ipc, ns) = here.namespaces(own).unwrap();
        assert!(here.lives_with(ipc, ns.mnt.unwrap(), own + 1).is_some());
        assert_eq!(here.lives_with(1, 1, own), None);
        assert_eq!(here.mapped((own, 0)), Some(Vec::new()));
        assert_eq!(here.mapped((own, 1)), None);
    }
}
