//! Which receive took which message.

use ipc_trace_common::op::ObjectKind;

use super::*;
use crate::{
    event::{
        IpcNsRef,
        args::Args,
        objects::{ObjectEvent, ObjectEventKind, ObjectInfo, ObjectOfNs},
        value::{CallError, KindName},
    },
    export::trace::{MOST_RECEIVES, MOST_SENDS, messages::Messages},
};

/// Calls on queues, each by a thread of its own; times are microseconds after the first.
struct QueueCalls {
    file: SharedFile,
    writer: TraceWriter<SharedFile>,
    calls: u32,
    /// How long their messages are
    bytes: u64,
}

impl QueueCalls {
    fn new() -> Self {
        let file = SharedFile::default();
        let writer = TraceWriter::new(file.clone());
        Self { file, writer, calls: 0, bytes: 8 }
    }

    /// A call from one time to another. Returns the number of its thread.
    fn call(&mut self, op: Op, times: (u64, u64), class: Option<i64>) -> u32 {
        self.call_on(op, times, class, "jobs", None)
    }

    fn call_on(
        &mut self,
        op: Op,
        (from, to): (u64, u64),
        class: Option<i64>,
        queue: &str,
        error: Option<u16>,
    ) -> u32 {
        self.calls += 1;
        let mut ipc = every_operation().into_iter().find(|one| one.op == OpName(op)).unwrap();
        ipc.seq = u64::from(self.calls);
        ipc.process.tid = self.calls;
        ipc.time.0 += Duration::from_micros(to);
        ipc.duration_ns = Some((to - from) * 1000);
        ipc.error = error.map(CallError);
        ipc.ret = Some(error.map_or(self.bytes as i64, |error| -i64::from(error)));
        ipc.object.ipc_ns = Some(IpcNsRef { inum: ipc.ipc_ns.inum, r#gen: ipc.ipc_ns.r#gen });
        if op.object_kind() == ObjectKind::Mq {
            ipc.object.name = Some(queue.into());
        } else {
            ipc.object.id = Some(queue.len() as i32);
        }
        #[expect(clippy::wildcard_enum_match_arm, reason = "others pass no messages")]
        match &mut ipc.args {
            Args::Msgsnd { mtype, msgsz, .. } => (*mtype, *msgsz) = (class, self.bytes),
            Args::Msgrcv { mtype, msgtyp, msgflg, .. } => {
                (*mtype, *msgtyp, msgflg.bits) = (class, Some(0), 0);
            }
            Args::MqSend { msg_prio, msg_len, .. } => {
                (*msg_prio, *msg_len) = (class.unwrap() as u32, self.bytes);
            }
            Args::MqReceive { msg_prio, .. } => *msg_prio = class.map(|class| class as u32),
            args => panic!("{args:?}"),
        }
        self.writer.event(&Event::Ipc(ipc));
        self.calls
    }

    fn object(&mut self, event: ObjectEventKind, at: u64, messages: Option<u64>) {
        let ipc = every_operation().swap_remove(0);
        let ns = IpcNsRef { inum: ipc.ipc_ns.inum, r#gen: ipc.ipc_ns.r#gen };
        let info = ObjectInfo {
            kind: KindName(ObjectKind::Mq),
            id: None,
            key: None,
            name: Some("jobs".into()),
            mode: None,
            uid: None,
            gid: None,
            size: None,
            messages,
            max_messages: None,
            bytes: None,
            creator: None,
            last: None,
            attached: None,
            removed: false,
            ino: None,
        };
        self.writer.event(&Event::Object(ObjectEvent {
            seq: 1,
            time: Timestamp(ipc.time.0 + Duration::from_micros(at)),
            event,
            ipc_ns: ipc.ipc_ns,
            object: ObjectOfNs { info, ipc_ns: ns },
            process: None,
            container: None,
            after: None,
            before: None,
        }));
    }

    /// The arrows: from and to which thread.
    fn arrows(self) -> Vec<(u32, u32)> {
        self.summary().1
    }

    fn summary(self) -> (TraceSummary, Vec<(u32, u32)>) {
        let summary = self.writer.finish().unwrap();
        let events = checked(&self.file.take());
        let tids = |phase| {
            let ends: Vec<_> = of_phase(&events, phase).map(|end| track(end).1 as u32).collect();
            ends
        };
        (summary, tids("s").into_iter().zip(tids("f")).collect())
    }
}

#[test]
fn message_of_the_highest_priority_goes_first() {
    let mut calls = QueueCalls::new();
    let low = calls.call(Op::MqSend, (1, 2), Some(0));
    let first = calls.call(Op::MqSend, (3, 4), Some(7));
    let second = calls.call(Op::MqSend, (5, 6), Some(7));
    // The first one doesn't ask for the priority.
    let receives =
        [None, Some(7), Some(0)].map(|priority| calls.call(Op::MqReceive, (10, 20), priority));
    let none = calls.call(Op::MqReceive, (21, 22), Some(0));
    let arrows = calls.arrows();
    assert_eq!(arrows, [(first, receives[0]), (second, receives[1]), (low, receives[2])]);
    assert!(arrows.iter().all(|(_, to)| *to != none));
}

#[test]
fn messages_of_a_type_are_in_order() {
    let mut calls = QueueCalls::new();
    let sends = [Some(1), Some(2), Some(1), Some(3)];
    let sends = sends.map(|kind| calls.call(Op::Msgsnd, (1, 2), kind));
    let receives = [Some(2), Some(1), None, Some(3)];
    let receives = receives.map(|kind| calls.call(Op::Msgrcv, (3, 4), kind));
    // Another queue.
    calls.call_on(Op::Msgsnd, (5, 6), Some(1), "other", None);
    calls.call(Op::Msgrcv, (7, 8), Some(1));
    let expected = [1, 0, 2, 3].map(|send: usize| sends[send]);
    assert_eq!(calls.arrows(), expected.into_iter().zip(receives).collect::<Vec<_>>());
}

#[test]
fn failed_calls_pass_no_messages() {
    let mut calls = QueueCalls::new();
    calls.call_on(Op::MqSend, (1, 2), Some(0), "jobs", Some(110));
    let send = calls.call(Op::MqSend, (3, 4), Some(0));
    calls.call_on(Op::MqReceive, (5, 6), Some(0), "jobs", Some(4));
    let receive = calls.call(Op::MqReceive, (7, 8), Some(0));
    assert_eq!(calls.arrows(), [(send, receive)]);
}

#[test]
fn receive_can_come_before_its_send() {
    let mut calls = QueueCalls::new();
    let woken = calls.call(Op::MqReceive, (1, 12), Some(0));
    let send = calls.call(Op::MqSend, (10, 13), Some(0));
    // It had returned when this one was sent.
    calls.call(Op::MqReceive, (14, 15), Some(0));
    let late = calls.call(Op::MqSend, (16, 17), Some(0));
    let last = calls.call(Op::MqReceive, (18, 19), Some(0));
    assert_eq!(calls.arrows(), [(send, woken), (late, last)]);
}

#[test]
fn messages_of_before_the_start_go_first() {
    let mut calls = QueueCalls::new();
    calls.object(ObjectEventKind::Present, 0, Some(2));
    let send = calls.call(Op::MqSend, (1, 2), Some(0));
    calls.call(Op::MqReceive, (3, 4), Some(0));
    calls.call(Op::MqReceive, (5, 6), Some(0));
    let receive = calls.call(Op::MqReceive, (7, 8), Some(0));
    assert_eq!(calls.arrows(), [(send, receive)]);
}

#[test]
fn empty_queue_has_no_earlier_message() {
    for empty in [11, 110] {
        let mut calls = QueueCalls::new();
        calls.call(Op::MqSend, (1, 2), Some(0));
        // Somebody took it whose call isn't known.
        calls.call_on(Op::MqReceive, (3, 4), None, "jobs", Some(empty));
        let send = calls.call(Op::MqSend, (5, 6), Some(0));
        let receive = calls.call(Op::MqReceive, (7, 8), Some(0));
        assert_eq!(calls.arrows(), [(send, receive)]);
    }
}

#[test]
fn new_queue_has_no_earlier_message() {
    let mut calls = QueueCalls::new();
    calls.call(Op::MqSend, (1, 2), Some(0));
    calls.object(ObjectEventKind::Created, 5, None);
    let send = calls.call(Op::MqSend, (6, 7), Some(0));
    let receive = calls.call(Op::MqReceive, (8, 9), Some(0));
    assert_eq!(calls.arrows(), [(send, receive)]);
}

#[test]
fn after_a_loss_only_new_messages_have_arrows() {
    let mut calls = QueueCalls::new();
    calls.call(Op::MqSend, (1, 2), Some(0));
    let time = every_operation().swap_remove(0).time;
    let (seq, dropped, missed, metadata) = (Some(2), 1, 0, 0);
    let (by, sink, lost_other) = (&[][..], None, None);
    calls.writer.event(&Event::Loss(Loss {
        seq,
        time,
        dropped,
        missed,
        metadata,
        by,
        sink,
        lost_other,
    }));
    let send = calls.call(Op::MqSend, (3, 4), Some(0));
    calls.call(Op::MqReceive, (5, 6), Some(0));
    let receive = calls.call(Op::MqReceive, (7, 8), Some(0));
    assert_eq!(calls.arrows(), [(send, receive)]);
}

#[test]
fn calls_without_an_entry_have_no_arrow() {
    let mut calls = QueueCalls::new();
    let mut ipc = every_operation().into_iter().find(|one| one.op == OpName(Op::MqSend)).unwrap();
    (ipc.ret, ipc.error, ipc.duration_ns) = (Some(0), None, None);
    if let Args::MqSend { msg_len, .. } = &mut ipc.args {
        *msg_len = calls.bytes;
    }
    ipc.object.name = Some("jobs".into());
    ipc.object.ipc_ns = Some(IpcNsRef { inum: ipc.ipc_ns.inum, r#gen: ipc.ipc_ns.r#gen });
    calls.writer.event(&Event::Ipc(ipc));
    let send = calls.call(Op::MqSend, (3, 4), Some(5));
    // The first one has its message nonetheless.
    let receives = [5, 7].map(|at| calls.call(Op::MqReceive, (at, at + 1), Some(5)));
    assert_eq!(calls.arrows(), [(send, receives[1])]);
}

#[test]
fn message_is_as_long_as_it_was_sent() {
    let mut calls = QueueCalls::new();
    calls.call(Op::Msgsnd, (1, 2), Some(1));
    let other = calls.call(Op::Msgsnd, (3, 4), Some(2));
    calls.bytes = 9;
    let send = calls.call(Op::Msgsnd, (5, 6), Some(1));
    // A message of before, and the one whose receive is known.
    calls.bytes = 7;
    calls.call(Op::Msgrcv, (7, 8), Some(1));
    calls.bytes = 9;
    let receive = calls.call(Op::Msgrcv, (9, 10), Some(1));
    // The first one was received before: messages of a type are in order.
    calls.bytes = 8;
    calls.call(Op::Msgrcv, (11, 12), Some(1));
    let last = calls.call(Op::Msgrcv, (13, 14), None);
    assert_eq!(calls.arrows(), [(send, receive), (other, last)]);
}

#[test]
fn order_of_sends_at_the_same_time_is_not_known() {
    let mut calls = QueueCalls::new();
    let sends = [8, 9].map(|bytes| {
        calls.bytes = bytes;
        calls.call(Op::Msgsnd, (1, bytes), Some(1))
    });
    let receives = [9, 8].map(|bytes| {
        calls.bytes = bytes;
        calls.call(Op::Msgrcv, (30 - bytes, 40 - bytes), Some(1))
    });
    assert_eq!(calls.arrows(), [(sends[1], receives[0]), (sends[0], receives[1])]);
}

/// Whatever the order of calls, no more of them are kept than the bounds say.
#[test]
fn pending_messages_are_bounded() {
    assert_eq!((MOST_SENDS, MOST_RECEIVES), (65_536, 4_096));
    let mut calls = QueueCalls::new();
    calls.writer.messages = Messages::new(10, 4);
    let sends: Vec<_> =
        (0..30).map(|at| calls.call(Op::MqSend, (2 * at, 2 * at + 1), Some(0))).collect();
    let receives: Vec<_> =
        (30..60).map(|at| calls.call(Op::MqReceive, (2 * at, 2 * at + 1), Some(0))).collect();
    // Receives without a send.
    for at in 60..100 {
        calls.call(Op::MqReceive, (2 * at, 2 * at + 1), Some(0));
    }
    assert_eq!(calls.writer.messages.pending(), (0, 4));
    let (summary, arrows) = calls.summary();
    assert_eq!((summary.forgotten_sends, summary.flows), (20, 10));
    let expected: Vec<_> = sends.into_iter().zip(receives).skip(20).collect();
    assert_eq!(arrows, expected);
}

/// Random sends and receives of many threads: each send has at most one receive, and the other way round.
#[test]
fn random_calls_match_once() {
    let mut calls = QueueCalls::new();
    let mut random = 7_u64;
    for at in 0..2_000 {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let bits = random >> 40;
        let op = [Op::Msgsnd, Op::Msgrcv, Op::MqSend, Op::MqReceive][(bits & 3) as usize];
        let from = (10 * at + (bits >> 2 & 15)).saturating_sub(bits >> 6 & 63);
        let queue = if bits >> 12 & 1 == 0 { "jobs" } else { "other" };
        let class = Some((bits >> 13 & 3) as i64);
        calls.call_on(op, (from, from + 1 + (bits >> 15 & 255)), class, queue, None);
    }
    let arrows = calls.arrows();
    let (from, to): (BTreeSet<_>, BTreeSet<_>) = arrows.iter().copied().unzip();
    assert_eq!((from.len(), to.len()), (arrows.len(), arrows.len()));
    assert!(arrows.len() > 300, "{}", arrows.len());
}
