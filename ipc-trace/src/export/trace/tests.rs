//! Timelines of recordings and of events that are made here, against the format's schema.

mod matching;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    path::Path,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ipc_trace_common::op::Op;
use serde_json::{Value, json};

use super::{LEAD_NS, TraceSummary, TraceWriter};
use crate::{
    engine::{Engine, checkpoint::RestoredCounts, policy::engine::PolicyEngine},
    event::{
        Container, ContainerUpdate, EmitEvent, Event, Ipc, IpcNs, Loss,
        finding::{Class, Finding, FindingLine, Severity, Subject},
        value::{OpName, OsBytes, Timestamp},
    },
    input::Begin,
    recording::reader::{
        NextPart, OrderedRecordings, ReadStart, RecordingPart, RecordingReader, open_files,
    },
    sinks::text::fixtures::every_operation,
};

/// A file that can be read after its writer is gone.
#[derive(Clone, Debug, Default)]
struct SharedFile(Rc<RefCell<Vec<u8>>>);

impl SharedFile {
    fn take(&self) -> Vec<u8> {
        self.0.take()
    }
}

impl io::Write for SharedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Checks a file against the schema. Returns its events.
fn checked(file: &[u8]) -> Vec<Value> {
    let file: Value = serde_json::from_slice(file).unwrap();
    let validator = validator();
    let errors: Vec<_> = validator.iter_errors(&file).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    let events = file["traceEvents"].as_array().unwrap().clone();
    check_names(&events);
    check_slices(&events);
    check_flows(&events);
    events
}

fn validator() -> jsonschema::Validator {
    let schema: Value = serde_json::from_str(include_str!("../trace.schema.json")).unwrap();
    jsonschema::validator_for(&schema).unwrap()
}

fn track(event: &Value) -> (u64, u64) {
    (event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap())
}

/// A member in nanoseconds.
fn ns(event: &Value, member: &str) -> i64 {
    (event[member].as_f64().unwrap() * 1000.0).round() as i64
}

fn of_phase<'a>(events: &'a [Value], phase: &str) -> impl Iterator<Item = &'a Value> {
    events.iter().filter(move |event| event["ph"] == phase)
}

/// Each track has its name before its first event.
fn check_names(events: &[Value]) {
    let (mut processes, mut threads) = (BTreeSet::new(), BTreeSet::new());
    for event in events {
        let (pid, tid) = track(event);
        match event["name"].as_str().unwrap() {
            "process_name" => drop(processes.insert(pid)),
            "thread_name" => assert!(threads.insert((pid, tid)), "{event}"),
            _ => {
                assert!(processes.contains(&pid), "{event}");
                assert!(tid == 0 || threads.contains(&(pid, tid)), "{event}");
            }
        }
    }
}

/// The slices of tracks, each with its start and its end.
type SlicesOfTracks<'a> = HashMap<(u64, u64), Vec<(i64, i64, &'a Value)>>;

/// The slices of each track, in the order of their times.
fn slices(events: &[Value]) -> SlicesOfTracks<'_> {
    let mut slices = SlicesOfTracks::new();
    for event in of_phase(events, "X") {
        let start = ns(event, "ts");
        slices.entry(track(event)).or_default().push((start, start + ns(event, "dur"), event));
    }
    for slices in slices.values_mut() {
        slices.sort_by_key(|(start, end, _)| (*start, *end));
    }
    slices
}

/// A thread is in one call at a time.
fn check_slices(events: &[Value]) {
    for (track, slices) in slices(events) {
        for pair in slices.windows(2) {
            assert!(pair[0].1 <= pair[1].0, "{track:?}: {pair:#?}");
        }
    }
}

/// Each arrow has two ends, which lie in a send and a receive of one family.
fn check_flows(events: &[Value]) {
    let slices = slices(events);
    let slice_of = |end: &Value| {
        let time = ns(end, "ts");
        let all = slices[&track(end)].iter();
        let mut around = all.filter(|(start, end, _)| (*start..=*end).contains(&time));
        around.next().unwrap_or_else(|| panic!("no slice around {end}")).2
    };
    let ids = |phase| {
        let ends = of_phase(events, phase);
        ends.map(|end| (end["id"].as_u64().unwrap(), end)).collect::<BTreeMap<_, _>>()
    };
    let (starts, ends) = (ids("s"), ids("f"));
    assert_eq!(starts.len(), of_phase(events, "s").count());
    assert_eq!(ends.len(), of_phase(events, "f").count());
    assert!(starts.keys().eq(ends.keys()));
    for (id, start) in starts {
        let end = ends[&id];
        assert!(ns(start, "ts") <= ns(end, "ts"), "{start} {end}");
        let names = (slice_of(start)["name"].as_str(), slice_of(end)["name"].as_str());
        let known = [("msgsnd", "msgrcv"), ("mq_send", "mq_receive")];
        assert!(known.map(|(a, b)| (Some(a), Some(b))).contains(&names), "{names:?}");
    }
}

/// A call, as it must be in the file.
struct ExpectedCall {
    time: i64,
    duration: Option<i64>,
    thread: String,
    name: String,
    category: String,
    args: Value,
}

fn since_1970(time: Timestamp) -> i64 {
    time.0.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as i64
}

/// What a call must become: from its JSON, as the lines of output have it.
fn expected(ipc: &Ipc<'_>) -> ExpectedCall {
    let line = serde_json::to_value(ipc).unwrap();
    let object = &line["object"];
    let kept = ["kind", "id", "key", "name", "ipc_ns"].map(|name| (name, object[name].clone()));
    let not_made = line["made"] == json!(false);
    let suffix = match (not_made, line["error"].is_null()) {
        (true, _) => ",not-made",
        (false, false) => ",failed",
        (false, true) => "",
    };
    ExpectedCall {
        time: since_1970(ipc.time),
        duration: line["duration_ns"].as_i64().filter(|_| !not_made),
        thread: format!(" {}", ipc.process.tid),
        name: line["op"].as_str().unwrap().to_owned(),
        category: format!("{}{suffix}", object["kind"].as_str().unwrap()),
        args: json!({
            "seq": line["seq"], "pid": line["process"]["pid"], "ret": line["ret"],
            "error": line["error"], "object": kept.into_iter().collect::<BTreeMap<_, _>>(),
            "foreign": object["foreign"], "arguments": line["args"],
        }),
    }
}

/// A timeline, and what its calls must be.
struct Checked {
    file: SharedFile,
    writer: TraceWriter<SharedFile>,
    calls: Vec<ExpectedCall>,
    first: Option<i64>,
    marks: u64,
    others: u64,
}

impl EmitEvent for Checked {
    fn emit(&mut self, event: &Event<'_>) {
        self.writer.event(event);
        match event {
            Event::Start(start) => {
                self.first.get_or_insert(since_1970(start.time));
            }
            Event::Ipc(ipc) => {
                self.first.get_or_insert(since_1970(ipc.time));
                self.calls.push(expected(ipc));
            }
            Event::Finding(_) => self.marks += 1,
            Event::Namespace(_) | Event::Object(_) | Event::Loss(_) | Event::Resync(_) => {
                self.others += 1;
            }
            Event::Container(_) | Event::Status(_) | Event::End(_) | Event::Report(_) => {}
        }
    }
}

impl Checked {
    fn new(host: &str) -> Self {
        let file = SharedFile::default();
        let mut writer = TraceWriter::new(file.clone());
        writer.begin(host, false);
        Self { file, writer, calls: Vec::new(), first: None, marks: 0, others: 0 }
    }

    /// Ends the timeline and compares. Returns the events and how many there are.
    fn check(self) -> (Vec<Value>, TraceSummary) {
        let summary = self.writer.finish().unwrap();
        let events = checked(&self.file.take());
        let of_call =
            |event: &&Value| event["ph"] == "X" || event["ph"] == "i" && event["s"] == "t";
        let found: Vec<_> = events.iter().filter(of_call).collect();
        assert_eq!(found.len(), self.calls.len());
        let zero = (self.first.unwrap() - LEAD_NS).max(0);
        let names: HashMap<_, _> = events
            .iter()
            .filter(|event| event["name"] == "thread_name")
            .map(|event| (track(event), event["args"]["name"].as_str().unwrap()))
            .collect();
        for (event, call) in found.iter().zip(&self.calls) {
            assert_eq!(event["args"], call.args);
            assert_eq!(event["name"], call.name.as_str());
            assert_eq!(event["cat"], call.category.as_str());
            assert!(names[&track(event)].ends_with(&call.thread), "{event}");
            let end = match call.duration {
                Some(duration) => {
                    assert_eq!((&event["ph"], ns(event, "dur")), (&json!("X"), duration));
                    ns(event, "ts") + duration
                }
                None => {
                    assert_eq!(event["ph"], "i");
                    ns(event, "ts")
                }
            };
            assert_eq!(end, call.time - zero, "{event}");
        }
        let with_duration = self.calls.iter().filter(|call| call.duration.is_some()).count() as u64;
        assert_eq!(summary.slices, with_duration);
        assert_eq!(summary.instants, self.calls.len() as u64 - with_duration);
        assert_eq!((summary.marks, summary.others), (self.marks, self.others));
        assert_eq!(summary.flows, of_phase(&events, "s").count() as u64);
        let TraceSummary { slices, instants, flows, marks, others, .. } = summary;
        let all = slices + instants + 2 * flows + marks + others;
        let metadata = of_phase(&events, "M").count() as u64;
        assert_eq!(events.len() as u64, all + metadata);
        (events, summary)
    }
}

/// The timeline of a stored recording.
fn timeline(name: &str) -> (Vec<Value>, TraceSummary) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../xtask/tests/live/fixtures");
    let files = open_files(&[fixtures.join(name)]).unwrap();
    let opened = OrderedRecordings::new(&files, false, ReadStart::Begin).unwrap();
    let mut reader = RecordingReader::start(opened).unwrap();
    let mut out = Checked::new("host");
    let mut engine = None;
    loop {
        match reader.next_within(Duration::from_secs(60)).unwrap() {
            NextPart::Part(RecordingPart::Begin(head)) => {
                let begin = Begin { lines: true, ..head.begin };
                let begun = Engine::new(begin, PolicyEngine::default());
                begun.start(&mut out);
                engine = Some(begun);
            }
            NextPart::Part(RecordingPart::State(state)) => {
                let engine = engine.as_mut().unwrap();
                engine.restore(&state.bytes, RestoredCounts::Fresh).unwrap();
            }
            NextPart::Part(RecordingPart::Inputs(chunk, skipped)) => {
                let engine = engine.as_mut().unwrap();
                chunk.for_each(skipped, |input| engine.feed(input, &mut out)).unwrap();
            }
            NextPart::End => return out.check(),
            NextPart::None => panic!("a part of {name} doesn't come"),
            NextPart::Part(RecordingPart::Missing(_)) => {}
        }
    }
}

#[test]
fn recordings_become_timelines_with_each_call_once() {
    let (events, summary) = timeline("1-calls.rec");
    assert_eq!((summary.slices, summary.instants, summary.marks), (13, 8, 5));
    let processes = events.iter().filter(|event| event["name"] == "process_name");
    assert!(processes.count() > 1);
    let marks = events.iter().filter(|event| event["cat"] == "finding");
    assert_eq!(marks.filter(|mark| mark["name"] == "foreign-object").count(), 4);
    // Each receive that succeeded has an arrow, from the send of as many bytes.
    assert_eq!(summary.flows, 5);
    let slices = slices(&events);
    let around = |end: &Value| {
        let mut all = slices[&track(end)].iter();
        let time = ns(end, "ts");
        all.find(|(start, end, _)| (*start..=*end).contains(&time)).unwrap().2["args"].clone()
    };
    for (from, to) in of_phase(&events, "s").zip(of_phase(&events, "f")) {
        assert_eq!(around(from)["arguments"]["msg_len"], around(to)["ret"]);
    }
    let (_, summary) = timeline("1-file.rec");
    // All that can block failed.
    assert_eq!((summary.slices, summary.instants, summary.flows), (11, 29, 0));
    let (_, summary) = timeline("1-counts.rec");
    assert_eq!((summary.slices, summary.instants, summary.flows), (0, 2, 0));
}

/// A call of every operation, one after the other.
#[test]
fn every_operation_has_its_place() {
    let mut out = Checked::new("host");
    for (number, mut ipc) in every_operation().into_iter().enumerate() {
        ipc.seq = number as u64 + 1;
        ipc.time.0 += Duration::from_micros(10 * number as u64);
        ipc.duration_ns = ipc.op.0.blocks().then_some(1_234 + number as u64);
        if ipc.op == OpName(Op::Shmat) {
            (ipc.made, ipc.ret, ipc.error) = (Some(false), None, None);
        }
        out.emit(&Event::Ipc(ipc));
    }
    let (events, _) = out.check();
    let categories: BTreeSet<_> = events.iter().filter_map(|event| event["cat"].as_str()).collect();
    assert!(categories.contains("shm,not-made") && categories.contains("sem,failed"));
}

fn container(id: &str, name: Option<&[u8]>) -> Arc<Container> {
    Arc::new(Container {
        runtime: "docker".into(),
        id: id.into(),
        name: name.map(|name| OsBytes(name.to_vec().into())),
        image: None,
        pod: None,
        pod_uid: None,
        pod_namespace: None,
        labels: BTreeMap::new(),
        labels_lost: 0,
        ipc_mode: None,
    })
}

fn names_of(events: &[Value], what: &str) -> Vec<String> {
    let named = events.iter().filter(|event| event["name"] == what);
    named.map(|event| event["args"]["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn hostile_names_stay_names() {
    let hostile: &[u8] = b"\"},\n{\x1b[2J\xff\xe2\x80\xae\\\x00";
    let mut file = Vec::new();
    let mut writer = TraceWriter::new(&mut file);
    writer.begin("h\"\u{202e}\n", true);
    for mut ipc in every_operation() {
        ipc.process.comm = OsBytes(hostile.into());
        ipc.container = Some(container("\"id", Some(hostile)));
        ipc.object.name = Some(OsBytes(hostile.into()));
        writer.event(&Event::Ipc(ipc));
    }
    let summary = writer.finish().unwrap();
    let events = checked(&file);
    let calls = events.iter().filter(|event| event["ph"] == "X" || event["s"] == "t");
    assert_eq!(calls.count() as u64, summary.slices + summary.instants);
    let queue = events.iter().find(|event| event["name"] == "mq_send").unwrap();
    assert_eq!(queue["args"]["object"]["name"], "\"},\n{\u{1b}[2J\\xff\u{202e}\\\0");
    let [process] = &names_of(&events, "process_name")[..] else { panic!() };
    assert!(process.starts_with("h\"\\u{202e}\\n · ipc 4026532180 · \"},\\n{"), "{process}");
    let [thread] = &names_of(&events, "thread_name")[..] else { panic!() };
    assert!(thread.starts_with("\"},\\n{\\x1b") && thread.ends_with(" 4242"), "{thread}");
}

#[test]
fn threads_have_tracks_of_their_own() {
    let mut file = Vec::new();
    let mut writer = TraceWriter::new(&mut file);
    writer.begin("host", false);
    let host =
        IpcNs { inum: ipc_trace_common::state::HOST_INUM, r#gen: 1, ns_id: None, host: true };
    let mut tids = Vec::new();
    let shmget = || every_operation().swap_remove(0);
    for (start, ns, container_of) in [
        (Some(1), None, None),
        // The same thread, of which less is known.
        (None, None, None),
        // Another one with the same number.
        (Some(2), None, None),
        (Some(1), Some(host), None),
        (Some(1), Some(host), Some(container("a", None))),
        (Some(1), Some(host), Some(container("a", None))),
    ] {
        let mut ipc = shmget();
        ipc.process.start_boot_ns = start;
        (ipc.ipc_ns, ipc.container) = (ns.unwrap_or(ipc.ipc_ns), container_of);
        writer.event(&Event::Ipc(ipc));
    }
    let named = container("a", Some(b"app1"));
    let (seq, time) = (9, shmget().time);
    writer.event(&Event::Container(ContainerUpdate { seq, time, container: named, ipc_ns: None }));
    writer.finish().unwrap();
    let events = checked(&file);
    for call in of_phase(&events, "i") {
        tids.push(track(call));
    }
    let other = 1 << 22;
    assert_eq!(tids, [(1, 4242), (1, 4242), (1, other), (2, 4242), (3, 4242), (3, 4242)]);
    let names = ["ipc 4026532180 · -", "ipc host · -", "ipc host · a", "ipc host · app1"];
    assert_eq!(names_of(&events, "process_name"), names);
    let sort = |pid: u64| {
        let mut all = events.iter().filter(|event| event["name"] == "process_sort_index");
        all.find(|event| event["pid"] == pid).unwrap()["args"]["sort_index"].as_i64().unwrap()
    };
    assert!(sort(2) < sort(3) && sort(3) < sort(1));
}

fn finding(subject: Subject) -> Finding {
    Finding {
        id: 3,
        class: Class::HostIpc,
        severity: Severity::Low,
        confidence: 70,
        title: "a \"title\"".into(),
        subject,
        object: None,
        first: Timestamp(SystemTime::UNIX_EPOCH + Duration::from_nanos(1_795_445_080_000_000_123)),
        last: Timestamp(SystemTime::UNIX_EPOCH + Duration::from_nanos(1_795_445_080_000_001_123)),
        count: 2,
        evidence: Vec::new(),
        events: Vec::new(),
        reasons: Vec::new(),
        declared_by: None,
        benign_explanation: "".into(),
        policy: None,
    }
}

#[test]
fn findings_are_marks_on_threads_or_apart() {
    let call = every_operation().swap_remove(0);
    let apart = Subject { process: None, container: None, cgroup: None, ipc_ns: Some(call.ipc_ns) };
    let process = Some(call.process.clone().into_owned());
    let thread = Subject { process, ..apart.clone() };
    let mut file = Vec::new();
    let mut writer = TraceWriter::new(&mut file);
    for (subject, new) in [(apart, true), (thread, false)] {
        let (finding, seq, time) = (&finding(subject), 1, call.time);
        writer.event(&Event::Finding(FindingLine { seq, time, new, finding }));
    }
    let (time, by) = (call.time, &[][..]);
    let (seq, dropped, missed, metadata) = (Some(2), 1, 0, 0);
    let (sink, lost_other) = (None, None);
    let loss = Loss { seq, time, dropped, missed, metadata, by, sink, lost_other };
    writer.event(&Event::Loss(loss));
    let summary = writer.finish().unwrap();
    assert_eq!((summary.marks, summary.others), (2, 1));
    let events = checked(&file);
    let [apart, thread, loss] = &of_phase(&events, "i").collect::<Vec<_>>()[..] else { panic!() };
    assert_eq!((&apart["s"], &thread["s"], &loss["s"]), (&json!("p"), &json!("p"), &json!("g")));
    assert_eq!((track(apart), track(thread), track(loss)), ((1, 0), (2, 4242), (1, 0)));
    assert_eq!(names_of(&events, "process_name")[0], "findings");
    assert_eq!((ns(apart, "ts"), ns(thread, "ts")), (LEAD_NS, LEAD_NS + 1000));
    let args = json!({
        "id": 3, "severity": "low", "confidence": 70, "title": "a \"title\"", "count": 2, "new": true,
    });
    assert_eq!(apart["args"], args);
}

/// A device that is full.
struct FullDevice(usize);

impl io::Write for FullDevice {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn first_failed_write_is_reported_at_the_end() {
    let mut writer = TraceWriter::new(FullDevice(100_000));
    for _ in 0..100 {
        for ipc in every_operation() {
            writer.event(&Event::Ipc(ipc));
        }
    }
    assert!(writer.out.len() < 2 * super::BUFFER_BYTES);
    assert_eq!(writer.finish().unwrap_err().kind(), io::ErrorKind::StorageFull);
}

#[test]
fn file_without_events_is_valid() {
    let mut file = Vec::new();
    assert_eq!(TraceWriter::new(&mut file).finish().unwrap(), TraceSummary::default());
    assert!(checked(&file).is_empty());
}

/// What the format doesn't allow, the schema doesn't either.
#[test]
fn schema_refuses_what_the_format_has_not() {
    let mut file = Vec::new();
    let mut writer = TraceWriter::new(&mut file);
    for mut ipc in every_operation() {
        ipc.duration_ns = ipc.op.0.blocks().then_some(5);
        writer.event(&Event::Ipc(ipc));
    }
    writer.finish().unwrap();
    let (file, validator): (Value, _) = (serde_json::from_slice(&file).unwrap(), validator());
    assert!(validator.is_valid(&file));
    let events = file["traceEvents"].as_array().unwrap();
    for (phase, member, value) in [
        ("X", "dur", Value::Null),
        ("X", "ts", json!("5")),
        ("X", "ts", json!(-1)),
        ("X", "more", json!(1)),
        ("X", "tid", json!("main")),
        ("X", "args", json!({})),
        ("i", "s", json!("x")),
        ("i", "pid", json!(0)),
        ("i", "dur", json!(1)),
        ("i", "ph", json!("B")),
        ("M", "args", json!({ "name": 1 })),
        ("M", "name", json!("thread")),
    ] {
        let place = events.iter().position(|event| event["ph"] == phase).unwrap();
        let mut changed = file.clone();
        let event = changed["traceEvents"][place].as_object_mut().unwrap();
        if value.is_null() {
            event.remove(member);
        } else {
            event.insert(member.to_owned(), value);
        }
        assert!(!validator.is_valid(&changed), "{phase} {member}");
    }
}
