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
    Options,
    inside::{self, Target},
    look,
};
use crate::{
    event::{ls::Ls, objects::ObjectLook},
    input::census::Census,
    sources::{
        clock::boot_ns,
        kernel::{census::Lister, survey::Survey},
    },
};

/// For so long namespaces with removed segments are looked into at a time. Those that are left are asked for again.
const LINGER: Duration = Duration::from_millis(250);
/// So many of them in one go.
const GO: usize = 16;

/// What is to be looked at.
#[derive(Debug)]
pub(crate) enum Task {
    /// Which namespaces exist
    List,
    /// All that exists
    Snapshot,
    /// Removed segments in these namespaces
    Linger(Vec<(NsRef, Target)>),
}

/// What was seen.
#[derive(Debug)]
pub(crate) enum Seen {
    /// Which namespaces exist
    List(Census),
    /// All that exists, with what was listed before and after
    Snapshot(Option<Box<Ls>>, Census, Census),
    /// Objects in namespaces with removed segments, each at a boot time
    Lingered(Vec<(NsRef, u64, Vec<ObjectLook>)>),
}

/// What lists who holds what, or why nothing does.
pub(crate) type Surveyor = Result<Survey, String>;

/// Who wants things looked at: the thread's other end.
#[derive(Debug)]
pub(crate) struct Looker {
    tasks: Sender<Task>,
    /// Which task, when it was done, and what was seen
    seen: Receiver<(usize, u64, Seen)>,
    thread: thread::JoinHandle<Surveyor>,
    /// Tasks that are not done
    waiting: [bool; 3],
}

impl Looker {
    /// Starts the thread.
    ///
    /// # Errors
    /// There can be no thread.
    pub(crate) fn start(lister: Lister, survey: Surveyor) -> io::Result<Self> {
        let (tasks, given) = mpsc::channel();
        let (tell, seen) = mpsc::channel();
        let thread = thread::Builder::new().name("ipc-trace-look".to_owned()).spawn(move || {
            usual_priority();
            serve(&given, &tell, &lister, &survey);
            survey
        })?;
        Ok(Self { tasks, seen, thread, waiting: [false; 3] })
    }

    /// Has something looked at, unless the like is being looked at.
    pub(crate) fn look(&mut self, task: Task) {
        if let Some(waiting) = self.waiting.get_mut(of_task(&task))
            && !std::mem::replace(waiting, true)
            && self.tasks.send(task).is_err()
        {
            *waiting = false;
        }
    }

    /// What was seen, and when that was over.
    pub(crate) fn seen(&mut self) -> Option<(u64, Seen)> {
        let (of, at, seen) = self.seen.try_recv().ok()?;
        if let Some(waiting) = self.waiting.get_mut(of) {
            *waiting = false;
        }
        Some((at, seen))
    }

    /// Nothing more is to be looked at: gives back what lists.
    #[must_use]
    pub(crate) fn stop(self) -> Option<Surveyor> {
        drop(self.tasks);
        drop(self.seen);
        self.thread.join().ok()
    }
}

const fn of_task(task: &Task) -> usize {
    match task {
        Task::List => 0,
        Task::Snapshot => 1,
        Task::Linger(_) => 2,
    }
}

fn serve(
    given: &Receiver<Task>,
    tell: &Sender<(usize, u64, Seen)>,
    lister: &Lister,
    survey: &Surveyor,
) {
    for task in given {
        let of = of_task(&task);
        let seen = match task {
            Task::List => Seen::List(list(lister)),
            Task::Snapshot => {
                let before = list(lister);
                let ls = look(&Options::default(), survey)
                    .inspect_err(|error| log::warn!("what exists can't be listed anew: {error}"));
                Seen::Snapshot(ls.ok().map(Box::new), before, list(lister))
            }
            Task::Linger(all) => Seen::Lingered(linger(all)),
        };
        let sent = tell.send((of, boot_ns(), seen));
        if sent.is_err() {
            return;
        }
    }
}

fn list(lister: &Lister) -> Census {
    lister.list().unwrap_or_else(|error| {
        log::warn!("{error}");
        Census::default()
    })
}

fn linger(all: Vec<(NsRef, Target)>) -> Vec<(NsRef, u64, Vec<ObjectLook>)> {
    let (namespaces, targets): (Vec<NsRef>, Vec<Target>) = all.into_iter().unzip();
    let began = Instant::now();
    let mut seen = Vec::new();
    for (namespaces, targets) in namespaces.chunks(GO).zip(targets.chunks(GO)) {
        if began.elapsed() >= LINGER {
            break;
        }
        let at = boot_ns();
        match inside::look(targets) {
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
