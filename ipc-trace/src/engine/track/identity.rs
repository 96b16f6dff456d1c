//! Who a process is, out of what the kernel side sent of it: its arguments, its user where it lives, whom it
//! descends from.
//!
//! Invariant: an executable's path is that of the very process: of its number, its start and its name.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    sync::Arc,
};

use ipc_trace_common::record::{ANCESTORS, AncestorRecord, ContextRecord, UidExtent, flag};

use super::{HashMap, clock::as_shown};
use crate::{
    event::{identity::Ancestor, value::Text},
    input::Arguments,
    sources::host::patience::Patience,
};

/// What a process was called with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Called {
    /// Its arguments; `None`: they were not asked for, or can't be read
    pub args: Option<Arc<[Text<'static>]>>,
    /// Whether there are more
    pub truncated: bool,
    /// Whether they are to be found elsewhere
    unread: bool,
}

impl Called {
    /// As the kernel side read it. `len`: of all arguments.
    #[must_use]
    pub(crate) fn new(arguments: Arguments<'_>, len: u64) -> Self {
        match arguments {
            Arguments::None => Self::default(),
            Arguments::Unread => Self { unread: true, ..Self::default() },
            Arguments::Read(bytes) => Self {
                args: Some(split(bytes)),
                truncated: len > bytes.len() as u64,
                unread: false,
            },
        }
    }

    /// What `proc` has, where the kernel side could not read it since that memory was not at hand.
    #[must_use]
    pub(super) fn or_in(
        self,
        proc: &Path,
        patience: &mut Patience,
        record: &ContextRecord,
    ) -> Self {
        if !self.unread {
            return self;
        }
        let process = proc.join(record.pid.to_string());
        let most = ipc_trace_common::record::ARGS_LEN as u64;
        let Ok(mut bytes) = patience.read(&process.join("cmdline"), most + 1) else {
            return Self::default();
        };
        if !is_it(&process, record.start_boot_ns, None) {
            return Self::default();
        }
        let truncated = bytes.len() as u64 > most;
        bytes.truncate(most as usize);
        Self { args: Some(split(&bytes)), truncated, unread: false }
    }
}

/// Arguments, each with a NUL behind.
fn split(bytes: &[u8]) -> Arc<[Text<'static>]> {
    if bytes.is_empty() {
        return Arc::default();
    }
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    bytes.split(|byte| *byte == 0).map(|one| Text(Cow::Owned(one.to_vec()))).collect()
}

/// The map of a user namespace, which is written once (`map_write`, kernel/user_namespace.c), perhaps after a
/// thread's facts were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Users(Box<[UidExtent]>);

/// How often a map that was not written yet is looked for again: at least so long apart, and after so many times
/// so long.
const MAP_AGAIN_NS: u64 = 1_000_000;
const MAP_TIMES: u32 = 64;
const MAP_SELDOM_NS: u64 = 1_000_000_000;

/// When it is looked for again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MapSearch {
    times: u32,
    not_before: u64,
}

impl MapSearch {
    /// Whether it is time.
    pub(super) const fn is_due(&mut self, now: u64) -> bool {
        if now < self.not_before {
            return false;
        }
        self.times += 1;
        let pause = if self.times < MAP_TIMES { MAP_AGAIN_NS } else { MAP_SELDOM_NS };
        self.not_before = now.saturating_add(pause);
        true
    }
}

impl Users {
    /// Of the namespace of a thread. Nothing, where the map is not known.
    #[must_use]
    pub(super) fn of(record: &ContextRecord) -> Self {
        let extents = record.uid_map.get(..record.uid_extents as usize);
        Self(extents.unwrap_or_default().into())
    }

    /// As `proc` has it, of the very process. Nothing, where it is not written yet.
    #[must_use]
    pub(super) fn in_proc(proc: &Path, pid: u32, start_boot_ns: u64) -> Self {
        let process = proc.join(pid.to_string());
        let map = std::fs::read_to_string(process.join("uid_map"));
        match map {
            Ok(map) if is_it(&process, start_boot_ns, None) => Self(extents(&map).collect()),
            Ok(_) | Err(_) => Self::default(),
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What a user of the initial namespace is called there (`map_id_up`, kernel/user_namespace.c).
    #[must_use]
    pub(super) fn inside(&self, uid: u32) -> Option<u32> {
        let within = |extent: &&UidExtent| {
            uid.checked_sub(extent.lower_first).is_some_and(|above| above < extent.count)
        };
        let extent = self.0.iter().find(within)?;
        extent.first.checked_add(uid - extent.lower_first)
    }
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

/// Ancestors that are kept at least before those that nobody descends from any more are forgotten.
const SWEEP_AT: usize = 1 << 12;

/// What an ancestor is known by. Who executes another program has another name, or was not looked at.
type Key = (u32, u64, [u8; 16]);

/// The ancestors of all processes that are known.
#[derive(Debug)]
pub(crate) struct Ancestors {
    known: HashMap<Key, Arc<Ancestor>>,
    sweep_at: usize,
}

impl Default for Ancestors {
    fn default() -> Self {
        Self { known: HashMap::default(), sweep_at: SWEEP_AT }
    }
}

impl Ancestors {
    /// The ancestors of a thread's process, and whether there are more. `belongs`: whether a process's cgroup
    /// is of the same container.
    pub(super) fn of(
        &mut self,
        record: &ContextRecord,
        proc: &Path,
        mut belongs: impl FnMut(&AncestorRecord) -> bool,
    ) -> (Arc<[Arc<Ancestor>]>, bool) {
        let count = (record.ancestor_count as usize).min(ANCESTORS);
        let all = record.ancestors.get(..count).unwrap_or_default();
        let inside: Vec<_> = all.iter().take_while(|one| belongs(one)).collect();
        let truncated = inside.len() == count && record.header.flags & flag::CUT != 0;
        let ancestors = inside.into_iter().map(|one| self.one(one, proc)).collect();
        if self.known.len() > self.sweep_at {
            self.known.retain(|_, one| Arc::strong_count(one) > 1);
            self.sweep_at = SWEEP_AT.max(2 * self.known.len());
        }
        (ancestors, truncated)
    }

    fn one(&mut self, record: &AncestorRecord, proc: &Path) -> Arc<Ancestor> {
        let key = (record.pid, record.start_boot_ns, record.comm);
        let known = self.known.entry(key).or_insert_with(|| {
            let process = proc.join(record.pid.to_string());
            let exe = executable(&process, record.start_boot_ns, Some(&record.comm));
            Arc::new(Ancestor {
                pid: record.pid,
                start_boot_ns: record.start_boot_ns,
                comm: Text::until_nul(&record.comm).into_owned(),
                exe: exe.map(|path| Text(Cow::Owned(path.into_os_string().into_encoded_bytes()))),
            })
        });
        Arc::clone(known)
    }

    /// How many are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}

/// The executable of the process in a folder of `proc`, if it is the one that started then, and has that name.
pub(super) fn executable(
    process: &Path,
    start_boot_ns: u64,
    comm: Option<&[u8; 16]>,
) -> Option<PathBuf> {
    let path = std::fs::read_link(process.join("exe")).ok()?;
    is_it(process, start_boot_ns, comm).then_some(path)
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
        let same_name = comm.is_none_or(|comm| Text::until_nul(comm).0.as_ref() == name);
        Some(started == as_shown(start_boot_ns) / 10_000_000 && same_name)
    };
    is_it().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros as _;

    fn called(bytes: &[u8], len: u64) -> (Vec<String>, bool) {
        let called = Called::new(Arguments::Read(bytes), len);
        (called.args.unwrap().iter().map(ToString::to_string).collect(), called.truncated)
    }

    #[test]
    fn arguments_are_told_apart_by_nuls() {
        assert_eq!(
            called(b"a\0-b\0\0c\0", 8),
            (["a", "-b", "", "c"].map(str::to_owned).into(), false)
        );
        assert_eq!(called(b"a\0bc", 9), (["a", "bc"].map(str::to_owned).into(), true));
        assert_eq!(called(b"", 0), (vec![], false));
        assert_eq!(Called::new(Arguments::None, 0), Called::default());
        assert_eq!(Called::new(Arguments::Unread, 7).args, None);
    }

    #[test]
    fn arguments_that_were_not_at_hand_are_those_of_the_same_process_alone() {
        let folder = tempfile::tempdir().unwrap();
        let proc = folder.path();
        std::fs::create_dir_all(proc.join("7")).unwrap();
        std::fs::write(proc.join("7/cmdline"), "worker\0-x\0").unwrap();
        let stat = "7 (worker) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4321 1 1\n";
        std::fs::write(proc.join("7/stat"), stat).unwrap();
        let mut record = ContextRecord::new_zeroed();
        (record.pid, record.start_boot_ns) = (7, 43_210_000_000);
        let args = |record: &ContextRecord| {
            let called = Called::new(Arguments::Unread, 0);
            called.or_in(proc, &mut Patience::default(), record).args
        };
        assert_eq!(args(&record).unwrap().len(), 2);
        record.start_boot_ns += 10_000_000;
        assert_eq!(args(&record), None);
    }

    #[test]
    fn users_have_the_numbers_that_their_namespace_gives_them() {
        let mut record = ContextRecord::new_zeroed();
        assert_eq!(Users::of(&record).inside(0), None);
        record.uid_extents = 2;
        record.uid_map[0] = UidExtent { first: 0, lower_first: 1000, count: 1 };
        record.uid_map[1] = UidExtent { first: 1, lower_first: 100_000, count: 65_536 };
        let inside = |uid| Users::of(&record).inside(uid);
        assert_eq!([999, 1000, 1001].map(inside), [None, Some(0), None]);
        assert_eq!(
            [99_999, 100_000, 165_535, 165_536].map(inside),
            [None, Some(1), Some(65_536), None]
        );
        // They are elsewhere, and these bytes are no extents.
        record.uid_extents = 6;
        assert_eq!(Users::of(&record).inside(1000), None);
        record.uid_extents = 1;
        record.uid_map[0] = UidExtent { first: 0, lower_first: 0, count: u32::MAX };
        assert_eq!(Users::of(&record).inside(u32::MAX - 1), Some(u32::MAX - 1));
    }

    #[test]
    fn a_map_that_was_written_later_is_that_of_the_same_process_alone() {
        let folder = tempfile::tempdir().unwrap();
        let proc = folder.path();
        std::fs::create_dir_all(proc.join("7")).unwrap();
        let stat = "7 (worker) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4321 1 1\n";
        std::fs::write(proc.join("7/stat"), stat).unwrap();
        let users = |start| Users::in_proc(proc, 7, start);
        std::fs::write(proc.join("7/uid_map"), "").unwrap();
        assert!(users(43_210_000_000).is_empty());
        let map = "         0       1000          1\n         1     100000      65536\n";
        std::fs::write(proc.join("7/uid_map"), map).unwrap();
        assert_eq!(users(43_210_000_000).inside(100_001), Some(2));
        assert!(users(43_220_000_000).is_empty());
    }

    #[test]
    fn a_map_is_looked_for_at_once_and_then_seldom() {
        let mut search = MapSearch::default();
        let mut reads = |from: u64, calls: u64, apart: u64| {
            (0..calls).filter(|at| search.is_due(from + at * apart)).count()
        };
        assert_eq!(reads(5, 1_000, 1_000), 1);
        assert_eq!(reads(2_000_000, 3, 1_000_000), 3);
        // A hundred seconds of a call a microsecond, taken in steps.
        assert!(reads(1_000_000_000, 1_000_000, 100_000) <= 64 + 100);
    }

    fn descendant(pid: u32, ancestors: &[(u32, u64)]) -> ContextRecord {
        let mut record = ContextRecord::new_zeroed();
        record.pid = pid;
        record.ancestor_count = ancestors.len() as u32;
        for (to, (pid, cgroup)) in record.ancestors.iter_mut().zip(ancestors) {
            (to.pid, to.cgroup) = (*pid, *cgroup);
        }
        record
    }

    #[test]
    fn ancestry_ends_where_the_container_does() {
        let mut ancestors = Ancestors::default();
        let mut record = descendant(9, &[(8, 5), (7, 5), (2, 1), (1, 1)]);
        record.header.flags = flag::CUT;
        let mut of = |cgroup: Option<u64>| {
            let belongs = |one: &AncestorRecord| cgroup.is_none_or(|cgroup| one.cgroup == cgroup);
            let (all, more) = ancestors.of(&record, Path::new("/nowhere"), belongs);
            (all.iter().map(|one| one.pid).collect::<Vec<_>>(), more)
        };
        assert_eq!(of(None), (vec![8, 7, 2, 1], true));
        assert_eq!(of(Some(5)), (vec![8, 7], false));
        assert_eq!(of(Some(3)), (vec![], false));
    }

    #[test]
    fn a_hundred_thousand_ancestors_leave_little_behind() {
        let mut ancestors = Ancestors::default();
        let shell = descendant(1, &[(7, 0)]);
        let (kept, _) = ancestors.of(&shell, Path::new("/nowhere"), |_| true);
        for pid in 0..100_000 {
            let record = descendant(pid, &[(pid + 10, 0), (7, 0)]);
            let _ = ancestors.of(&record, Path::new("/nowhere"), |_| true);
        }
        assert!(ancestors.len() <= SWEEP_AT + 2);
        let (again, _) = ancestors.of(&shell, Path::new("/nowhere"), |_| true);
        assert!(Arc::ptr_eq(&kept[0], &again[0]), "who is in use stays");
    }
}
