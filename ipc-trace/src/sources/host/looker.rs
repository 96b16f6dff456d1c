//! The thread that looks at what exists while calls are traced: lists of namespaces, snapshots after losses, removed
//! segments. A look takes as long as there is much to be seen, so who reads the rings does not take it.

use std::{
    io,
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::{Duration, Instant},
};

use ipc_trace_common::record::NsRef;

use super::{
    SnapshotOptions,
    inside::{self, NamespaceTarget},
    take_snapshot,
};
use crate::{
    event::{ls::Ls, objects::ObjectLook},
    input::namespace_list::NamespaceList,
    sources::{
        clock::boot_ns,
        kernel::{namespace_list::Lister, task_iter::TaskIterators},
    },
};

/// For so long namespaces with removed segments are looked into at a time. Those that are left are asked for again.
const LINGER: Duration = Duration::from_millis(250);
/// So many of them in one go.
const GO: usize = 16;

/// What is to be looked at.
#[derive(Debug)]
pub(crate) enum SnapshotTask {
    /// Which namespaces exist
    List,
    /// All that exists
    Snapshot,
    /// Removed segments in these namespaces
    Linger(Vec<(NsRef, NamespaceTarget)>),
}

/// What was seen.
#[derive(Debug)]
pub(crate) enum LookerResult {
    /// Which namespaces exist
    List(NamespaceList),
    /// All that exists, with what was listed before and after
    Snapshot(Option<Box<Ls>>, NamespaceList, NamespaceList),
    /// Objects in namespaces with removed segments, each at a boot time
    Lingered(Vec<(NsRef, u64, Vec<ObjectLook>)>),
}

/// What lists who holds what, or why nothing does.
pub(crate) type TaskIterReader = Result<TaskIterators, String>;

/// Who wants things looked at: the thread's other end.
#[derive(Debug)]
pub(crate) struct Looker {
    tasks: Sender<SnapshotTask>,
    /// Which task, when it was done, and what was seen
    seen: Receiver<(usize, u64, LookerResult)>,
    thread: thread::JoinHandle<TaskIterReader>,
    /// Tasks that are not done
    waiting: [bool; 3],
}

impl Looker {
    /// Starts the thread.
    ///
    /// # Errors
    /// There can be no thread.
    pub(crate) fn start(lister: Lister, task_iter: TaskIterReader) -> io::Result<Self> {
        let (tasks, given) = mpsc::channel();
        let (tell, seen) = mpsc::channel();
        let thread = thread::Builder::new().name("ipc-trace-look".to_owned()).spawn(move || {
            usual_priority();
            serve(&given, &tell, &lister, &task_iter);
            task_iter
        })?;
        Ok(Self { tasks, seen, thread, waiting: [false; 3] })
    }

    /// Has something looked at, unless the like is being looked at.
    pub(crate) fn request(&mut self, task: SnapshotTask) {
        if let Some(waiting) = self.waiting.get_mut(of_task(&task))
            && !std::mem::replace(waiting, true)
            && self.tasks.send(task).is_err()
        {
            *waiting = false;
        }
    }

    /// What was seen, and when that was over.
    pub(crate) fn seen(&mut self) -> Option<(u64, LookerResult)> {
        let (of, at, seen) = self.seen.try_recv().ok()?;
        if let Some(waiting) = self.waiting.get_mut(of) {
            *waiting = false;
        }
        Some((at, seen))
    }

    /// Nothing more is to be looked at: gives back what lists.
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
        SnapshotTask::Linger(_) => 2,
    }
}

fn serve(
    given: &Receiver<SnapshotTask>,
    tell: &Sender<(usize, u64, LookerResult)>,
    lister: &Lister,
    task_iter: &TaskIterReader,
) {
    for task in given {
        let of = of_task(&task);
        let seen = match task {
            SnapshotTask::List => LookerResult::List(list(lister)),
            SnapshotTask::Snapshot => {
                let before = list(lister);
                let ls = take_snapshot(&SnapshotOptions::default(), task_iter)
                    .inspect_err(|error| log::warn!("what exists can't be listed anew: {error}"));
                LookerResult::Snapshot(ls.ok().map(Box::new), before, list(lister))
            }
            SnapshotTask::Linger(all) => LookerResult::Lingered(linger(all)),
        };
        let sent = tell.send((of, boot_ns(), seen));
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

fn linger(all: Vec<(NsRef, NamespaceTarget)>) -> Vec<(NsRef, u64, Vec<ObjectLook>)> {
    let (namespaces, targets): (Vec<NsRef>, Vec<NamespaceTarget>) = all.into_iter().unzip();
    let began = Instant::now();
    let mut seen = Vec::new();
    for (namespaces, targets) in namespaces.chunks(GO).zip(targets.chunks(GO)) {
        if began.elapsed() >= LINGER {
            break;
        }
        let at = boot_ns();
        match inside::read_all(targets) {
            Ok(found) => {
                for (ns, inside) in namespaces.iter().zip(found) {
                    if let Some(inside) = inside.filter(|inside| inside.unseen.is_empty()) {
                        seen.push((*ns, at, inside.objects));
                    }
                }
            }
            Err(error) => log::warn!("removed segments can't be looked for: {error}"),
        }
    }
    seen
}

/// The thread that calls this is not more urgent than others: the reader is.
fn usual_priority() {
    // SAFETY: no pointers; 0 is this thread, as Linux has it.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 0) } != 0 {
        log::debug!("a thread stays as urgent as the reader: {}", io::Error::last_os_error());
    }
}
