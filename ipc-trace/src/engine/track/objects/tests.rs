//! Random programs in a model of the kernel, whose calls take time: they return in another order than they act in.

mod queues;

use std::collections::{BTreeMap, BTreeSet};

use ipc_trace_common::{
    op::Family,
    record::{NsRef, QueueRef},
};
use proptest::prelude::*;

use super::{
    AppliedCall, BEGUN, ObjectChange, ObjectTracker,
    index::LookupKey,
    tracked::{ObjectId, ObjectOrigin, TrackedObject},
};
use crate::{
    engine::track::namespaces::Death,
    event::{
        ls::NamespaceLook,
        objects::{ObjectLife, ObjectLook},
        value::OsBytes,
    },
    input::effect::{CallEffect, Creation, NewObjectAttrs},
    sources::host::sysvipc,
};

const NS: NsRef = NsRef { inum: 4_026_532_180, generation: 1 };

fn whole() -> ObjectTracker {
    let mut objects = ObjectTracker::default();
    objects.born(NS);
    objects
}

fn act(boot_ns: u64, pid: u32, effect: CallEffect<'static>) -> AppliedCall<'static> {
    let (uid, gid, comm, context) = (pid, 0, [0; 16], 0);
    AppliedCall { boot_ns, ns: NS, tid: pid, pid, uid, gid, comm, context, facts: None, effect }
}

fn got(id: i32, key: u32, made: Creation) -> CallEffect<'static> {
    CallEffect::Got { kind: Family::Sem, id, key, made, like: NewObjectAttrs::default() }
}

/// What a step of a program wants.
#[derive(Clone, Copy, Debug)]
enum WantedStep {
    Private,
    Create(u32),
    Exclusive(u32),
    Find(u32),
    Use(u8),
    Remove(u8),
}

/// A call: who, what, and its way through time.
#[derive(Clone, Copy, Debug)]
struct ModelStep {
    pid: u32,
    want: WantedStep,
    /// Between the return of the call before and this one's effect, and from there to its return
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
    // Far less than what may pass between a birth and its record.
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
    born: u64,
    dead: Option<u64>,
}

/// What really happened, and the records of it, in the order of the returns.
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
            objects.insert(id, ModelTruth { creator: pid, key, sure, born: effect, dead: None });
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
                        Some(CallEffect::Removed(Family::Sem, id))
                    }
                    (id, _) => id.map(|id| CallEffect::Used(Family::Sem, id)),
                }
            }
        };
        acts.extend(effect.map(|effect| act(back, pid, effect)));
    }
    acts.sort_by_key(|act| act.boot_ns);
    (objects, acts)
}

/// How often each object's lines said so.
fn told(changes: &[ObjectChange]) -> BTreeMap<(i32, &'static str), u32> {
    let mut told = BTreeMap::new();
    for change in changes {
        let ObjectId::Sysv(_, id) = change.local else { panic!("{change:?}") };
        let what = match change.life {
            ObjectLife::Present | ObjectLife::Created => "birth",
            ObjectLife::Changed => continue,
            ObjectLife::Removed => "removal",
            ObjectLife::Destroyed => "end",
        };
        *told.entry((id, what)).or_default() += 1;
    }
    told
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

/// A look at the end finds what lives.
fn look_at_the_end(
    objects: &mut ObjectTracker,
    truth: &BTreeMap<i32, ModelTruth>,
    changes: &mut Vec<ObjectChange>,
) {
    let still = |local, _: &TrackedObject| match local {
        ObjectId::Sysv(_, id) => truth[&id].dead.is_none(),
        ObjectId::Queue(..) => false,
    };
    if let Some(space) = objects.spaces.get_mut(&NS) {
        space.looked(&still, u64::MAX, &mut objects.host, changes);
    }
}

fn check(objects: &ObjectTracker, truth: &BTreeMap<i32, ModelTruth>) {
    let living = truth.iter().filter(|one| one.1.dead.is_none());
    assert_eq!(live(objects), living.map(|one| *one.0).collect());
    for (id, one) in truth {
        let Some(known) = objects.get(NS, ObjectId::Sysv(Family::Sem, *id)) else { continue };
        if let ObjectOrigin::Seen(_) = known.birth {
            assert!(one.sure, "{id}");
            assert_eq!(known.creator.as_ref().unwrap().pid, Some(one.creator), "{id}");
        }
    }
    let another = NsRef { inum: 1, generation: 1 };
    for (id, one) in truth {
        let sought = LookupKey::Id(Family::Sem, *id);
        let found = objects.elsewhere(another, sought);
        let expected = one.dead.is_none().then_some((NS, ObjectId::Sysv(Family::Sem, *id)));
        assert_eq!(found, Vec::from_iter(expected));
        assert_eq!(objects.elsewhere(NS, sought), []);
    }
    let state = objects.spaces.get(&NS);
    for key in 1..4 {
        let found = objects.elsewhere(another, LookupKey::Key(Family::Sem, key));
        let known = state.and_then(|space| space.of_key(Family::Sem, key));
        assert_eq!(found, Vec::from_iter(known.map(|id| (NS, ObjectId::Sysv(Family::Sem, id)))));
    }
    for key in 1..4 {
        if let Some(id) = state.and_then(|space| space.of_key(Family::Sem, key)) {
            assert!(truth[&id].dead.is_none(), "key {key} leads to {id}");
        }
    }
}

proptest! {
    #[test]
    fn objects_and_their_creators_are_those_of_the_kernel(
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let (truth, acts) = run(&steps);
        let mut objects = whole();
        let mut changes = Vec::new();
        for act in &acts {
            changes.extend(objects.act(act, None));
        }
        check(&objects, &truth);
        let told = told(&changes);
        for (id, one) in &truth {
            let count = |what| told.get(&(*id, what)).copied().unwrap_or(0);
            let ends = u32::from(one.dead.is_some());
            assert_eq!((count("birth"), count("removal"), count("end")), (1, ends, ends), "{id}");
            if one.sure {
                let known = objects.get(NS, ObjectId::Sysv(Family::Sem, *id)).unwrap();
                assert!(matches!(known.birth, ObjectOrigin::Seen(_)), "{known:?}");
            }
        }
    }

    #[test]
    fn what_a_look_and_the_records_tell_of_is_one_object(
        steps in prop::collection::vec(step(), 0..60),
        attached in 0..4_000_000_000_u64,
        looks in prop::collection::vec(0..1_000_000_000_u64, 60),
    ) {
        let (truth, acts) = run(&steps);
        let mut objects = whole();
        // Each table is read at another moment after the programs were attached.
        for (id, one) in &truth {
            let at = attached + looks[*id as usize];
            if one.born <= at && one.dead.is_none_or(|dead| dead > at) {
                let found = TrackedObject::new(ObjectOrigin::Found(attached + 1_000_000_000));
                let (space, host) = objects.space(NS);
                space.found(ObjectId::Sysv(Family::Sem, *id), Box::new(found), host);
            }
        }
        let mut changes = Vec::new();
        let (meanwhile, later): (Vec<_>, Vec<_>) = acts
            .iter()
            .filter(|act| act.boot_ns >= attached)
            .partition(|act| act.boot_ns < attached + 1_000_000_000);
        for act in meanwhile {
            changes.extend(objects.act(act, None));
        }
        changes.extend(objects.present());
        for act in later {
            changes.extend(objects.act(act, None));
        }
        changes.extend(objects.settled(&[], None, u64::MAX));
        look_at_the_end(&mut objects, &truth, &mut changes);
        check(&objects, &truth);
        let told = told(&changes);
        for (id, one) in &truth {
            let count = |what| told.get(&(*id, what)).copied().unwrap_or(0);
            assert!(count("birth") <= 1 && count("removal") <= 1 && count("end") <= 1, "{id}");
            if one.dead.is_none() {
                assert_eq!((count("birth"), count("removal")), (1, 0), "{id}");
            }
        }
    }
}

proptest! {
    /// For a while all records are lost. Then a snapshot is taken, each namespace's table at another moment,
    /// while records come.
    #[test]
    fn after_a_loss_and_a_snapshot_objects_are_those_of_the_kernel(
        steps in prop::collection::vec(step(), 0..80),
        lost in (0..3_000_000_000_u64, 0..3_000_000_000_u64),
        took in 0..500_000_000_u64,
        looks in prop::collection::vec(0..1_000_000_000_u64, 80),
    ) {
        let (truth, acts) = run(&steps);
        let (from, until) = (lost.0, lost.0 + lost.1);
        let (began, ended) = (until + 1, until + 1 + took);
        let mut objects = whole();
        let mut changes = Vec::new();
        for act in acts.iter().filter(|act| act.boot_ns < from) {
            changes.extend(objects.act(act, None));
        }
        objects.lost();
        objects.sees_again();
        let mut look = snapshot();
        look.listed = (began, ended);
        for (id, one) in &truth {
            let at = began + looks[*id as usize] % (took + 1);
            if one.born <= at && one.dead.is_none_or(|dead| dead > at) {
                look.objects.push(semaphores(*id, one.key));
            }
        }
        let (meanwhile, later): (Vec<_>, Vec<_>) =
            acts.iter().filter(|act| act.boot_ns > until).partition(|act| act.boot_ns <= ended);
        for act in meanwhile {
            changes.extend(objects.act(act, None));
        }
        changes.extend(objects.reconcile(NS, &look, true, ended + 1));
        for act in later {
            changes.extend(objects.act(act, None));
        }
        changes.extend(objects.untold(true));
        // All that lives is known. A call may come back with an object whose removal was lost: the look at the
        // end tells.
        let known = live(&objects);
        for (id, one) in &truth {
            let is_late = || {
                let one = objects.get(NS, ObjectId::Sysv(Family::Sem, *id)).unwrap();
                one.birth.known_since() > until
            };
            assert!(known.contains(id) == one.dead.is_none() || is_late(), "{id}");
        }
        look_at_the_end(&mut objects, &truth, &mut changes);
        check(&objects, &truth);
        let told = told(&changes);
        for (id, one) in &truth {
            let count = |what| told.get(&(*id, what)).copied().unwrap_or(0);
            assert!(count("birth") <= 1 && count("removal") <= 1 && count("end") <= 1, "{id}");
            if one.dead.is_none() {
                assert_eq!((count("birth"), count("end")), (1, 0), "{id}");
            }
        }
    }
}

/// An empty snapshot of a namespace.
fn snapshot() -> NamespaceLook {
    NamespaceLook {
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
fn semaphores(id: i32, key: u32) -> ObjectLook {
    let table = format!(
        "key semid perms nsems uid gid cuid cgid otime ctime\n{key} {id} 600 1 0 0 0 0 0 0\n"
    );
    sysvipc::parse(Family::Sem, &table).unwrap().remove(0)
}

fn apply(objects: &mut ObjectTracker, acts: &[AppliedCall<'_>]) -> Vec<ObjectLife> {
    acts.iter().flat_map(|act| objects.act(act, None)).map(|change| change.life).collect()
}

#[test]
fn a_segment_is_gone_when_it_is_removed_only_if_nobody_ever_attached_it() {
    use ObjectLife::{Created, Destroyed, Removed};
    let segment = |id| CallEffect::Got {
        kind: Family::Shm,
        id,
        key: 0,
        made: Creation::Yes,
        like: NewObjectAttrs::default(),
    };
    let mut objects = whole();
    let removed = act(2, 1, CallEffect::Removed(Family::Shm, 1));
    let lives = apply(&mut objects, &[act(1, 1, segment(1)), removed]);
    assert_eq!(lives, [Created, Removed, Destroyed]);
    let attach = CallEffect::Attached { id: 2, at: Some(0x7000) };
    let removed = act(5, 1, CallEffect::Removed(Family::Shm, 2));
    let lives = apply(&mut objects, &[act(3, 1, segment(2)), act(4, 1, attach), removed]);
    assert_eq!(lives, [Created, Removed]);
    let one = objects.get(NS, ObjectId::Sysv(Family::Shm, 2)).unwrap();
    assert!(one.is_removed() && one.destroyed.is_none());
}

#[test]
fn an_id_that_comes_again_is_another_object() {
    let mut objects = whole();
    let day = 86_400_000_000_000;
    let removed = act(2, 1, CallEffect::Removed(Family::Sem, 7));
    apply(&mut objects, &[act(1, 1, got(7, 0, Creation::Yes)), removed]);
    apply(&mut objects, &[act(day, 2, got(7, 5, Creation::Maybe))]);
    let one = objects.get(NS, ObjectId::Sysv(Family::Sem, 7)).unwrap();
    assert_eq!(
        (one.birth, one.creator.as_ref().unwrap().pid),
        (ObjectOrigin::Inferred(day), Some(2))
    );
    assert_eq!(objects.of_key(NS, Family::Sem, 5), Some(7));
    // Its removal was lost.
    let lives = apply(&mut objects, &[act(2 * day, 3, got(7, 6, Creation::Yes))]);
    assert_eq!(lives, [ObjectLife::Destroyed, ObjectLife::Created]);
    assert_eq!(live(&objects), BTreeSet::from([7]));
}

/// By `sem_next_id` and its like a process chooses the id that is given next.
#[test]
fn an_id_that_comes_again_at_once_is_another_object_where_the_call_began_after_the_ones_end() {
    use ObjectLife::{Created, Destroyed, Removed};
    let begin = |objects: &mut ObjectTracker| {
        let made = act(1, 1, got(7, 5, Creation::Maybe));
        let removed = act(10, 2, CallEffect::Removed(Family::Sem, 7));
        assert_eq!(apply(objects, &[made, removed]), [Created, Removed, Destroyed]);
    };
    let again = act(20, 3, got(7, 5, Creation::Maybe));
    let lives = |act: AppliedCall<'_>| {
        let mut objects = whole();
        begin(&mut objects);
        let lives = apply(&mut objects, &[act]);
        assert_eq!(live(&objects).len(), lives.len());
        lives
    };
    // It may have found the one before that was removed, and come back late.
    assert_eq!(lives(again.clone()), []);
    // Its thread came to be known after that, by a call before this one.
    assert_eq!(lives(AppliedCall { context: 15, ..again.clone() }), [Created]);
    assert_eq!(lives(AppliedCall { context: 21, ..again.clone() }), []);
    // It is the thread that removed the one.
    assert_eq!(lives(AppliedCall { tid: 2, ..again.clone() }), [Created]);
}

#[test]
fn a_namespace_takes_its_objects_along() {
    let mut objects = whole();
    apply(
        &mut objects,
        &[act(1, 1, got(0, 0, Creation::Yes)), act(2, 1, got(1, 0, Creation::Yes))],
    );
    let ended = objects.ended(NS, Death { after: Some(5), before: 9 });
    let told: Vec<_> = ended.iter().map(|change| (change.life, change.local)).collect();
    let of = |id| (ObjectLife::Destroyed, ObjectId::Sysv(Family::Sem, id));
    assert_eq!(told, [of(0), of(1)]);
    assert!(objects.spaces.is_empty());
    let other = NsRef { generation: 2, ..NS };
    assert!(objects.elsewhere(other, LookupKey::Id(Family::Sem, 0)).is_empty());
    assert!(objects.host.index.candidates(LookupKey::Id(Family::Sem, 0), other).is_empty());
}

#[test]
fn what_is_remembered_of_the_gone_is_bounded_and_what_is_not_is_counted() {
    let mut objects = whole();
    let count = 3 * super::tombstones::LIMIT as u64;
    for id in 0..count {
        let removed = CallEffect::Removed(Family::Sem, id as i32);
        let made = got(id as i32, 0, Creation::Yes);
        apply(&mut objects, &[act(2 * id, 1, made), act(2 * id + 1, 1, removed)]);
    }
    let kept = objects.all().remove(&NS).unwrap().len() as u64;
    assert_eq!(kept, super::tombstones::LIMIT as u64);
    assert_eq!(kept + objects.forgotten(), count);
}

/// Segments that are removed and may be attached, of a whole host.
#[test]
fn what_is_remembered_of_the_removed_is_bounded_for_the_host() {
    let spaces = 500;
    let ns = |number: u32| NsRef { inum: 1 + number % spaces, generation: 1 };
    let remove = |count: usize| {
        let mut objects = ObjectTracker::default();
        for number in 0..spaces {
            objects.born(ns(number));
        }
        for number in 0..count as u32 {
            let effect = CallEffect::Removed(Family::Shm, number as i32);
            let at = u64::from(number);
            objects.act(&AppliedCall { ns: ns(number), ..act(at, 1, effect) }, None);
        }
        let kept: usize = objects.spaces.values().map(|space| space.removed.len()).sum();
        assert!(kept <= super::MAX_REMOVED * 3 / 2, "{kept}");
        assert_eq!(kept as u64 + objects.forgotten(), count as u64);
    };
    crate::steps::assert_linear(50_000, remove);
}

/// Objects whose removals were lost, of a flood of them.
#[test]
fn what_ended_unseen_is_bounded_by_what_the_kernel_can_have() {
    let make = |count: usize| {
        let mut objects = whole();
        objects.lost();
        let mut ended = 0;
        for number in 0..count as u32 {
            // One lives at a time: indices go round, and each round has its sequence number.
            let id = ((number % 64) | ((number / 64) << 15)).cast_signed();
            let changes = objects.act(&act(u64::from(number), 1, got(id, 0, Creation::Yes)), None);
            ended += changes.iter().filter(|one| one.life == ObjectLife::Destroyed).count();
        }
        assert!(objects.living() <= BEGUN + 65, "{}", objects.living());
        assert_eq!(objects.living() + ended, count);
    };
    let count = 2 * BEGUN + BEGUN / 2;
    let steps = crate::steps::count_steps(|| make(count));
    assert!(steps <= 2 * count as u64, "{steps}");
}

/// Names that are unlinked before it was known what they led to.
#[test]
fn unlinked_names_wait_in_bounds_and_each_is_told_of() {
    let unlink = |count: usize| {
        let mut objects = whole();
        let mut told = 0;
        for number in 0..count as u64 {
            let name = format!("q{number}").into_bytes();
            // A microsecond apart: all are waited for.
            let effect = CallEffect::Unlinked(OsBytes(name.into()));
            told += objects.act(&act(1_000 * number, 1, effect), None).len();
        }
        assert!(told + (1 << 12) >= count, "{told}");
        told += objects.untold(true).len();
        assert_eq!(told, count);
    };
    crate::steps::assert_linear(25_000, unlink);
}

#[test]
fn an_object_takes_little_room() {
    // With its places in the tables of objects, keys and users, and in the index of all namespaces: a
    // node of a B-tree is at least half full.
    let index = 2 * 2 * size_of::<(Family, u32, NsRef)>();
    let room = size_of::<(ObjectId, TrackedObject)>() + 8 * size_of::<(u32, u64)>() + 64 + index;
    assert!(room * 8 / 7 <= 600, "{room}");
}

/// A queue's name in every namespace but the asker's own, until it is unlinked or its namespace is dead.
#[test]
fn a_name_is_found_in_all_other_namespaces() {
    let mut objects = whole();
    let spaces = [2, 3, 4].map(|inum| NsRef { inum, generation: 1 });
    for (at, ns) in spaces.into_iter().enumerate() {
        let queue = QueueRef { ns, ino: 5, dev: at as u32 + 1, flags: 0 };
        let effect = CallEffect::Opened {
            queue,
            name: Some(OsBytes(b"q".as_slice().into())),
            made: Creation::Yes,
            like: NewObjectAttrs::default(),
        };
        objects.act(&AppliedCall { ns, ..act(1, 1, effect) }, Some(ns));
    }
    let found = |objects: &ObjectTracker, but| {
        let found = objects.elsewhere(but, LookupKey::Name(b"q"));
        found.into_iter().map(|one| one.0.inum).collect::<Vec<_>>()
    };
    assert_eq!(found(&objects, NS), [2, 3, 4]);
    assert_eq!(found(&objects, spaces[1]), [2, 4]);
    assert!(objects.elsewhere(NS, LookupKey::Name(b"r")).is_empty());
    let unlinked = CallEffect::Unlinked(OsBytes(b"q".as_slice().into()));
    objects.act(&AppliedCall { ns: spaces[0], ..act(2, 1, unlinked) }, None);
    objects.ended(spaces[2], Death { after: Some(5), before: 9 });
    assert_eq!(found(&objects, NS), [3]);
}
