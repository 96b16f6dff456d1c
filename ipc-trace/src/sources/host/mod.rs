//! A snapshot: all IPC namespaces, their holders, their objects and limits. It needs no tracing.
//!
//! | module | its job |
//! | --- | --- |
//! | [`task_holdings`] | threads, descriptors and mappings, from all sources |
//! | [`procfs`] | threads, descriptors and mappings from `/proc` |
//! | [`namespace_contents`] | objects and limits, which only a thread inside a namespace can read |
//! | [`sysvipc`] | the tables of `/proc/sysvipc`: pure |
//! | [`mqueue`] | the queues of a namespace |
//! | [`untrusted`] | opens files that another process names |
//! | [`timed_read`] | reads files that may block the reader |
//! | [`lines`] | lines of mountinfo and maps files: pure |
//! | [`assemble`] | combines everything by namespace: pure |
//!
//! Order: holders are listed first, then the namespaces are entered. A namespace that is gone by then is omitted.
//!
//! Invariant: a snapshot changes nothing: it uses no object, keeps no namespace alive after it, and mounts no file
//! system where another process could see it.

pub(crate) mod assemble;
pub(crate) mod cgroups;
pub(crate) mod inspector;
pub(crate) mod lines;
pub(crate) mod mqueue;
pub(crate) mod namespace_contents;
pub(crate) mod processes;
pub(crate) mod procfs;
pub(crate) mod snapshot_thread;
pub(crate) mod sysvipc;
pub(crate) mod task_holdings;
pub(crate) mod timed_read;
pub(crate) mod untrusted;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{
    event::{
        VERSION,
        ls::{DescriptorOf, Ls, NamespaceSnapshot},
        value::Timestamp,
    },
    sources::host::cgroups::Hierarchy,
    sources::kernel::{
        attach,
        features::{self, System},
        field_offsets::{KERNEL_BTF, Layout},
        task_iter::TaskIterators,
    },
};
use assemble::{MountSeen, Observations};
use lines::Mounted;
use namespace_contents::{NamespaceContents, NamespaceTarget, NsHandle};
use procfs::Procfs;
use task_holdings::{Belongs, Holdings};
use untrusted::ExpectedFile;

/// Why a snapshot fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    /// The wanted namespace does not exist.
    #[error(
        "no IPC namespace has the number {inum}{}; `ipc-trace ls` lists those that exist",
        if *.complete { "" } else { ", or it can't be seen by this user" }
    )]
    NoSuchNamespace {
        /// The namespace's number
        inum: u32,
        /// Whether all namespaces were seen
        complete: bool,
    },
    /// The system refused something essential.
    #[error("{what}: {source}")]
    System {
        /// The operation
        what: &'static str,
        /// The system's error
        source: io::Error,
    },
}

/// Options of a snapshot.
#[derive(Clone, Debug, Default)]
pub(crate) struct SnapshotOptions<'a> {
    /// This namespace only
    pub namespace: Option<u32>,
    /// A file with the kernel's BTF
    pub btf: Option<PathBuf>,
    /// The cgroups that identify containers, if wanted
    pub cgroups: Option<&'a Hierarchy>,
}

/// Loads the task iterators.
///
/// # Errors
/// They are unavailable, and why. Then `/proc` shows some of it.
pub(crate) fn task_iter(options: &SnapshotOptions<'_>) -> Result<TaskIterators, String> {
    features::check_capabilities(Path::new("/proc")).map_err(|e| e.to_string())?;
    if let Err(error) = attach::lift_memory_lock_limit() {
        log::info!("the limit on locked memory can't be lifted: {error}");
    }
    let btf = options.btf.as_deref().unwrap_or(Path::new(KERNEL_BTF));
    let layout = Layout::from_file(btf).map_err(|e| e.to_string())?;
    TaskIterators::load(&layout).map_err(|e| e.to_string())
}

/// Takes a snapshot.
///
/// # Errors
/// The wanted namespace does not exist, or `/proc` can't be read. The result lists what else can't be seen.
pub(crate) fn take_snapshot(
    options: &SnapshotOptions<'_>,
    task_iter: &Result<TaskIterators, String>,
) -> Result<Ls, SnapshotError> {
    let system = |what| move |source| SnapshotError::System { what, source };
    let host = System::read().map_err(system("uname"))?;
    let time = Timestamp(SystemTime::now());
    let mut procfs = Procfs::new(Path::new("/proc"));
    let (mut found, same_numbers) =
        holders(task_iter, &mut procfs).map_err(system("reading /proc"))?;
    let mounts = mounts(&mut procfs, &found);
    found.unseen.extend(procfs.unseen());

    let own = features::namespace_inum(Path::new("/proc/self/ns/ipc"))
        .map_err(system("/proc/self/ns/ipc"))?;
    let mut wanted = found.namespaces(&mounts);
    wanted.insert(own);
    if let Some(inum) = options.namespace {
        if !wanted.contains(&inum) {
            return Err(SnapshotError::NoSuchNamespace { inum, complete: found.complete });
        }
        // Otherwise only the other namespaces' contents show which one a mapping belongs to.
        if found.mappings.iter().all(|mapping| mapping.ipc_ns.is_some()) {
            wanted = BTreeSet::from([inum]);
        }
    }
    let targets = targets(&wanted, own, &found, &mounts);
    let contents = namespace_contents::read_all(&targets).map_err(system("reading namespaces"))?;
    let mut insides: BTreeMap<u32, NamespaceContents> = targets
        .iter()
        .zip(contents)
        .filter_map(|(target, inside)| Some((target.inum, inside?)))
        .collect();
    let missing: Vec<u32> = wanted.into_iter().filter(|one| !insides.contains_key(one)).collect();
    if !missing.is_empty() {
        let closed = |inum| (inum, NamespaceContents::closed(NO_HANDLE));
        insides.extend(alive(task_iter.as_ref().ok(), &found, missing).into_iter().map(closed));
    }
    let devices = devices(&found, &insides);
    unlinked(&found, &devices, &mut insides);

    let (complete, mut unseen) = (found.complete, std::mem::take(&mut found.unseen));
    let (mut namespaces, unknown) =
        Observations { found, mounts, insides, devices, page: page() }.namespaces();
    if unknown > 0 {
        unseen.push(format!(
            "the namespace of {unknown} mapped segments: /proc/PID/maps does not show it"
        ));
    }
    if let Some(inum) = options.namespace {
        namespaces.retain(|namespace| namespace.inum == inum);
        if namespaces.is_empty() {
            return Err(SnapshotError::NoSuchNamespace { inum, complete });
        }
    }
    if same_numbers {
        for process in
            namespaces.iter_mut().flat_map(|ns: &mut NamespaceSnapshot| &mut ns.processes)
        {
            process.exe = procfs.executable(process.pid);
            let path =
                |cgroups: &Hierarchy| cgroups.path_of_process(Path::new("/proc"), process.pid);
            process.cgroup = options.cgroups.and_then(path);
        }
    }
    Ok(Ls { v: VERSION, host: host.host, kernel: host.kernel, time, complete, unseen, namespaces })
}

/// Why a namespace that the kernel lists can't be entered.
const NO_HANDLE: &str = "this kernel has no way into a namespace that only mappings or open files of \
                      /proc/sysvipc hold";

/// The namespaces that could not be entered but that the kernel still lists. The others had ended.
fn alive(task_iter: Option<&TaskIterators>, found: &Holdings, missing: Vec<u32>) -> Vec<u32> {
    let mut now = Holdings::default();
    match task_iter.map(TaskIterators::tasks) {
        Some(Ok(tasks)) => now.add_tasks(&tasks),
        Some(Err(_)) | None => return Vec::new(),
    }
    // Its number of queues may have changed meanwhile.
    let identity = |found: &Holdings, inum: u32| {
        found.listed.get(&inum).map(|one| (one.ns_id, one.mqueue_dev))
    };
    let same = |inum: &u32| {
        now.listed.contains_key(inum) && identity(&now, *inum) == identity(found, *inum)
    };
    missing.into_iter().filter(same).collect()
}

fn page() -> u64 {
    match nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE) {
        Ok(Some(page)) => u64::try_from(page).unwrap_or(4096),
        Ok(None) | Err(_) => 4096,
    }
}

/// Threads, descriptors and mappings: from the task iterators, and what they can't list, from `/proc`. Returns also
/// whether pids are the same in both.
fn holders(
    task_iter: &Result<TaskIterators, String>,
    procfs: &mut Procfs,
) -> io::Result<(Holdings, bool)> {
    let mut found = Holdings::default();
    let task_iter = match task_iter {
        Ok(task_iter) => Some(task_iter),
        Err(reason) => {
            found.unseen.push(format!(
                "namespaces that no process is to be seen in, and open files of /proc/sysvipc: {reason}"
            ));
            None
        }
    };
    let mut same_numbers = true;
    let tasks = task_iter.map(TaskIterators::tasks);
    let listed = match tasks {
        Some(Ok(tasks)) => {
            same_numbers = tasks.self_pid == std::process::id();
            if !same_numbers {
                found.unseen.push(
                    "processes outside of the pid namespace that this process is in".to_owned(),
                );
            }
            found.add_tasks(&tasks);
            true
        }
        Some(Err(error)) => {
            found.unseen.push(format!("namespaces that no process is to be seen in: {error}"));
            false
        }
        None => false,
    };
    let descriptors = task_iter.and_then(|task_iter| match task_iter.descriptors() {
        Ok(descriptors) => Some(descriptors),
        Err(error) => {
            found.unseen.push(format!("open files of /proc/sysvipc: {error}"));
            None
        }
    });
    let mappings = task_iter.and_then(|task_iter| {
        task_iter
            .mappings()
            .inspect_err(|error| log::info!("mappings are read from /proc: {error}"))
            .ok()
    });
    found.add_descriptors(descriptors.as_deref().unwrap_or_default());
    found.add_mappings(mappings.as_deref().unwrap_or_default());
    if !listed || descriptors.is_none() || mappings.is_none() {
        for pid in procfs.processes()? {
            if !listed {
                procfs.threads(pid, &mut found);
            }
            if descriptors.is_none() {
                procfs.descriptors(pid, &mut found);
            }
            if mappings.is_none() {
                procfs.mappings(pid, &mut found);
            }
        }
    }
    Ok((found, same_numbers))
}

/// The IPC mounts in every mount namespace that a process is in.
fn mounts(procfs: &mut Procfs, found: &Holdings) -> Vec<MountSeen> {
    // Processes that share a mount namespace, which are tried until one sees all of it.
    const ASKED: usize = 8;
    let mut views: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    for thread in &found.threads {
        if let Some(mnt) = thread.ns.mnt {
            views.entry(mnt).or_default().insert(thread.pid);
        }
    }
    let mut seen = Vec::new();
    for (mnt_ns, pids) in views {
        let mut asked = pids.iter().take(ASKED).copied();
        let pid = asked.find(|pid| procfs.sees_all_mounts(*pid)).or_else(|| pids.first().copied());
        if let Some(pid) = pid {
            let mounts = procfs.mounts(pid).into_iter();
            seen.extend(mounts.map(|mount| MountSeen { mnt_ns, pid, mount }));
        }
    }
    seen
}

/// The handles for entering each of the namespaces.
fn targets(
    wanted: &BTreeSet<u32>,
    own: u32,
    found: &Holdings,
    mounts: &[MountSeen],
) -> Vec<NamespaceTarget> {
    // As many threads of a namespace as may end before a live one is found.
    const THREADS: usize = 4;
    let mut ways: BTreeMap<u32, Vec<NsHandle>> =
        wanted.iter().map(|inum| (*inum, Vec::new())).collect();
    for thread in &found.threads {
        if let Some(ways) = ways.get_mut(&thread.ipc_ns)
            && ways.len() < THREADS
        {
            ways.push(NsHandle::Thread(thread.pid, thread.tid));
        }
    }
    for (inum, ways) in &mut ways {
        ways.extend(found.listed.get(inum).and_then(|one| one.ns_id).map(NsHandle::Id));
    }
    for descriptor in &found.descriptors {
        if descriptor.of == DescriptorOf::Namespace
            && let Belongs::Namespace(inum) = descriptor.belongs
            && let Some(ways) = ways.get_mut(&inum)
        {
            ways.push(NsHandle::Descriptor(descriptor.pid, descriptor.fd));
        }
    }
    for MountSeen { pid, mount, .. } in mounts {
        if let Mounted::Namespace(inum) = mount.of
            && let Some(ways) = ways.get_mut(&inum)
        {
            ways.push(NsHandle::Mount(*pid, mount.point.clone()));
        }
    }
    if let Some(ways) = ways.get_mut(&own) {
        *ways = vec![NsHandle::Own];
    }
    ways.into_iter().map(|(inum, ways)| NamespaceTarget { inum, ways }).collect()
}

/// The namespace of each mqueue file system, by its device.
fn devices(
    found: &Holdings,
    insides: &BTreeMap<u32, NamespaceContents>,
) -> BTreeMap<libc::dev_t, u32> {
    let listed = found.listed.iter().filter_map(|(inum, one)| Some((one.mqueue_dev?, *inum)));
    let seen = insides.iter().filter_map(|(inum, one)| Some((one.mqueue_dev?, *inum)));
    listed.chain(seen).collect()
}

/// Adds unlinked queues: they exist, and count, as long as they are open.
fn unlinked(
    found: &Holdings,
    devices: &BTreeMap<libc::dev_t, u32>,
    insides: &mut BTreeMap<u32, NamespaceContents>,
) {
    let device_of: BTreeMap<u32, libc::dev_t> =
        devices.iter().map(|(device, inum)| (*inum, *device)).collect();
    let mut seen = BTreeSet::new();
    for descriptor in &found.descriptors {
        let (device, inum) = match descriptor.belongs {
            Belongs::Namespace(inum) => (device_of.get(&inum).copied(), Some(inum)),
            Belongs::Device(device) => (Some(device), devices.get(&device).copied()),
        };
        let (Some(ino), Some(inum), Some(device)) = (descriptor.unlinked, inum, device) else {
            continue;
        };
        let Some(inside) = insides.get_mut(&inum) else { continue };
        if seen.contains(&(inum, ino)) {
            continue;
        }
        let link = PathBuf::from(format!("/proc/{}/fd/{}", descriptor.pid, descriptor.fd));
        let name = descriptor.name.as_ref().map(|name| name.0.to_vec()).unwrap_or_default();
        let queue = untrusted::open_link(&link, ExpectedFile::queue(device, ino));
        match queue
            .and_then(|queue| queue.map(|queue| mqueue::described(&queue, &name)).transpose())
        {
            Ok(Some(queue)) => {
                seen.insert((inum, ino));
                inside.objects.push(queue);
            }
            // Closed meanwhile; another descriptor of it may still be open.
            Ok(None) => log::debug!("an unlinked queue has given way to another file"),
            Err(error) => log::debug!("an unlinked queue can't be asked: {error}"),
        }
    }
}
