//! Threads, descriptors and mappings from `/proc`, if the eBPF programs can't list them, and mounts, which they never
//! list.
//!
//! A process that vanishes meanwhile is no error. Refused reads are counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use super::{
    lines::{self, IpcMount},
    namespace_contents::is_gone,
    task_holdings::{Belongs, Descriptor, HeldMapping, Holdings, Thread},
    untrusted,
};
use crate::event::{NsInodes, ls::DescriptorOf, value::OsBytes};

/// `/proc`, or a test's directory, and what could not be read.
#[derive(Debug)]
pub(crate) struct Procfs {
    root: PathBuf,
    /// Processes of which a part could not be read, by that part
    refused: BTreeMap<&'static str, BTreeSet<u32>>,
}

impl Procfs {
    /// The `/proc` at `root`.
    #[must_use]
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), refused: BTreeMap::new() }
    }

    /// What could not be read, one sentence each.
    pub(crate) fn unseen(&self) -> impl Iterator<Item = String> {
        self.refused.iter().map(|(what, pids)| {
            let count = pids.len();
            let processes = if count == 1 { "process" } else { "processes" };
            format!("{what} of {count} {processes} could not be read")
        })
    }

    fn read<T>(&mut self, what: &'static str, pid: u32, result: io::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) if is_gone(&error) => None,
            // Kernel threads, and processes that are ending, have none.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => None,
            Err(_) => {
                self.refused.entry(what).or_default().insert(pid);
                None
            }
        }
    }

    /// The processes.
    ///
    /// # Errors
    /// There is no `/proc`.
    pub(crate) fn processes(&self) -> io::Result<Vec<u32>> {
        Ok(numbers(&self.root)?.collect())
    }

    fn path(&self, pid: u32, rest: &str) -> PathBuf {
        self.root.join(format!("{pid}/{rest}"))
    }

    /// Adds all threads of a process that are in an IPC namespace.
    pub(crate) fn threads(&mut self, pid: u32, found: &mut Holdings) {
        let tasks = numbers(&self.path(pid, "task"));
        let Some(tids) = self.read("threads", pid, tasks) else { return };
        let mut ids = None;
        for tid in tids {
            let task = self.path(pid, &format!("task/{tid}"));
            let link = fs::read_link(task.join("ns/ipc"));
            let link = self.read("namespaces", pid, link);
            let Some(ipc_ns) = link.and_then(|link| inum(&link, "ipc")) else { continue };
            let ids = ids.get_or_insert_with(|| Ids::read(&task.join("status")));
            let comm = fs::read(task.join("comm")).unwrap_or_default();
            let ns = |kind: &str| inum(&fs::read_link(task.join("ns").join(kind)).ok()?, kind);
            found.threads.push(Thread {
                tid,
                pid,
                ppid: ids.ppid,
                comm: OsBytes(comm.strip_suffix(b"\n").unwrap_or(&comm).to_vec().into()),
                uid: ids.uid,
                gid: ids.gid,
                start_boot_ns: None,
                ipc_ns,
                ns: NsInodes { pid: ns("pid"), mnt: ns("mnt"), user: ns("user") },
            });
        }
    }

    /// Adds a process's descriptors. The namespace of a file of `/proc/sysvipc` is not visible here.
    pub(crate) fn descriptors(&mut self, pid: u32, found: &mut Holdings) {
        let directory = self.path(pid, "fd");
        let Some(fds) = self.read("descriptors", pid, numbers(&directory)) else { return };
        for fd in fds {
            let path = directory.join(fd.to_string());
            let Ok(link) = fs::read_link(&path) else { continue };
            let bytes = link.as_os_str().as_bytes();
            let descriptor = if let Some(ipc_ns) = inum(&link, "ipc") {
                let belongs = Belongs::Namespace(ipc_ns);
                Descriptor {
                    pid,
                    fd,
                    of: DescriptorOf::Namespace,
                    belongs,
                    name: None,
                    unlinked: None,
                }
            } else if may_be_queue(bytes) {
                let Ok(status) = untrusted::status_of(&path) else { continue };
                // A name may end like that by itself.
                let is_unlinked = status.links == 0;
                let path = bytes.strip_suffix(b" (deleted)").filter(|_| is_unlinked);
                let name =
                    path.unwrap_or(bytes).rsplit(|byte| *byte == b'/').next().unwrap_or_default();
                Descriptor {
                    pid,
                    fd,
                    of: DescriptorOf::Queue,
                    belongs: Belongs::Device(status.id.dev),
                    name: Some(OsBytes(name.to_vec().into())),
                    unlinked: is_unlinked.then_some(status.id.ino),
                }
            } else {
                continue;
            };
            found.descriptors.push(descriptor);
        }
    }

    /// Adds the segments that a process has mapped.
    pub(crate) fn mappings(&mut self, pid: u32, found: &mut Holdings) {
        let maps = fs::read(self.path(pid, "maps"));
        let Some(maps) = self.read("mappings", pid, maps) else { return };
        found.mappings.extend(lines::segments(&maps).map(|one| HeldMapping {
            pid,
            shmid: one.shmid,
            ipc_ns: None,
            key: Some(one.key),
            bytes: one.bytes,
        }));
    }

    /// The IPC mounts that a process sees.
    pub(crate) fn mounts(&mut self, pid: u32) -> Vec<IpcMount> {
        let text = fs::read(self.path(pid, "mountinfo"));
        let text = self.read("mounts", pid, text).unwrap_or_default();
        lines::mounts(&text).collect()
    }

    /// Whether a process sees all of its mount namespace: it has the same root.
    #[must_use]
    pub(crate) fn sees_all_mounts(&self, pid: u32) -> bool {
        fs::read_link(self.path(pid, "root")).is_ok_and(|root| root == Path::new("/"))
    }

    /// The executable of a process.
    #[must_use]
    pub(crate) fn executable(&self, pid: u32) -> Option<OsBytes<'static>> {
        let link = fs::read_link(self.path(pid, "exe")).ok()?.into_os_string();
        let bytes = std::os::unix::ffi::OsStringExt::into_vec(link);
        let path = bytes.strip_suffix(b" (deleted)").unwrap_or(&bytes);
        Some(OsBytes(path.to_vec().into()))
    }
}

/// Whether a descriptor's link may be a queue's: those of mq_open are shown by their names only, those opened as
/// files lie below a mount, by convention this one.
fn may_be_queue(link: &[u8]) -> bool {
    link.starts_with(b"/dev/mqueue/")
        || link.strip_prefix(b"/").is_some_and(|name| !name.contains(&b'/'))
}

/// The entries of a directory that are numbers.
fn numbers(path: &Path) -> io::Result<impl Iterator<Item = u32> + use<>> {
    let number = |name: OsString| name.to_str()?.parse().ok();
    let entries = fs::read_dir(path)?.map_while(Result::ok);
    Ok(entries.filter_map(move |entry| number(entry.file_name())))
}

fn inum(link: &Path, kind: &str) -> Option<u32> {
    lines::numbered(link.to_str()?, kind)
}

/// A process's ids in `/proc/PID/status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ids {
    ppid: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Ids {
    fn read(path: &Path) -> Self {
        // A thread's name can contain any bytes.
        let status = fs::read(path).unwrap_or_default();
        Self::parse(&String::from_utf8_lossy(&status))
    }

    fn parse(status: &str) -> Self {
        let number = |name: &str, at: usize| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().nth(at)?.parse().ok()
        };
        // Uid: REAL EFFECTIVE SAVED FILESYSTEM
        Self { ppid: number("PPid:", 0), uid: number("Uid:", 1), gid: number("Gid:", 1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_process_files() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let task = root.join("7/task/8");
        fs::create_dir_all(task.join("ns")).unwrap();
        fs::create_dir_all(root.join("7/fd")).unwrap();
        fs::create_dir_all(root.join("sys")).unwrap();
        for (kind, number) in [("ipc", 100), ("pid", 101), ("mnt", 102)] {
            let link = task.join("ns").join(kind);
            std::os::unix::fs::symlink(format!("{kind}:[{number}]"), link).unwrap();
        }
        fs::write(task.join("comm"), b"two\xff\nlines\n").unwrap();
        let status = "Name:\tx\nPPid:\t3\nUid:\t1\t2\t1\t1\nGid:\t4\t5\t4\t4\n";
        fs::write(task.join("status"), status).unwrap();
        fs::write(root.join("7/maps"), "1000-3000 rw-s 0 00:01 5  /SYSV00000007 (deleted)\n")
            .unwrap();
        std::os::unix::fs::symlink("ipc:[104]", root.join("7/fd/3")).unwrap();
        std::os::unix::fs::symlink("/a/b", root.join("7/fd/4")).unwrap();

        let mut procfs = Procfs::new(root);
        let mut found = Holdings::default();
        assert_eq!(procfs.processes().unwrap(), [7]);
        procfs.threads(7, &mut found);
        procfs.descriptors(7, &mut found);
        procfs.mappings(7, &mut found);
        procfs.mappings(9, &mut found);

        let [thread] = found.threads.as_slice() else { panic!("{found:?}") };
        assert_eq!((thread.pid, thread.tid, thread.ipc_ns), (7, 8, 100));
        assert_eq!((thread.ppid, thread.uid, thread.gid), (Some(3), Some(2), Some(5)));
        assert_eq!(&*thread.comm.0, b"two\xff\nlines");
        assert_eq!(thread.ns, NsInodes { pid: Some(101), mnt: Some(102), user: None });
        let [descriptor] = found.descriptors.as_slice() else { panic!("{found:?}") };
        assert_eq!((descriptor.fd, descriptor.belongs), (3, Belongs::Namespace(104)));
        let [mapping] = found.mappings.as_slice() else { panic!("{found:?}") };
        assert_eq!((mapping.shmid, mapping.bytes), (5, 0x2000));
        assert_eq!(procfs.unseen().count(), 0);
    }
}
