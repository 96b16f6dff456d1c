//! The tracks of the timeline. The format has processes and threads, and no other tracks: so each namespace and container
//! of a host is a process with a number of its own, and the calling threads are its threads.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use foldhash::{HashMap, HashMapExt as _};

use super::format::{TrackRef, put_metadata};
use crate::event::{
    Container, IpcNs, Process,
    escape::escaped,
    tag::{COMM_WIDTH, ContainerTag, NsTag},
};

/// The first number of a thread's track if the thread's own one is taken: threads have numbers below it
/// (`PID_MAX_LIMIT`, include/linux/threads.h).
const FIRST_OTHER_TID: u32 = 1 << 22;
/// The number of the thread of what no thread did: no thread has it.
pub(super) const NO_THREAD: u32 = 0;
/// A host's name is cut there.
const HOST_WIDTH: usize = 64;
/// How many tracks are sorted for each host.
const HOST_SORT: u32 = 1 << 22;

/// A process of the file.
#[derive(Debug)]
struct ProcessTrack {
    pid: u32,
    container: Option<Arc<Container>>,
    /// By the threads' own numbers: those that had it
    threads: HashMap<u32, Vec<ThreadTrack>>,
    next_tid: u32,
}

/// A thread of the file.
#[derive(Debug)]
struct ThreadTrack {
    tid: u32,
    /// When its process started; `None`: unknown
    start_boot_ns: Option<u64>,
}

/// A namespace of a host: the host's place, the inode number, its generation.
type NamespaceOfHost = (u32, u32, u32);

/// All tracks of the file.
#[derive(Debug)]
pub(super) struct Tracks {
    /// The hosts, in the order in which they came
    pub(super) hosts: Vec<String>,
    host: u32,
    many_hosts: bool,
    namespaces: BTreeMap<NamespaceOfHost, Vec<ProcessTrack>>,
    findings: Option<u32>,
    next_pid: u32,
}

impl Tracks {
    pub(super) const fn new() -> Self {
        Self {
            hosts: Vec::new(),
            host: 0,
            many_hosts: false,
            namespaces: BTreeMap::new(),
            findings: None,
            next_pid: 1,
        }
    }

    /// Further tracks are this host's.
    pub(super) fn set_host(&mut self, host: &str, many_hosts: bool) {
        let place = self.hosts.iter().position(|one| one == host).unwrap_or_else(|| {
            self.hosts.push(host.to_owned());
            self.hosts.len() - 1
        });
        self.host = u32::try_from(place).unwrap_or(u32::MAX);
        self.many_hosts = many_hosts;
    }

    /// The track of a thread in a namespace. Appends its metadata if it is new.
    pub(super) fn thread(
        &mut self,
        ns: IpcNs,
        container: Option<&Arc<Container>>,
        process: &Process<'_>,
        out: &mut Vec<u8>,
    ) -> TrackRef {
        let track = self.process(ns, container, out);
        let pid = track.pid;
        let start = process.start_boot_ns;
        let known = track.threads.entry(process.tid).or_default();
        let same = known.iter_mut().rev().find(|thread| {
            thread.start_boot_ns.is_none() || start.is_none() || thread.start_boot_ns == start
        });
        if let Some(same) = same {
            same.start_boot_ns = same.start_boot_ns.or(start);
            return TrackRef { pid, tid: same.tid };
        }
        let tid = if known.is_empty() && process.tid < FIRST_OTHER_TID {
            process.tid
        } else {
            track.next_tid += 1;
            track.next_tid - 1
        };
        known.push(ThreadTrack { tid, start_boot_ns: start });
        let name = format!("{} {}", escaped(&process.comm.0, COMM_WIDTH), process.tid);
        let track = TrackRef { pid, tid };
        put_metadata(out, "thread_name", track, &name);
        track
    }

    /// The track of what no thread did, in a namespace.
    pub(super) fn namespace(
        &mut self,
        ns: IpcNs,
        container: Option<&Arc<Container>>,
        out: &mut Vec<u8>,
    ) -> TrackRef {
        TrackRef { pid: self.process(ns, container, out).pid, tid: NO_THREAD }
    }

    /// The track of findings without a thread, and of what concerns the whole file.
    pub(super) fn findings(&mut self, out: &mut Vec<u8>) -> TrackRef {
        let next = &mut self.next_pid;
        let pid = *self.findings.get_or_insert_with(|| {
            let track = TrackRef { pid: *next, tid: NO_THREAD };
            *next += 1;
            put_metadata(out, "process_name", track, &"findings");
            put_metadata(out, "process_sort_index", track, &i32::MAX);
            track.pid
        });
        TrackRef { pid, tid: NO_THREAD }
    }

    /// A container's name arrived: appends it for the tracks that lack it.
    pub(super) fn rename(&mut self, container: &Arc<Container>, out: &mut Vec<u8>) {
        let host = self.host;
        let (many, name) = (self.many_hosts, self.hosts.get(host as usize));
        let host_name = name.filter(|_| many);
        let namespaces = self.namespaces.range_mut((host, 0, 0)..=(host, u32::MAX, u32::MAX));
        for (&(_, inum, generation), tracks) in namespaces {
            for track in tracks {
                let Some(known) = &mut track.container else { continue };
                if is_same(known, container) {
                    *known = Arc::clone(container);
                    let ns = NsTag::new(inum, generation);
                    put_name(track.pid, host_name, ns, Some(container), out);
                }
            }
        }
    }

    fn process(
        &mut self,
        ns: IpcNs,
        container: Option<&Arc<Container>>,
        out: &mut Vec<u8>,
    ) -> &mut ProcessTrack {
        let tracks = self.namespaces.entry((self.host, ns.inum, ns.r#gen)).or_default();
        let place = tracks.iter().position(|track| match (&track.container, container) {
            (Some(known), Some(container)) => is_same(known, container),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        });
        let place = place.unwrap_or_else(|| {
            let pid = self.next_pid;
            self.next_pid += 1;
            let host = self.hosts.get(self.host as usize).filter(|_| self.many_hosts);
            put_name(pid, host, ns.into(), container, out);
            // A host's own namespace comes first.
            let others = if ns.host { 0 } else { HOST_SORT / 2 };
            let sort = self.host.saturating_mul(HOST_SORT).saturating_add(others + pid);
            let sort = i32::try_from(sort).unwrap_or(i32::MAX - 1);
            put_metadata(out, "process_sort_index", TrackRef { pid, tid: NO_THREAD }, &sort);
            tracks.push(ProcessTrack {
                pid,
                container: container.cloned(),
                threads: HashMap::new(),
                next_tid: FIRST_OTHER_TID,
            });
            tracks.len() - 1
        });
        #[expect(clippy::indexing_slicing, reason = "it was found there, or put there")]
        &mut tracks[place]
    }
}

fn is_same(one: &Arc<Container>, other: &Arc<Container>) -> bool {
    Arc::ptr_eq(one, other) || one.id == other.id && one.runtime == other.runtime
}

/// `ipc 4026532180 · app1`, `ipc host · -`, with the host if there are several.
fn put_name(
    pid: u32,
    host: Option<&String>,
    ns: NsTag,
    container: Option<&Arc<Container>>,
    out: &mut Vec<u8>,
) {
    let mut name = String::new();
    if let Some(host) = host {
        let _ = write!(name, "{} · ", escaped(host.as_bytes(), HOST_WIDTH));
    }
    let _ = match container {
        Some(container) => write!(name, "ipc {ns} · {}", ContainerTag(container)),
        None => write!(name, "ipc {ns} · -"),
    };
    put_metadata(out, "process_name", TrackRef { pid, tid: NO_THREAD }, &name);
}
