//! The thread that takes snapshots during tracing: namespace lists, snapshots after losses, scans of removed
//! segments. These can take long, so the ring reader does not do them.

use std::{
    io,
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::{Duration, Instant},
};

use ipc_trace_common::record::NsRef;

use super::{
    SnapshotOptions,
    namespace_contents::{self, NamespaceTarget},
    take_snapshot,
};
use crate::{
    event::{ls::Ls, objects::ObjectInfo},
    input::namespace_list::NamespaceList,
    sources::{
        clock::boot_ns,
        kernel::{namespace_list::Lister, task_iter::TaskIterators},
    },
};

/// How long one scan of namespaces with removed segments may take. The rest is requested again.
const SCAN_LIMIT: Duration = Duration::from_millis(250);
/// How many namespaces are scanned at once.
const NAMESPACES_PER_SCAN: usize = 16;

/// A task for the thread.
#[derive(Debug)]
pub(crate) enum SnapshotTask {
    /// List the namespaces
    List,
    /// Take a snapshot
    Snapshot,
    /// Scan removed segments in these namespaces
    ScanRemoved(Vec<(NsRef, NamespaceTarget)>),
}

/// The result of a task.
#[derive(Debug)]
pub(crate) enum SnapshotThreadResult {
    /// The namespaces
    List(NamespaceList),
    /// A snapshot, with namespace lists from before and after
    Snapshot(Option<Box<Ls>>, NamespaceList, NamespaceList),
    /// Objects in namespaces with removed segments, each at a boot time
    RemovedScan(Vec<(NsRef, u64, Vec<ObjectInfo>)>),
}

/// The task iterators, or why they are unavailable.
pub(crate) type TaskIterReader = Result<TaskIterators, String>;

/// The handle of the thread.
#[derive(Debug)]
pub(crate) struct SnapshotThread {
    tasks: Sender<SnapshotTask>,
    /// The task, when it was done, and its result
    seen: Receiver<(usize, u64, SnapshotThreadResult)>,
    thread: thread::JoinHandle<TaskIterReader>,
    /// Tasks that are not done
    waiting: [bool; 3],
}

impl SnapshotThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// The thread can't be created.
    pub(crate) fn start(lister: Lister, task_iter: TaskIterReader) -> io::Result<Self> {
        let (tasks, given) = mpsc::channel();
        let (results, seen) = mpsc::channel();
        let thread = thread::Builder::new().name("ipc-trace-snap".to_owned()).spawn(move || {
            reset_priority();
            serve(&given, &results, &lister, &task_iter);
            task_iter
        })?;
        Ok(Self { tasks, seen, thread, waiting: [false; 3] })
    }

    /// Requests a task, unless one of the same kind is outstanding.
    pub(crate) fn request(&mut self, task: SnapshotTask) {
        if let Some(waiting) = self.waiting.get_mut(of_task(&task))
            && !std::mem::replace(waiting, true)
            && self.tasks.send(task).is_err()
        {
            *waiting = false;
        }
    }

    /// The next result, and when it was complete.
    pub(crate) fn seen(&mut self) -> Option<(u64, SnapshotThreadResult)> {
        let (of, at, seen) = self.seen.try_recv().ok()?;
        if let Some(waiting) = self.waiting.get_mut(of) {
            *waiting = false;
        }
        Some((at, seen))
    }

    /// Stops the thread: returns the task iterators.
    #[must_use]
    pub(crate) fn stop(self) -> Option<TaskIterReader> {
        drop(self.tasks);
        drop(self.seen);
        self.thread.join().ok()
    }
}

const fn of_task(task: &SnapshotTask) -> usize {
    match task {
        SnapshotTask::List => 0,
        SnapshotTask::Snapshot => 1,
        SnapshotTask::ScanRemoved(_) => 2,
    }
}

fn serve(
    given: &Receiver<SnapshotTask>,
    results: &Sender<(usize, u64, SnapshotThreadResult)>,
    lister: &Lister,
    task_iter: &TaskIterReader,
) {
    for task in given {
        let of = of_task(&task);
        let seen = match task {
            SnapshotTask::List => SnapshotThreadResult::List(list(lister)),
            SnapshotTask::Snapshot => {
                let before = list(lister);
                let ls = take_snapshot(&SnapshotOptions::default(), task_iter)
                    .inspect_err(|error| log::warn!("no snapshot can be taken: {error}"));
                SnapshotThreadResult::Snapshot(ls.ok().map(Box::new), before, list(lister))
            }
            SnapshotTask::ScanRemoved(all) => {
                SnapshotThreadResult::RemovedScan(scan_pending_removals(all))
            }
        };
        let sent = results.send((of, boot_ns(), seen));
        if sent.is_err() {
            return;
        }
    }
}

fn list(lister: &Lister) -> NamespaceList {
    lister.list().unwrap_or_else(|error| {
        log::warn!("{error}");
        NamespaceList::default()
    })
}

fn scan_pending_removals(all: Vec<(NsRef, NamespaceTarget)>) -> Vec<(NsRef, u64, Vec<ObjectInfo>)> {
    let (namespaces, targets): (Vec<NsRef>, Vec<NamespaceTarget>) = all.into_iter().unzip();
    let began = Instant::now();
    let mut seen = Vec::new();
    for (namespaces, targets) in
        namespaces.chunks(NAMESPACES_PER_SCAN).zip(targets.chunks(NAMESPACES_PER_SCAN))
    {
        if began.elapsed() >= SCAN_LIMIT {
            break;
        }
        let at = boot_ns();
        match namespace_contents::read_all(targets) {
            Ok(found) => {
                for (ns, inside) in namespaces.iter().zip(found) {
                    if let Some(inside) = inside.filter(|inside| inside.unseen.is_empty()) {
                        seen.push((*ns, at, inside.objects));
                    }
                }
            }
            Err(error) => log::warn!("removed segments can't be scanned: {error}"),
        }
    }
    seen
}

/// Gives the calling thread the normal priority: only the ring reader has a higher one.
fn reset_priority() {
    // SAFETY: no pointers; 0 is this thread, as Linux has it.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 0) } != 0 {
        log::debug!("a thread stays as urgent as the reader: {}", io::Error::last_os_error());
    }
}
