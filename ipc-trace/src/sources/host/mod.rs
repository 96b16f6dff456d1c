//! A look at what exists: all IPC namespaces, who holds them, their objects and limits. Nothing is
//! traced for it.
//!
//! | module | its job |
//! | --- | --- |
//! | [`found`] | who holds what, from whichever source |
//! | [`procfs`] | who holds what, as `/proc` shows it |
//! | [`inside`] | what only a thread inside of a namespace sees: objects and limits |
//! | [`sysvipc`] | the tables of `/proc/sysvipc`: pure |
//! | [`mqueue`] | the queues of a namespace |
//! | [`untrusted`] | opens what another process names |
//! | [`patience`] | reads what may keep its reader waiting |
//! | [`lines`] | lines of mountinfo and maps files: pure |
//! | [`assemble`] | all of it together, by namespace: pure |
//!
//! Order: who holds what comes first, the namespaces are entered afterwards. What was there first and
//! has gone then is left out.
//!
//! Invariant: what exists is the same before and after: no object is used, no namespace outlives the
//! look because of it, no file is mounted where another process could see it.

pub(crate) mod assemble;
pub(crate) mod cgroups;
pub(crate) mod found;
pub(crate) mod inside;
pub(crate) mod inspector;
pub(crate) mod lines;
pub(crate) mod looker;
pub(crate) mod mqueue;
pub(crate) mod patience;
pub(crate) mod processes;
pub(crate) mod procfs;
pub(crate) mod sysvipc;
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
        ls::{DescriptorOf, Ls, NamespaceLook},
        value::Timestamp,
    },
    sources::host::cgroups::Hierarchy,
    sources::kernel::{
        attach,
        features::{self, System},
        layout::{KERNEL_BTF, Layout},
        task_iter::TaskIterators,
    },
};
use assemble::{MountSeen, Observations};
use found::{Belongs, Holdings};
use inside::{NamespaceContents, NamespaceTarget, NsHandle};
use lines::Mounted;
use procfs::Procfs;
use untrusted::ExpectedFile;

/// Why there is nothing to be seen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookError {
    /// The wanted namespace does not exist.
    #[error(
        "no IPC namespace has the number {inum}{}; `ipc-trace ls` lists those that exist",
        if *.complete { "" } else { ", or it can't be seen by this user" }
    )]
    NoSuchNamespace {
        /// Its number
        inum: u32,
        /// Whether all were seen
        complete: bool,
    },
    /// The system refused something without which nothing can be seen.
    #[error("{what}: {source}")]
    System {
        /// What was tried
        what: &'static str,
        /// What it said
        source: io::Error,
    },
}

/// What to look at.
#[derive(Clone, Debug, Default)]
pub(crate) struct SnapshotOptions<'a> {
    /// This namespace alone
    pub namespace: Option<u32>,
    /// A file with the kernel's BTF
    pub btf: Option<PathBuf>,
    /// The cgroups that tell containers, if those are wanted
    pub cgroups: Option<&'a Hierarchy>,
}

/// Loads what lists who holds what.
///
/// # Errors
/// It can't be had, and why. Then `/proc` tells some of it.
pub(crate) fn task_iter(options: &SnapshotOptions<'_>) -> Result<TaskIterators, String> {
    features::check_capabilities(Path::new("/proc")).map_err(|e| e.to_string())?;
    if let Err(error) = attach::lift_memory_lock_limit() {
        log::info!("the limit on locked memory can't be lifted: {error}");
    }
    let btf = options.btf.as_deref().unwrap_or(Path::new(KERNEL_BTF));
    let layout = Layout::from_file(btf).map_err(|e| e.to_string())?;
    TaskIterators::load(&layout).map_err(|e| e.to_string())
}

/// Looks at what exists.
///
/// # Errors
/// The wanted namespace does not exist, or `/proc` can't be read. What else can't be seen is said in
/// the result.
pub(crate) fn take_snapshot(
    options: &SnapshotOptions<'_>,
    task_iter: &Result<TaskIterators, String>,
) -> Result<Ls, LookError> {
    let system = |what| move |source| LookError::System { what, source };
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
            return Err(LookError::NoSuchNamespace { inum, complete: found.complete });
        }
        // Whose a mapping is can else only be told by what is in the others.
        if found.mappings.iter().all(|mapping| mapping.ipc_ns.is_some()) {
            wanted = BTreeSet::from([inum]);
        }
    }
    let targets = targets(&wanted, own, &found, &mounts);
    let looked = inside::read_all(&targets).map_err(system("looking into namespaces"))?;
    let mut insides: BTreeMap<u32, NamespaceContents> = targets
        .iter()
        .zip(looked)
        .filter_map(|(target, inside)| Some((target.inum, inside?)))
        .collect();
    let missing: Vec<u32> = wanted.into_iter().filter(|one| !insides.contains_key(one)).collect();
    if !missing.is_empty() {
        let closed = |inum| (inum, NamespaceContents::closed(NO_WAY));
        insides.extend(alive(task_iter.as_ref().ok(), &found, missing).into_iter().map(closed));
    }
    let devices = devices(&found, &insides);
    unlinked(&found, &devices, &mut insides);

    let (complete, mut unseen) = (found.complete, std::mem::take(&mut found.unseen));
    let (mut namespaces, unknown) =
        Observations { found, mounts, insides, devices, page: page() }.namespaces();
    if unknown > 0 {
        unseen.push(format!("whose {unknown} mapped segments are: /proc/PID/maps does not say"));
    }
    if let Some(inum) = options.namespace {
        namespaces.retain(|namespace| namespace.inum == inum);
        if namespaces.is_empty() {
            return Err(LookError::NoSuchNamespace { inum, complete });
        }
    }
    if same_numbers {
        for process in namespaces.iter_mut().flat_map(|ns: &mut NamespaceLook| &mut ns.processes) {
            process.exe = procfs.executable(process.pid);
            let path =
                |cgroups: &Hierarchy| cgroups.path_of_process(Path::new("/proc"), process.pid);
            process.cgroup = options.cgroups.and_then(path);
        }
    }
    Ok(Ls { v: VERSION, host: host.host, kernel: host.kernel, time, complete, unseen, namespaces })
}

/// Why a namespace can't be entered that the kernel lists.
const NO_WAY: &str = "this kernel has no way into a namespace that only mappings or open files of \
                      /proc/sysvipc hold";

/// Which of the namespaces that could not be entered the kernel still lists. The others had ended.
fn alive(task_iter: Option<&TaskIterators>, found: &Holdings, missing: Vec<u32>) -> Vec<u32> {
    let mut now = Holdings::default();
    match task_iter.map(TaskIterators::tasks) {
        Some(Ok(tasks)) => now.add_tasks(&tasks),
        Some(Err(_)) | None => return Vec::new(),
    }
    // How many queues it has may be another number meanwhile.
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

/// Who holds what: by the eBPF programs' lists, and where it can't list something, by `/proc`. Whether
/// processes have the same numbers in both.
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

/// The mounts of IPC in every mount namespace that a process is in.
fn mounts(procfs: &mut Procfs, found: &Holdings) -> Vec<MountSeen> {
    // Processes that share a mount namespace and are to be asked about it until one sees all of it.
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

/// The ways into each of the namespaces.
fn targets(
    wanted: &BTreeSet<u32>,
    own: u32,
    found: &Holdings,
    mounts: &[MountSeen],
) -> Vec<NamespaceTarget> {
    // As many threads of a namespace as may end before one is found that does not.
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

/// By the device of its mqueue file system, each namespace.
fn devices(
    found: &Holdings,
    insides: &BTreeMap<u32, NamespaceContents>,
) -> BTreeMap<libc::dev_t, u32> {
    let listed = found.listed.iter().filter_map(|(inum, one)| Some((one.mqueue_dev?, *inum)));
    let seen = insides.iter().filter_map(|(inum, one)| Some((one.mqueue_dev?, *inum)));
    listed.chain(seen).collect()
}

/// Adds queues that no name leads to any more: they exist, and count, as long as they are open.
fn unlinked(
    found: &Holdings,
    devices: &BTreeMap<libc::dev_t, u32>,
    insides: &mut BTreeMap<u32, NamespaceContents>,
) {
    let device_of: BTreeMap<u32, libc::dev_t> =
        devices.iter().map(|(device, inum)| (*inum, *device)).collect();
    let mut met = BTreeSet::new();
    for descriptor in &found.descriptors {
        let (device, inum) = match descriptor.belongs {
            Belongs::Namespace(inum) => (device_of.get(&inum).copied(), Some(inum)),
            Belongs::Device(device) => (Some(device), devices.get(&device).copied()),
        };
        let (Some(ino), Some(inum), Some(device)) = (descriptor.unlinked, inum, device) else {
            continue;
        };
        let Some(inside) = insides.get_mut(&inum) else { continue };
        if met.contains(&(inum, ino)) {
            continue;
        }
        let link = PathBuf::from(format!("/proc/{}/fd/{}", descriptor.pid, descriptor.fd));
        let name = descriptor.name.as_ref().map(|name| name.0.to_vec()).unwrap_or_default();
        let queue = untrusted::open_link(&link, ExpectedFile::queue(device, ino));
        match queue
            .and_then(|queue| queue.map(|queue| mqueue::described(&queue, &name)).transpose())
        {
            Ok(Some(queue)) => {
                met.insert((inum, ino));
                inside.objects.push(queue);
            }
            // Closed meanwhile, as another descriptor of it need not be.
            Ok(None) => log::debug!("an unlinked queue has given way to another file"),
            Err(error) => log::debug!("an unlinked queue can't be asked: {error}"),
        }
    }
}
