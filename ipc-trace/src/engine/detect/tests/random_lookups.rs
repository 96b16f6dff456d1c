//! Random lookups by key and uses of their results, in namespaces where others create and remove the same
//! keys: every finding must be true in the model, whatever is lost or reordered.

use std::collections::{BTreeMap, BTreeSet};

use ipc_trace_common::{op::Op, record::NsRef};
use proptest::prelude::*;

use super::{A, B, DetectWorld, HOST, TestTask, task};
use crate::event::finding::{Class, Finding, Severity};

const ALL: [NsRef; 3] = [HOST, A, B];
/// Two processes in each namespace, the second in a container.
const PIDS: usize = 6;
const KEYS: u64 = 4;

fn who(at: usize) -> TestTask {
    let (ns, inside) = (ALL[at / 2], at % 2 == 1);
    let cgroup = if inside { at as u64 + 1 } else { 0 };
    let exe = ["one", "two", "three", "four", "five", "six"][at];
    TestTask { exe, uid: 1000 + at as u32, cgroup, ..task(10 + at as u32, ns) }
}

#[derive(Clone, Copy, Debug)]
enum LookupStep {
    /// Creates or gets the set of a key.
    Make(usize, u64),
    /// Removes it
    Remove(usize, u64),
    /// Looks it up.
    Lookup(usize, u64),
    /// Uses it
    Use(usize, u64),
    Wait(u64),
}

fn step() -> impl Strategy<Value = LookupStep> {
    let (at, key) = (0..PIDS, 0..KEYS);
    prop_oneof![
        3 => (at.clone(), key.clone()).prop_map(|(at, key)| LookupStep::Make(at, key)),
        1 => (at.clone(), key.clone()).prop_map(|(at, key)| LookupStep::Remove(at, key)),
        5 => (at.clone(), key.clone()).prop_map(|(at, key)| LookupStep::Lookup(at, key)),
        3 => (at, key).prop_map(|(at, key)| LookupStep::Use(at, key)),
        1 => (0..6_000_000_000_u64).prop_map(LookupStep::Wait),
    ]
}

/// A call with its result.
#[derive(Clone, Copy, Debug)]
struct Done {
    at: usize,
    op: Op,
    args: [u64; 5],
    ret: i64,
    wait: u64,
    /// Whether a full ring may drop it: it changes no object.
    can_be_lost: bool,
}

/// The model's truth.
#[derive(Debug, Default)]
struct LookupTruth {
    /// By process: lookups of keys that its namespace never had while another one had them.
    attempts: BTreeMap<u32, u64>,
    /// By process: all failed lookups.
    failed: BTreeMap<u32, u64>,
    /// Keys that each namespace ever had.
    had: BTreeSet<(u32, u32)>,
    /// Ids that processes used: (pid, id).
    used: BTreeSet<(u32, i32)>,
}

const fn key_of(key: u64) -> u64 {
    0x8cd1_0000 + key
}

/// The calls and the truth of a program.
fn happen(steps: &[LookupStep]) -> (Vec<Done>, LookupTruth) {
    let mut truth = LookupTruth::default();
    let mut live: BTreeMap<(NsRef, u64), i64> = BTreeMap::new();
    let mut ever: BTreeSet<(NsRef, u64)> = BTreeSet::new();
    let mut next = 40_000;
    let mut all = Vec::new();
    for step in steps {
        let mut done = |at, op, args, ret, can_be_lost| {
            all.push(Done { at, op, args, ret, wait: 0, can_be_lost });
        };
        match *step {
            LookupStep::Make(at, key) => {
                let ns = who(at).ns;
                let new = !live.contains_key(&(ns, key));
                let id = *live.entry((ns, key)).or_insert(next);
                next += i64::from(new);
                ever.insert((ns, key));
                truth.had.insert((ns.inum, key_of(key) as u32));
                truth.used.insert((who(at).pid, id.try_into().unwrap()));
                let flags = if new { 0o3660 } else { 0o1660 };
                done(at, Op::Semget, [key_of(key), 1, flags, 0, 0], id, false);
            }
            LookupStep::Remove(at, key) => {
                if let Some(id) = live.remove(&(who(at).ns, key)) {
                    truth.used.insert((who(at).pid, id.try_into().unwrap()));
                    done(at, Op::Semctl, [id.cast_unsigned(), 0, 0, 0, 0], 0, false);
                }
            }
            LookupStep::Lookup(at, key) => {
                let task = who(at);
                if let Some(id) = live.get(&(task.ns, key)) {
                    truth.used.insert((task.pid, (*id).try_into().unwrap()));
                    done(at, Op::Semget, [key_of(key), 0, 0, 0, 0], *id, true);
                    continue;
                }
                *truth.failed.entry(task.pid).or_default() += 1;
                let elsewhere = ALL.iter().any(|ns| live.contains_key(&(*ns, key)));
                if elsewhere && !ever.contains(&(task.ns, key)) {
                    *truth.attempts.entry(task.pid).or_default() += 1;
                }
                done(at, Op::Semget, [key_of(key), 0, 0, 0, 0], -2, true);
            }
            LookupStep::Use(at, key) => {
                if let Some(id) = live.get(&(who(at).ns, key)) {
                    truth.used.insert((who(at).pid, (*id).try_into().unwrap()));
                    done(at, Op::Semop, [id.cast_unsigned(), 0x1000, 1, 0, 0], 0, true);
                }
            }
            LookupStep::Wait(ns) => {
                if let Some(last) = all.last_mut() {
                    last.wait += ns;
                }
            }
        }
    }
    (all, truth)
}

fn replay_calls(calls: &[Done]) -> Vec<Finding> {
    let mut world = DetectWorld::new();
    for at in (1..PIDS).step_by(2) {
        world.container(at as u64 + 1);
        world.given(at as u64 + 1, "private");
    }
    for call in calls {
        world.call(who(call.at), call.op, call.args, call.ret);
        if call.wait > 0 {
            world.wait(call.wait);
        }
    }
    world.wait(5_000_000_000);
    world.all()
}

/// Properties that hold under any loss and order.
fn is_true(all: &[Finding], truth: &LookupTruth) -> Result<(), TestCaseError> {
    let mut attempts: BTreeMap<u32, u64> = BTreeMap::new();
    for one in all {
        let pid = one.subject.process.as_ref().unwrap().pid;
        let object = one.object.as_ref().unwrap();
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "no other class is right here, now or later"
        )]
        match one.class {
            Class::ProbeKey => {
                *attempts.entry(pid).or_default() += one.count;
                if let (Some(ns), Some(key)) = (object.ipc_ns, object.key) {
                    prop_assert!(truth.had.contains(&(ns.inum, key.0)), "{:?}", one);
                }
                prop_assert!(one.severity <= Severity::Medium, "nobody moved: {:?}", one);
            }
            Class::CrossContainer => {
                prop_assert!(truth.used.contains(&(pid, object.id.unwrap())), "{:?}", one);
                prop_assert!(object.owner_container.is_some(), "{:?}", one);
            }
            Class::HostIpc => {
                prop_assert_eq!(one.subject.ipc_ns.unwrap().inum, HOST.inum);
                prop_assert!(one.subject.container.is_some(), "{:?}", one);
            }
            // Objects have mode 0660 and are used in their namespace only.
            other => prop_assert!(false, "{other}: {one:?}"),
        }
    }
    for (pid, count) in attempts {
        let failed = truth.failed.get(&pid).copied().unwrap_or(0);
        prop_assert!(count <= failed, "{} of {} by {}", count, failed, pid);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn without_loss_each_attempt_is_counted_once(
        steps in proptest::collection::vec(step(), 0..80),
    ) {
        let (calls, truth) = happen(&steps);
        let all = replay_calls(&calls);
        is_true(&all, &truth)?;
        let mut found: BTreeMap<u32, u64> = BTreeMap::new();
        for one in all.iter().filter(|one| one.class == Class::ProbeKey) {
            let pid = one.subject.process.as_ref().unwrap().pid;
            *found.entry(pid).or_default() += one.count;
        }
        prop_assert_eq!(found, truth.attempts);
    }

    #[test]
    fn with_loss_and_reordering_findings_stay_true(
        steps in proptest::collection::vec(step(), 0..80),
        lost in proptest::collection::vec(any::<bool>(), 80),
        swapped in proptest::collection::vec(any::<bool>(), 80),
    ) {
        let (calls, truth) = happen(&steps);
        let kept = calls.iter().zip(&lost).filter(|(call, lost)| !(call.can_be_lost && **lost));
        let mut calls: Vec<Done> = kept.map(|(call, _)| *call).collect();
        // Records of one thread keep their order.
        for (at, swap) in (1..calls.len()).zip(&swapped) {
            if *swap && calls[at - 1].at != calls[at].at {
                calls.swap(at - 1, at);
            }
        }
        is_true(&replay_calls(&calls), &truth)?;
    }
}
