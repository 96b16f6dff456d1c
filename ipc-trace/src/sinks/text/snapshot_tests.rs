//! Snapshots of the complete output. `INSTA_UPDATE=always cargo test -p ipc-trace text` accepts a change; review it
//! before that.

use std::collections::BTreeMap;

use ipc_trace_common::op::{Abi, ObjectKind, Op};

use super::{
    args::CallText,
    call::LineStyle,
    fixtures::{
        AGAIN, APP, HOST, HOSTILE, at, call, container, every_operation, ns_ref, object, one_sop,
        pending, process, semop, text, unknown_object,
    },
    line, report,
    style::Palette,
};
use crate::event::{
    Accounting, Backends, CommandOutcome, ControlAccounting, End, Event, Ipc, IpcNs, Loss, LossBy,
    NamespaceEvent, NamespaceEventKind, NsInodes, OpAccounting, PROCESSES_NOT_INSPECTED,
    Reconciliation, ResyncAccounting, ResyncEvent, Sharing, SinkAccounting, Start, VERSION,
    args::Args,
    finding::FindingsAccounting,
    identity::ProcessIdentity,
    objects::{ObjectEvent, ObjectEventKind, ObjectInfo, ObjectOfNs, ObjectReport},
    report::{
        CallTotals, Created, Destroyed, Durations, EvictedCounts, NamespaceReport, OpReport,
        ProcessReport, Report,
    },
    value::{AbiName, Address, CallError, Hex32, OpName},
};

const PLAIN: LineStyle = LineStyle { palette: Palette::PLAIN, native: Abi::X86_64 };
const COLOURED: LineStyle = LineStyle { palette: Palette::COLOURED, native: Abi::X86_64 };

fn lines(events: &[Event<'_>], style: LineStyle) -> String {
    let mut out = String::new();
    for event in events {
        line::write(&mut out, event, style, 80).unwrap();
    }
    for char in out.chars().filter(|char| style.palette == Palette::PLAIN || *char != '\x1b') {
        assert!(!char.is_control() || char == '\n', "{char:?} in {out}");
    }
    out
}

#[test]
fn formats_every_operation() {
    let calls: Vec<_> = every_operation()
        .iter()
        .map(|ipc| format!("{} = {}", CallText(&ipc.args), ipc.ret.unwrap()))
        .collect();
    insta::assert_snapshot!("args", calls.join("\n"));
}

/// A call on another namespace's object, with all optional data.
fn foreign() -> Ipc<'static> {
    let send = Args::MqSend {
        mqdes: 3,
        msg_ptr: Address(0x7ffd_1234_5678),
        msg_len: 64,
        msg_prio: 0,
        abs_timeout: None,
    };
    let mut foreign = call(Op::MqSend, 0, send);
    foreign.object.name = Some(text("jobs"));
    foreign.object.foreign = Some(true);
    foreign.object.ipc_ns = Some(ns_ref(AGAIN));
    foreign.object.ipc_ns_dead = true;
    foreign.duration_ns = Some(812);
    foreign.process.tid = 4_194_303;
    foreign.process.pid = 4_194_300;
    foreign.container = Some(container().into());
    foreign
}

/// Calls with each element that may follow the result.
fn tails() -> Vec<Ipc<'static>> {
    let mut plain = call(Op::Semop, -11, semop(one_sop()));
    plain.object.id = Some(3);
    plain.duration_ns = Some(8_135);
    plain.object.key = Some(Hex32(0x8cd1_ab21));
    plain.object.foreign = Some(false);
    plain.object.ipc_ns = Some(ns_ref(APP));

    let mut private = call(Op::Semop, -512, semop(None));
    private.object.key = Some(Hex32(0));
    private.duration_ns = Some(3_400_000_000);
    private.ipc_ns = HOST;
    private.abi = AbiName(Abi::I386);
    private.process.pid = 1;
    private.process.tid = 1;

    let mut hostile = foreign();
    hostile.object.name = Some(text(HOSTILE));
    hostile.object.ipc_ns = None;
    hostile.process = process(7, HOSTILE);
    hostile.ipc_ns = IpcNs { r#gen: 4_294_967_295, ..APP };

    let mut detach = call(Op::Shmdt, 0, Args::Shmdt { shmaddr: Address(0x7f12_ab00_0000) });
    detach.object.id = Some(5);
    vec![plain, private, foreign(), hostile, detach]
}

fn backends() -> Backends {
    let backend = |op| if op == Op::Shmdt { "syscall" } else { "function" };
    Op::ALL.into_iter().map(|op| (OpName(op), backend(op).into())).collect()
}

fn start(backend: &Backends) -> Event<'_> {
    Event::Start(Start {
        time: at(0),
        host: "web1".into(),
        boot_id: None,
        run_id: None,
        kernel: "6.12.117".into(),
        arch: "x86_64".into(),
        backend,
        version: "0.1.0".into(),
    })
}

fn moves() -> Vec<Event<'static>> {
    let life = |event, ipc_ns, from, by: &str| NamespaceEvent {
        seq: 9,
        time: at(570),
        event,
        ipc_ns,
        from,
        container: (by == HOSTILE).then(|| container().into()),
        process: (!by.is_empty()).then(|| process(4242, by)),
        after: None,
        before: None,
    };
    let gone = NamespaceEvent {
        after: Some(at(300)),
        before: Some(at(570)),
        ..life(NamespaceEventKind::Destroyed, AGAIN, None, "")
    };
    [
        life(NamespaceEventKind::Created, APP, Some(HOST), "unshare"),
        life(NamespaceEventKind::Entered, AGAIN, Some(HOST), HOSTILE),
        life(NamespaceEventKind::Left, HOST, None, "nsenter"),
        gone,
        life(NamespaceEventKind::Destroyed, APP, None, ""),
    ]
    .map(Event::Namespace)
    .into()
}

fn lives() -> Vec<Event<'static>> {
    let life = |event, ipc_ns, info, by: &str| ObjectEvent {
        seq: 10,
        time: at(600),
        event,
        ipc_ns,
        object: ObjectOfNs { info, ipc_ns: ns_ref(ipc_ns) },
        container: (by == HOSTILE).then(|| container().into()),
        process: (!by.is_empty()).then(|| process(4242, by)),
        after: None,
        before: None,
    };
    let segment = || object(ObjectKind::Shm, Some(3), None);
    let mut inferred = object(ObjectKind::Sem, Some(32_768), None);
    inferred.size = Some(3);
    if let Some(creator) = &mut inferred.creator {
        creator.exact = false;
    }
    let removed = ObjectInfo { removed: true, ..segment() };
    let noticed = ObjectEvent {
        after: Some(at(300)),
        before: Some(at(600)),
        ..life(ObjectEventKind::Destroyed, AGAIN, removed.clone(), "")
    };
    [
        life(ObjectEventKind::Created, APP, segment(), "worker"),
        life(ObjectEventKind::Created, HOST, inferred, HOSTILE),
        life(ObjectEventKind::Changed, APP, object(ObjectKind::Mq, None, Some(HOSTILE)), "worker"),
        life(ObjectEventKind::Removed, APP, removed, "ipcrm"),
        life(ObjectEventKind::Removed, APP, unknown_object(ObjectKind::Mq), "worker"),
        noticed,
    ]
    .map(Event::Object)
    .into()
}

#[test]
fn formats_lines_of_run() {
    let backend = backends();
    let kind = |ns: IpcNs, op, error: Option<u16>, count| LossBy {
        inum: Some(ns.inum),
        r#gen: Some(ns.r#gen),
        op: OpName(op),
        error: error.map(CallError),
        count,
    };
    let by = [
        kind(HOST, Op::Msgsnd, Some(11), 4),
        kind(APP, Op::Semop, None, 1_812),
        LossBy { inum: None, r#gen: None, ..kind(APP, Op::Semop, None, 7) },
        kind(AGAIN, Op::Semop, Some(512), 1),
    ];
    let loss = Loss {
        seq: Some(12),
        time: at(1_000),
        dropped: 1_824,
        missed: 1,
        metadata: 3,
        by: &by,
        sink: None,
        lost_other: None,
    };
    let slow = Loss {
        seq: None,
        missed: 0,
        metadata: 0,
        by: &[],
        sink: Some("text"),
        lost_other: Some(3),
        ..loss
    };
    let accounting = accounting(5_260, 812, 0);
    let argv = ["sh", "-c", "echo \x1b[2J; true", ""].map(str::to_owned).to_vec();
    let command = CommandOutcome { argv, exit_code: None, signal: Some("SIGKILL".to_owned()) };
    let pending = pending();
    let end = End {
        seq: 99,
        time: at(2_000),
        accounting,
        command: Some(command),
        pending,
        findings: Vec::new(),
    };
    let mut events = vec![start(&backend)];
    events.extend(tails().into_iter().map(Event::Ipc));
    events.extend(moves());
    events.extend(lives());
    events.extend([Event::Loss(loss), Event::Loss(slow)]);
    let found = |present, appeared, ended| Reconciliation { present, appeared, ended };
    for complete in [false, true] {
        events.push(Event::Resync(ResyncEvent {
            seq: 13,
            time: at(1_500),
            since: at(1_000),
            complete,
            namespaces: found(500, 2, 0),
            objects: found(50_000, 14, 1_003),
        }));
    }
    events.push(Event::End(&end));
    insta::assert_snapshot!("lines", lines(&events, PLAIN));
    insta::assert_snapshot!("lines_coloured", lines(&events, COLOURED).replace('\x1b', "␛"));
}

fn accounting(seen: u64, dropped: u64, missed: u64) -> Accounting {
    let emitted = seen - dropped;
    Accounting {
        total: OpAccounting {
            seen,
            filtered: 0,
            emitted,
            dropped,
            delivered: emitted,
            not_made: 0,
        },
        missed,
        by_op: BTreeMap::new(),
        control: ControlAccounting { emitted: 9, delivered: 9, dropped: 0, withheld: 0 },
        resyncs: ResyncAccounting::default(),
        diagnostics: BTreeMap::new(),
        findings: FindingsAccounting::default(),
        reader_max_ns: 1_234_567,
        sinks: BTreeMap::new(),
    }
}

#[test]
fn accounting_states_accuracy_of_counts() {
    let mut wrong = accounting(10, 0, 0);
    wrong.total.delivered = 9;
    wrong.control.dropped = 2;
    wrong.control.withheld = 3;
    let mut slow = accounting(5_260, 0, 0);
    let counts = SinkAccounting { written: 5_000, filtered: 0, lost: 260, lost_other: 3 };
    slow.sinks.insert("json".to_owned(), counts);
    slow.diagnostics.insert(PROCESSES_NOT_INSPECTED.to_owned(), 12);
    let mut healed = accounting(5_260, 0, 0);
    healed.resyncs = ResyncAccounting { complete: 1, partial: 2, pending: true };
    healed.diagnostics = [("descriptors_beyond_4096", 1), ("unreadable_field", 7)]
        .map(|(name, count)| (name.to_owned(), count))
        .into();
    let [fine, one, many] = [(0, 0), (1, 0), (812, 3)].map(|(d, m)| accounting(5_260, d, m));
    let all = [fine, one, many, wrong, healed, slow];
    let mut out = String::new();
    for one in &all {
        for width in [80, 200] {
            super::summary::accounting(&mut out, one, Palette::PLAIN, width).unwrap();
        }
    }
    insta::assert_snapshot!("accounting", out);
}

fn counts(calls: u64, errors: &[(u16, u64)]) -> CallTotals {
    CallTotals {
        calls,
        failed: errors.iter().map(|(_, count)| count).sum(),
        errors: errors.iter().map(|(error, count)| (CallError(*error), *count)).collect(),
        restarts: 0,
    }
}

fn operation(calls: u64, errors: &[(u16, u64)], bytes: Option<u64>, max: Option<u64>) -> OpReport {
    let durations = |max| Durations { p50: max / 5_000, p90: max / 500, p99: max / 40, max };
    OpReport { counts: counts(calls, errors), bytes, duration_ns: max.map(durations) }
}

fn who(pid: u32, comm: &str, exe: &str, calls: u64) -> ProcessReport {
    ProcessReport {
        pid,
        ppid: Some(1),
        comm: text(comm),
        exe: (!exe.is_empty()).then(|| text(exe)),
        uid: 1000,
        gid: 1000,
        start_boot_ns: None,
        ns: NsInodes::default(),
        identity: ProcessIdentity::default(),
        container: None,
        calls,
        failed: calls / 350,
        foreign_calls: 0,
    }
}

fn namespace(ns: IpcNs) -> NamespaceReport {
    NamespaceReport {
        inum: ns.inum,
        r#gen: ns.r#gen,
        ns_id: ns.ns_id,
        host: ns.host,
        created: None,
        destroyed: None,
        containers: vec![],
        containers_folded: 0,
        sharing: None,
        processes: vec![],
        processes_folded: 0,
        ops: BTreeMap::new(),
        foreign_calls: 0,
        dropped: 0,
        objects: vec![],
    }
}

fn report(namespaces: Vec<NamespaceReport>) -> Report {
    Report {
        v: VERSION,
        host: "web1".to_owned(),
        boot_id: None,
        run_id: None,
        kernel: "6.12.117".to_owned(),
        backend: Op::ALL.into_iter().map(|op| (OpName(op), "function".into())).collect(),
        started: at(0),
        ended: at(125_000),
        accounting: accounting(5_260, 0, 0),
        command: None,
        pending: vec![],
        namespaces,
        unattributed: BTreeMap::new(),
        folded: None,
        objects_folded: 0,
        containers_folded: 0,
        findings: vec![],
    }
}

fn objects() -> Vec<ObjectReport> {
    let object_report = |info, uses| ObjectReport {
        info,
        created: None,
        removed_at: None,
        destroyed: None,
        uses,
        leaked: None,
    };
    let leaked = object_report(object(ObjectKind::Mq, None, Some(HOSTILE)), 3);
    let removed =
        ObjectInfo { removed: true, attached: Some(2), ..object(ObjectKind::Shm, Some(3), None) };
    let gone = object_report(object(ObjectKind::Msg, Some(0), None), 9);
    let mut all = vec![
        object_report(unknown_object(ObjectKind::Sem), 1),
        object_report(removed, 12),
        ObjectReport { leaked: Some(true), ..leaked },
        ObjectReport { destroyed: Some(at(9)), ..gone },
    ];
    all.extend(
        (0..20).map(|id| object_report(object(ObjectKind::Msg, Some(32_768 + id), None), 0)),
    );
    all
}

fn busy() -> Report {
    let host = NamespaceReport {
        ops: BTreeMap::from([
            (OpName(Op::Shmget), operation(12, &[(2, 1)], None, None)),
            (OpName(Op::Semop), operation(4_000, &[(11, 3), (43, 12)], None, Some(3_400_000_000))),
        ]),
        processes: vec![who(812, "postgres", "/usr/lib/postgresql/17/bin/postgres", 4_012)],
        ..namespace(HOST)
    };
    let errors: Vec<_> = (1..=18).map(|error| (error, u64::from(error) * 1_000)).collect();
    let app = NamespaceReport {
        created: Some(Created { time: at(1_123), process: Some(process(4242, "unshare")) }),
        destroyed: Some(Destroyed { after: Some(at(90_000)), before: at(90_500) }),
        containers: vec![container().into(); 6],
        sharing: Some(Sharing::Declared),
        ops: BTreeMap::from([
            (OpName(Op::Semop), operation(1_234_567_890, &errors, None, Some(u64::MAX))),
            (OpName(Op::MqReceive), operation(812, &[], Some(u64::MAX), Some(14_000_000))),
            (OpName(Op::MqGetsetattr), operation(3, &[(22, 3)], None, None)),
        ]),
        processes: (0..12)
            .map(|index| match index {
                0 => ProcessReport { foreign_calls: 2, ..who(7, HOSTILE, HOSTILE, 999_999_999) },
                1 => who(4_194_304, "a-long-name-cut", "", 4_812),
                _ => who(4_300 + index, "worker", "/usr/bin/worker", u64::from(100 - index)),
            })
            .collect(),
        processes_folded: 1_998,
        foreign_calls: 2,
        dropped: 812,
        objects: objects(),
        ..namespace(IpcNs { ns_id: Some(4_711), ..AGAIN })
    };
    let quiet = (0..9).map(|index| namespace(IpcNs { inum: 4_026_532_400 + index, ..APP }));
    let moved = (0..22).map(|index| NamespaceReport {
        created: Some(Created { time: at(index * 7), process: Some(process(4242, "unshare")) }),
        destroyed: (index % 2 == 0)
            .then(|| Destroyed { after: None, before: at(index * 7 + 86_400_000) }),
        ..namespace(IpcNs { inum: 4_026_532_500 + index as u32, ..APP })
    });
    let lost = BTreeMap::from([(OpName(Op::Semop), counts(7, &[(11, 7)]))]);
    let argv = ["./load", "--workers", "8"].map(str::to_owned).to_vec();
    Report {
        backend: backends(),
        accounting: accounting(1_234_573_533, 819, 0),
        command: Some(CommandOutcome { argv, exit_code: Some(0), signal: None }),
        pending: pending(),
        unattributed: lost.clone(),
        folded: Some(EvictedCounts { namespaces: 4_096, ops: lost }),
        ..report([host, app].into_iter().chain(quiet).chain(moved).collect())
    }
}

fn show(report: &Report, width: usize) -> String {
    use unicode_width::UnicodeWidthStr as _;
    let text = report::text(report, 0, Palette::PLAIN, width).to_string();
    for line in text.lines() {
        assert!(line.width() <= width, "{} cells: {line}", line.width());
        assert_eq!(line, line.trim_end());
        assert!(!line.contains(char::is_control), "{line}");
    }
    text
}

#[test]
fn formats_report_of_busy_host() {
    insta::assert_snapshot!("report_80", show(&busy(), 80));
    insta::assert_snapshot!("report_200", show(&busy(), 200));
}

#[test]
fn formats_small_reports() {
    let mut short = namespace(APP);
    short.ops.insert(OpName(Op::Shmget), operation(1, &[], None, None));
    short.processes.push(who(4_242, "worker", "/usr/bin/worker", 1));
    insta::assert_snapshot!("report_empty", show(&report(vec![]), 80));
    insta::assert_snapshot!("report_idle", show(&report(vec![namespace(HOST)]), 80));
    insta::assert_snapshot!("report_small", show(&report(vec![namespace(HOST), short]), 80));
}
