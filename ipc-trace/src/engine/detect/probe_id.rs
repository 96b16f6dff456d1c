//! `probe-id`: a call on an id failed that exists in another namespace.
//!
//! `EINVAL` has many causes. According to ipc/{shm,sem,msg,util,syscall}.c of 6.12, the lookup itself returns
//! it for an id that doesn't exist (`ipc_obtain_object_check`), but so do checks of arguments before the
//! lookup, and arguments that don't fit the object. A call is an attempt if neither can be the cause.

use ipc_trace_common::{
    op::{ObjectKind, Op},
    record::flag,
};

use super::{
    detector::{DetectCx, Detector},
    failed::{EINVAL, FailedCalls},
    observation::{CallObservation, ObservedCalls},
    scoring::ProbeAttempt,
};
use crate::{
    engine::track::objects::{index::LookupKey, tracked::ObjectId},
    event::{ReadFrom, finding::Class},
    input::Call,
};

/// Every namespace allocates lower ids first (`ipc_idr_alloc`, ipc/util.c: an index wraps around at max(64,
/// 1.5 × those in use)).
const FIRST: i32 = 64;
/// Ids from here on have a sequence number (`IPCMNI_SHIFT`, include/linux/ipc.h).
const SECOND_ROUND: i32 = 1 << 15;
/// Bytes of a message that every namespace takes by default (`MSGMAX`, include/uapi/linux/msg.h).
const MSGMAX: u64 = 8192;

/// The cause of `EINVAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EinvalCause {
    /// Only the lookup.
    Lookup,
    /// The lookup, or arguments that don't fit an existing object.
    LookupOrObject,
    /// The lookup, or arguments that weren't recorded.
    LookupOrUnseen,
    /// Possibly another cause, or no lookup by id.
    Other,
}

/// The detector.
#[derive(Debug, Default)]
pub(super) struct ProbeId;

impl Detector for ProbeId {
    fn failed(&mut self, seen: &CallObservation<'_>, failed: FailedCalls, to: &mut DetectCx<'_>) {
        if failed.error == EINVAL
            && let Some(attempt) = attempt(seen, failed)
        {
            to.attempts.failed(seen, &attempt, to.findings);
        }
    }
}

/// An attempt, if calls that failed with `EINVAL` are lookups by an id.
fn attempt<'a>(seen: &CallObservation<'a>, failed: FailedCalls) -> Option<ProbeAttempt<'a>> {
    let (id, cause) = match seen.calls {
        ObservedCalls::One(call) => (call.record.args[0] as i32, cause(call)),
        ObservedCalls::Group(_, group) => (group.id, cause_of_many(seen.op)),
    };
    let kind = seen.op.object_kind();
    let local = ObjectId::Sysv(kind, id);
    let objects = &seen.tracker.objects;
    let ruled_out = match cause {
        EinvalCause::Other => true,
        EinvalCause::LookupOrObject => !objects.known_absent(seen.who.ns, local),
        EinvalCause::Lookup | EinvalCause::LookupOrUnseen => false,
    };
    // The object exists or existed in the caller's namespace, as with EIDRM.
    if ruled_out || id < 0 || objects.get(seen.who.ns, local).is_some() {
        return None;
    }
    let unseen = "an argument that was not seen can have been wrong, too";
    Some(ProbeAttempt {
        class: Class::ProbeId,
        sought: LookupKey::Id(kind, id),
        base_weight: match id {
            ..FIRST => (5, "an id that each namespace gives out first"),
            FIRST..SECOND_ROUND => (15, "an id that each namespace comes to give out"),
            SECOND_ROUND.. => (40, "an id that a namespace gives out after thousands of objects"),
        },
        name_from: ReadFrom::Kernel,
        wants: Some(wants(seen)),
        size: 0,
        penalty: (cause == EinvalCause::LookupOrUnseen).then_some((-5, unseen)),
        max_confidence: (id < FIRST)
            .then_some((20, "ids below 64 alone are worth no more than 20")),
        failed,
    })
}

/// The possible cause for batched calls, whose arguments weren't recorded.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "every operation that looks up an id is handled here"
)]
const fn cause_of_many(op: Op) -> EinvalCause {
    match op {
        Op::Semop | Op::Msgsnd | Op::Msgrcv => EinvalCause::LookupOrUnseen,
        _ => EinvalCause::Other,
    }
}

/// The possible cause for a call.
fn cause(call: &Call<'_>) -> EinvalCause {
    let cause = of_arguments(call);
    // ipc(2) checks pointers and versions of its own (ipc/syscall.c).
    if cause == EinvalCause::Lookup && call.has(flag::MULTIPLEXED) {
        return EinvalCause::LookupOrUnseen;
    }
    cause
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "every operation that looks up an id is handled here"
)]
fn of_arguments(call: &Call<'_>) -> EinvalCause {
    let [_, second, third, fourth, fifth] = call.record.args;
    let sole = |sole: bool| if sole { EinvalCause::Lookup } else { EinvalCause::Other };
    match call.op {
        Op::Shmat => {
            const SHM_REMAP: u64 = 0o40000;
            // An address may be misaligned, or taken; without one, SHM_REMAP is refused (do_shmat).
            sole(second == 0 && third & SHM_REMAP == 0)
        }
        Op::Shmctl => match call.plain_command(1) {
            IPC_RMID | IPC_STAT => EinvalCause::Lookup,
            // An owner that the caller's user namespace does not have (ipc_update_perm).
            IPC_SET => EinvalCause::LookupOrObject,
            SHM_LOCK | SHM_UNLOCK => EinvalCause::Lookup,
            _ => EinvalCause::Other,
        },
        Op::Semctl => match call.plain_command(2) {
            IPC_RMID | IPC_STAT => EinvalCause::Lookup,
            // `semnum` counts only for commands on one semaphore (semctl_main, semctl_setval), and
            // the first one is always there.
            GETALL | SETALL => EinvalCause::Lookup,
            GETPID | GETVAL | GETNCNT | GETZCNT | SETVAL if second as u32 == 0 => {
                EinvalCause::Lookup
            }
            GETPID | GETVAL | GETNCNT | GETZCNT | SETVAL => EinvalCause::LookupOrObject,
            IPC_SET => EinvalCause::LookupOrObject,
            _ => EinvalCause::Other,
        },
        Op::Msgctl => match call.plain_command(1) {
            IPC_RMID | IPC_STAT => EinvalCause::Lookup,
            IPC_SET => EinvalCause::LookupOrObject,
            _ => EinvalCause::Other,
        },
        Op::Semop => {
            // Too many operations are E2BIG. The time limit is checked first (do_semtimedop).
            let none = third as u32 == 0;
            match call.timeout() {
                _ if none => EinvalCause::Other,
                Some(limit) => {
                    sole(limit.tv_sec >= 0 && (0..1_000_000_000).contains(&limit.tv_nsec))
                }
                None if fourth == 0 || call.has(flag::INLINE) => EinvalCause::Lookup,
                None => EinvalCause::LookupOrUnseen,
            }
        }
        Op::Msgsnd => match call.mtype() {
            // `msg_ctlmax` may be lower in a namespace; more than the default is not sent by many.
            Some(mtype) => sole(mtype >= 1 && size(call, third) <= MSGMAX.cast_signed()),
            None => EinvalCause::Other,
        },
        Op::Msgrcv => {
            const IPC_NOWAIT: u64 = 0o4000;
            const MSG_EXCEPT: u64 = 0o20000;
            const MSG_COPY: u64 = 0o40000;
            let copy = fifth & MSG_COPY == 0 || fifth & MSG_EXCEPT == 0 && fifth & IPC_NOWAIT != 0;
            sole(size(call, third) >= 0 && copy)
        }
        _ => EinvalCause::Other,
    }
}

/// A size, which is signed where it is checked, in the width of the caller's ABI.
const fn size(call: &Call<'_>, size: u64) -> i64 {
    if call.abi.is_32_bit() { (size as i32) as i64 } else { size.cast_signed() }
}

/// The requested access: bits of `rwx`.
fn wants(seen: &CallObservation<'_>) -> u32 {
    match seen.op.object_kind() {
        ObjectKind::Msg if seen.op == Op::Msgsnd => 0o2,
        ObjectKind::Shm if seen.op == Op::Shmat => match seen.calls {
            ObservedCalls::One(call) if call.record.args[2] & SHM_RDONLY != 0 => 0o4,
            ObservedCalls::One(_) | ObservedCalls::Group(..) => 0o6,
        },
        ObjectKind::Shm | ObjectKind::Sem | ObjectKind::Msg | ObjectKind::Mq => 0o4,
    }
}

const SHM_RDONLY: u64 = 0o10000;

/// Commands: include/uapi/linux/{ipc,shm,sem}.h.
const IPC_RMID: u32 = 0;
const IPC_SET: u32 = 1;
const IPC_STAT: u32 = 2;
const SHM_LOCK: u32 = 11;
const SHM_UNLOCK: u32 = 12;
const GETPID: u32 = 11;
const GETVAL: u32 = 12;
const GETALL: u32 = 13;
const GETNCNT: u32 = 14;
const GETZCNT: u32 = 15;
const SETVAL: u32 = 16;
const SETALL: u32 = 17;
