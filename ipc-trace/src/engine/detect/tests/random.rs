//! Random hosts with lost and reordered records: every finding must be true in the model.

use std::collections::BTreeSet;

use ipc_trace_common::{
    op::Op,
    record::{AccessPath, NsRef, NsSwitchKind, QueueRef},
};
use proptest::prelude::*;

use super::{A, B, DetectWorld, HOST, TestTask, queue, task};
use crate::event::finding::Class;

/// A step of a process.
#[derive(Clone, Copy, Debug)]
enum ProcessStep {
    /// Uses a queue of a namespace
    Use(u32, usize),
    /// Opens one by its path
    Open(u32, usize),
    /// Attaches a segment
    Attach(u32, u64),
    /// Detaches it
    Detach(u32, u64),
    /// Enters a namespace
    Enter(u32, usize),
    /// Reads the tables of a namespace
    Read(u32, usize),
    /// Touches a segment of a namespace
    Touch(u32, usize, u64),
    /// Time goes by
    Wait(u64),
}

const ALL: [NsRef; 3] = [HOST, A, B];

fn step() -> impl Strategy<Value = ProcessStep> {
    let (pid, ns, id) = (7..11_u32, 0..ALL.len(), 1..4_u64);
    prop_oneof![
        4 => (pid.clone(), ns.clone()).prop_map(|(pid, ns)| ProcessStep::Use(pid, ns)),
        2 => (pid.clone(), ns.clone()).prop_map(|(pid, ns)| ProcessStep::Open(pid, ns)),
        2 => (pid.clone(), id.clone()).prop_map(|(pid, id)| ProcessStep::Attach(pid, id)),
        1 => (pid.clone(), id.clone()).prop_map(|(pid, id)| ProcessStep::Detach(pid, id)),
        3 => (pid.clone(), ns.clone()).prop_map(|(pid, ns)| ProcessStep::Enter(pid, ns)),
        1 => (pid.clone(), ns.clone()).prop_map(|(pid, ns)| ProcessStep::Read(pid, ns)),
        1 => (pid, ns, id).prop_map(|(pid, ns, id)| ProcessStep::Touch(pid, ns, id)),
        1 => (0..3_000_000_000_u64).prop_map(ProcessStep::Wait),
    ]
}

fn at(id: u64) -> i64 {
    0x7f00_0000_0000 + (id.cast_signed() << 20)
}

/// The model's findings: class, process, number of the object's namespace.
type FindingTruth = BTreeSet<(Class, u32, u32)>;

/// Runs a program with lost records. Returns the model's findings, whether or not their records were
/// delivered.
fn run(world: &mut DetectWorld, steps: &[(ProcessStep, bool)]) -> FindingTruth {
    let mut tasks: Vec<TestTask> = (7..11).map(|pid| task(pid, HOST)).collect();
    let mut attached: BTreeSet<(u32, u64, NsRef)> = BTreeSet::new();
    let mut truth = FindingTruth::new();
    for (step, lost) in steps {
        let delivered = !lost;
        let who = |pid: u32| tasks[pid as usize - 7];
        match *step {
            ProcessStep::Use(pid, ns) => {
                let task = who(pid);
                if ALL[ns] != task.ns {
                    truth.insert((Class::ForeignObject, pid, ALL[ns].inum));
                }
                if delivered {
                    world.queue_call(task, Op::MqSend, queue(ALL[ns], 5, task.ns), 0);
                }
            }
            ProcessStep::Open(pid, ns) => {
                let task = who(pid);
                if ALL[ns] != task.ns {
                    truth.insert((Class::ForeignMount, pid, ALL[ns].inum));
                }
                if delivered {
                    world.access(task, AccessPath::QueueOpen, queue(ALL[ns], 5, task.ns), 0);
                }
            }
            ProcessStep::Read(pid, ns) => {
                let task = who(pid);
                if ALL[ns] != task.ns {
                    truth.insert((Class::ForeignView, pid, ALL[ns].inum));
                }
                if delivered {
                    let file = QueueRef { ino: 0, dev: 0, ..queue(ALL[ns], 0, task.ns) };
                    world.access(task, AccessPath::SysvipcRead, file, 0);
                }
            }
            ProcessStep::Attach(pid, id) => {
                let task = who(pid);
                attached.retain(|one| (one.0, one.1) != (pid, id));
                attached.insert((pid, id, task.ns));
                if delivered {
                    world.call(task, Op::Shmat, [id, 0, 0, 0, 0], at(id));
                }
            }
            ProcessStep::Detach(pid, id) => {
                let task = who(pid);
                attached.retain(|one| (one.0, one.1) != (pid, id));
                if delivered {
                    world.call(task, Op::Shmdt, [at(id).cast_unsigned(), 0, 0, 0, 0], 0);
                }
            }
            ProcessStep::Touch(pid, ns, id) => {
                let task = who(pid);
                if ALL[ns] != task.ns {
                    truth.insert((Class::CarriedMapping, pid, ALL[ns].inum));
                }
                if delivered {
                    let of = QueueRef { ino: id, dev: 0, ..queue(ALL[ns], id, task.ns) };
                    world.access(task, AccessPath::MappingTouched, of, 0);
                }
            }
            ProcessStep::Enter(pid, ns) => {
                let task = who(pid);
                let to = ALL[ns];
                if to == task.ns {
                    continue;
                }
                for one in attached.iter().filter(|one| one.0 == pid && one.2 != to) {
                    truth.insert((Class::CarriedMapping, pid, one.2.inum));
                }
                truth.insert((Class::NamespaceMismatch, pid, to.inum));
                let moved = TestTask { ns: to, ..task };
                tasks[pid as usize - 7] = moved;
                if delivered {
                    world.moved(task, to, NsSwitchKind::Setns, None);
                } else {
                    world.context(moved);
                }
            }
            ProcessStep::Wait(ns) => world.wait(ns),
        }
    }
    world.wait(5_000_000_000);
    truth
}

fn found(world: &mut DetectWorld) -> FindingTruth {
    let what = |one: &crate::event::finding::Finding| {
        let ns = one.object.as_ref().unwrap().ipc_ns.unwrap().inum;
        (one.class, one.subject.process.as_ref().unwrap().pid, ns)
    };
    world.all().iter().map(what).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn without_loss_findings_match_the_model(
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let mut world = DetectWorld::new();
        let steps: Vec<_> = steps.into_iter().map(|step| (step, false)).collect();
        let truth = run(&mut world, &steps);
        let all = found(&mut world);
        // The namespace that a process started in is its home, and it created none of the others.
        let home = |one: &(Class, u32, u32)| {
            one.0 == Class::NamespaceMismatch && one.2 == HOST.inum
        };
        let expected: FindingTruth = truth.into_iter().filter(|one| !home(one)).collect();
        prop_assert_eq!(all, expected);
    }

    #[test]
    fn with_lost_calls_findings_are_a_subset_of_the_model(
        steps in proptest::collection::vec((step(), any::<bool>()), 0..60),
    ) {
        // Only the call shows that an address was detached: if it is lost, another segment may be there than
        // the one attached last. Namespace switches and removals come on a ring of their own.
        let keeps = |step: &ProcessStep| matches!(step, ProcessStep::Attach(..) | ProcessStep::Detach(..));
        let steps: Vec<_> =
            steps.into_iter().map(|(step, lost)| (step, lost && !keeps(&step))).collect();
        let mut world = DetectWorld::new();
        let truth = run(&mut world, &steps);
        let all = found(&mut world);
        let wrong: Vec<_> = all.difference(&truth).collect();
        prop_assert!(wrong.is_empty(), "{:?}", wrong);
    }
}
