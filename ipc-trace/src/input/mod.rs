//! What the engine is fed with: the one vocabulary of all sources. [`Begin`] and then [`Input`]s are the only way into
//! the engine; the same of them in the same order give the same events.
//!
//! | module | its job |
//! | --- | --- |
//! | [`args`] | the arguments of a call |
//! | [`batch`] | calls that came together |
//! | [`namespace_list`] | what existed at one moment, as the eBPF programs list it |
//! | [`container`] | what runtimes say of their containers |
//! | [`counters`] | what the eBPF programs have counted, and what came out of its rings |
//! | [`effect`] | what a call did to objects |
//! | [`flags`] | the names of flags and commands |
//! | [`pattern`] | names as a filter or a policy writes them |
//! | [`process`] | what `/proc` has of processes: questions and answers |
//! | `raw` | plain values of records, as bytes |
//! | [`stream`] | inputs as bytes |
//! | [`container_filter`] | which containers' calls are wanted |

pub(crate) mod args;
pub(crate) mod batch;
pub(crate) mod container;
pub(crate) mod container_filter;
pub(crate) mod counters;
pub(crate) mod effect;
pub(crate) mod flags;
pub(crate) mod namespace_list;
pub(crate) mod pattern;
pub(crate) mod process;
mod raw;
pub(crate) mod stream;

use borsh::{BorshDeserialize, BorshSerialize};
use ipc_trace_common::{
    op::{Abi, Detail, Effect, Memory, Op, SyscallCode},
    record::{
        AccessRecord, CallRecord, CgroupRecord, CtlPart, ExitRecord, Header, MoveRecord, MsgPart,
        NamePart, NamespaceRecord, NsRef, QueuePart, QueueRecord, QueueRef, RecordKind, Sembuf,
        SemopPart, VERSION, flag,
    },
    state::{Fold, FoldKey},
};

use zerocopy::{FromBytes, Immutable, IntoBytes as _, KnownLayout};

use crate::event::{Backends, CommandOutcome, ReadFrom, ls::Ls, objects::ObjectLook};
use batch::CallBatch;
use container::RuntimeMetadata;
use container_filter::Wanted;
use counters::Counted;
use namespace_list::NamespaceList;
use process::{Context, InspectorAnswer, InspectorRequest, MoveContext};

/// Something that the engine is told.
#[derive(Debug)]
pub(crate) enum Input<'a> {
    /// A call returned
    Call(Call<'a>),
    /// Calls returned that came together
    Batch(CallBatch<'a>),
    /// A call changed objects that is not to be shown
    Change(Call<'a>),
    /// Who a thread is
    Context(&'a Context),
    /// A thread ended
    Exit(&'a ExitRecord),
    /// A namespace showed itself
    Namespace(&'a NamespaceRecord),
    /// A thread got into another namespace, and what was to be seen of it then
    Move(&'a MoveRecord, &'a MoveContext),
    /// A queue showed itself
    Queue(&'a QueueRecord),
    /// A cgroup was made or removed
    Cgroup(&'a CgroupRecord),
    /// A thread reached what may be another namespace's
    Access(&'a AccessRecord),
    /// Accesses that the eBPF programs counted, and did not tell of each
    Folded(&'a [(FoldKey, Fold)]),
    /// Cgroups that exist, by number
    Cgroups(&'a [(u64, Vec<u8>)]),
    /// A look at the start
    Looked {
        /// When calls began to be shown, boot time
        at: u64,
        /// What it found
        ls: Option<&'a Ls>,
        /// What was listed before it
        before: &'a NamespaceList,
        /// and after it
        after: &'a NamespaceList,
    },
    /// All that happened until that boot time, when calls began to be shown, was told; the list that was made then
    Opened(u64, &'a NamespaceList),
    /// The rings were read: all that happened before `reached` has been told
    Read {
        /// The boot time now, nanoseconds
        now: u64,
        /// See above
        reached: u64,
    },
    /// A second went by
    Tick(Moment),
    /// A list of what exists. What happened before it was made has been told
    Listed(&'a NamespaceList),
    /// Counters
    Counted(&'a Counted),
    /// What exists after a loss ([`EngineRequest::Snapshot`]), with what was listed before and after; `None`: it could not be
    /// looked at
    Snapshot(Option<&'a Ls>, &'a NamespaceList, &'a NamespaceList),
    /// A look into a namespace with removed segments, at a boot time
    Lingered(NsRef, u64, &'a [ObjectLook]),
    /// What a runtime says of a container
    Named(&'a RuntimeMetadata),
    /// An answer about processes
    Answer(&'a InspectorAnswer),
    /// Nothing comes any more but answers: the boot time of the end
    Ending(u64),
    /// A look at the end, after all records
    Settled(Option<&'a Ls>, &'a NamespaceList),
    /// The last: COMMAND and its end
    Finish(Option<&'a CommandOutcome>),
}

/// A moment, by two clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Moment {
    /// `CLOCK_BOOTTIME`, nanoseconds
    pub boot_ns: u64,
    /// Time of day minus that, nanoseconds
    pub offset_ns: i128,
}

/// What a run is.
#[derive(Clone, Debug, Default, BorshSerialize, BorshDeserialize)]
pub(crate) struct Begin {
    /// When it began
    pub at: Moment,
    /// The host's name
    pub host: String,
    /// Which boot of the host this is
    pub boot_id: Option<String>,
    /// Which run this is
    pub run_id: Option<String>,
    /// The kernel's release
    pub kernel: String,
    /// The machine
    pub arch: String,
    /// How each operation is seen
    pub backends: Backends,
    /// The version of ipc-trace
    pub version: String,
    /// Whether each call is an event; else they are counted for a report
    pub lines: bool,
    /// Whether calls are shown with the ancestry of who made them
    pub with_ancestry: bool,
    /// Whether identifiers of System V objects are longer (`ipcmni_extend`, kernel-parameters.txt)
    pub extended_ids: bool,
    /// This process, of which nothing is found
    pub own_pid: u32,
    /// Findings less sure than this are left out of text, and of the exit status
    pub min_confidence: u8,
    /// The calls of these containers alone are shown
    pub wanted: Wanted,
    /// What hash tables begin with, so that nobody can foresee them
    pub seed: u64,
    /// What existed when programs had been attached
    pub namespace_list: NamespaceList,
}

/// What the engine wants done, beside the questions about processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EngineRequest {
    /// A question about processes
    Ask(InspectorRequest),
    /// What exists is to be listed anew
    Snapshot,
    /// It is to be looked whether removed segments are gone: nothing tells when the last attachment ends
    Linger {
        /// Their namespace
        ns: NsRef,
        /// The kernel's own number of it
        ns_id: Option<u64>,
        /// Processes that may be in it
        pids: Vec<u32>,
    },
}

/// Why bytes are no record.
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

/// What a process was called with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arguments<'a> {
    /// That was not asked for
    None,
    /// It could not be read
    Unread,
    /// The beginning, each with a NUL behind
    Read(&'a [u8]),
}

/// A call that returned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    /// What was called
    pub op: Op,
    /// How it came in
    pub abi: Abi,
    /// The operation with the variant of its arguments
    pub code: SyscallCode,
    /// What all calls have
    pub record: &'a CallRecord,
    /// What belongs to the operation
    pub part: CallPayload<'a>,
}

/// What belongs to an operation.
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

    /// Whether the kernel made the call. `None`: its entry was not seen.
    #[must_use]
    pub(crate) const fn made(&self) -> Option<bool> {
        match (self.has(flag::NOT_MADE), self.has(flag::ENTRY_UNSEEN)) {
            (true, _) => Some(false),
            (false, true) => None,
            (false, false) => Some(true),
        }
    }

    /// The raw result; of a call that was not made, what the caller got. `None`: that is not known.
    #[must_use]
    pub(crate) fn ret(&self) -> Option<i64> {
        (!self.has(flag::RET_UNKNOWN)).then_some(self.record.ret)
    }

    /// Where it was read what the kernel takes: the weakest of all sources.
    #[must_use]
    pub(crate) fn args_from(&self) -> ReadFrom {
        match (self.takes_memory(), self.has(flag::AT_ENTRY)) {
            (false, _) => ReadFrom::Kernel,
            (true, true) => ReadFrom::Entry,
            (true, false) => ReadFrom::Return,
        }
    }

    /// Whether the kernel takes something for this call from the caller's memory.
    fn takes_memory(&self) -> bool {
        let given = |at: u8| self.record.args.get(usize::from(at)).is_some_and(|one| *one != 0);
        // Of some, `ipc(2)` takes arguments from there.
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
    /// The call whose record, and what belongs to it, is in `bytes`, which are aligned to 8.
    ///
    /// # Errors
    /// The bytes are too few, or no call that exists.
    #[inline(always)] // Where it is known which kinds are wanted, the others go.
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

    /// Its record, and what belongs to it, in words: [`Self::decode`] takes them.
    #[must_use]
    pub(crate) fn to_words(self) -> Box<[u64]> {
        let part = match self.part {
            CallPayload::None | CallPayload::InlineSemop(_) => &[],
            CallPayload::Semop(part) => part.as_bytes(),
            CallPayload::Msg(part) => part.as_bytes(),
            CallPayload::Ctl(part) => part.as_bytes(),
            CallPayload::Queue(part) => part.as_bytes(),
            CallPayload::Name(part) => part.as_bytes(),
        };
        words(&[self.record.as_bytes(), part])
    }
}

/// Bytes in words, as the ring aligns them.
#[must_use]
pub(crate) fn words(parts: &[&[u8]]) -> Box<[u64]> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let mut words = vec![0; len.div_ceil(size_of::<u64>())].into_boxed_slice();
    let mut rest = words.as_mut_bytes();
    for part in parts {
        let Some((place, behind)) = rest.split_at_mut_checked(part.len()) else { break };
        place.copy_from_slice(part);
        rest = behind;
    }
    words
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
