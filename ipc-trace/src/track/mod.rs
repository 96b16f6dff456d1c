//! What is known beyond a single record: processes, namespaces, queues, time. Pure state machines
//! that records feed: no kernel, no output.
//!
//! | module | its job |
//! | --- | --- |
//! | [`clock`] | from boot time to the time of day |
//! | [`contexts`] | who a thread is |
//! | [`namespaces`] | which namespaces live, since when, made by whom |
//! | [`queues`] | queues' names, and the namespaces of queues whose namespace is dead |
//! | [`losses`] | what was lost since the last look |
//! | [`stats`] | counts by namespace, for the report |
//! | [`recent`] | a table that remembers what it was asked for last |
//! | [`processes`] | the processes in one namespace |
//!
//! Invariant: state is bounded by what lives plus a fixed remainder, and what falls out is counted.

pub mod clock;
pub mod contexts;
pub mod losses;
pub mod namespaces;
pub mod processes;
pub mod queues;
pub mod recent;
pub mod stats;

use ipc_trace_common::record::{NsRef, QueueRef, queue_flag};

use crate::{
    decode::Call,
    event::{
        Ipc, IpcNsRef, Object,
        value::{AbiName, Error, FamilyName, OpName},
    },
};
use clock::Clock;
use contexts::Contexts;
use namespaces::Namespaces;
use queues::Queues;

/// Hash tables keyed by numbers that the kernel gave out.
pub(crate) type HashMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;

/// All that is known.
#[derive(Debug)]
pub struct Tracker {
    /// Time
    pub clock: Clock,
    /// Threads
    pub contexts: Contexts,
    /// Namespaces
    pub namespaces: Namespaces,
    /// Queues
    pub queues: Queues,
}

/// Where an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its namespace
    pub ns: Option<NsRef>,
    /// Whether that is not the caller's
    pub foreign: Option<bool>,
    /// Whether that had died before the call
    pub dead: bool,
}

impl Tracker {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            contexts: Contexts::default(),
            namespaces: Namespaces::default(),
            queues: Queues::default(),
        }
    }

    /// Where the object of a call is: for System V always in the caller's namespace, as ids and keys
    /// are looked up there; a queue is where its descriptor leads to, or for a name in the caller's.
    #[must_use]
    pub fn place(&self, call: &Call<'_>) -> Place {
        let own = Place { ns: Some(call.record.ns), foreign: Some(false), dead: false };
        match call.queue() {
            None => own,
            Some(queue) if queue.flags & queue_flag::KNOWN != 0 => self.place_of_queue(queue),
            // A name that led to no queue was looked up in the caller's namespace.
            Some(_) if !call.op.takes_descriptor() => own,
            Some(_) => Place { ns: None, foreign: None, dead: false },
        }
    }

    fn place_of_queue(&self, queue: &QueueRef) -> Place {
        let dead = queue.flags & queue_flag::DEAD != 0;
        let ns = if dead { self.queues.namespace_of(queue.dev) } else { Some(queue.ns) };
        Place { ns, foreign: Some(queue.flags & queue_flag::FOREIGN != 0), dead }
    }

    /// The event of a call.
    #[must_use]
    pub fn ipc<'a>(&'a self, call: &Call<'a>, seq: u64) -> Ipc<'a> {
        let record = call.record;
        let place = self.place(call);
        let named = call.named();
        let name = named.name.or_else(|| self.queues.name(call.queue()?));
        let duration = record.duration_ns;
        Ipc {
            seq,
            time: self.clock.time(record.boot_ns),
            boot_ns: record.boot_ns,
            op: OpName(call.op),
            abi: AbiName(call.abi),
            ret: record.ret,
            error: Error::of(record.ret),
            duration_ns: (duration != ipc_trace_common::record::NO_DURATION).then_some(duration),
            process: self.contexts.caller(record),
            container: None,
            ipc_ns: self.namespaces.show(record.ns),
            object: Object {
                kind: FamilyName(call.op.family()),
                id: named.id,
                key: named.key,
                name,
                ipc_ns: place.ns.map(|ns| IpcNsRef { inum: ns.inum, r#gen: ns.generation }),
                foreign: place.foreign,
                ipc_ns_dead: place.dead,
            },
            args: call.args(),
        }
    }
}
