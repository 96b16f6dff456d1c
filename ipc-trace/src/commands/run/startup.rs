//! The start of a run: the engine and its threads, the initial snapshot, the first line.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal as _},
    path::Path,
    time::Duration,
};

use super::{
    DumpTrigger, EngineFeed, RecordingStatus, Run, RunError, RunOutput, Setup, random_id, setup,
    system, terminal, wants_bar,
};
use crate::{
    cli::{RecordingOptions, TraceArgs},
    engine::Engine,
    event::ls::Ls,
    input::{Begin, Input, namespace_list::NamespaceList},
    recording::{RecordingTarget, head::Head, writer::Recorder},
    signals::Signals,
    sinks::{Screen, Sink, bar::Bar, output::Output, text::call::LineStyle, writer::SinkWriter},
    sources::{
        clock,
        host::{
            self, inspector::Inspector, processes::ProcfsReader, snapshot_thread::TaskIterReader,
        },
        kernel::{features, options::CallDetail},
        reader::{ReaderCx, RingReader},
        runtimes::RuntimeClients,
    },
};

/// Returns a snapshot's memory to the system: several times as much as the tracker keeps of it.
pub(super) fn trim_heap() {
    // SAFETY: no pointers; only free memory is touched.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Threads share one malloc arena from now on: free memory at the end of other arenas is never returned (`mtrim`,
/// malloc/malloc.c, glibc 2.36). Must be called before other threads exist.
pub(super) fn limit_malloc_arenas() {
    // SAFETY: no pointers.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

impl Run {
    pub(super) fn new(
        output: RunOutput,
        detail: CallDetail,
        args: &TraceArgs,
    ) -> Result<Self, RunError> {
        let lines = output != RunOutput::Report;
        let signals = Signals::handle().map_err(system("can't handle signals"))?;
        if args.recording.flight.is_some() {
            signals.handle_dump().map_err(system("can't handle SIGUSR2"))?;
        }
        // Before anything is loaded: with an invalid policy, nothing starts.
        let (policy, recorded_policy) =
            crate::commands::policy::load_engine(args.findings.policy.as_deref())?;
        let target = args
            .write
            .as_deref()
            .map(|path| recording_target(path, output, &args.recording))
            .transpose()?;
        let mut setup =
            setup::setup(&args.how, &args.filters, detail, args.with_args, args.only_command)?;
        let (palette, width) = terminal();
        let screen = Screen {
            style: LineStyle { palette, native: setup.native },
            width,
            min_confidence: args.findings.min_confidence(),
        };
        let bar = (output == RunOutput::Lines && wants_bar(args)).then(Bar::new);
        let sink = match output {
            RunOutput::Lines | RunOutput::Report => {
                let output = Output::new(signals.clone());
                let writer = SinkWriter::start(args.output, screen, output, bar)
                    .map_err(system("can't start a thread"))?;
                Some(Sink::new(args.output, screen, writer))
            }
            RunOutput::Nothing => None,
        };
        let begin = begin_input(lines, args, &setup);
        let recorder =
            match &target {
                Some(target) => {
                    let counts = detail == CallDetail::Counts;
                    let begin = begin.clone();
                    let head = Head { begin, policy: recorded_policy, counts };
                    let started = Recorder::start(target, &head);
                    Some(started.map_err(|source| RunError::Recording {
                        target: target.to_string(),
                        source,
                    })?)
                }
                None => None,
            };
        let mut fed =
            EngineFeed { recorder, recorded: None, sink, engine: Engine::new(begin, policy) };
        if fed.recorder.is_some() {
            fed.engine.keep_counts();
            fed.engine.count_by_second();
        }
        fed.engine.start(&mut fed.sink);
        let hierarchy = setup.hierarchy.take();
        if let Some(hierarchy) = &hierarchy {
            let mut cgroups = Vec::new();
            if !hierarchy.walk(|number, path| cgroups.push((number, path.to_vec()))) {
                log::info!(
                    "not all existing cgroups are known: some containers are identified later"
                );
            }
            fed.emit(&Input::Cgroups(&cgroups));
        }
        setup.hierarchy.clone_from(&hierarchy);
        let inspector = Inspector::start(ProcfsReader::in_directory("/proc"), hierarchy)
            .map_err(system("can't start a thread"))?;
        let names = RuntimeClients::ask(args.how.runtimes.sockets())
            .map_err(system("can't start to ask for containers' names"))?;
        Ok(Self {
            setup,
            reader: RingReader::default(),
            fed,
            inspector,
            snapshot_thread: None,
            task_iter: None,
            seen: VecDeque::new(),
            names,
            signals,
            recording_status: RecordingStatus::new(output, args),
            dump_trigger: DumpTrigger::new(args.recording.on),
            filter_incomplete: false,
            fail_on: args.findings.fail_on,
            polled_ns: 0,
            reader_max_ns: 0,
        })
    }

    /// Takes the initial snapshot, and opens the gate.
    pub(super) fn take_initial_snapshot(&mut self) {
        let began = clock::boot_ns();
        let ls = self.take_snapshot(false);
        let started = clock::boot_ns();
        let took = Duration::from_nanos(started - began);
        log::debug!("the initial snapshot took {took:?}");
        self.setup.session.open();
        let namespace_list = self.setup.session.namespace_list().unwrap_or_else(|error| {
            log::warn!("{error}");
            NamespaceList::default()
        });
        self.fed.emit(&Input::InitialSnapshot {
            at: started,
            ls: ls.as_ref(),
            before: &self.setup.namespace_list,
            after: &namespace_list,
        });
        let session = &mut self.setup.session;
        self.reader.reach(
            started,
            &mut ReaderCx {
                events: &mut session.events,
                control: &mut session.control,
                ask: &mut self.inspector,
                feed: &mut self.fed,
                clock: clock::boot_ns,
            },
        );
        self.fed.emit(&Input::Opened(started, &namespace_list));
        self.fed.flush();
        drop(ls);
        trim_heap();
    }

    /// The task iterators; they are loaded once.
    pub(super) fn take_task_iterators(&mut self) -> TaskIterReader {
        let Setup { session, layout, .. } = &self.setup;
        self.task_iter.take().unwrap_or_else(|| session.task_iter(layout))
    }

    /// Takes a snapshot; `None` if it fails. `cgroups`: with the cgroups of all processes.
    pub(super) fn take_snapshot(&mut self, cgroups: bool) -> Option<Ls> {
        let task_iter = self.take_task_iterators();
        let cgroups = self.setup.hierarchy.as_ref().filter(|_| cgroups);
        let ls = host::take_snapshot(
            &host::SnapshotOptions { cgroups, ..host::SnapshotOptions::default() },
            &task_iter,
        );
        self.task_iter = Some(task_iter);
        let ls =
            ls.inspect_err(|error| log::warn!("existing objects are unknown: {error}")).ok()?;
        for unseen in &ls.unseen {
            log::info!("missing from the snapshot: {unseen}");
        }
        Some(ls)
    }
}

/// Where to record.
fn recording_target(
    path: &Path,
    output: RunOutput,
    options: &RecordingOptions,
) -> Result<RecordingTarget, RunError> {
    match (path.as_os_str() == "-", output) {
        (false, _) => Ok(options.target(path)),
        (true, _) if options.is_given() => Err(RunError::Usage(
            "-w -: standard output is one stream; name a file for --rotate-size, --rotate-every and --flight",
        )),
        (true, RunOutput::Nothing) if io::stdout().is_terminal() => Err(RunError::Usage(
            "-w -: standard output is a terminal, which can't show a recording; redirect it, or name a file",
        )),
        (true, RunOutput::Nothing) => Ok(RecordingTarget::Stdout),
        (true, RunOutput::Lines | RunOutput::Report) => Err(RunError::Usage(
            "-w -: standard output is taken by the command's own output; use ipc-trace record -w -, or name a file",
        )),
    }
}

fn begin_input(lines: bool, args: &TraceArgs, setup: &Setup) -> Begin {
    Begin {
        at: clock::moment(),
        host: setup.system.host.clone(),
        boot_id: setup.system.boot_id.clone(),
        run_id: random_id(),
        kernel: setup.system.kernel.clone(),
        arch: setup.system.arch.to_owned(),
        backends: setup.backends.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        lines,
        with_ancestry: args.with_ancestry,
        extended_ids: features::has_boot_parameter(Path::new("/proc"), "ipcmni_extend"),
        own_pid: std::process::id(),
        min_confidence: args.findings.min_confidence(),
        wanted: args.filters.containers(),
        namespace_list: setup.namespace_list.clone(),
    }
}
