//! `probe-name`: a lookup of a queue's name failed that exists in another namespace.

use ipc_trace_common::op::Op;

use super::{
    detector::{DetectCx, Detector},
    failed::{ENOENT, FailedCalls},
    observation::{CallObservation, ObservedCalls},
    scoring::ProbeAttempt,
};
use crate::{
    engine::track::objects::index::LookupKey,
    event::{ReadFrom, finding::Class},
    input::CallPayload,
};

/// Whether a file is opened for reading, writing, or both (include/uapi/asm-generic/fcntl.h).
const O_ACCMODE: u64 = 3;

/// The detector.
#[derive(Debug, Default)]
pub(super) struct ProbeName;

impl Detector for ProbeName {
    fn failed(&mut self, seen: &CallObservation<'_>, failed: FailedCalls, to: &mut DetectCx<'_>) {
        if failed.error == ENOENT
            && let Some(attempt) = attempt(seen, failed)
        {
            to.attempts.failed(seen, &attempt, to.findings);
        }
    }
}

/// An attempt, if a call that failed with `ENOENT` is a lookup by name.
fn attempt<'a>(seen: &CallObservation<'a>, failed: FailedCalls) -> Option<ProbeAttempt<'a>> {
    if !matches!(seen.op, Op::MqOpen | Op::MqUnlink) {
        return None;
    }
    let ObservedCalls::One(call) = seen.calls else { return None };
    let CallPayload::Name(part) = call.part else { return None };
    let name = part.name.get(..part.name_len as usize)?;
    let known = call.has(ipc_trace_common::record::flag::DETAIL);
    let name = name.split(|byte| *byte == 0).next().filter(|name| known && !name.is_empty())?;
    // mq_unlink needs permission on the directory, not on the queue.
    let wants = (seen.op == Op::MqOpen).then(|| match call.record.args[1] & O_ACCMODE {
        0 => 0o4,
        1 => 0o2,
        _ => 0o6,
    });
    let name_from = call.args_from();
    Some(ProbeAttempt {
        class: Class::ProbeName,
        sought: LookupKey::Name(name),
        base_weight: (60, "a queue's name, which is hardly the same by chance"),
        name_from,
        wants,
        size: 0,
        penalty: match name_from {
            ReadFrom::Kernel => None,
            ReadFrom::Entry => Some((
                -20,
                "the name was read before the kernel took it, and another thread may change it between",
            )),
            ReadFrom::Return => Some((
                -40,
                "the name was read after the call, and may not be the one that the kernel took",
            )),
        },
        max_confidence: None,
        failed,
    })
}
