//! Payloads of counts, and changed ones.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use ipc_trace_common::op::Op;

use super::{decode, encode};
use crate::{
    event::{
        Container, IpcNs,
        counts::SecondCounts,
        histogram::SparseHistogram,
        value::{CallError, OpName},
    },
    recording::properties,
};

/// Counts of two containers, in two seconds.
fn samples() -> Vec<SecondCounts> {
    let containers = ["a", "b"].map(|id| {
        Arc::new(Container {
            runtime: "docker".into(),
            id: id.into(),
            name: Some("name".into()),
            image: None,
            pod: None,
            pod_uid: None,
            pod_namespace: None,
            labels: BTreeMap::from([("key".into(), "value".into())]),
            labels_lost: 0,
            ipc_mode: None,
        })
    });
    let mut durations = SparseHistogram::default();
    [5, 5, 80_000, u64::MAX].into_iter().for_each(|duration_ns| durations.insert(duration_ns));
    let all = (0..6_u64).map(|number| SecondCounts {
        second: 1_700_000_000 + number / 3,
        ipc_ns: (number > 0).then_some(IpcNs {
            inum: 4_026_531_839,
            r#gen: 1,
            ns_id: Some(7),
            host: true,
        }),
        container: containers.get(number as usize % 3).cloned(),
        op: OpName(if number % 2 == 0 { Op::Semop } else { Op::Msgsnd }),
        error: (number > 3).then_some(CallError(11)),
        calls: 1 << number,
        bytes: (number % 2 == 1).then_some(number * 1000),
        foreign: number,
        lost: u64::from(number == 0),
        durations: (number < 5).then(|| durations.clone()),
    });
    all.collect()
}

#[test]
fn containers_are_shared_in_a_payload() {
    let counts = samples();
    let bytes = encode(&counts);
    let mut read = Vec::new();
    decode(&bytes, |one| read.push(one)).unwrap();
    assert_eq!(read, counts);
    let of = |at: usize| read[at].container.as_ref().unwrap();
    assert!(Arc::ptr_eq(of(0), of(3)) && !Arc::ptr_eq(of(0), of(1)));
    // A later version has more fields.
    let mut longer = bytes.clone();
    longer[0] += 1;
    longer.push(0);
    assert!(decode(&longer, |_| ()).is_ok());
    // The kept corpus has this payload.
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/counts/samples");
    assert_eq!(fs::read(file).unwrap(), bytes);
}

/// Payloads are untrusted. A changed one is refused, or has other counts.
#[test]
fn changed_payloads_do_no_harm() {
    let bytes = encode(&samples());
    let (mut taken, mut refused) = (0, 0);
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        for change in [1 << (at % 8), 0x1f, 0x80, 0xff] {
            changed[at] = bytes[at] ^ change;
            properties::counts(&changed);
            *if decode(&changed, |_| ()).is_ok() { &mut taken } else { &mut refused } += 1;
        }
        properties::counts(&bytes[..at]);
        assert!(decode(&bytes[..at], |_| ()).is_err());
    }
    assert!(taken > 50 && refused > 50, "{taken} {refused}");
    // Lengths that nothing has.
    for bytes in [&b"\x81\x9b\xff\xff\xff\xff\xff\xff\xff\xff"[..], b"\x80", b"\x9f\xff", b"\xf6"] {
        assert!(decode(bytes, |_| ()).is_err());
    }
}
