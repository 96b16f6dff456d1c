//! `probe-key`: a lookup of a key failed that exists in another namespace.
//!
//! Only `ENOENT` means that a key doesn't exist (`ipcget_public`, ipc/util.c, 6.12): `EEXIST`, `EACCES` and
//! others mean that it does.

use ipc_trace_common::op::{ObjectKind, Op};

use super::{
    detector::{DetectCx, Detector},
    failed::{ENOENT, FailedCalls},
    observation::{CallObservation, ObservedCalls},
    scoring::ProbeAttempt,
};
use crate::{
    engine::track::objects::index::LookupKey,
    event::{ReadFrom, finding::Class},
};

/// Smaller keys are chosen by hand: 1, 42, 1234.
const SMALL: u32 = 1 << 16;

/// The detector.
#[derive(Debug, Default)]
pub(super) struct ProbeKey;

impl Detector for ProbeKey {
    fn failed(&mut self, seen: &CallObservation<'_>, failed: FailedCalls, to: &mut DetectCx<'_>) {
        if failed.error == ENOENT
            && let Some(attempt) = attempt(seen, failed)
        {
            to.attempts.failed(seen, &attempt, to.findings);
        }
    }
}

/// An attempt, if calls that failed with `ENOENT` are lookups by a key.
#[expect(clippy::wildcard_enum_match_arm, reason = "no other operation looks up a key")]
fn attempt<'a>(seen: &CallObservation<'a>, failed: FailedCalls) -> Option<ProbeAttempt<'a>> {
    let (at_flags, at_size) = match seen.op {
        Op::Shmget => (2, Some(1)),
        Op::Semget => (2, Some(1)),
        Op::Msgget => (1, None),
        _ => return None,
    };
    let (key, wants, size) = match seen.calls {
        ObservedCalls::One(call) => {
            let args = &call.record.args;
            let flags = args[at_flags] as u32;
            // The access that any of the three groups of bits requests (`ipcperms`, ipc/util.c, 6.12).
            let wants = (flags >> 6 | flags >> 3 | flags) & 0o7;
            let size = at_size.map_or(0, |at| match seen.op.object_kind() {
                // An int.
                ObjectKind::Sem => u64::from(args[at] as u32),
                ObjectKind::Shm | ObjectKind::Msg | ObjectKind::Mq => args[at],
            });
            (args[0] as u32, wants, size)
        }
        // A batch has no arguments.
        ObservedCalls::Group(_, group) => (group.id.cast_unsigned(), 0, 0),
    };
    // 0 is IPC_PRIVATE, which isn't looked up.
    (key != 0).then(|| ProbeAttempt {
        class: Class::ProbeKey,
        sought: LookupKey::Key(seen.op.object_kind(), key),
        base_weight: base_weight(key),
        name_from: ReadFrom::Kernel,
        wants: Some(if wants == 0 { 0o4 } else { wants }),
        size,
        penalty: None,
        max_confidence: None,
        failed,
    })
}

/// The base weight: how unlikely a matching key is by chance.
fn base_weight(key: u32) -> (i32, &'static str) {
    if key < SMALL {
        (15, "a small key, as many programs have one")
    } else if is_well_known(key) {
        (15, "a key that many programs have")
    } else {
        (60, "a key of 32 bits, which is hardly the same by chance")
    }
}

/// Whether many hosts have this key: PostgreSQL's (the port times 1000, and counting up:
/// src/backend/port/sysv_shmem.c, until 12), and constants that people write.
fn is_well_known(key: u32) -> bool {
    const POSTGRESQL: std::ops::Range<u32> = 5_432_000..5_440_000;
    const WRITTEN: [u32; 8] = [
        0x1234_5678,
        0x8765_4321,
        0x0102_0304,
        0xdead_beef,
        0xcafe_babe,
        0xfeed_face,
        0xbaad_f00d,
        0x7fff_ffff,
    ];
    let [first, rest @ ..] = key.to_ne_bytes();
    POSTGRESQL.contains(&key) || WRITTEN.contains(&key) || rest.iter().all(|byte| *byte == first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_keys_have_a_low_base_weight() {
        for key in [1, 42, 65_535, 5_432_001, 0xdead_beef, 0x4242_4242, u32::MAX] {
            assert_eq!(base_weight(key).0, 15, "{key:#x}");
        }
        for key in [65_536, 0x8cd1_ab21, 0x0052_0001, 0x4242_4241] {
            assert_eq!(base_weight(key).0, 60, "{key:#x}");
        }
    }
}
