//! The thread that reads `/proc`, so that the ring reader need not.
//!
//! Invariant: questions are answered in the order in which they were asked. Reading uses the thread's budget, and
//! never delays events: beyond the budget, questions are answered without reading, and counted.

use std::{
    collections::{HashSet, VecDeque},
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread,
    time::{Duration, Instant},
};

use ipc_trace_common::record::AncestorRecord;

use super::{cgroups::Hierarchy, processes::ProcfsReader};
use crate::input::process::{InspectorAnswer, InspectorRequest, MoveContext, ProcInfo, ProcessId};
use crate::sources::clock::boot_ns;

/// The thread reads at most that long per second.
const READ_BUDGET_PER_SECOND: Duration = Duration::from_millis(250);
const BUDGET_PERIOD: Duration = Duration::from_secs(1);
/// The largest number of waiting questions.
const MAX_WAITING_QUESTIONS: usize = 4096;

/// What to read about a process in addition to its context's record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AboutContext {
    /// The process
    pub process: ProcessId,
    /// Whether to read the path of its executable
    pub exe: bool,
    /// Whether to read its arguments
    pub called: bool,
    /// Whether to read its user map
    pub users: bool,
    /// Ancestors whose executable paths to read
    pub ancestors: Vec<AncestorRecord>,
    /// Processes and the numbers of their cgroups, whose paths to read
    pub cgroups: Vec<(u32, u64)>,
}

impl AboutContext {
    /// Whether there is nothing to read.
    #[must_use]
    pub(crate) const fn is_empty(&self) -> bool {
        let Self { exe, called, users, ancestors, cgroups, .. } = self;
        !*exe && !*called && !*users && ancestors.is_empty() && cgroups.is_empty()
    }
}

/// What to read about a thread that moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AboutMove {
    /// The process
    pub process: ProcessId,
    /// Whether to read its mapped segments
    pub mapped: bool,
    /// Its parent, whose mount namespace to compare, its own mount namespace, and the IPC namespace that it entered
    pub lives: Option<(u32, u32, u32)>,
}

/// The ring reader's question, for a record.
#[derive(Debug)]
pub(crate) enum Question {
    /// For a context's record
    Context(Box<AboutContext>),
    /// For a move's
    Move(AboutMove),
}

/// The answer to a question.
#[derive(Debug)]
pub(crate) enum Reply {
    /// For a context's record
    Context(ProcInfo),
    /// For a move's
    Move(MoveContext),
}

/// A task for the thread.
#[derive(Debug)]
enum InspectorTask {
    Question(Question),
    Request(InspectorRequest),
}

/// The handle of the thread.
#[derive(Debug)]
pub(crate) struct Inspector {
    questions: SyncSender<InspectorTask>,
    replies: Receiver<Reply>,
    answers: Receiver<InspectorAnswer>,
    /// Requests of the engine that are not answered yet
    requested: u64,
    /// Replies that have arrived; the first one answers the question with the number `taken`
    come: VecDeque<Option<Reply>>,
    taken: u64,
    /// Questions whose answers will be discarded
    abandoned: HashSet<u64>,
    asked: u64,
    given_up: Arc<AtomicU64>,
    refused: u64,
}

impl Inspector {
    /// Starts the thread, which reads `processes` and finds cgroups in `hierarchy`.
    ///
    /// # Errors
    /// The thread can't be created.
    pub(crate) fn start(processes: ProcfsReader, hierarchy: Option<Hierarchy>) -> io::Result<Self> {
        let (questions, asked) = mpsc::sync_channel(MAX_WAITING_QUESTIONS);
        let (reply, replies) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        let given_up = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&given_up);
        thread::Builder::new().name("ipc-trace-proc".to_owned()).spawn(move || {
            let mut reader = ProcReader { processes, hierarchy };
            let mut budget = ReadBudget::default();
            for question in asked {
                let began = Instant::now();
                let may_read = budget.has_left(began);
                if !may_read {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
                let sent = match question {
                    InspectorTask::Question(one) if may_read => {
                        reply.send(reader.reply(one)).is_ok()
                    }
                    InspectorTask::Question(one) => reply.send(one.unanswered()).is_ok(),
                    InspectorTask::Request(one) if may_read => {
                        answer.send(reader.answer(one)).is_ok()
                    }
                    InspectorTask::Request(one) => answer.send(one.unanswered()).is_ok(),
                };
                budget.spend(began);
                if !sent {
                    return;
                }
            }
        })?;
        Ok(Self {
            questions,
            replies,
            answers,
            requested: 0,
            come: VecDeque::new(),
            taken: 0,
            abandoned: HashSet::new(),
            asked: 0,
            given_up,
            refused: 0,
        })
    }

    /// Asks a question. Returns its number; `None`: too many are waiting.
    pub(crate) fn ask(&mut self, question: Question) -> Option<u64> {
        if self.questions.try_send(InspectorTask::Question(question)).is_err() {
            self.refused += 1;
            return None;
        }
        self.asked += 1;
        Some(self.asked - 1)
    }

    /// Asks for the engine. Returns the request if too many questions are waiting.
    ///
    /// # Errors
    /// Too many are waiting.
    pub(crate) fn request(&mut self, request: InspectorRequest) -> Result<(), InspectorRequest> {
        match self.questions.try_send(InspectorTask::Request(request)) {
            Ok(()) => {
                self.requested += 1;
                Ok(())
            }
            Err(
                TrySendError::Full(InspectorTask::Request(request))
                | TrySendError::Disconnected(InspectorTask::Request(request)),
            ) => {
                self.refused += 1;
                Err(request)
            }
            Err(
                TrySendError::Full(InspectorTask::Question(_))
                | TrySendError::Disconnected(InspectorTask::Question(_)),
            ) => Ok(()),
        }
    }

    /// The answer to a question, if it has arrived.
    pub(crate) fn take(&mut self, number: u64) -> Option<Reply> {
        self.receive();
        let at = usize::try_from(number.checked_sub(self.taken)?).ok()?;
        let reply = self.come.get_mut(at)?.take();
        self.forget();
        reply
    }

    /// The next answer for the engine, if one has arrived.
    pub(crate) fn take_answer(&mut self) -> Option<InspectorAnswer> {
        let answer = self.answers.try_recv().ok()?;
        self.requested -= 1;
        Some(answer)
    }

    /// Discards the answer to a question.
    pub(crate) fn give_up(&mut self, number: u64) {
        self.abandoned.insert(number);
        self.receive();
    }

    /// Whether answers for the engine are outstanding.
    #[must_use]
    pub(crate) const fn is_busy(&self) -> bool {
        self.requested > 0
    }

    /// Questions that were answered without reading: beyond the budget, or because too many waited.
    #[must_use]
    pub(crate) fn given_up(&self) -> u64 {
        self.given_up.load(Ordering::Relaxed) + self.refused
    }

    fn receive(&mut self) {
        while let Ok(reply) = self.replies.try_recv() {
            self.come.push_back(Some(reply));
        }
        let (taken, come) = (self.taken, &mut self.come);
        self.abandoned.retain(|number| {
            let at = usize::try_from(number.saturating_sub(taken)).ok();
            match at.and_then(|at| come.get_mut(at)) {
                Some(reply) => {
                    *reply = None;
                    false
                }
                // It is still outstanding.
                None => true,
            }
        });
        self.forget();
    }

    fn forget(&mut self) {
        while self.come.front().is_some_and(Option::is_none) {
            self.come.pop_front();
            self.taken += 1;
        }
    }
}

/// The part of the current second that was spent reading.
#[derive(Debug, Default)]
struct ReadBudget {
    since: Option<Instant>,
    spent: Duration,
}

impl ReadBudget {
    fn has_left(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.duration_since(since) >= BUDGET_PERIOD) {
            (self.since, self.spent) = (Some(now), Duration::ZERO);
        }
        self.spent < READ_BUDGET_PER_SECOND
    }

    fn spend(&mut self, since: Instant) {
        self.spent += since.elapsed();
    }
}

impl Question {
    /// The answer without reading.
    fn unanswered(&self) -> Reply {
        match self {
            Self::Context(_) => Reply::Context(ProcInfo::default()),
            Self::Move(_) => Reply::Move(MoveContext::default()),
        }
    }
}

/// The thread's state.
#[derive(Debug)]
struct ProcReader {
    processes: ProcfsReader,
    hierarchy: Option<Hierarchy>,
}

impl ProcReader {
    fn reply(&mut self, question: Question) -> Reply {
        match question {
            Question::Context(about) => Reply::Context(self.of_context(&about)),
            Question::Move(about) => Reply::Move(self.of_move(about)),
        }
    }

    fn of_context(&mut self, about: &AboutContext) -> ProcInfo {
        let processes = &mut self.processes;
        let process = about.process;
        let ancestor = |one: &AncestorRecord| {
            processes.executable((one.pid, one.start_boot_ns), Some(&one.comm))
        };
        let ancestors = about.ancestors.iter().map(ancestor).collect();
        let path = |(pid, number): &(u32, u64)| {
            let path = self.hierarchy.as_ref()?.path_of(processes.proc(), *pid, *number)?;
            Some((*number, path))
        };
        ProcInfo {
            ancestors,
            cgroups: about.cgroups.iter().filter_map(path).collect(),
            exe: about.exe.then(|| processes.executable(process, None)).flatten(),
            called: about.called.then(|| processes.called(process)),
            users: if about.users { processes.users(process) } else { Vec::new() },
        }
    }

    fn of_move(&mut self, about: AboutMove) -> MoveContext {
        let AboutMove { process, mapped, lives } = about;
        let mapped = if mapped { self.processes.mapped(process) } else { None };
        let Some((parent, mnt, ipc)) = lives else {
            return MoveContext { mapped, ..MoveContext::default() };
        };
        let parent_mnt = self.processes.mount_namespace(parent);
        let lives_with = match parent_mnt {
            Some(parent) if parent != mnt => self.processes.lives_with(ipc, mnt, process.0),
            Some(_) | None => None,
        };
        MoveContext { mapped, parent_mnt, lives_with }
    }

    fn answer(&mut self, request: InspectorRequest) -> InspectorAnswer {
        match request {
            InspectorRequest::Namespaces(tid) => {
                let at = boot_ns();
                InspectorAnswer::Namespaces(tid, at, self.processes.namespaces(tid))
            }
            InspectorRequest::Mapped(process) => {
                InspectorAnswer::Mapped(process, self.processes.mapped(process))
            }
            InspectorRequest::Users { process, tid, context } => {
                InspectorAnswer::Users(tid, context, self.processes.users(process))
            }
            InspectorRequest::Ended(mut tids) => {
                tids.retain(|tid| self.processes.has_ended(*tid));
                InspectorAnswer::Ended(tids)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_ordered_and_discarded_ones_are_forgotten() {
        let mut inspector = Inspector::start(ProcfsReader::in_directory("/proc"), None).unwrap();
        let mut taken = 0;
        for round in 0..3000_u64 {
            let about =
                AboutContext { process: (1 << 30, 1), exe: true, ..AboutContext::default() };
            let number = inspector.ask(Question::Context(Box::new(about)));
            let refused = inspector.request(InspectorRequest::Namespaces(1 << 30)).err();
            assert!(refused.is_none_or(|one| one == InspectorRequest::Namespaces(1 << 30)));
            match number {
                // No question is waited for.
                Some(number) if round % 3 == 0 => inspector.give_up(number),
                Some(number) => {
                    while inspector.take(number).is_none() {
                        thread::yield_now();
                    }
                    taken += 1;
                }
                None => {}
            }
            while inspector.take_answer().is_some() {}
        }
        while inspector.is_busy() || inspector.taken < inspector.asked {
            thread::yield_now();
            while inspector.take_answer().is_some() {}
            inspector.receive();
        }
        assert!(taken > 0);
        assert!(inspector.come.is_empty() && inspector.abandoned.is_empty());
    }
}
