//! Recordings of every input, and damaged ones.

mod files;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use ipc_trace_common::{
    op::{Abi, Op},
    record::{
        AccessRecord, CallRecord, CgroupRecord, ContextRecord, ExitRecord, Header, NamePart,
        NamespaceRecord, NsRef, NsSwitchRecord, PendingRecord, QueuePart, QueueRecord, RecordKind,
        SemopPart, VERSION, flag,
    },
    state::{Coalesced, CoalescedKey},
};
use tempfile::TempDir;
use zerocopy::FromZeros as _;

use super::{
    RecordingTarget,
    head::Head,
    inspect,
    reader::{
        MissingInputs, NextPart, OrderedRecordings, ReadError, ReadStart, RecordingPart,
        RecordingReader, open_files,
    },
    writer::Recorder,
};
use crate::{
    event::CommandOutcome,
    input::{
        Begin, Call, CallPayload, Input, Moment,
        batch::{CallBatch, tests::record as batch_record},
        container::RuntimeMetadata,
        counters::Counted,
        namespace_list::{Alive, NamespaceList},
        process::{Called, Context, InspectorAnswer, MoveContext, ProcInfo},
    },
};
use zerocopy::IntoBytes as _;

fn header(op: Op, flags: u32) -> Header {
    let code = ipc_trace_common::op::SyscallCode::new(op, ipc_trace_common::op::Timeout::None).0;
    Header { version: VERSION, kind: RecordKind::Call as u8, abi: 0, code, flags }
}

fn call_record(op: Op, flags: u32, number: u64) -> CallRecord {
    let mut record = CallRecord::new_zeroed();
    record.header = header(op, flags);
    record.boot_ns = 1_000_000 + number * 1000;
    record.duration_ns = if number.is_multiple_of(3) { u64::MAX } else { number };
    record.ret = -(number as i64 % 40);
    record.context = number / 4;
    (record.tid, record.pid) = (100 + number as u32 % 3, 100);
    record.ns = NsRef { inum: 4_026_531_839, generation: 1 };
    record.comm[..4].copy_from_slice(b"a\xff\x1b\n");
    record.args = [number, u64::MAX - number, 3, 0, 1 << 63];
    record
}

/// Passes on inputs of every kind, `times` times.
fn with_samples(times: u64, mut each: impl FnMut(&Input<'_>)) {
    let ns = NsRef { inum: 4_026_531_839, generation: 7 };
    let pending = PendingRecord { tid: 9, comm: *b"waits\0\0\0\0\0\0\0\0\0\0\0", ..zeroed() };
    let pending = kind(pending, RecordKind::Pending);
    let list = NamespaceList {
        boot_ns: 5,
        alive: vec![Alive { ns, ns_id: Some(3) }],
        complete: true,
        pending: vec![(pending, Op::Semop, Abi::ALL[1])],
        self_pid: 1,
        self_ns_inum: 2,
    };
    for number in 0..times {
        let (semop, plain) =
            (call_record(Op::Semop, 0, number), call_record(Op::Shmget, flag::FAULT, number));
        let (send, open) =
            (call_record(Op::MqSend, 0, number), call_record(Op::MqOpen, flag::DETAIL, number));
        let mut part = SemopPart::new_zeroed();
        part.sops[0].sem_op = number as i16;
        let mut queue = QueuePart::new_zeroed();
        (queue.queue.ns, queue.queue.flags, queue.queue.ino) = (ns, 1, number);
        let mut name = NamePart::new_zeroed();
        name.name_len = 3;
        name.name[..3].copy_from_slice(b"/\xff\"");
        let call = |op, record, part| {
            Input::Call(Call { op, abi: Abi::ALL[0], code: code(op), record, part })
        };
        each(&call(Op::Semop, &semop, CallPayload::Semop(&part)));
        each(&call(Op::Shmget, &plain, CallPayload::None));
        each(&call(Op::MqSend, &send, CallPayload::Queue(&queue)));
        each(&call(Op::MqOpen, &open, CallPayload::Name(&name)));
        each(&Input::Read { now: 1_000_500 + number * 1000, watermark: number });
    }
    let changed = call_record(Op::Shmget, 0, 1);
    each(&Input::Change(Call {
        op: Op::Shmget,
        abi: Abi::ALL[0],
        code: code(Op::Shmget),
        record: &changed,
        part: CallPayload::None,
    }));
    let batch = batch_record(&[(Op::Semop, 1, 0), (Op::Semop, -2, -11), (Op::Msgrcv, 3, 8)]);
    each(&Input::Batch(CallBatch::new(batch.as_bytes()).unwrap()));
    let mut context = ContextRecord { tid: 3, euid: 1000, capabilities: 1 << 40, ..zeroed() };
    (context.header.version, context.header.kind) = (VERSION, RecordKind::Context as u8);
    (context.exe_len, context.uid_extents, context.ancestor_count) = (4, 2, 1);
    context.exe[..4].copy_from_slice(b"bin\0");
    context.uid_map[1].count = 65536;
    context.ancestors[0].pid = 1;
    each(&Input::Context(&Context {
        record: Box::new(context),
        called: Called::from_bytes(b"a\0-b\0\xff\0", true),
        found: ProcInfo {
            exe: Some(b"/bin/x".to_vec()),
            ancestors: vec![None, Some(b"/init".to_vec())],
            cgroups: vec![(7, b"/a/b".to_vec())],
            ..ProcInfo::default()
        },
    }));
    each(&Input::Exit(&kind(ExitRecord { tid: 3, ..zeroed() }, RecordKind::Exit)));
    let namespace = NamespaceRecord { ns, ns_id: 8, ..zeroed() };
    each(&Input::Namespace(&kind(namespace, RecordKind::Namespace)));
    let switch = NsSwitchRecord { to: ns, way: 3, ..zeroed() };
    let beside = MoveContext { lives_with: Some(true), ..MoveContext::default() };
    each(&Input::Move(&kind(switch, RecordKind::Move), &beside));
    let mut queue = QueueRecord { name_len: 2, ..zeroed() };
    queue.name[..2].copy_from_slice(b"q\x01");
    each(&Input::Queue(&kind(queue, RecordKind::Queue)));
    let mut cgroup = CgroupRecord { id: 1 << 50, path_len: 3, ..zeroed() };
    cgroup.path[..3].copy_from_slice(b"/x/");
    each(&Input::Cgroup(&kind(cgroup, RecordKind::Cgroup)));
    let access = AccessRecord { count: 2, comm: *b"0123456789abcdef", ..zeroed() };
    each(&Input::Access(&kind(access, RecordKind::Access)));
    let key = CoalescedKey { pid_tgid: 1 << 33, ..CoalescedKey::default() };
    each(&Input::CoalescedAccesses(&[(key, Coalesced { sent_ns: 1, count: u64::MAX })]));
    each(&Input::Cgroups(&[(1, b"/".to_vec()), (2, Vec::new())]));
    each(&Input::InitialSnapshot { at: 3, ls: None, before: &list, after: &list });
    each(&Input::Opened(u64::MAX, &list));
    each(&Input::Tick(Moment { boot_ns: 1, offset_ns: -5 }));
    each(&Input::NamespaceList(&list));
    each(&Input::Counted(&Counted { reader_max_ns: 1, ..Counted::default() }));
    each(&Input::Snapshot(None, &list, &list));
    each(&Input::RemovedScan(ns, 1, &[]));
    each(&Input::Named(&RuntimeMetadata { id: "a".to_owned(), ..RuntimeMetadata::default() }));
    each(&Input::Answer(&InspectorAnswer::Mapped((1, 2), Some(Vec::new()))));
    each(&Input::Answer(&InspectorAnswer::Users(1, 2, Vec::new())));
    each(&Input::Ending(1));
    each(&Input::FinalSnapshot(None, &list));
    let (argv, signal) = (vec!["a".to_owned()], Some("SIGKILL".to_owned()));
    each(&Input::Finish(Some(&CommandOutcome { argv, exit_code: None, signal })));
}

fn code(op: Op) -> ipc_trace_common::op::SyscallCode {
    ipc_trace_common::op::SyscallCode::new(op, ipc_trace_common::op::Timeout::None)
}

fn zeroed<T: zerocopy::FromZeros>() -> T {
    T::new_zeroed()
}

/// A record as it comes from a ring.
fn kind<T: zerocopy::FromBytes + zerocopy::IntoBytes>(mut record: T, kind: RecordKind) -> T {
    let [version, of, ..] = record.as_mut_bytes() else { unreachable!("a record has a header") };
    (*version, *of) = (VERSION, kind as u8);
    record
}

fn head(run: &str) -> Head {
    let at = Moment { boot_ns: 1000, offset_ns: 1_700_000_000_000_000_000 };
    let begin =
        Begin { at, host: "host".to_owned(), run_id: Some(run.to_owned()), ..Begin::default() };
    Head { begin, ..Head::default() }
}

/// Records the samples, in several blocks. Returns what was recorded, as text.
fn record(file: &Path, run: &str, times: u64) -> Vec<String> {
    let target = RecordingTarget::File(file.to_owned());
    let mut recorder = Recorder::start(&target, &head(run)).unwrap();
    let mut all = Vec::new();
    with_samples(times, |input| {
        recorder.record(input);
        all.push(format!("{input:?}"));
        if all.len() % 10 == 0 {
            recorder.flush();
        }
    });
    let summary = recorder.finish().unwrap();
    assert_eq!((summary.inputs, summary.lost), (all.len() as u64, 0));
    assert_eq!(summary.bytes, fs::metadata(file).unwrap().len());
    all
}

/// What can be read: heads, inputs as text, and what is missing.
#[derive(Debug, Default, PartialEq, Eq)]
struct Read {
    heads: usize,
    states: Vec<Vec<u8>>,
    inputs: Vec<String>,
    missing: Vec<MissingInputs>,
}

fn read(files: &[PathBuf]) -> Result<Read, ReadError> {
    read_from(files, ReadStart::Begin)
}

fn read_from(files: &[PathBuf], from: ReadStart) -> Result<Read, ReadError> {
    let mut reader =
        RecordingReader::start(OrderedRecordings::new(&open_files(files)?, false, from)?)?;
    let mut all = Read::default();
    loop {
        match reader.next_within(Duration::from_secs(60))? {
            NextPart::Part(RecordingPart::Begin(_)) => all.heads += 1,
            NextPart::Part(RecordingPart::Inputs(chunk, skipped)) => {
                chunk.for_each(skipped, |input| all.inputs.push(format!("{input:?}"))).unwrap();
                reader.give_back(chunk);
            }
            NextPart::Part(RecordingPart::State(state)) => all.states.push(state.bytes),
            NextPart::Part(RecordingPart::Missing(missing)) => all.missing.push(missing),
            NextPart::None => panic!("nothing comes"),
            NextPart::End => return Ok(all),
        }
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn inputs_of_every_kind_are_read_as_they_were_recorded() {
    let folder = folder();
    let file = folder.path().join("a");
    let recorded = record(&file, "a", 50);
    let read = read(std::slice::from_ref(&file)).unwrap();
    assert_eq!((read.heads, &read.missing[..]), (1, &[][..]));
    for (read, recorded) in read.inputs.iter().zip(&recorded) {
        assert_eq!(read, recorded);
    }
    assert_eq!(read.inputs.len(), recorded.len());
    let info = inspect::inspect(&file).unwrap();
    assert!(info.closed && info.damage.is_empty() && info.unknown_blocks == 0);
    let [run] = &info.runs[..] else { panic!("{info:?}") };
    assert_eq!((run.inputs, run.missing), (recorded.len() as u64, 0));
    assert_eq!(run.kinds.values().sum::<u64>(), run.inputs, "{:?}", run.kinds);
    assert!(!run.kinds.contains_key("unknown"));
}

#[test]
fn a_file_is_private_and_never_overwritten() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    let folder = folder();
    let [file, link, fifo] = ["a", "b", "c"].map(|name| folder.path().join(name));
    record(&file, "a", 1);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    symlink(folder.path().join("nothing"), &link).unwrap();
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for taken in [file, link, fifo] {
        let started = Recorder::start(&RecordingTarget::File(taken), &head("a"));
        assert_eq!(started.unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    }
}

#[test]
fn a_recording_cut_anywhere_gives_all_whole_blocks() {
    let folder = folder();
    let [whole, cut] = ["whole", "cut"].map(|name| folder.path().join(name));
    let recorded = record(&whole, "a", 5);
    let bytes = fs::read(&whole).unwrap();
    let mut most = 0;
    for len in 0..bytes.len() {
        fs::write(&cut, &bytes[..len]).unwrap();
        match read(std::slice::from_ref(&cut)) {
            Ok(read) => {
                assert!(read.inputs.len() >= most && recorded.starts_with(&read.inputs), "{len}");
                most = read.inputs.len();
            }
            Err(error) => assert_eq!(most, 0, "{len}: {error}"),
        }
    }
    assert_eq!(most, recorded.len());
}

#[test]
fn a_flipped_bit_costs_one_block() {
    let folder = folder();
    let [whole, flipped] = ["whole", "flipped"].map(|name| folder.path().join(name));
    let recorded = record(&whole, "a", 3);
    let mut bytes = fs::read(&whole).unwrap();
    for at in 0..bytes.len() {
        bytes[at] ^= 1 << (at % 8);
        fs::write(&flipped, &bytes).unwrap();
        bytes[at] ^= 1 << (at % 8);
        let read = read(std::slice::from_ref(&flipped)).unwrap();
        let lost = recorded.len() - read.inputs.len();
        assert!(lost <= 10, "{at}: {lost} inputs");
        let counted: u64 = read.missing.iter().map(|missing| missing.inputs).sum();
        // What follows the last block is not known to be missing; that the file is damaged is said.
        assert!(counted == lost as u64 || !read.missing.is_empty(), "{at}: {read:?}");
        let mut rest = recorded.iter();
        assert!(read.inputs.iter().all(|one| rest.any(|recorded| recorded == one)), "{at}");
    }
}

#[test]
fn files_of_one_run_are_joined_without_doubles() {
    let folder = folder();
    let [whole, begin, end, other] =
        ["whole", "z_begin", "end", "other"].map(|name| folder.path().join(name));
    let recorded = record(&whole, "a", 20);
    let bytes = fs::read(&whole).unwrap();
    let starts: Vec<_> =
        (0..bytes.len() - 8).filter(|at| &bytes[*at..*at + 8] == b"IPCTRACE").collect();
    let heads = &bytes[..starts[2]];
    fs::write(&begin, &bytes[..starts[8]]).unwrap();
    fs::write(&end, [heads, &bytes[starts[5]..]].concat()).unwrap();
    for files in [
        vec![end.clone(), begin.clone()],
        vec![begin.clone(), end.clone(), whole.clone()],
        vec![whole.clone(), whole.clone()],
    ] {
        let read = read(&files).unwrap();
        assert_eq!((read.heads, &read.missing[..], &read.inputs), (1, &[][..], &recorded));
    }
    // Without the middle, what is missing is counted.
    fs::write(&end, [heads, &bytes[starts[10]..]].concat()).unwrap();
    let parts = read(&[begin, end]).unwrap();
    let [missing] = &parts.missing[..] else { panic!("{:?}", parts.missing) };
    assert_eq!(missing.inputs, (recorded.len() - parts.inputs.len()) as u64);
    assert!(missing.inputs > 0 && missing.damage.is_none() && missing.times.0 < missing.times.1);
    // Two runs in a row, in one file too.
    let more = record(&other, "b", 2);
    let both = [fs::read(&whole).unwrap(), fs::read(&other).unwrap()].concat();
    let joined = folder.path().join("joined");
    fs::write(&joined, both).unwrap();
    let read = read(&[joined]).unwrap();
    assert_eq!((read.heads, read.inputs.len()), (2, recorded.len() + more.len()));
}

#[test]
fn other_files_are_refused() {
    let folder = folder();
    let path = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        vec![path]
    };
    let error = |files: Vec<PathBuf>| read(&files).unwrap_err().to_string();
    assert!(
        error(path("empty", b"")).ends_with("it is empty; a recording has at least its metadata")
    );
    assert!(
        error(path("text", &b"no recording\n".repeat(99))).contains("no recording of ipc-trace")
    );
    assert!(error(vec![folder.path().to_owned()]).contains("is a directory"));
    assert!(error(vec![folder.path().join("missing")]).contains("No such file"));
    let sparse = path("sparse", b"");
    fs::File::options().write(true).open(&sparse[0]).unwrap().set_len(50 << 30).unwrap();
    assert!(error(sparse).contains("no recording of ipc-trace"));
    let whole = folder.path().join("whole");
    let recorded = record(&whole, "a", 3);
    // A hole in the middle.
    let mut bytes = fs::read(&whole).unwrap();
    let file = fs::File::options().write(true).open(&whole).unwrap();
    file.set_len(20 << 30).unwrap();
    drop(file);
    let holed = read(std::slice::from_ref(&whole)).unwrap();
    assert_eq!(holed.inputs, recorded);
    bytes[8] = 2;
    let crc = crc32c::crc32c(&bytes[..60]).to_le_bytes();
    bytes[60..64].copy_from_slice(&crc);
    assert!(error(path("newer", &bytes)).contains("use a newer ipc-trace"));
}

#[test]
fn a_repaired_recording_has_all_that_was_whole() {
    let folder = folder();
    let [file, repaired, again] = ["a", "b", "c"].map(|name| folder.path().join(name));
    let recorded = record(&file, "a", 20);
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    bytes.truncate(bytes.len() - 20);
    fs::write(&file, bytes).unwrap();
    let before = read(std::slice::from_ref(&file)).unwrap();
    assert!(!inspect::repair(&file, &repaired).unwrap().damage.is_empty());
    let after = read(std::slice::from_ref(&repaired)).unwrap();
    assert_eq!(after.inputs, before.inputs);
    assert!(after.inputs.len() < recorded.len() && after.inputs.len() > recorded.len() / 2);
    let info = inspect::repair(&repaired, &again).unwrap();
    assert!(info.damage.is_empty() && info.closed);
    assert!(inspect::repair(&file, &again).is_err(), "a file is overwritten");
}

#[test]
fn rare_inputs_are_documented_with_their_numbers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/RECORDING.md");
    let text = fs::read_to_string(path).unwrap();
    for (number, name) in (1..).zip(super::entries::NAMES) {
        assert!(text.contains(&format!("\n| {number} | `{name}`: ")), "{number} {name}");
    }
    let mut numbers = std::collections::BTreeMap::new();
    with_samples(0, |input| {
        let mut bytes = Vec::new();
        if super::entries::encode(input, &mut bytes).is_ok() {
            *numbers.entry(super::entries::name(&bytes)).or_insert(0) += 1;
        }
    });
    assert_eq!(numbers.len(), super::entries::NAMES.len(), "a sample is missing: {numbers:?}");
}

/// Recordings hold these numbers: a change makes old ones unreadable, and needs a table that maps them.
#[test]
fn recorded_numbers_are_the_same_for_ever() {
    let ops = Op::ALL.map(|op| (op as u8, op.name()));
    let expected = [
        "shmget",
        "shmat",
        "shmdt",
        "shmctl",
        "semget",
        "semop",
        "semctl",
        "msgget",
        "msgsnd",
        "msgrcv",
        "msgctl",
        "mq_open",
        "mq_unlink",
        "mq_send",
        "mq_receive",
        "mq_notify",
        "mq_getsetattr",
    ];
    for (number, ((of, name), expected)) in (1..).zip(ops.into_iter().zip(expected)) {
        assert_eq!((of, name), (number, expected));
    }
    assert_eq!(Abi::ALL.map(|abi| abi.name()).join(" "), "x86_64 i386 x32 aarch64 arm");
    let flags = [
        flag::DETAIL,
        flag::TIMEOUT,
        flag::FAULT,
        flag::MULTIPLEXED,
        flag::OLD,
        flag::EXTRA,
        flag::TRUNCATED,
        flag::DELETED,
        flag::FOUND,
        flag::INLINE,
        flag::ARGUMENT_FAULT,
        flag::CUT,
        flag::CREATED_KNOWN,
        flag::MADE,
        flag::NOT_MADE,
        flag::ENTRY_UNSEEN,
        flag::RET_UNKNOWN,
        flag::AT_ENTRY,
        flag::INDIRECT,
        flag::TRACER,
        flag::UNTIMED,
    ];
    assert_eq!(flags, std::array::from_fn(|bit| 1 << bit));
    assert_eq!(code(Op::Semop).0, 6);
}
