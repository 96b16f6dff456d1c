//! Random programs in a model of the kernel. Calls take time, so the order of their returns differs from that
//! of their effects.

mod queues;

use std::collections::{BTreeMap, BTreeSet};

use ipc_trace_common::{
    op::ObjectKind,
    record::{NsRef, QueueRef},
};
use proptest::prelude::*;

use super::{
    AppliedCall, MIN_SWEEP, ObjectChange, ObjectTracker,
    index::LookupKey,
    tracked::{ObjectId, ObjectOrigin, TrackedObject},
};
use crate::{
    engine::track::namespaces::Death,
    event::{
        ls::NamespaceSnapshot,
        objects::{ObjectEventKind, ObjectInfo},
        value::OsBytes,
    },
    input::effect::{CallEffect, Creation, NewObjectAttrs},
    sources::host::sysvipc,
};

const NS: NsRef = NsRef { inum: 4_026_532_180, generation: 1 };

fn complete_tracker() -> ObjectTracker {
    let mut objects = ObjectTracker::default();
    objects.namespace_created(NS);
    objects
}

fn applied(boot_ns: u64, pid: u32, effect: CallEffect<'static>) -> AppliedCall<'static> {
    let (uid, gid, comm, context) = (pid, 0, [0; 16], 0);
    AppliedCall { boot_ns, ns: NS, tid: pid, pid, uid, gid, comm, context, task_info: None, effect }
}

fn got(id: i32, key: u32, made: Creation) -> CallEffect<'static> {
    CallEffect::Got { kind: ObjectKind::Sem, id, key, made, like: NewObjectAttrs::default() }
}

/// The intent of a step.
#[derive(Clone, Copy, Debug)]
enum WantedStep {
    Private,
    Create(u32),
    Exclusive(u32),
    Find(u32),
    Use(u8),
    Remove(u8),
}

/// A call: its process, intent and timing.
#[derive(Clone, Copy, Debug)]
struct ModelStep {
    pid: u32,
    want: WantedStep,
    /// Time from the return of the previous call to this one's effect, and from there to its return.
    before: u64,
    after: u64,
}

fn step() -> impl Strategy<Value = ModelStep> {
    let key = 1..4_u32;
    let want = prop_oneof![
        Just(WantedStep::Private),
        key.clone().prop_map(WantedStep::Create),
        key.clone().prop_map(WantedStep::Exclusive),
        key.prop_map(WantedStep::Find),
        any::<u8>().prop_map(WantedStep::Use),
        any::<u8>().prop_map(WantedStep::Remove),
    ];
    // Far less than what may pass between a creation and its record.
    let time = 1..400_000_000_u64;
    (1..5_u32, want, time.clone(), time).prop_map(|(pid, want, before, after)| ModelStep {
        pid,
        want,
        before,
        after,
    })
}

/// An object in the model of the kernel.
#[derive(Clone, Debug)]
struct ModelTruth {
    creator: u32,
    key: u32,
    sure: bool,
    namespace_created: u64,
    dead: Option<u64>,
}

/// The truth and its records, in the order of the returns.
fn run(steps: &[ModelStep]) -> (BTreeMap<i32, ModelTruth>, Vec<AppliedCall<'static>>) {
    let mut clocks: BTreeMap<u32, u64> = BTreeMap::new();
    let mut timed: Vec<(u64, u64, ModelStep)> = Vec::new();
    for step in steps {
        let clock = clocks.entry(step.pid).or_default();
        let effect = *clock + step.before;
        *clock = effect + step.after;
        timed.push((effect, *clock, *step));
    }
    timed.sort_by_key(|one| one.0);
    let mut objects: BTreeMap<i32, ModelTruth> = BTreeMap::new();
    let mut keys: BTreeMap<u32, i32> = BTreeMap::new();
    let mut acts = Vec::new();
    for (effect, back, ModelStep { pid, want, .. }) in timed {
        let mut make = |sure, key| {
            let id = objects.len() as i32;
            objects.insert(
                id,
                ModelTruth { creator: pid, key, sure, namespace_created: effect, dead: None },
            );
            id
        };
        let effect = match want {
            WantedStep::Private => Some(got(make(true, 0), 0, Creation::Yes)),
            WantedStep::Create(key) => {
                let id = *keys.entry(key).or_insert_with(|| make(false, key));
                Some(got(id, key, Creation::Maybe))
            }
            WantedStep::Exclusive(key) => (!keys.contains_key(&key)).then(|| {
                let id = make(true, key);
                keys.insert(key, id);
                got(id, key, Creation::Yes)
            }),
            WantedStep::Find(key) => keys.get(&key).map(|id| got(*id, key, Creation::No)),
            WantedStep::Use(which) | WantedStep::Remove(which) => {
                let live: Vec<i32> =
                    objects.iter().filter(|one| one.1.dead.is_none()).map(|one| *one.0).collect();
                let id = live.get(usize::from(which) % live.len().max(1)).copied();
                match (id, want) {
                    (Some(id), WantedStep::Remove(_)) => {
                        objects.get_mut(&id).unwrap().dead = Some(effect);
                        keys.retain(|_, one| *one != id);
                        Some(CallEffect::Removed(ObjectKind::Sem, id))
                    }
                    (id, _) => id.map(|id| CallEffect::Used(ObjectKind::Sem, id)),
                }
            }
        };
        acts.extend(effect.map(|effect| applied(back, pid, effect)));
    }
    acts.sort_by_key(|applied| applied.boot_ns);
    (objects, acts)
}

/// Number of changes of each object by event.
fn count_events(changes: &[ObjectChange]) -> BTreeMap<(i32, &'static str), u32> {
    let mut reported = BTreeMap::new();
    for change in changes {
        let ObjectId::Sysv(_, id) = change.local else { panic!("{change:?}") };
        let what = match change.life {
            ObjectEventKind::Present | ObjectEventKind::Created => "creation",
            ObjectEventKind::Changed => continue,
            ObjectEventKind::Removed => "removal",
            ObjectEventKind::Destroyed => "end",
        };
        *reported.entry((id, what)).or_default() += 1;
    }
    reported
}

fn live(objects: &ObjectTracker) -> BTreeSet<i32> {
    let all = objects.all().remove(&NS).unwrap_or_default();
    all.into_iter()
        .filter(|(_, one)| one.destroyed.is_none() && !one.is_removed())
        .map(|(local, _)| match local {
            ObjectId::Sysv(_, id) => id,
            ObjectId::Queue(..) => panic!("{local:?}"),
        })
        .collect()
}

/// Takes the final snapshot, which finds the existing objects.
fn take_final_snapshot(
    objects: &mut ObjectTracker,
    truth: &BTreeMap<i32, ModelTruth>,
    changes: &mut Vec<ObjectChange>,
) {
    let still = |local, _: &TrackedObject| match local {
        ObjectId::Sysv(_, id) => truth[&id].dead.is_none(),
        ObjectId::Queue(..) => false,
    };
    if let Some(space) = objects.spaces.get_mut(&NS) {
        space.end_missing(&still, u64::MAX, &mut objects.host, changes);
    }
}

fn check(objects: &ObjectTracker, truth: &BTreeMap<i32, ModelTruth>) {
    let living = truth.iter().filter(|one| one.1.dead.is_none());
    assert_eq!(live(objects), living.map(|one| *one.0).collect());
    for (id, one) in truth {
        let Some(known) = objects.get(NS, ObjectId::Sysv(ObjectKind::Sem, *id)) else { continue };
        if let ObjectOrigin::Seen(_) = known.origin {
            assert!(one.sure, "{id}");
            assert_eq!(known.creator.as_ref().unwrap().pid, Some(one.creator), "{id}");
        }
    }
    let another = NsRef { inum: 1, generation: 1 };
    for (id, one) in truth {
        let sought = LookupKey::Id(ObjectKind::Sem, *id);
        let found = objects.elsewhere(another, sought);
        let expected = one.dead.is_none().then_some((NS, ObjectId::Sysv(ObjectKind::Sem, *id)));
        assert_eq!(found, Vec::from_iter(expected));
        assert_eq!(objects.elsewhere(NS, sought), []);
    }
    let state = objects.spaces.get(&NS);
    for key in 1..4 {
        let found = objects.elsewhere(another, LookupKey::Key(ObjectKind::Sem, key));
        let known = state.and_then(|space| space.of_key(ObjectKind::Sem, key));
        assert_eq!(
            found,
            Vec::from_iter(known.map(|id| (NS, ObjectId::Sysv(ObjectKind::Sem, id))))
        );
    }
    for key in 1..4 {
        if let Some(id) = state.and_then(|space| space.of_key(ObjectKind::Sem, key)) {
            assert!(truth[&id].dead.is_none(), "key {key} leads to {id}");
        }
    }
}

proptest! {
    #[test]
    fn objects_and_creators_match_the_kernel_model(
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let (truth, acts) = run(&steps);
        let mut objects = complete_tracker();
        let mut changes = Vec::new();
        for applied in &acts {
            changes.extend(objects.apply(applied, None));
        }
        check(&objects, &truth);
        let reported = count_events(&changes);
        for (id, one) in &truth {
            let count = |what| reported.get(&(*id, what)).copied().unwrap_or(0);
            let ends = u32::from(one.dead.is_some());
            assert_eq!((count("creation"), count("removal"), count("end")), (1, ends, ends), "{id}");
            if one.sure {
                let known = objects.get(NS, ObjectId::Sysv(ObjectKind::Sem, *id)).unwrap();
                assert!(matches!(known.origin, ObjectOrigin::Seen(_)), "{known:?}");
            }
        }
    }

    #[test]
    fn a_snapshot_and_records_describe_one_object(
        steps in prop::collection::vec(step(), 0..60),
        attached in 0..4_000_000_000_u64,
        scan_times in prop::collection::vec(0..1_000_000_000_u64, 60),
    ) {
        let (truth, acts) = run(&steps);
        let mut objects = complete_tracker();
        // Each table is read at a different time after the programs were attached.
        for (id, one) in &truth {
            let at = attached + scan_times[*id as usize];
            if one.namespace_created <= at && one.dead.is_none_or(|dead| dead > at) {
                let found = TrackedObject::new(ObjectOrigin::Found(attached + 1_000_000_000));
                let (space, host) = objects.space(NS);
                space.found(ObjectId::Sysv(ObjectKind::Sem, *id), Box::new(found), host);
            }
        }
        let mut changes = Vec::new();
        let (meanwhile, later): (Vec<_>, Vec<_>) = acts
            .iter()
            .filter(|applied| applied.boot_ns >= attached)
            .partition(|applied| applied.boot_ns < attached + 1_000_000_000);
        for applied in meanwhile {
            changes.extend(objects.apply(applied, None));
        }
        changes.extend(objects.present());
        for applied in later {
            changes.extend(objects.apply(applied, None));
        }
        changes.extend(objects.on_final_snapshot(&[], None, u64::MAX));
        take_final_snapshot(&mut objects, &truth, &mut changes);
        check(&objects, &truth);
        let reported = count_events(&changes);
        for (id, one) in &truth {
            let count = |what| reported.get(&(*id, what)).copied().unwrap_or(0);
            assert!(count("creation") <= 1 && count("removal") <= 1 && count("end") <= 1, "{id}");
            if one.dead.is_none() {
                assert_eq!((count("creation"), count("removal")), (1, 0), "{id}");
            }
        }
    }
}

proptest! {
    /// All records are lost for a while. Then a snapshot is taken, each namespace's table at a different
    /// time, while records arrive.
    #[test]
    fn after_a_loss_and_a_snapshot_objects_match_the_kernel_model(
        steps in prop::collection::vec(step(), 0..80),
        lost in (0..3_000_000_000_u64, 0..3_000_000_000_u64),
        took in 0..500_000_000_u64,
        scan_times in prop::collection::vec(0..1_000_000_000_u64, 80),
    ) {
        let (truth, acts) = run(&steps);
        let (from, until) = (lost.0, lost.0 + lost.1);
        let (began, ended) = (until + 1, until + 1 + took);
        let mut objects = complete_tracker();
        let mut changes = Vec::new();
        for applied in acts.iter().filter(|applied| applied.boot_ns < from) {
            changes.extend(objects.apply(applied, None));
        }
        objects.lost();
        objects.start_resync();
        let mut snapshot = snapshot();
        snapshot.listed = (began, ended);
        for (id, one) in &truth {
            let at = began + scan_times[*id as usize] % (took + 1);
            if one.namespace_created <= at && one.dead.is_none_or(|dead| dead > at) {
                snapshot.objects.push(semaphores(*id, one.key));
            }
        }
        let (meanwhile, later): (Vec<_>, Vec<_>) =
            acts.iter().filter(|applied| applied.boot_ns > until).partition(|applied| applied.boot_ns <= ended);
        for applied in meanwhile {
            changes.extend(objects.apply(applied, None));
        }
        changes.extend(objects.reconcile(NS, &snapshot, true, ended + 1));
        for applied in later {
            changes.extend(objects.apply(applied, None));
        }
        changes.extend(objects.unreported(true));
        // All existing objects are known. A call may return an object whose removal was lost: only the final
        // snapshot resolves that.
        let known = live(&objects);
        for (id, one) in &truth {
            let is_late = || {
                let one = objects.get(NS, ObjectId::Sysv(ObjectKind::Sem, *id)).unwrap();
                one.origin.known_since() > until
            };
            assert!(known.contains(id) == one.dead.is_none() || is_late(), "{id}");
        }
        take_final_snapshot(&mut objects, &truth, &mut changes);
        check(&objects, &truth);
        let reported = count_events(&changes);
        for (id, one) in &truth {
            let count = |what| reported.get(&(*id, what)).copied().unwrap_or(0);
            assert!(count("creation") <= 1 && count("removal") <= 1 && count("end") <= 1, "{id}");
            if one.dead.is_none() {
                assert_eq!((count("creation"), count("end")), (1, 0), "{id}");
            }
        }
    }
}

/// An empty snapshot of a namespace.
fn snapshot() -> NamespaceSnapshot {
    NamespaceSnapshot {
        inum: NS.inum,
        r#gen: 1,
        ns_id: None,
        host: false,
        created: None,
        destroyed: None,
        containers: Vec::new(),
        sharing: None,
        processes: Vec::new(),
        holders: Vec::new(),
        objects: Vec::new(),
        limits: BTreeMap::new(),
        unseen: Vec::new(),
        mqueue_dev: None,
        listed: (0, 0),
    }
}

/// A set as a snapshot shows it.
fn semaphores(id: i32, key: u32) -> ObjectInfo {
    let table = format!(
        "key semid perms nsems uid gid cuid cgid otime ctime\n{key} {id} 600 1 0 0 0 0 0 0\n"
    );
    sysvipc::parse(ObjectKind::Sem, &table).unwrap().remove(0)
}

fn apply(objects: &mut ObjectTracker, acts: &[AppliedCall<'_>]) -> Vec<ObjectEventKind> {
    acts.iter().flat_map(|applied| objects.apply(applied, None)).map(|change| change.life).collect()
}

#[test]
fn a_removed_segment_is_destroyed_at_once_only_if_never_attached() {
    use ObjectEventKind::{Created, Destroyed, Removed};
    let segment = |id| CallEffect::Got {
        kind: ObjectKind::Shm,
        id,
        key: 0,
        made: Creation::Yes,
        like: NewObjectAttrs::default(),
    };
    let mut objects = complete_tracker();
    let removed = applied(2, 1, CallEffect::Removed(ObjectKind::Shm, 1));
    let lives = apply(&mut objects, &[applied(1, 1, segment(1)), removed]);
    assert_eq!(lives, [Created, Removed, Destroyed]);
    let attach = CallEffect::Attached { id: 2, at: Some(0x7000) };
    let removed = applied(5, 1, CallEffect::Removed(ObjectKind::Shm, 2));
    let lives = apply(&mut objects, &[applied(3, 1, segment(2)), applied(4, 1, attach), removed]);
    assert_eq!(lives, [Created, Removed]);
    let one = objects.get(NS, ObjectId::Sysv(ObjectKind::Shm, 2)).unwrap();
    assert!(one.is_removed() && one.destroyed.is_none());
}

#[test]
fn a_reused_id_is_another_object() {
    let mut objects = complete_tracker();
    let day = 86_400_000_000_000;
    let removed = applied(2, 1, CallEffect::Removed(ObjectKind::Sem, 7));
    apply(&mut objects, &[applied(1, 1, got(7, 0, Creation::Yes)), removed]);
    apply(&mut objects, &[applied(day, 2, got(7, 5, Creation::Maybe))]);
    let one = objects.get(NS, ObjectId::Sysv(ObjectKind::Sem, 7)).unwrap();
    assert_eq!(
        (one.origin, one.creator.as_ref().unwrap().pid),
        (ObjectOrigin::Inferred(day), Some(2))
    );
    assert_eq!(objects.of_key(NS, ObjectKind::Sem, 5), Some(7));
    // The record of its removal was lost.
    let lives = apply(&mut objects, &[applied(2 * day, 3, got(7, 6, Creation::Yes))]);
    assert_eq!(lives, [ObjectEventKind::Destroyed, ObjectEventKind::Created]);
    assert_eq!(live(&objects), BTreeSet::from([7]));
}

/// With `sem_next_id` a process chooses the next id.
#[test]
fn an_immediately_reused_id_is_another_object_if_the_call_began_later() {
    use ObjectEventKind::{Created, Destroyed, Removed};
    let begin = |objects: &mut ObjectTracker| {
        let made = applied(1, 1, got(7, 5, Creation::Maybe));
        let removed = applied(10, 2, CallEffect::Removed(ObjectKind::Sem, 7));
        assert_eq!(apply(objects, &[made, removed]), [Created, Removed, Destroyed]);
    };
    let again = applied(20, 3, got(7, 5, Creation::Maybe));
    let lives = |applied: AppliedCall<'_>| {
        let mut objects = complete_tracker();
        begin(&mut objects);
        let lives = apply(&mut objects, &[applied]);
        assert_eq!(live(&objects).len(), lives.len());
        lives
    };
    // The call may have found the earlier object before its removal, and returned late.
    assert_eq!(lives(again.clone()), []);
    // The thread's context was created after the removal, by an earlier call.
    assert_eq!(lives(AppliedCall { context: 15, ..again.clone() }), [Created]);
    assert_eq!(lives(AppliedCall { context: 21, ..again.clone() }), []);
    // The thread is the one that removed the earlier object.
    assert_eq!(lives(AppliedCall { tid: 2, ..again.clone() }), [Created]);
}

#[test]
fn a_dying_namespace_destroys_its_objects() {
    let mut objects = complete_tracker();
    apply(
        &mut objects,
        &[applied(1, 1, got(0, 0, Creation::Yes)), applied(2, 1, got(1, 0, Creation::Yes))],
    );
    let ended = objects.ended(NS, Death { after: Some(5), before: 9 });
    let reported: Vec<_> = ended.iter().map(|change| (change.life, change.local)).collect();
    let of = |id| (ObjectEventKind::Destroyed, ObjectId::Sysv(ObjectKind::Sem, id));
    assert_eq!(reported, [of(0), of(1)]);
    assert!(objects.spaces.is_empty());
    let other = NsRef { generation: 2, ..NS };
    assert!(objects.elsewhere(other, LookupKey::Id(ObjectKind::Sem, 0)).is_empty());
    assert!(objects.host.index.candidates(LookupKey::Id(ObjectKind::Sem, 0), other).is_empty());
}

#[test]
fn tombstones_are_bounded_and_evictions_counted() {
    let mut objects = complete_tracker();
    let count = 3 * super::tombstones::MAX_TOMBSTONES as u64;
    for id in 0..count {
        let removed = CallEffect::Removed(ObjectKind::Sem, id as i32);
        let made = got(id as i32, 0, Creation::Yes);
        apply(&mut objects, &[applied(2 * id, 1, made), applied(2 * id + 1, 1, removed)]);
    }
    let kept = objects.all().remove(&NS).unwrap().len() as u64;
    assert_eq!(kept, super::tombstones::MAX_TOMBSTONES as u64);
    assert_eq!(kept + objects.forgotten(), count);
}

/// Removed segments that may be attached, over all namespaces.
#[test]
fn removed_objects_are_bounded_for_the_host() {
    let spaces = 500;
    let ns = |number: u32| NsRef { inum: 1 + number % spaces, generation: 1 };
    let remove = |count: usize| {
        let mut objects = ObjectTracker::default();
        for number in 0..spaces {
            objects.namespace_created(ns(number));
        }
        for number in 0..count as u32 {
            let effect = CallEffect::Removed(ObjectKind::Shm, number as i32);
            let at = u64::from(number);
            objects.apply(&AppliedCall { ns: ns(number), ..applied(at, 1, effect) }, None);
        }
        let kept: usize = objects.spaces.values().map(|space| space.removed.len()).sum();
        assert!(kept <= super::MAX_REMOVED * 3 / 2, "{kept}");
        assert_eq!(kept as u64 + objects.forgotten(), count as u64);
    };
    crate::steps::assert_linear(50_000, remove);
}

/// A flood of objects whose removals were lost.
#[test]
fn unseen_ends_are_bounded_by_the_kernels_limit() {
    let make = |count: usize| {
        let mut objects = complete_tracker();
        objects.lost();
        let mut ended = 0;
        for number in 0..count as u32 {
            // One object exists at a time: indices wrap around, and each round has its sequence number.
            let id = ((number % 64) | ((number / 64) << 15)).cast_signed();
            let changes =
                objects.apply(&applied(u64::from(number), 1, got(id, 0, Creation::Yes)), None);
            ended += changes.iter().filter(|one| one.life == ObjectEventKind::Destroyed).count();
        }
        assert!(objects.living() <= MIN_SWEEP + 65, "{}", objects.living());
        assert_eq!(objects.living() + ended, count);
    };
    let count = 2 * MIN_SWEEP + MIN_SWEEP / 2;
    let steps = crate::steps::count_steps(|| make(count));
    assert!(steps <= 2 * count as u64, "{steps}");
}

/// Names that are unlinked before their queue is known.
#[test]
fn pending_unlinks_are_bounded_and_each_is_reported() {
    let unlink = |count: usize| {
        let mut objects = complete_tracker();
        let mut reported = 0;
        for number in 0..count as u64 {
            let name = format!("q{number}").into_bytes();
            // A microsecond apart: all are pending.
            let effect = CallEffect::Unlinked(OsBytes(name.into()));
            reported += objects.apply(&applied(1_000 * number, 1, effect), None).len();
        }
        assert!(reported + (1 << 12) >= count, "{reported}");
        reported += objects.unreported(true).len();
        assert_eq!(reported, count);
    };
    crate::steps::assert_linear(25_000, unlink);
}

#[test]
fn an_object_uses_little_memory() {
    // Including its entries in the maps of objects, keys and users, and in the global index: a node of a
    // B-tree is at least half full.
    let index = 2 * 2 * size_of::<(ObjectKind, u32, NsRef)>();
    let room = size_of::<(ObjectId, TrackedObject)>() + 8 * size_of::<(u32, u64)>() + 64 + index;
    assert!(room * 8 / 7 <= 600, "{room}");
}

/// A queue's name is found in all other namespaces until it is unlinked or its namespace dies.
#[test]
fn a_name_is_found_in_all_other_namespaces() {
    let mut objects = complete_tracker();
    let spaces = [2, 3, 4].map(|inum| NsRef { inum, generation: 1 });
    for (at, ns) in spaces.into_iter().enumerate() {
        let queue = QueueRef { ns, ino: 5, dev: at as u32 + 1, flags: 0 };
        let effect = CallEffect::Opened {
            queue,
            name: Some(OsBytes(b"q".as_slice().into())),
            made: Creation::Yes,
            like: NewObjectAttrs::default(),
        };
        objects.apply(&AppliedCall { ns, ..applied(1, 1, effect) }, Some(ns));
    }
    let found = |objects: &ObjectTracker, but| {
        let found = objects.elsewhere(but, LookupKey::Name(b"q"));
        found.into_iter().map(|one| one.0.inum).collect::<Vec<_>>()
    };
    assert_eq!(found(&objects, NS), [2, 3, 4]);
    assert_eq!(found(&objects, spaces[1]), [2, 4]);
    assert!(objects.elsewhere(NS, LookupKey::Name(b"r")).is_empty());
    let unlinked = CallEffect::Unlinked(OsBytes(b"q".as_slice().into()));
    objects.apply(&AppliedCall { ns: spaces[0], ..applied(2, 1, unlinked) }, None);
    objects.ended(spaces[2], Death { after: Some(5), before: 9 });
    assert_eq!(found(&objects, NS), [3]);
}
