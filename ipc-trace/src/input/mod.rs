//! The engine's inputs, common to all sources. [`Begin`] and then [`Input`]s are the only way into the
//! engine; equal inputs in equal order give equal events.
//!
//! | module | its job |
//! | --- | --- |
//! | [`args`] | the arguments of a call |
//! | [`batch`] | batched calls |
//! | [`namespace_list`] | namespaces and calls at one moment, as the eBPF programs list them |
//! | [`container`] | runtime metadata of containers |
//! | [`counters`] | counters of the eBPF programs and of the ring readers |
//! | [`effect`] | the effect of a call on objects |
//! | [`flags`] | the names of flags and commands |
//! | [`pattern`] | patterns of names in filters and policies |
//! | [`process`] | requests about processes, and procfs's answers |
//! | [`container_filter`] | the container filter |
//! | [`call_filter`] | the filter of a recording's calls |

pub(crate) mod args;
pub(crate) mod batch;
pub(crate) mod call_filter;
pub(crate) mod container;
pub(crate) mod container_filter;
pub(crate) mod counters;
pub(crate) mod effect;
pub(crate) mod flags;
pub(crate) mod namespace_list;
pub(crate) mod pattern;
pub(crate) mod process;

use ipc_trace_common::{
    op::{Abi, Detail, Effect, Memory, Op, SyscallCode},
    record::{
        AccessRecord, CallRecord, CgroupRecord, CtlPart, ExitRecord, Header, MsgPart, NamePart,
        NamespaceRecord, NsRef, NsSwitchRecord, QueuePart, QueueRecord, QueueRef, RecordKind,
        Sembuf, SemopPart, VERSION, flag,
    },
    state::{Coalesced, CoalescedKey},
};
use minicbor::{Decode, Encode};
use zerocopy::{FromBytes, Immutable, IntoBytes as _, KnownLayout};

use crate::event::{Backends, CommandOutcome, ReadFrom, ls::Ls, objects::ObjectInfo};
use batch::CallBatch;
use container::RuntimeMetadata;
use container_filter::ContainerFilter;
use counters::Counted;
use namespace_list::NamespaceList;
use process::{Context, InspectorAnswer, InspectorRequest, MoveContext};

/// An input of the engine.
#[derive(Debug)]
pub(crate) enum Input<'a> {
    /// A call returned
    Call(Call<'a>),
    /// A batch of calls returned.
    Batch(CallBatch<'a>),
    /// A call that isn't shown changed objects.
    Change(Call<'a>),
    /// The context of a thread.
    Context(&'a Context),
    /// A thread exited.
    Exit(&'a ExitRecord),
    /// A namespace was seen for the first time.
    Namespace(&'a NamespaceRecord),
    /// A thread switched to another namespace, with what procfs showed then.
    Move(&'a NsSwitchRecord, &'a MoveContext),
    /// A queue was seen for the first time.
    Queue(&'a QueueRecord),
    /// A cgroup was created or removed.
    Cgroup(&'a CgroupRecord),
    /// A thread accessed an object that may belong to another namespace.
    Access(&'a AccessRecord),
    /// Accesses that the eBPF programs counted instead of sending.
    CoalescedAccesses(&'a [(CoalescedKey, Coalesced)]),
    /// The existing cgroups, by number.
    Cgroups(&'a [(u64, Vec<u8>)]),
    /// The initial snapshot.
    InitialSnapshot {
        /// When calls began to be shown, boot time in nanoseconds.
        at: u64,
        /// The snapshot; `None`: it failed.
        ls: Option<&'a Ls>,
        /// The namespace list made before it,
        before: &'a NamespaceList,
        /// and the one made after it.
        after: &'a NamespaceList,
    },
    /// All records until this boot time, when calls began to be shown, have been applied; with the namespace
    /// list made then.
    Opened(u64, &'a NamespaceList),
    /// The rings were read: all records from before `watermark` have been sent.
    Read {
        /// The current boot time, nanoseconds.
        now: u64,
        /// The boot time up to which the records are complete, nanoseconds.
        watermark: u64,
    },
    /// A second has passed.
    Tick(Moment),
    /// A namespace list. All records from before it have been sent.
    NamespaceList(&'a NamespaceList),
    /// Counters
    Counted(&'a Counted),
    /// The snapshot after a loss ([`EngineRequest::Snapshot`]), with the namespace lists made before and
    /// after it; `None`: it failed.
    Snapshot(Option<&'a Ls>, &'a NamespaceList, &'a NamespaceList),
    /// A scan of a namespace for removed segments, at a boot time.
    RemovedScan(NsRef, u64, &'a [ObjectInfo]),
    /// Runtime metadata of a container.
    Named(&'a RuntimeMetadata),
    /// An answer about processes.
    Answer(&'a InspectorAnswer),
    /// From now on only answers arrive; with the boot time of the end.
    Ending(u64),
    /// The final snapshot, after all records.
    FinalSnapshot(Option<&'a Ls>, &'a NamespaceList),
    /// The last input: COMMAND and its exit status.
    Finish(Option<&'a CommandOutcome>),
}

/// A time on two clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Moment {
    /// `CLOCK_BOOTTIME`, nanoseconds
    #[n(0)]
    pub boot_ns: u64,
    /// Time of day minus `boot_ns`, nanoseconds.
    #[cbor(n(1), with = "ipc_trace_common::cbor")]
    pub offset_ns: i128,
}

/// The metadata of a run.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub(crate) struct Begin {
    /// When it began
    #[n(0)]
    pub at: Moment,
    /// The host's name
    #[n(1)]
    pub host: String,
    /// The boot id of the host.
    #[n(2)]
    pub boot_id: Option<String>,
    /// The id of this run.
    #[n(3)]
    pub run_id: Option<String>,
    /// The kernel's release
    #[n(4)]
    pub kernel: String,
    /// The machine
    #[n(5)]
    pub arch: String,
    /// The backend of each operation.
    #[n(6)]
    pub backends: Backends,
    /// The version of ipc-trace
    #[n(7)]
    pub version: String,
    /// Whether each call is an event (line mode); otherwise calls are counted for a report.
    #[n(8)]
    pub lines: bool,
    /// Whether calls are shown with their process's ancestry.
    #[n(9)]
    pub with_ancestry: bool,
    /// Whether identifiers of System V objects are longer (`ipcmni_extend`, kernel-parameters.txt)
    #[n(10)]
    pub extended_ids: bool,
    /// The tracer's own process, which is never reported.
    #[n(11)]
    pub own_pid: u32,
    /// Findings below this confidence are hidden in text and ignored for the exit status.
    #[n(12)]
    pub min_confidence: u8,
    /// The container filter.
    #[n(13)]
    pub wanted: ContainerFilter,
    /// The namespace list made when the programs had been attached.
    // 14 was a seed.
    #[n(15)]
    pub namespace_list: NamespaceList,
}

/// A request of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EngineRequest {
    /// A request about processes.
    Ask(InspectorRequest),
    /// Take a snapshot.
    Snapshot,
    /// Scan for removed segments that are gone: nothing reports the last detach.
    ScanRemoved {
        /// Their namespace.
        ns: NsRef,
        /// The kernel's own number of it
        ns_id: Option<u64>,
        /// Processes that may be in it
        pids: Vec<u32>,
    },
}

/// Why bytes can't be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    /// Fewer bytes than the record has.
    #[error("a record of kind {kind} with only {len} bytes")]
    Short {
        /// Its kind
        kind: u8,
        /// The bytes that are there
        len: usize,
    },
    /// The eBPF programs are of another version.
    #[error("a record of version {0}, not {VERSION}")]
    Version(u8),
    /// A value that no record holds.
    #[error("a call with ABI {abi} and code {code}")]
    Call {
        /// The ABI's number
        abi: u8,
        /// The code
        code: u8,
    },
}

/// The arguments of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arguments<'a> {
    /// They weren't requested.
    None,
    /// They couldn't be read.
    Unread,
    /// The beginning, each NUL-terminated.
    Read(&'a [u8]),
}

/// A call that returned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    /// The operation.
    pub op: Op,
    /// The calling convention.
    pub abi: Abi,
    /// The operation with the variant of its arguments.
    pub code: SyscallCode,
    /// The fields that all calls have.
    pub record: &'a CallRecord,
    /// The payload of the operation.
    pub part: CallPayload<'a>,
}

/// The payload of an operation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CallPayload<'a> {
    /// shmget, shmat, shmdt, semget, msgget
    None,
    /// semop of at most one operation, without a time limit
    InlineSemop(Sembuf),
    /// semop
    Semop(&'a SemopPart),
    /// msgsnd, msgrcv
    Msg(&'a MsgPart),
    /// shmctl, semctl, msgctl
    Ctl(&'a CtlPart),
    /// mq_send, mq_receive, mq_notify, mq_getsetattr
    Queue(&'a QueuePart),
    /// mq_open, mq_unlink
    Name(&'a NamePart),
}

impl<'a> CallPayload<'a> {
    /// Its bytes.
    #[must_use]
    pub(crate) fn as_bytes(&self) -> &'a [u8] {
        match self {
            Self::None | Self::InlineSemop(_) => &[],
            Self::Semop(part) => part.as_bytes(),
            Self::Msg(part) => part.as_bytes(),
            Self::Ctl(part) => part.as_bytes(),
            Self::Queue(part) => part.as_bytes(),
            Self::Name(part) => part.as_bytes(),
        }
    }
}

impl Call<'_> {
    /// The queue behind the descriptor, for operations that have one.
    #[must_use]
    pub(crate) fn queue(&self) -> Option<&QueueRef> {
        match self.part {
            CallPayload::Queue(part) => Some(&part.queue),
            CallPayload::Name(part) => Some(&part.queue),
            CallPayload::None
            | CallPayload::InlineSemop(_)
            | CallPayload::Semop(_)
            | CallPayload::Msg(_)
            | CallPayload::Ctl(_) => None,
        }
    }

    /// Whether the kernel made the call. `None`: its entry wasn't observed.
    #[must_use]
    pub(crate) const fn made(&self) -> Option<bool> {
        match (self.has(flag::NOT_MADE), self.has(flag::ENTRY_UNSEEN)) {
            (true, _) => Some(false),
            (false, true) => None,
            (false, false) => Some(true),
        }
    }

    /// The raw result; for a call that wasn't made, the result that the caller got. `None`: unknown.
    #[must_use]
    pub(crate) fn ret(&self) -> Option<i64> {
        (!self.has(flag::RET_UNKNOWN)).then_some(self.record.ret)
    }

    /// The source of the arguments that the kernel uses: the weakest of all.
    #[must_use]
    pub(crate) fn args_from(&self) -> ReadFrom {
        match (self.takes_memory(), self.has(flag::AT_ENTRY)) {
            (false, _) => ReadFrom::Kernel,
            (true, true) => ReadFrom::Entry,
            (true, false) => ReadFrom::Return,
        }
    }

    /// Whether the kernel reads arguments of this call from the caller's memory.
    fn takes_memory(&self) -> bool {
        let given = |at: u8| self.record.args.get(usize::from(at)).is_some_and(|one| *one != 0);
        // `ipc(2)` reads arguments of some operations from there.
        self.has(flag::INDIRECT)
            || match (self.op.memory(), self.op.effect()) {
                (Memory::Always, _) => true,
                (Memory::Given(at), _) => given(at),
                (Memory::IpcSet, Effect::Control { command }) => {
                    self.plain_command(usize::from(command)) == flags::IPC_SET
                }
                (Memory::Never | Memory::Indirect | Memory::IpcSet, _) => false,
            }
    }

    /// Whether a flag of the header is set.
    #[must_use]
    pub(crate) const fn has(&self, flag: u32) -> bool {
        self.record.header.flags & flag != 0
    }
}

pub(crate) fn view<T: FromBytes + KnownLayout + Immutable>(
    bytes: &[u8],
    kind: u8,
) -> Result<(&T, &[u8]), DecodeError> {
    T::ref_from_prefix(bytes).map_err(|_| DecodeError::Short { kind, len: bytes.len() })
}

#[inline(always)]
pub(crate) fn meaning(header: &Header) -> Result<(Op, Abi, SyscallCode), DecodeError> {
    let code = SyscallCode(header.code);
    match (code.op(), Abi::ALL.get(usize::from(header.abi))) {
        (Some(op), Some(&abi)) => Ok((op, abi, code)),
        _ => Err(DecodeError::Call { abi: header.abi, code: header.code }),
    }
}

impl<'a> Call<'a> {
    /// Decodes the record and payload of a call in `bytes`, which are aligned to 8.
    ///
    /// # Errors
    /// There are too few bytes, or the call is invalid.
    #[inline(always)] // Callers that need some kinds only drop the others.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let kind = RecordKind::Call as u8;
        let (record, rest) = view::<CallRecord>(bytes, kind)?;
        let (op, abi, code) = meaning(&record.header)?;
        let part = match op.detail() {
            Detail::Plain => CallPayload::None,
            Detail::Semop if record.header.flags & flag::INLINE != 0 => {
                let [.., packed] = record.args;
                CallPayload::InlineSemop(sembuf(packed))
            }
            Detail::Semop => CallPayload::Semop(view(rest, kind)?.0),
            Detail::Message => CallPayload::Msg(view(rest, kind)?.0),
            Detail::Control => CallPayload::Ctl(view(rest, kind)?.0),
            Detail::Queue => CallPayload::Queue(view(rest, kind)?.0),
            Detail::Name => CallPayload::Name(view(rest, kind)?.0),
        };
        Ok(Call { op, abi, code, record, part })
    }

    /// Its record and payload in words, as [`Self::decode`] takes them.
    #[must_use]
    pub(crate) fn to_words(self) -> Box<[u64]> {
        words(&[self.record.as_bytes(), self.part.as_bytes()])
    }
}

/// Bytes in words, as the ring aligns them.
#[must_use]
pub(crate) fn words(parts: &[&[u8]]) -> Box<[u64]> {
    let mut words = Vec::new();
    append_words(parts, &mut words);
    words.into_boxed_slice()
}

/// Appends bytes in words, as the ring aligns them.
#[inline]
pub(crate) fn append_words(parts: &[&[u8]], to: &mut Vec<u64>) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let at = to.len();
    to.resize(at + len.div_ceil(size_of::<u64>()), 0);
    let Some(place) = to.get_mut(at..) else { return };
    let mut rest = place.as_mut_bytes();
    for part in parts {
        let Some((place, behind)) = rest.split_at_mut_checked(part.len()) else { break };
        place.copy_from_slice(part);
        rest = behind;
    }
}

/// The `struct sembuf` in the low 48 bits.
const fn sembuf(packed: u64) -> Sembuf {
    let [a, b, c, d, e, f, _, _] = packed.to_le_bytes();
    Sembuf {
        sem_num: u16::from_le_bytes([a, b]),
        sem_op: i16::from_le_bytes([c, d]),
        sem_flg: i16::from_le_bytes([e, f]),
    }
}
