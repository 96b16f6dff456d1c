//! Which receive took which message: sends and receives that are not matched yet.
//!
//! The kernel says what a receive took only by its type (System V) or its priority (POSIX). The rest follows from the
//! order: within a type or a priority, the oldest message goes first. A match that the times or the lengths rule out is
//! never made. What can't be known is a message of before the start, or one that was lost: such messages are counted for each queue
//! (`unknown`), and go before those that are known.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use ipc_trace_common::op::{ObjectKind, Op};

use super::format::TrackRef;
use crate::event::{
    Ipc, IpcNsRef,
    args::Args,
    objects::ObjectEvent,
    value::{CallError, OsBytes},
};

/// How many sends are kept whose message nobody has received.
pub(super) const MOST_SENDS: usize = 65_536;
/// How many receives are kept whose send hasn't been seen: it comes soon after, or never.
pub(super) const MOST_RECEIVES: usize = 4_096;

/// Errors of a receive that say that no message was there (include/uapi/asm-generic/errno.h).
const EAGAIN: CallError = CallError(11);
const ENOMSG: CallError = CallError(42);
const ETIMEDOUT: CallError = CallError(110);
/// The flag of a receive that leaves the message in its queue (include/uapi/linux/msg.h).
const MSG_COPY: u64 = 0o40000;
/// The flag of a receive that cuts a message that is too long.
const MSG_NOERROR: u64 = 0o10000;
/// How many sends are compared with a receive. Others are skipped only after a loss that wasn't noticed.
const MOST_COMPARED: usize = 32;

/// A queue, within one run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum MessageQueue {
    /// System V: a namespace and an id
    SysV((u32, u32), i32),
    /// POSIX: a namespace and a name
    Posix((u32, u32), Arc<[u8]>),
}

impl MessageQueue {
    fn new(
        kind: ObjectKind,
        ns: IpcNsRef,
        id: Option<i32>,
        name: Option<&OsBytes<'_>>,
    ) -> Option<Self> {
        let ns = (ns.inum, ns.r#gen);
        match kind {
            ObjectKind::Msg => Some(Self::SysV(ns, id?)),
            ObjectKind::Mq => Some(Self::Posix(ns, name?.0.as_ref().into())),
            ObjectKind::Shm | ObjectKind::Sem => None,
        }
    }

    fn of_call(ipc: &Ipc<'_>) -> Option<Self> {
        let object = &ipc.object;
        Self::new(object.kind.0, object.ipc_ns?, object.id, object.name.as_ref())
    }

    /// The queue of an object's event, if it is one.
    pub(super) fn of_object(event: &ObjectEvent<'_>) -> Option<Self> {
        let info = &event.object.info;
        Self::new(info.kind.0, event.object.ipc_ns, info.id, info.name.as_ref())
    }
}

/// A call that sent or received a message. Times are nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MessageCall {
    /// The thread's track
    pub track: TrackRef,
    /// When it entered the kernel; `None`: unknown, so it has no slice
    pub start: Option<i64>,
    /// When it returned
    pub end: i64,
    /// How long its message is
    bytes: u64,
    /// Whether the message may have been longer
    is_cut: bool,
}

impl MessageCall {
    pub(super) const fn new(track: TrackRef, start: Option<i64>, end: i64) -> Self {
        Self { track, start, end, bytes: 0, is_cut: false }
    }

    const fn with_bytes(self, bytes: u64, is_cut: bool) -> Self {
        Self { bytes, is_cut, ..self }
    }
}

/// A send, and the receive that took its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MessageMatch {
    pub send: MessageCall,
    pub receive: MessageCall,
}

impl MessageMatch {
    /// Where its arrow begins and ends: inside both slices, and not at their ends, so that a viewer that rounds times
    /// still finds the slices; the beginning isn't after the end. `None`: one of them has no slice.
    pub(super) fn arrow(&self) -> Option<(i64, i64)> {
        let (send_start, receive_start) = (self.send.start?, self.receive.start?);
        let between = |from: i64, to: i64| from + to.saturating_sub(from).max(0) / 2;
        let to = between(send_start.max(receive_start), self.receive.end);
        Some((between(send_start, self.send.end.min(to)), to))
    }
}

/// A message's type or priority; `None`: unknown.
type MessageClass = Option<i64>;

/// Calls that wait for their counterpart, the oldest first.
#[derive(Debug)]
struct Backlog {
    calls: BTreeMap<u64, (MessageQueue, MessageClass, MessageCall)>,
    queues: HashMap<MessageQueue, QueueBacklog>,
    next: u64,
    most: usize,
}

/// Those of one queue.
#[derive(Debug, Default)]
struct QueueBacklog {
    /// By their numbers
    order: BTreeSet<(u64, MessageClass)>,
    /// By their classes
    classes: BTreeSet<(MessageClass, u64)>,
}

impl QueueBacklog {
    fn oldest(&self) -> Option<u64> {
        self.order.first().map(|(number, _)| *number)
    }

    fn of_class(&self, class: MessageClass) -> impl Iterator<Item = u64> {
        let numbers = self.classes.range((class, 0)..=(class, u64::MAX));
        numbers.map(|(_, number)| *number)
    }

    /// Those that can be of a class, the oldest first; if it isn't known and there are priorities, those of the highest.
    fn candidates(&self, class: MessageClass, priorities: bool) -> impl Iterator<Item = u64> {
        let (any, first, second) = match (class, priorities) {
            (Some(_), _) => (None, Some(self.of_class(class)), Some(self.of_class(None))),
            (None, true) => {
                let highest = self.classes.last().map(|(class, _)| self.of_class(*class));
                (None, highest, None)
            }
            (None, false) => (Some(self.order.iter().map(|(number, _)| *number)), None, None),
        };
        let mut first = first.into_iter().flatten().peekable();
        let mut second = second.into_iter().flatten().peekable();
        let merged = std::iter::from_fn(move || match (first.peek(), second.peek()) {
            (Some(one), Some(other)) if one > other => second.next(),
            (None, _) => second.next(),
            (Some(_), _) => first.next(),
        });
        any.into_iter().flatten().chain(merged)
    }
}

impl Backlog {
    fn new(most: usize) -> Self {
        Self { calls: BTreeMap::new(), queues: HashMap::new(), next: 0, most }
    }

    /// Adds a call. Returns the queue of the oldest one, if there is no room for it any more.
    fn push(
        &mut self,
        queue: MessageQueue,
        class: MessageClass,
        call: MessageCall,
    ) -> Option<MessageQueue> {
        let number = self.next;
        self.next += 1;
        let numbers = self.queues.entry(queue.clone()).or_default();
        numbers.order.insert((number, class));
        numbers.classes.insert((class, number));
        self.calls.insert(number, (queue, class, call));
        if self.calls.len() <= self.most {
            return None;
        }
        let (oldest, (queue, ..)) = self.calls.first_key_value()?;
        let (oldest, queue) = (*oldest, queue.clone());
        self.take(oldest);
        Some(queue)
    }

    fn take(&mut self, number: u64) -> Option<MessageCall> {
        let (queue, class, call) = self.calls.remove(&number)?;
        if let Some(numbers) = self.queues.get_mut(&queue) {
            numbers.order.remove(&(number, class));
            numbers.classes.remove(&(class, number));
            if numbers.order.is_empty() {
                self.queues.remove(&queue);
            }
        }
        Some(call)
    }

    /// Takes a queue's oldest calls as long as they meet a condition. Returns how many.
    fn take_while(
        &mut self,
        queue: &MessageQueue,
        condition: impl Fn(&MessageCall) -> bool,
    ) -> u64 {
        let mut taken = 0;
        while let Some(number) = self.queues.get(queue).and_then(QueueBacklog::oldest)
            && self.get(number).is_some_and(&condition)
        {
            self.take(number);
            taken += 1;
        }
        taken
    }

    fn get(&self, number: u64) -> Option<&MessageCall> {
        self.calls.get(&number).map(|(_, _, call)| call)
    }

    /// Finds the first candidate that meets a condition.
    fn find(
        &self,
        queue: &MessageQueue,
        (class, priorities): (MessageClass, bool),
        condition: impl Fn(&MessageCall) -> bool,
    ) -> Option<(u64, MessageCall)> {
        let candidates = self.queues.get(queue)?.candidates(class, priorities);
        let mut calls =
            candidates.take(MOST_COMPARED).filter_map(|number| Some((number, *self.get(number)?)));
        calls.find(|(_, call)| condition(call))
    }

    /// Takes a call, and those of its class that had returned when it entered: these go before it. Of calls at the same
    /// time, the order isn't known.
    fn take_in_order(&mut self, number: u64) {
        let Some((queue, class, call)) = self.calls.get(&number) else { return };
        let of_class = self.queues.get(queue).into_iter().flat_map(|all| all.of_class(*class));
        let is_before = |older: &u64| {
            self.get(*older).is_some_and(|older| call.start.is_some_and(|start| older.end <= start))
        };
        let older: Vec<u64> =
            of_class.take_while(|older| *older < number).filter(is_before).collect();
        for number in older.into_iter().chain([number]) {
            self.take(number);
        }
    }
}

/// Whether a send began before a receive ended.
fn is_in_time(send: &MessageCall, receive: &MessageCall) -> bool {
    send.start.is_none_or(|start| start < receive.end)
}

/// Whether the message of a send can be the one that a receive took.
fn is_possible(send: &MessageCall, receive: &MessageCall) -> bool {
    let fits = send.bytes == receive.bytes || receive.is_cut && send.bytes > receive.bytes;
    fits && is_in_time(send, receive)
}

/// All sends and receives that are not matched yet.
#[derive(Debug)]
pub(super) struct Messages {
    sends: Backlog,
    receives: Backlog,
    /// How many messages a queue has whose sends aren't known
    unknown: HashMap<MessageQueue, u64>,
    /// When a receive last found the queue empty: between which times
    empty: HashMap<MessageQueue, (i64, i64)>,
    /// Sends that were forgotten as there was no room
    pub(super) forgotten: u64,
}

impl Messages {
    /// At most so many sends and receives are kept.
    pub(super) fn new(sends: usize, receives: usize) -> Self {
        Self {
            sends: Backlog::new(sends),
            receives: Backlog::new(receives),
            unknown: HashMap::new(),
            empty: HashMap::new(),
            forgotten: 0,
        }
    }

    /// How many sends and receives are kept.
    #[cfg(test)]
    pub(super) fn pending(&self) -> (usize, usize) {
        (self.sends.calls.len(), self.receives.calls.len())
    }

    /// Forgets all calls.
    pub(super) fn restart(&mut self) {
        let new = Self::new(self.sends.most, self.receives.most);
        *self = Self { forgotten: self.forgotten, ..new };
    }

    /// Takes a call. Returns the match that it completes.
    pub(super) fn call(&mut self, ipc: &Ipc<'_>, call: MessageCall) -> Option<MessageMatch> {
        if ipc.made == Some(false) {
            return None;
        }
        let succeeded = ipc.error.is_none() && ipc.ret.is_some();
        let received = ipc.ret.and_then(|ret| u64::try_from(ret).ok()).unwrap_or(0);
        let priorities = ipc.op.0 == Op::MqReceive;
        #[expect(clippy::wildcard_enum_match_arm, reason = "others pass no messages")]
        match ipc.args {
            Args::Msgsnd { mtype, msgsz, .. } if succeeded => {
                self.send(MessageQueue::of_call(ipc)?, mtype, call.with_bytes(msgsz, false))
            }
            Args::MqSend { msg_prio, msg_len, .. } if succeeded => {
                let class = Some(i64::from(msg_prio));
                self.send(MessageQueue::of_call(ipc)?, class, call.with_bytes(msg_len, false))
            }
            Args::Msgrcv { msgflg, .. } if msgflg.bits & MSG_COPY != 0 => None,
            Args::Msgrcv { mtype, msgsz, msgflg, .. } if succeeded => {
                let is_cut = msgflg.bits & MSG_NOERROR != 0 && received == msgsz;
                let call = call.with_bytes(received, is_cut);
                self.receive(MessageQueue::of_call(ipc)?, mtype, priorities, call)
            }
            Args::MqReceive { msg_prio, .. } if succeeded => {
                let (class, call) = (msg_prio.map(i64::from), call.with_bytes(received, false));
                self.receive(MessageQueue::of_call(ipc)?, class, priorities, call)
            }
            Args::Msgrcv { msgtyp: Some(0), .. } if ipc.error == Some(ENOMSG) => {
                self.found_empty(MessageQueue::of_call(ipc)?, &call);
                None
            }
            Args::MqReceive { .. } if matches!(ipc.error, Some(EAGAIN | ETIMEDOUT)) => {
                self.found_empty(MessageQueue::of_call(ipc)?, &call);
                None
            }
            _ => None,
        }
    }

    fn send(
        &mut self,
        queue: MessageQueue,
        class: MessageClass,
        send: MessageCall,
    ) -> Option<MessageMatch> {
        // Receives that returned before took messages that are unknown.
        let earlier = self.receives.take_while(&queue, |receive| !is_in_time(&send, receive));
        self.take_unknown(&queue, earlier);
        let receive = self.receives.find(&queue, (class, false), |one| is_possible(&send, one));
        if let Some((number, receive)) = receive {
            self.receives.take(number);
            return Some(MessageMatch { send, receive });
        }
        if let Some(queue) = self.sends.push(queue, class, send) {
            self.forgotten += 1;
            self.add_unknown(queue, 1);
        }
        None
    }

    fn receive(
        &mut self,
        queue: MessageQueue,
        class: MessageClass,
        priorities: bool,
        receive: MessageCall,
    ) -> Option<MessageMatch> {
        self.apply_empty(&queue, &receive);
        let unknown = self.unknown.get(&queue).copied().unwrap_or(0);
        let send = self.sends.find(&queue, (class, priorities), |one| is_possible(one, &receive));
        // A receive that the send woke found no older message.
        let is_woken = |send: &MessageCall| receive.start.is_some_and(|start| start < send.end);
        match send {
            Some((number, send)) if unknown == 0 || is_woken(&send) => {
                self.sends.take_in_order(number);
                return Some(MessageMatch { send, receive });
            }
            Some(_) => self.take_unknown(&queue, 1),
            None => {
                if let Some(queue) = self.receives.push(queue, class, receive) {
                    self.take_unknown(&queue, 1);
                }
            }
        }
        None
    }

    fn take_unknown(&mut self, queue: &MessageQueue, count: u64) {
        if count > 0
            && let Some(unknown) = self.unknown.get_mut(queue)
        {
            *unknown = unknown.saturating_sub(count);
            if *unknown == 0 {
                self.unknown.remove(queue);
            }
        }
    }

    /// A receive found no message.
    fn found_empty(&mut self, queue: MessageQueue, receive: &MessageCall) {
        let has_any = self.sends.queues.contains_key(&queue) || self.unknown.contains_key(&queue);
        let has_room = self.empty.len() < self.sends.most;
        if has_any
            && has_room
            && let Some(start) = receive.start
        {
            self.empty.insert(queue, (start, receive.end));
        }
    }

    /// What was sent before a queue was empty isn't received by a call that entered later.
    fn apply_empty(&mut self, queue: &MessageQueue, receive: &MessageCall) {
        let Some((from, to)) = self.empty.get(queue).copied() else { return };
        if receive.start.is_some_and(|start| start > to) {
            self.empty.remove(queue);
            self.sends.take_while(queue, |send| send.end < from);
            self.unknown.remove(queue);
        }
    }

    /// A queue exists with so many messages: those that are not known to be sent were sent before the start.
    pub(super) fn present(&mut self, queue: MessageQueue, messages: u64) {
        self.unknown.remove(&queue);
        let known = self.sends.queues.get(&queue).map_or(0, |backlog| backlog.order.len());
        match messages.saturating_sub(known as u64) {
            0 => {}
            unknown => self.add_unknown(queue, unknown),
        }
    }

    fn add_unknown(&mut self, queue: MessageQueue, count: u64) {
        if self.unknown.len() < self.sends.most || self.unknown.contains_key(&queue) {
            *self.unknown.entry(queue).or_default() += count;
        }
    }

    /// A queue is new, or no longer exists: its earlier messages are never received.
    pub(super) fn forget(&mut self, queue: &MessageQueue, before: i64) {
        self.sends.take_while(queue, |send| send.end < before);
        self.receives.take_while(queue, |receive| receive.end < before);
        self.unknown.remove(queue);
        self.empty.remove(queue);
    }

    /// Calls were lost: of what is in the queues, only the number is known.
    pub(super) fn lose(&mut self) {
        let sends = Backlog::new(self.sends.most);
        for (queue, backlog) in std::mem::replace(&mut self.sends, sends).queues {
            self.add_unknown(queue, backlog.order.len() as u64);
        }
        self.receives = Backlog::new(self.receives.most);
        self.empty.clear();
    }
}
