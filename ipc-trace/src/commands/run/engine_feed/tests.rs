//! Counts of recordings, against those of an engine that has all calls again.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use ipc_trace_common::{
    op::{Abi, Op, SyscallCode, Timeout},
    record::{
        CallRecord, CgroupRecord, ContextRecord, Header, NO_DURATION, NsRef, QueuePart, RecordKind,
        VERSION, queue_flag,
    },
    state::DropKey,
};
use proptest::prelude::*;
use tempfile::TempDir;
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::EngineFeed;
use crate::{
    commands::checkpoint_tests::{EventTexts, engine, for_each, recording},
    engine::{Engine, checkpoint::RestoredCounts},
    event::{
        EmitEvent, Event,
        counts::SecondCounts,
        histogram::SparseHistogram,
        report::{Durations, Report},
        value::{CallError, OpName},
    },
    input::{
        self, Begin, Call, CallPayload, Input,
        call_filter::CallFilter,
        counters::{Counted, Drops},
        process::{Called, Context, ProcInfo},
    },
    recording::{
        FlightLimits, RecordingTarget, Rotation,
        chunk::Chunk,
        head::Head,
        inspect,
        reader::{
            NextPart, OrderedRecordings, ReadStart, RecordingPart, RecordingReader, open_files,
        },
        recorded_counts::RecordedCounts,
        writer::Recorder,
    },
};

/// Stored recordings of whole runs.
const FIXTURES: [&str; 2] = ["1-calls.rec", "1-counts.rec"];

type Namespace = Option<(u32, u32)>;

/// What counts have in common that are added up; the container as text.
type Kind = (u64, Namespace, String, OpName, Option<CallError>);

/// The sum of counts of a kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sum {
    calls: u64,
    bytes: Option<u64>,
    foreign: u64,
    lost: u64,
    durations: SparseHistogram,
}

impl Sum {
    fn add(&mut self, one: &SecondCounts) {
        self.calls += one.calls;
        self.foreign += one.foreign;
        self.lost += one.lost;
        if let Some(bytes) = one.bytes {
            *self.bytes.get_or_insert_default() += bytes;
        }
        if let Some(durations) = &one.durations {
            self.durations.add(durations);
        }
    }
}

type Sums = BTreeMap<Kind, Sum>;

fn namespace(one: &SecondCounts) -> Namespace {
    one.ipc_ns.map(|ns| (ns.inum, ns.r#gen))
}

fn sums<'a>(counts: impl IntoIterator<Item = &'a SecondCounts>) -> Sums {
    let mut sums = Sums::new();
    for one in counts {
        let kind = (one.second, namespace(one), format!("{:?}", one.container), one.op, one.error);
        sums.entry(kind).or_default().add(one);
    }
    sums
}

/// What the counts of files add up to, if they are of all inputs.
fn recorded(files: &[PathBuf]) -> Option<Sums> {
    let recorded = RecordedCounts::new(&open_files(files).ok()?).ok()??;
    assert!(recorded.heads().all(|head| head.begin.run_id.as_deref() == Some("run")));
    let mut all = Vec::new();
    let is_whole = recorded.for_each(|_, _| true, |_, one| all.push(one)).ok()?;
    is_whole.then(|| sums(&all))
}

/// What an engine counts that has all inputs of files.
fn replayed(files: &[PathBuf]) -> Sums {
    let files = open_files(files).unwrap();
    let open = OrderedRecordings::new(&files, false, ReadStart::Begin).unwrap();
    let mut reader = RecordingReader::start(open).unwrap();
    let mut known: Option<Engine> = None;
    let mut all = Vec::new();
    loop {
        match reader.next_within(Duration::from_secs(60)).unwrap() {
            NextPart::Part(RecordingPart::Begin(head)) => {
                all.extend(known.as_mut().map(Engine::take_counts).unwrap_or_default());
                known.insert(engine(&head.begin, false)).count_by_second();
            }
            NextPart::Part(RecordingPart::State(state)) => {
                known.as_mut().unwrap().restore(&state.bytes, RestoredCounts::Fresh).unwrap();
            }
            NextPart::Part(RecordingPart::Inputs(chunk, skipped)) => {
                let known = known.as_mut().unwrap();
                let feed = |input: &Input<'_>| known.feed(input, &mut EventTexts::default());
                chunk.for_each(skipped, feed).unwrap();
            }
            NextPart::Part(RecordingPart::Missing(_)) => {}
            NextPart::None => panic!("nothing comes"),
            NextPart::End => break,
        }
    }
    all.extend(known.as_mut().map(Engine::take_counts).unwrap_or_default());
    sums(&all)
}

/// Keeps the report.
#[derive(Debug, Default)]
struct KeptReport(Option<Report>);

impl EmitEvent for KeptReport {
    fn emit(&mut self, event: &Event<'_>) {
        if let Event::Report(report) = event {
            self.0 = Some((*report).clone());
        }
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// What a run does between two inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Between {
    Checkpoint,
    Counts,
    Flush,
    Dump,
}

fn start(target: &RecordingTarget, begin: &Begin) -> EngineFeed {
    let begin = Begin { run_id: Some("run".to_owned()), ..begin.clone() };
    let head = Head { begin: begin.clone(), ..Head::default() };
    let recorder = Some(Recorder::start(target, &head).unwrap());
    let mut fed = EngineFeed { engine: engine(&begin, true), sink: None, recorder, recorded: None };
    fed.engine.count_by_second();
    fed
}

fn act(fed: &mut EngineFeed, what: Between) {
    match what {
        Between::Checkpoint => fed.checkpoint(),
        Between::Counts => fed.record_counts(),
        Between::Flush => fed.recorder.as_mut().unwrap().flush(),
        Between::Dump => fed.dump(),
    }
}

/// Records inputs anew. `between`: what is done before inputs, by their numbers.
fn record(
    target: &RecordingTarget,
    (begin, chunks): &(Begin, Vec<Chunk>),
    between: &BTreeMap<usize, Between>,
) {
    let mut fed = start(target, begin);
    for_each(chunks, |number, input| {
        if let Some(what) = between.get(&number) {
            act(&mut fed, *what);
        }
        fed.emit(input);
    });
    fed.finish().unwrap();
    assert_eq!(fed.recorded.unwrap().lost, 0);
}

fn inputs_of(chunks: &[Chunk]) -> usize {
    let mut inputs = 0;
    for_each(chunks, |_, _| inputs += 1);
    inputs
}

/// What to do every so many inputs.
fn every(chunks: &[Chunk], step: usize, what: Between) -> BTreeMap<usize, Between> {
    (step..inputs_of(chunks)).step_by(step).map(|at| (at, what)).collect()
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn count_blocks(file: &Path) -> u64 {
    let info = inspect::inspect(file).unwrap();
    assert!(info.damage.is_empty() && info.unknown_blocks == 0, "{info:?}");
    info.runs.iter().map(|run| run.count_blocks).sum()
}

/// The report has nothing that is not in the counts, and the other way round.
fn assert_like_report(report: &Report, counts: &[SecondCounts]) {
    let mut by_op: BTreeMap<(Namespace, OpName), Vec<&SecondCounts>> = BTreeMap::new();
    for one in counts {
        by_op.entry((namespace(one), one.op)).or_default().push(one);
    }
    let sum = |of: &[&SecondCounts]| {
        let mut sum = Sum::default();
        of.iter().for_each(|one| sum.add(one));
        sum
    };
    let errors = |of: &[&SecondCounts]| {
        let mut errors = BTreeMap::new();
        for one in of {
            if let Some(error) = one.error {
                *errors.entry(error).or_insert(0) += one.calls;
            }
        }
        errors
    };
    assert!(report.folded.is_none());
    for ns in &report.namespaces {
        let mut lost = 0;
        for (op, shown) in &ns.ops {
            let of = by_op.remove(&(Some((ns.inum, ns.r#gen)), *op)).unwrap();
            let total = sum(&of);
            lost += total.lost;
            assert_eq!((total.calls, total.bytes), (shown.counts.calls, shown.bytes), "{op}");
            assert_eq!(errors(&of), shown.counts.errors, "{op}");
            let took = &total.durations;
            let durations = Durations {
                p50: took.quantile(0.5),
                p90: took.quantile(0.9),
                p99: took.quantile(0.99),
                max: took.max(),
            };
            assert_eq!(Some(durations).filter(|_| took.count() > 0), shown.duration_ns, "{op}");
        }
        assert_eq!(lost, ns.dropped);
    }
    for (op, shown) in &report.unattributed {
        let of = by_op.remove(&(None, *op)).unwrap();
        let total = sum(&of);
        assert_eq!((total.calls, total.lost), (shown.calls, shown.calls));
        assert_eq!(errors(&of), shown.errors);
    }
    assert!(by_op.is_empty(), "not in the report: {by_op:?}");
    let foreign: u64 = report.namespaces.iter().map(|ns| ns.foreign_calls).sum();
    assert_eq!(foreign, counts.iter().map(|one| one.foreign).sum::<u64>());
}

#[test]
fn counts_are_those_of_a_report_with_any_filter() {
    for name in FIXTURES {
        let (begin, chunks) = recording(name);
        for filter in [
            CallFilter::default(),
            CallFilter { failed: true, ..CallFilter::default() },
            CallFilter { ops: Op::Semop.bit() | Op::Msgsnd.bit(), ..CallFilter::default() },
            CallFilter { times: Some((0, begin.at.boot_ns)), ..CallFilter::default() },
        ] {
            let is_all = filter.is_empty();
            let (mut engine, mut report) = (engine(&begin, false), KeptReport::default());
            engine.count_by_second();
            engine.filter_calls(filter);
            for_each(&chunks, |_, input| engine.feed(input, &mut report));
            let counts = engine.take_counts();
            assert!(!is_all || !counts.is_empty(), "{name}");
            assert_like_report(&report.0.unwrap(), &counts);
            assert!(engine.take_counts().is_empty());
        }
    }
}

#[test]
fn counting_changes_no_event_and_no_state() {
    for name in FIXTURES {
        let (begin, chunks) = recording(name);
        for lines in [true, false] {
            let [mut first, mut second] = [(); 2].map(|()| engine(&begin, lines));
            let [mut expected, mut found] = [(); 2].map(|()| EventTexts::default());
            second.count_by_second();
            for_each(&chunks, |number, input| {
                first.feed(input, &mut expected);
                second.feed(input, &mut found);
                if number % 50 == 0 {
                    assert_eq!(first.checkpoint(), second.checkpoint(), "{name} {number}");
                    drop(second.take_counts());
                }
            });
            assert_eq!(found.0, expected.0, "{name}");
        }
    }
}

#[test]
fn each_file_has_the_counts_of_its_inputs() {
    for name in FIXTURES {
        let source = recording(name);
        let folder = folder();
        let rotation = Rotation { every: Some(Duration::ZERO), ..Rotation::default() };
        let target = RecordingTarget::Rotating(folder.path().join("a"), rotation);
        let step = inputs_of(&source.1) / 5;
        let mut between = every(&source.1, step, Between::Checkpoint);
        between.insert(step / 2, Between::Counts);
        record(&target, &source, &between);
        let files = files_in(folder.path());
        assert!(files.len() >= 5, "{files:?}");
        let whole = replayed(&files);
        assert!(!whole.is_empty());
        assert_eq!(recorded(&files), Some(whole), "{name}");
        for file in &files {
            assert!(count_blocks(file) > 0);
            let file = std::slice::from_ref(file);
            assert_eq!(recorded(file), Some(replayed(file)), "{name}");
        }
        // Given twice, and in another order; without one of them.
        let [first, second, third, ..] = &files[..] else { unreachable!("there are five") };
        let some = [third, first, second, third].map(Clone::clone);
        assert_eq!(recorded(&some), Some(replayed(&some)), "{name}");
        let some = [first, third].map(Clone::clone);
        assert_eq!(recorded(&some), Some(replayed(&some)), "{name}");
    }
}

#[test]
fn files_of_a_flight_recorder_overlap_and_count_once() {
    let source = recording("1-calls.rec");
    let step = inputs_of(&source.1) / 8;
    let mut between = every(&source.1, step, Between::Checkpoint);
    between.extend([3, 6].map(|part| (part * step - step / 2, Between::Dump)));
    for (length, is_whole) in [(Duration::from_secs(600), true), (Duration::ZERO, false)] {
        let folder = folder();
        let limits = FlightLimits { length, bytes: 1 << 30 };
        record(&RecordingTarget::Flight(folder.path().join("a"), limits), &source, &between);
        let files = files_in(folder.path());
        assert_eq!(files.len(), 3);
        for file in &files {
            let file = std::slice::from_ref(file);
            assert_eq!(recorded(file), Some(replayed(file)));
        }
        let all = recorded(&files).unwrap();
        assert_eq!(all, replayed(&files));
        assert_eq!(recorded(&files[2..]) == Some(all), is_whole);
    }
}

/// Whatever is wrong with a file: the counts are those of its inputs, or they are not used.
#[test]
fn damaged_counts_are_not_used() {
    let source = recording("1-calls.rec");
    let folder = folder();
    let [whole, changed] = ["whole", "changed"].map(|name| folder.path().join(name));
    let step = inputs_of(&source.1) / 4;
    record(
        &RecordingTarget::File(whole.clone()),
        &source,
        &every(&source.1, step, Between::Checkpoint),
    );
    let expected = recorded(std::slice::from_ref(&whole)).unwrap();
    let bytes = fs::read(&whole).unwrap();
    let changed = [changed];
    let (mut used, mut refused) = (0, 0);
    for at in (0..bytes.len()).step_by(53) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        fs::write(&changed[0], &flipped).unwrap();
        match recorded(&changed) {
            // A damaged block of inputs is not read.
            Some(found) => assert_eq!(found, expected, "{at}"),
            None => refused += 1,
        }
        // A file that was cut has no index.
        fs::write(&changed[0], &bytes[..at]).unwrap();
        if let Some(found) = recorded(&changed) {
            assert_eq!(found, replayed(&changed), "{at}");
            used += 1;
        }
    }
    assert!(used > 0 && refused > 0, "{used} {refused}");
    // A hole in the inputs, of which the counts know nothing.
    let starts: Vec<_> =
        (0..bytes.len() - 8).filter(|at| &bytes[*at..*at + 8] == b"IPCTRACE").collect();
    for pair in starts.windows(2) {
        let [from, to] = pair else { unreachable!("of two") };
        let rest = [&bytes[..*from], &bytes[*to..bytes.len() - 16]].concat();
        fs::write(&changed[0], rest).unwrap();
        // A head is there twice, and nobody needs a checkpoint or an index.
        let is_used = matches!(bytes[from + 9], 1 | 3 | 4);
        assert_eq!(recorded(&changed), is_used.then(|| expected.clone()), "{from}");
    }
}

#[test]
fn recordings_without_counts_are_counted_by_their_inputs() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../xtask/tests/live/fixtures");
    for name in ["1-calls.rec", "1-counts.rec", "1-file.rec"] {
        assert_eq!(recorded(&[fixtures.join(name)]), None, "{name}");
    }
    let folder = folder();
    assert_eq!(recorded(&["-".into()]), None);
    let file = folder.path().join("other");
    fs::write(&file, b"no recording\n".repeat(99)).unwrap();
    assert_eq!(recorded(&[file]), None);
}

fn call_record(op: Op, made: &MadeCall) -> CallRecord {
    let code = SyscallCode::new(op, Timeout::None).0;
    let mut record = CallRecord::new_zeroed();
    record.header =
        Header { version: VERSION, kind: RecordKind::Call as u8, abi: 0, code, flags: 0 };
    record.boot_ns = 1_000_000_000 + made.at_ms * 1_000_000;
    record.duration_ns = made.duration_ns;
    record.ret = made.ret;
    (record.tid, record.pid) = (made.thread, made.thread);
    record.context = u64::from(made.thread);
    record.ns = NsRef { inum: 4_026_531_839 + made.thread % 2, generation: 1 };
    record.args = [0, 0, made.length, 0, 0];
    record
}

/// A call of a random host.
#[derive(Clone, Debug)]
struct MadeCall {
    op: usize,
    at_ms: u64,
    duration_ns: u64,
    ret: i64,
    /// From 1; the first two are in a container
    thread: u32,
    length: u64,
    is_foreign: bool,
}

fn made_call() -> impl Strategy<Value = MadeCall> {
    let duration = prop_oneof![Just(NO_DURATION), 0..100_000_u64];
    let ret = prop_oneof![0..100_i64, -20..-1_i64];
    (0..Op::ALL.len(), 0..4000_u64, duration, ret, 1..5_u32, 0..9000_u64, any::<bool>()).prop_map(
        |(op, at_ms, duration_ns, ret, thread, length, is_foreign)| MadeCall {
            op,
            at_ms,
            duration_ns,
            ret,
            thread,
            length,
            is_foreign,
        },
    )
}

/// Feeds a cgroup of a container, and the threads.
fn feed_threads(feed: &mut impl FnMut(&Input<'_>)) {
    let mut cgroup = CgroupRecord::new_zeroed();
    (cgroup.header.version, cgroup.header.kind) = (VERSION, RecordKind::Cgroup as u8);
    let path = format!("/docker/{:064x}", 77);
    (cgroup.id, cgroup.path_len) = (7, path.len() as u32);
    cgroup.path[..path.len()].copy_from_slice(path.as_bytes());
    feed(&Input::Cgroup(&cgroup));
    for thread in 1..5 {
        let mut record = ContextRecord::new_zeroed();
        (record.header.version, record.header.kind) = (VERSION, RecordKind::Context as u8);
        (record.tid, record.pid, record.context) = (thread, thread, u64::from(thread));
        record.cgroup = if thread < 3 { 7 } else { 0 };
        record.ns = NsRef { inum: 4_026_531_839 + thread % 2, generation: 1 };
        feed(&Input::Context(&Context {
            record: Box::new(record),
            called: Called::default(),
            found: ProcInfo::default(),
        }));
    }
}

fn feed_call(made: &MadeCall, feed: &mut impl FnMut(&Input<'_>)) {
    let op = Op::ALL[made.op];
    let record = call_record(op, made);
    let mut queue = QueuePart::new_zeroed();
    queue.queue.ns = NsRef { inum: 4_026_531_845, generation: 1 };
    queue.queue.ino = 5;
    queue.queue.flags = queue_flag::KNOWN | if made.is_foreign { queue_flag::FOREIGN } else { 0 };
    // The longest payload fits.
    let rest = [0; 4096];
    let part = if op.takes_descriptor() { queue.as_bytes() } else { &rest };
    let words = input::words(&[record.as_bytes(), part, &rest]);
    feed(&Input::Call(Call::decode(words.as_bytes()).unwrap()));
}

fn feed_losses(number: u64, feed: &mut impl FnMut(&Input<'_>)) {
    let key = |inum, error| DropKey { inum, generation: 1, op: Op::Semop as u16, error };
    let drops = Drops::from([(key(4_026_531_839, 11), number + 1), (key(0, 0), 2 * number + 1)]);
    feed(&Input::Counted(&Counted { drops: Some(drops), ..Counted::default() }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn counts_of_random_calls_are_exact(
        calls in prop::collection::vec(made_call(), 0..150),
        between in prop::collection::vec((0..150_usize, prop::sample::select(&[
            Between::Checkpoint, Between::Counts, Between::Flush,
        ][..])), 0..8),
        rotates in any::<bool>(),
    ) {
        let folder = folder();
        let path = folder.path().join("a");
        let every = rotates.then_some(Duration::ZERO);
        let target = match rotates {
            true => RecordingTarget::Rotating(path, Rotation { every, ..Rotation::default() }),
            false => RecordingTarget::File(path),
        };
        let between: BTreeMap<_, _> = between.into_iter().collect();
        let mut fed = start(&target, &Begin::default());
        let (mut alone, mut report) =
            (engine(&Begin::default(), false), KeptReport::default());
        alone.count_by_second();
        let mut feed = |fed: &mut EngineFeed, input: &Input<'_>| {
            fed.emit(input);
            alone.feed(input, &mut report);
        };
        feed_threads(&mut |input| feed(&mut fed, input));
        for (number, made) in calls.iter().enumerate() {
            if let Some(what) = between.get(&number) {
                act(&mut fed, *what);
            }
            feed_call(made, &mut |input| feed(&mut fed, input));
            if number % 40 == 0 {
                feed_losses(number as u64, &mut |input| feed(&mut fed, input));
            }
        }
        feed(&mut fed, &Input::Finish(None));
        fed.finish().unwrap();
        prop_assert_eq!(fed.recorded.unwrap().lost, 0);
        let counts = alone.take_counts();
        assert_like_report(&report.0.unwrap(), &counts);
        let in_container = counts.iter().any(|one| one.container.is_some());
        prop_assert_eq!(in_container, calls.iter().any(|made| made.thread < 3));
        let files = files_in(folder.path());
        prop_assert_eq!(recorded(&files), Some(sums(&counts)));
        for file in &files {
            let file = std::slice::from_ref(file);
            prop_assert_eq!(recorded(file), Some(replayed(file)));
        }
    }
}

/// An input that was not recorded is counted all the same, so these counts are not those of the file.
#[test]
fn counts_of_inputs_that_are_lost_are_not_used() {
    let folder = folder();
    let file = folder.path().join("a");
    let mut fed = start(&RecordingTarget::File(file.clone()), &Begin::default());
    let record = CallRecord::new_zeroed();
    let (op, code) = (Op::Shmget, SyscallCode::new(Op::Shmget, Timeout::None));
    // It has no header, so it can't be encoded.
    let call = Call { op, abi: Abi::ALL[0], code, record: &record, part: CallPayload::None };
    fed.emit(&Input::Call(call));
    fed.finish().unwrap();
    assert!(fed.recorded.unwrap().lost > 0 && count_blocks(&file) == 1);
    assert_eq!(recorded(&[file]), None);
}

/// Counts wait in memory until they are recorded: not too many of them.
#[test]
fn many_counts_are_recorded_early() {
    let folder = folder();
    let file = folder.path().join("a");
    let mut fed = start(&RecordingTarget::File(file.clone()), &Begin::default());
    for number in 0..40_000_u64 {
        let (at_ms, thread) = (number * 1000, 1 + number as u32 % 2);
        let made =
            MadeCall { op: 0, at_ms, duration_ns: 5, ret: 0, thread, length: 0, is_foreign: false };
        feed_call(&made, &mut |input| fed.emit(input));
        fed.record_many_counts();
        assert!(fed.engine.waiting_counts() <= super::MAX_WAITING_COUNTS);
    }
    fed.finish().unwrap();
    assert_eq!(count_blocks(&file), 3);
    assert_eq!(recorded(std::slice::from_ref(&file)), Some(replayed(&[file])));
}
