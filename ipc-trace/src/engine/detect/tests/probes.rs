//! Probe attempts: which failed lookups count, their confidence, and what explains them.

use ipc_trace_common::{
    op::{ObjectKind, Op},
    record::{NsRef, NsSwitchKind},
};

use super::{A, B, DetectWorld, HOST, TestTask, quiet, task};
use crate::event::{
    ReadFrom,
    finding::{Class, Finding, Severity},
};

const ENOENT: i64 = -2;
const EINVAL: i64 = -22;
const CREAT: u64 = 0o1000;
const KEY: u64 = 0x8cd1_ab21;
const SECOND: u64 = 1_000_000_000;
/// An id of a namespace that has had objects before.
const LATER: i64 = 32_768 + 5;

const fn owner(ns: NsRef) -> TestTask {
    TestTask { exe: "owner", uid: 33, ..task(500, ns) }
}

const fn prober(pid: u32, ns: NsRef) -> TestTask {
    TestTask { exe: "prober", uid: 1000, ..task(pid, ns) }
}

fn make(world: &mut DetectWorld, task: TestTask, op: Op, key: u64, id: i64) {
    let args = match op == Op::Msgget {
        true => [key, CREAT | 0o2600, 0, 0, 0],
        false => [key, 8, CREAT | 0o2600, 0, 0],
    };
    world.call(task, op, args, id);
}

fn lookup_key(world: &mut DetectWorld, task: TestTask, key: u64) {
    world.call(task, Op::Shmget, [key, 0, 0, 0, 0], ENOENT);
}

/// Tries an id in a call that fails only if the id doesn't exist.
fn try_id(world: &mut DetectWorld, task: TestTask, id: i64) {
    const IPC_STAT: u64 = 2;
    world.call(task, Op::Shmctl, [id.cast_unsigned(), IPC_STAT, 0, 0, 0], EINVAL);
}

fn only(world: &mut DetectWorld) -> Finding {
    let all = world.all();
    let [one] = all.as_slice() else { panic!("{all:#?}") };
    one.clone()
}

/// A world where A has a segment with this key and id.
fn with(key: u64, id: i64) -> DetectWorld {
    let mut world = DetectWorld::new();
    make(&mut world, owner(A), Op::Shmget, key, id);
    world
}

#[test]
fn a_key_unique_to_another_namespace_is_a_confident_medium_finding() {
    let mut world = with(KEY, 3);
    for _ in 0..10 {
        lookup_key(&mut world, prober(7, B), KEY);
    }
    let one = only(&mut world);
    assert_eq!((one.class, one.severity, one.count), (Class::ProbeKey, Severity::Medium, 10));
    assert_eq!(one.confidence, 60);
    let object = one.object.unwrap();
    assert_eq!((object.id, object.key.unwrap().0), (Some(3), KEY as u32));
    assert_eq!(object.ipc_ns.unwrap().inum, A.inum);
    assert_eq!(object.creator.unwrap().uid, 33);
    assert_eq!(one.events[0].what, "shmget");
}

#[test]
fn lookups_match_objects_of_the_same_kind_only() {
    for op in [Op::Shmget, Op::Semget, Op::Msgget] {
        let mut world = DetectWorld::new();
        make(&mut world, owner(A), op, KEY, 3);
        for other in [Op::Shmget, Op::Semget, Op::Msgget] {
            world.call(prober(7, B), other, [KEY, 0, 0, 0, 0], ENOENT);
        }
        let one = only(&mut world);
        assert_eq!(one.object.unwrap().kind.unwrap().0, op.object_kind());
    }
}

#[test]
fn unmatched_lookups_and_other_errors_are_not_reported() {
    let mut world = with(KEY, 3);
    lookup_key(&mut world, prober(7, B), KEY + 1);
    lookup_key(&mut world, prober(7, B), 0);
    for error in [-17, -13, -43, -22, -12] {
        world.call(prober(7, B), Op::Shmget, [KEY, 0, 0, 0, 0], error);
    }
    // The key exists.
    world.call(owner(A), Op::Shmget, [KEY, 0, 0, 0, 0], 3);
    quiet(&mut world);
}

#[test]
fn confidence_is_divided_by_the_number_of_matching_namespaces() {
    let mut world = with(KEY, 3);
    make(&mut world, owner(HOST), Op::Shmget, KEY, 3);
    lookup_key(&mut world, prober(7, B), KEY);
    let one = only(&mut world);
    assert_eq!((one.severity, one.confidence), (Severity::Info, 30));
    assert!(one.title.contains("2 other namespaces"), "{}", one.title);
    let object = one.object.unwrap();
    assert_eq!((object.ipc_ns, object.kind.unwrap().0), (None, ObjectKind::Shm));
}

#[test]
fn common_keys_have_low_confidence() {
    for key in [42, 5_432_001] {
        let mut world = with(key, 3);
        lookup_key(&mut world, prober(7, B), key);
        let one = only(&mut world);
        assert_eq!((one.severity, one.confidence), (Severity::Info, 15));
    }
}

#[test]
fn permitted_access_and_fitting_size_raise_the_confidence() {
    let mut world = with(KEY, 3);
    let user = TestTask { uid: 33, ..prober(7, B) };
    world.call(user, Op::Shmget, [KEY, 8, 0, 0, 0], ENOENT);
    let one = only(&mut world);
    assert_eq!((one.severity, one.confidence), (Severity::Medium, 80));
    // The segment is too small.
    let mut world = with(KEY, 3);
    world.call(user, Op::Shmget, [KEY, 9, 0, 0, 0], ENOENT);
    assert_eq!(only(&mut world).confidence, 70);
}

#[test]
fn a_process_of_the_same_program_has_low_confidence() {
    let mut world = with(KEY, 3);
    let same = TestTask { exe: "owner", uid: 33, ..task(7, B) };
    world.call(same, Op::Shmget, [KEY, 8, 0, 0, 0], ENOENT);
    let one = only(&mut world);
    assert!(one.confidence <= 50, "{one:#?}");
    // Like PostgreSQL, with a key that many programs have.
    let mut world = with(5_432_001, 3);
    world.call(same, Op::Shmget, [5_432_001, 8, 0, 0, 0], ENOENT);
    assert_eq!(only(&mut world).severity, Severity::Info);
    // A same by its image, of another executable.
    let mut world = DetectWorld::new();
    for number in [1, 2] {
        world.container(number);
        drop(world.tracker.containers.named(crate::input::container::RuntimeMetadata {
            id: super::container_id(number),
            image: Some("same".into()),
            ..crate::input::container::RuntimeMetadata::default()
        }));
    }
    make(&mut world, TestTask { cgroup: 1, ..owner(A) }, Op::Shmget, KEY, 3);
    lookup_key(&mut world, TestTask { cgroup: 2, ..prober(7, B) }, KEY);
    assert_eq!(only(&mut world).confidence, 30);
}

#[test]
fn creating_the_key_after_a_failed_lookup_lowers_the_confidence() {
    for op in [Op::Shmget, Op::Semget] {
        let mut world = DetectWorld::new();
        make(&mut world, owner(A), op, KEY, 3);
        let user = TestTask { uid: 33, ..prober(7, B) };
        world.call(user, op, [KEY, 8, 0, 0, 0], ENOENT);
        assert_eq!(only(&mut world).severity, Severity::Medium);
        world.now += SECOND;
        make(&mut world, user, op, KEY, 0);
        let one = only(&mut world);
        assert_eq!((one.severity, one.confidence), (Severity::Info, 30), "{one:#?}");
    }
    // Another process of the namespace created it: a client was early.
    let mut world = with(KEY, 3);
    lookup_key(&mut world, prober(7, B), KEY);
    make(&mut world, TestTask { exe: "server", ..task(8, B) }, Op::Shmget, KEY, 0);
    assert_eq!(only(&mut world).confidence, 40);
    // A much later creation, or one elsewhere, explains nothing.
    let mut world = with(KEY, 3);
    lookup_key(&mut world, prober(7, B), KEY);
    make(&mut world, prober(8, HOST), Op::Shmget, KEY, 0);
    world.now += 10 * SECOND;
    make(&mut world, prober(7, B), Op::Shmget, KEY, 0);
    assert_eq!(only(&mut world).confidence, 60);
}

#[test]
fn a_lookup_of_a_removed_key_is_not_reported() {
    const IPC_RMID: u64 = 0;
    let mut world = with(KEY, LATER);
    let local = TestTask { exe: "server", ..task(8, B) };
    make(&mut world, local, Op::Shmget, KEY, LATER);
    world.call(local, Op::Shmctl, [LATER.cast_unsigned(), IPC_RMID, 0, 0, 0], 0);
    lookup_key(&mut world, prober(7, B), KEY);
    try_id(&mut world, prober(7, B), LATER);
    quiet(&mut world);
}

#[test]
fn low_ids_have_no_confidence_and_later_ids_more() {
    for (id, confidence, severity) in [
        (0, 5, Severity::Info),
        (63, 5, Severity::Info),
        (64, 15, Severity::Info),
        (LATER, 40, Severity::Low),
    ] {
        let mut world = with(KEY, id);
        try_id(&mut world, prober(7, B), id);
        let one = only(&mut world);
        assert_eq!(
            (one.class, one.confidence, one.severity),
            (Class::ProbeId, confidence, severity)
        );
    }
}

#[test]
fn ids_below_64_have_at_most_confidence_20() {
    for id in 0..64 {
        let mut world = DetectWorld::new();
        for (ns, pid) in [(A, 500), (HOST, 501)].into_iter().take(1 + id as usize % 2) {
            let all = TestTask { pid, uid: 1000, ..owner(ns) };
            world.call(all, Op::Shmget, [KEY, 8, CREAT | 0o2666, 0, 0], id);
        }
        for pid in 7..9 {
            try_id(&mut world, prober(pid, B), id);
        }
        for one in world.all() {
            assert!(one.confidence <= 20 && one.severity == Severity::Info, "{one:#?}");
        }
    }
}

#[test]
fn an_id_kept_across_a_namespace_switch_has_high_confidence() {
    for way in [NsSwitchKind::Unshare, NsSwitchKind::Setns] {
        let mut world = with(KEY, 3);
        let moved = world.moved(prober(7, A), B, way, None);
        try_id(&mut world, moved, 3);
        lookup_key(&mut world, moved, KEY);
        let all = world.all();
        let id = all.iter().find(|one| one.class == Class::ProbeId).unwrap();
        assert_eq!((id.confidence, id.severity), (45, Severity::Low), "{id:#?}");
        let key = all.iter().find(|one| one.class == Class::ProbeKey).unwrap();
        assert_eq!((key.confidence, key.severity), (100, Severity::High), "{key:#?}");
    }
    // A clone inherits the history of its parent, also if the parent itself switched.
    let mut world = with(KEY, LATER);
    let child = TestTask { ppid: 7, ..prober(8, B) };
    world.moved(prober(7, A), B, NsSwitchKind::Clone, Some(child));
    try_id(&mut world, child, LATER);
    assert_eq!(only(&mut world).severity, Severity::High);
    let mut world = with(KEY, LATER);
    let moved = world.moved(prober(7, A), B, NsSwitchKind::Unshare, None);
    try_id(&mut world, TestTask { pid: 8, ppid: 7, ..moved }, LATER);
    assert_eq!(only(&mut world).severity, Severity::High);
}

#[test]
fn exec_clears_the_namespace_history() {
    let mut world = with(KEY, LATER);
    let moved =
        world.moved(TestTask { exe: "unshare", ..prober(7, A) }, B, NsSwitchKind::Unshare, None);
    let inside = TestTask { exe: "service", ..moved };
    world.context(inside);
    lookup_key(&mut world, inside, KEY);
    assert_eq!(only(&mut world).severity, Severity::Medium);
}

#[test]
fn an_earlier_use_of_the_object_raises_the_confidence() {
    let mut world = with(KEY, LATER);
    // The record of its switch was lost.
    world.call(prober(7, A), Op::Shmget, [KEY, 0, 0, 0, 0], LATER);
    world.context(prober(7, B));
    try_id(&mut world, prober(7, B), LATER);
    let one = only(&mut world);
    assert_eq!((one.confidence, one.severity), (80, Severity::High), "{one:#?}");
}

#[test]
fn ambiguous_errors_are_not_reported() {
    let id = LATER.cast_unsigned();
    let negative = (-1_i64).cast_unsigned();
    let calls: &[(Op, [u64; 5], bool)] = &[
        (Op::Shmat, [id, 0, 0, 0, 0], true),
        (Op::Shmat, [id, 0, 0o40000, 0, 0], false),
        (Op::Shmat, [id, 0x1001, 0, 0, 0], false),
        (Op::Shmctl, [id, 0, 0, 0, 0], true),
        (Op::Shmctl, [id, 11, 0, 0, 0], true),
        // SHM_STAT takes an index, and 99 is no command.
        (Op::Shmctl, [id, 13, 0, 0, 0], false),
        (Op::Shmctl, [id, 99, 0, 0, 0], false),
        (Op::Semctl, [id, 0, 12, 0, 0], true),
        (Op::Semctl, [id, 5, 12, 0, 0], false),
        (Op::Semctl, [id, 5, 13, 0, 0], true),
        (Op::Semctl, [id, 0, 18, 0, 0], false),
        (Op::Msgctl, [id, 2, 0, 0, 0], true),
        (Op::Msgctl, [id, 11, 0, 0, 0], false),
        (Op::Semop, [id, 0x1000, 1, 0, 0], true),
        (Op::Semop, [id, 0x1000, 0, 0, 0], false),
        (Op::Semop, [negative, 0x1000, 1, 0, 0], false),
    ];
    for (op, args, attempt) in calls {
        let mut world = DetectWorld::new();
        for get in [Op::Shmget, Op::Semget, Op::Msgget] {
            make(&mut world, owner(A), get, KEY, LATER);
        }
        world.call(prober(7, B), *op, *args, EINVAL);
        assert_eq!(world.all().len(), usize::from(*attempt), "{op:?} {args:?}");
    }
    let messages: &[(Op, [u64; 5], i64, bool)] = &[
        (Op::Msgsnd, [id, 0x1000, 8, 0, 0], 1, true),
        (Op::Msgsnd, [id, 0x1000, 8, 0, 0], 0, false),
        (Op::Msgsnd, [id, 0x1000, 9000, 0, 0], 1, false),
        (Op::Msgrcv, [id, 0x1000, 8, 0, 0], 0, true),
        (Op::Msgrcv, [id, 0x1000, negative, 0, 0], 0, false),
        (Op::Msgrcv, [id, 0x1000, 8, 0, 0o40000], 0, false),
        (Op::Msgrcv, [id, 0x1000, 8, 0, 0o44000], 0, true),
    ];
    for (op, args, mtype, attempt) in messages {
        let mut world = DetectWorld::new();
        make(&mut world, owner(A), Op::Msgget, KEY, LATER);
        world.message(prober(7, B), *op, *args, *mtype, EINVAL);
        assert_eq!(world.all().len(), usize::from(*attempt), "{op:?} {args:?} {mtype}");
    }
}

#[test]
fn errors_on_objects_of_the_own_namespace_are_not_reported() {
    let mut world = DetectWorld::new();
    make(&mut world, owner(A), Op::Semget, KEY, LATER);
    make(&mut world, prober(7, B), Op::Semget, KEY, LATER);
    const GETVAL: u64 = 12;
    world.call(prober(7, B), Op::Semctl, [LATER.cast_unsigned(), 0, GETVAL, 0, 0], EINVAL);
    quiet(&mut world);
}

#[test]
fn a_probe_group_is_one_finding_with_its_best_attempt() {
    let mut world = DetectWorld::new();
    for (id, key) in [(0, 7), (1, KEY), (LATER, KEY + 1)] {
        make(&mut world, owner(A), Op::Shmget, key, id);
    }
    for id in [0, 1, 2, 3, LATER, LATER + 1] {
        try_id(&mut world, prober(7, B), id);
    }
    let one = only(&mut world);
    assert_eq!((one.count, one.confidence), (3, 40));
    assert_eq!(one.object.as_ref().unwrap().id, Some(LATER.try_into().unwrap()));
    assert!(one.title.ends_with("and for 2 more that exist there"), "{}", one.title);
    for key in 0..40_000 {
        lookup_key(&mut world, prober(7, B), key);
    }
    lookup_key(&mut world, prober(7, B), KEY);
    let all = world.all();
    assert_eq!(all.len(), 2);
    assert_eq!((all[1].count, all[1].confidence), (2, 60));
}

#[test]
fn a_title_is_complete_with_hostile_names() {
    const O_CREAT: u64 = 0o102;
    const ENOENT: i64 = 2;
    let names: [&[u8]; 3] = [b"x, and for", b"y, and for 9 more that exist there", b"z, which"];
    let mut world = DetectWorld::new();
    for (ino, name) in (1..).zip(names) {
        world.named(owner(A), Op::MqOpen, name, O_CREAT, Ok(ino));
    }
    for name in names {
        world.named(prober(7, B), Op::MqOpen, name, 0, Err(ENOENT));
    }
    let one = only(&mut world);
    let named = names.iter().any(|name| {
        let quoted = format!("\"/{}\", which namespace", String::from_utf8_lossy(name));
        one.title.contains(&quoted)
    });
    assert!(named, "{}", one.title);
    assert!(one.title.ends_with(" has, and for 2 more that exist there"), "{}", one.title);
}

#[test]
fn matches_in_several_namespaces_are_a_separate_finding() {
    let mut world = with(KEY, 3);
    make(&mut world, owner(HOST), Op::Shmget, KEY + 1, 4);
    make(&mut world, owner(A), Op::Shmget, KEY + 1, 4);
    lookup_key(&mut world, prober(7, B), KEY);
    lookup_key(&mut world, prober(7, B), KEY + 1);
    let confidences: Vec<_> = world.all().iter().map(|one| one.confidence).collect();
    assert_eq!(confidences, [60, 30]);
}

#[test]
fn names_are_reported_like_keys() {
    const O_CREAT: u64 = 0o102;
    let made = || {
        let mut world = DetectWorld::new();
        world.named(owner(A), Op::MqOpen, b"jobs", O_CREAT | 0o200, Ok(5));
        world
    };
    for op in [Op::MqOpen, Op::MqUnlink] {
        let mut world = made();
        world.named(prober(7, B), op, b"jobs", 0, Err(2));
        world.named(prober(7, B), op, b"", 0, Err(2));
        world.named(prober(7, B), op, b"other", 0, Err(2));
        world.named(prober(7, B), op, b"jobs", 0, Err(13));
        let one = only(&mut world);
        assert_eq!((one.class, one.severity, one.count), (Class::ProbeName, Severity::Low, 1));
        // The name was read before the kernel copied it.
        assert_eq!(one.confidence, 40);
        assert_eq!(one.object.as_ref().unwrap().name_from, Some(ReadFrom::Entry));
        assert_eq!(one.object.unwrap().name.unwrap().to_string(), "jobs");
    }
    let mut world = made();
    world.named(prober(7, B), Op::MqOpen, b"jobs", 0, Err(2));
    world.named(prober(7, B), Op::MqOpen, b"jobs", O_CREAT | 0o200, Ok(6));
    assert_eq!(only(&mut world).severity, Severity::Info);
    // The queue existed.
    let mut world = made();
    world.named(prober(8, B), Op::MqOpen, b"jobs", O_CREAT | 0o200, Ok(6));
    world.named(prober(8, B), Op::MqUnlink, b"jobs", 0, Ok(0));
    world.named(prober(7, B), Op::MqOpen, b"jobs", 0, Err(2));
    quiet(&mut world);
}

#[test]
fn batched_calls_are_counted_one_by_one() {
    let mut world = with(KEY, 3);
    let key = (KEY as u32).cast_signed();
    world.batch(prober(7, B), Op::Shmget, key, &[-2, -13, -2, -2]);
    let one = only(&mut world);
    assert_eq!((one.count, one.confidence, one.severity), (3, 60, Severity::Medium));
    assert_eq!(one.events[0].error.unwrap().to_string(), "ENOENT");
    // Batched calls have no arguments, so other causes can't be excluded.
    let mut world = DetectWorld::new();
    make(&mut world, owner(A), Op::Semget, KEY, LATER);
    let id = i32::try_from(LATER).unwrap();
    world.batch(prober(7, B), Op::Semop, id, &[-22, -11, -22]);
    let one = only(&mut world);
    assert_eq!((one.class, one.count, one.confidence), (Class::ProbeId, 2, 35));
    world.batch(prober(7, B), Op::Semop, id, &[-11, -4]);
    assert_eq!(only(&mut world).count, 2);
}

#[test]
fn hostile_names_are_escaped() {
    let mut world = DetectWorld::new();
    let name = b"a\x1b[31m\n";
    world.named(owner(A), Op::MqOpen, name, 0o302, Ok(5));
    world.named(prober(7, B), Op::MqOpen, name, 0, Err(2));
    let title = only(&mut world).title;
    assert!(!title.contains(char::is_control), "{title:?}");
}

#[test]
fn a_flood_of_callers_and_keys_uses_bounded_memory() {
    let mut world = with(KEY, 3);
    for pid in 10..3_000 {
        lookup_key(&mut world, prober(pid, B), KEY);
    }
    assert_eq!(world.all().len(), 512);
    let accounting = world.detect.findings.accounting(0);
    assert_eq!(accounting.over_limit[&Class::ProbeKey], 2_990 - 512);
}
