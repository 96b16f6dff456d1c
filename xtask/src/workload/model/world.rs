//! The expected state: namespaces with members or attached segments, and the objects in them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{
    ModelKind, Random,
    worker::{ModelCommand, ModelWorker, ROOM, SIZE, StepOutcome},
};

/// The maximum of processes, and the number of objects from which on a namespace gets no new ones.
const MAX_WORKERS: usize = 6;
const MAX_OBJECTS: usize = 24;
/// Keys and names that processes share.
const KEYS: i32 = 4;

/// A namespace, by the order in which they were made.
type Ns = usize;
/// A System V object's id, or a queue's number in its name.
type ModelId = i32;

/// An attached segment: where, and what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ModelAttachment {
    at: u64,
    ns: Ns,
    id: ModelId,
}

/// A process.
#[derive(Debug)]
struct ModelProcess {
    worker: ModelWorker,
    ns: Ns,
    attached: Vec<ModelAttachment>,
    /// Its child: where it is, and what it inherited
    child: Option<(Ns, Vec<ModelAttachment>)>,
}

/// An object.
#[derive(Clone, Debug)]
struct ModelObject {
    key: Option<i32>,
    creator: i32,
    uid: u32,
    gid: u32,
    mode: u32,
    removed: bool,
}

/// All there is.
#[derive(Debug)]
pub(super) struct ModelWorld {
    random: Random,
    members: Vec<ModelProcess>,
    /// Inode numbers of all namespaces there ever were
    namespaces: Vec<u64>,
    objects: BTreeMap<(Ns, ModelKind, ModelId), ModelObject>,
    steps: u64,
}

impl ModelWorld {
    pub(super) fn new(random: Random) -> Result<Self> {
        let mut world = Self {
            random,
            members: Vec::new(),
            namespaces: Vec::new(),
            objects: BTreeMap::new(),
            steps: 0,
        };
        // Not in the host's namespace, where others have objects.
        world.spawn()?;
        Ok(world)
    }

    /// Starts another process, in a namespace of its own.
    fn spawn(&mut self) -> Result<()> {
        let mut worker = ModelWorker::start()?;
        let StepOutcome { inum, .. } = worker.execute(&ModelCommand::Unshare)?;
        self.namespaces.push(inum);
        let ns = self.namespaces.len() - 1;
        self.members.push(ModelProcess { worker, ns, attached: Vec::new(), child: None });
        Ok(())
    }

    pub(super) fn step(&mut self) -> Result<()> {
        self.steps += 1;
        let index = self.random.below(self.members.len());
        match self.random.below(100) {
            0..40 => self.get(index),
            40..55 => self.change(index),
            55..72 => self.remove(index),
            72..86 => self.attachments(index),
            86..93 => self.switch_ns(index),
            93..96 => self.child(index),
            96..98 if self.members.len() < MAX_WORKERS => self.spawn(),
            _ if self.members.len() > 1 => self.kill(index),
            _ => Ok(()),
        }
        .with_context(|| format!("step {}", self.steps))?;
        self.reap_dead();
        Ok(())
    }

    fn execute(&mut self, index: usize, command: &ModelCommand) -> Result<i64> {
        Ok(self.members[index].worker.execute(command)?.ret)
    }

    /// Objects of the namespace that a process is in, and that can be found.
    fn reachable(&self, index: usize) -> Vec<(Ns, ModelKind, ModelId)> {
        let ns = self.members[index].ns;
        let mine = self.objects.iter().filter(|(place, object)| place.0 == ns && !object.removed);
        mine.map(|(place, _)| *place).collect()
    }

    fn get(&mut self, index: usize) -> Result<()> {
        let ns = self.members[index].ns;
        let is_full = self.reachable(index).len() >= MAX_OBJECTS;
        let which = self.random.below(KEYS as usize) as i32 + 1;
        let kind =
            [ModelKind::Shm, ModelKind::Sem, ModelKind::Msg, ModelKind::Mq][self.random.below(4)];
        let exclusive = self.random.below(3) == 0;
        let make = if is_full { 0 } else { self.random.below(3) };
        if kind == ModelKind::Mq {
            let oflag = match make {
                0 => 0,
                _ if exclusive => libc::O_CREAT | libc::O_EXCL,
                _ => libc::O_CREAT,
            };
            let fd =
                self.execute(index, &ModelCommand::Open { name: format!("model-{which}"), oflag })?;
            if fd >= 0 {
                self.note_object(index, (ns, kind, which), None);
            }
            return Ok(());
        }
        let (key, flags) = match make {
            0 => (which, 0),
            1 if exclusive => (0, 0o640),
            _ if exclusive => (which, libc::IPC_CREAT | libc::IPC_EXCL | 0o640),
            _ => (which, libc::IPC_CREAT | 0o640),
        };
        let key = if key == 0 { 0 } else { 0x1c60_0000 | key };
        let id = self.execute(index, &ModelCommand::Get { kind, key, flags })?;
        if id >= 0 {
            self.note_object(index, (ns, kind, id as ModelId), Some(key));
        }
        Ok(())
    }

    /// Records an object that a process opened or created.
    fn note_object(&mut self, index: usize, place: (Ns, ModelKind, ModelId), key: Option<i32>) {
        let creator = self.members[index].worker.pid.as_raw();
        self.objects.entry(place).or_insert(ModelObject {
            key,
            creator,
            uid: 0,
            gid: 0,
            mode: 0o640,
            removed: false,
        });
    }

    fn change(&mut self, index: usize) -> Result<()> {
        let all = self.reachable(index);
        let Some(&(ns, kind, id)) = self.random.one_of(&all) else { return Ok(()) };
        if kind == ModelKind::Mq {
            return Ok(());
        }
        if self.random.below(2) == 0 {
            self.execute(index, &ModelCommand::Use { kind, id })?;
            return Ok(());
        }
        let (uid, gid) = (self.random.below(1000) as u32, self.random.below(1000) as u32);
        let mode = 0o600 | self.random.below(0o100) as u32;
        let ret = self.execute(index, &ModelCommand::Own { kind, id, uid, gid, mode })?;
        ensure!(ret == 0, "IPC_SET of {kind:?} {id}: {ret}");
        if let Some(object) = self.objects.get_mut(&(ns, kind, id)) {
            (object.uid, object.gid, object.mode) = (uid, gid, mode);
        }
        Ok(())
    }

    fn remove(&mut self, index: usize) -> Result<()> {
        let all = self.reachable(index);
        let Some(&(ns, kind, id)) = self.random.one_of(&all) else { return Ok(()) };
        let command = match kind {
            ModelKind::Mq => ModelCommand::Unlink { name: format!("model-{id}") },
            ModelKind::Shm | ModelKind::Sem | ModelKind::Msg => ModelCommand::Remove { kind, id },
        };
        let ret = self.execute(index, &command)?;
        ensure!(ret == 0, "{command:?}: {ret}");
        if let Some(object) = self.objects.get_mut(&(ns, kind, id)) {
            object.removed = true;
        }
        Ok(())
    }

    fn attachments(&mut self, index: usize) -> Result<()> {
        if self.random.below(3) == 0
            && let Some(&one) = self.random.one_of(&self.members[index].attached)
        {
            let ret = self.execute(index, &ModelCommand::Detach { at: one.at })?;
            ensure!(ret == 0, "shmdt: {ret}");
            self.members[index].attached.retain(|other| *other != one);
            return Ok(());
        }
        let all = self.reachable(index).into_iter().filter(|place| place.1 == ModelKind::Shm);
        let all: Vec<_> = all.collect();
        let Some(&(ns, _, id)) = self.random.one_of(&all) else { return Ok(()) };
        let at = self.execute(index, &ModelCommand::Attach { id })?;
        ensure!(at > 0, "shmat: {at}");
        self.members[index].attached.push(ModelAttachment { at: at as u64, ns, id });
        Ok(())
    }

    fn switch_ns(&mut self, index: usize) -> Result<()> {
        if self.random.below(2) == 0 {
            let StepOutcome { inum, .. } =
                self.members[index].worker.execute(&ModelCommand::Unshare)?;
            self.namespaces.push(inum);
            self.members[index].ns = self.namespaces.len() - 1;
            return Ok(());
        }
        let other = self.random.below(self.members.len());
        let (pid, ns) = (self.members[other].worker.pid.as_raw(), self.members[other].ns);
        let StepOutcome { inum, .. } =
            self.members[index].worker.execute(&ModelCommand::Enter { pid })?;
        ensure!(inum == self.namespaces[ns], "setns went to {inum}");
        self.members[index].ns = ns;
        Ok(())
    }

    fn child(&mut self, index: usize) -> Result<()> {
        if self.members[index].child.is_some() {
            self.execute(index, &ModelCommand::Reap)?;
            self.members[index].child = None;
        } else {
            self.execute(index, &ModelCommand::Fork)?;
            let member = &mut self.members[index];
            member.child = Some((member.ns, member.attached.clone()));
        }
        Ok(())
    }

    /// Ends a process, and its child with it.
    fn kill(&mut self, index: usize) -> Result<()> {
        self.members.swap_remove(index).worker.end()
    }

    fn attached(&self) -> impl Iterator<Item = &ModelAttachment> {
        self.members.iter().flat_map(|member| {
            member.attached.iter().chain(member.child.iter().flat_map(|child| &child.1))
        })
    }

    /// Whether a process is in a namespace.
    fn has_members(&self, ns: Ns) -> bool {
        let members = self.members.iter();
        let mut all =
            members.flat_map(|one| [Some(one.ns), one.child.as_ref().map(|child| child.0)]);
        all.any(|one| one == Some(ns))
    }

    /// Whether a process is in a namespace, or has a segment of it attached (`do_shmat` holds the
    /// namespace, ipc/shm.c, 6.12).
    fn lives(&self, ns: Ns) -> bool {
        self.has_members(ns) || self.attached().any(|one| one.ns == ns)
    }

    /// Removes what no longer exists.
    fn reap_dead(&mut self) {
        let objects = std::mem::take(&mut self.objects);
        let stays = |(ns, kind, id): &(Ns, ModelKind, ModelId), object: &ModelObject| {
            let held = *kind == ModelKind::Shm
                && self.attached().any(|one| (one.ns, one.id) == (*ns, *id));
            self.lives(*ns) && (!object.removed || held)
        };
        self.objects = objects.into_iter().filter(|(place, one)| stays(place, one)).collect();
    }

    /// The namespaces that exist and their objects.
    pub(super) fn expected_state(&self) -> Value {
        let object = |(ns, kind, id): &(Ns, ModelKind, ModelId), object: &ModelObject| {
            let sysv = *kind != ModelKind::Mq;
            let attached = self.attached().filter(|one| (one.ns, one.id) == (*ns, *id)).count();
            json!({
                "kind": kind,
                "id": sysv.then_some(id),
                "name": (!sysv).then(|| format!("model-{id}")),
                "key": object.key.filter(|_| !object.removed).map(|key| format!("{key:#010x}")),
                "creator": object.creator,
                "uid": object.uid, "gid": object.gid, "mode": format!("{:04o}", object.mode),
                "size": match kind {
                    ModelKind::Shm => json!(SIZE.0),
                    ModelKind::Sem => json!(SIZE.1),
                    ModelKind::Msg => Value::Null,
                    ModelKind::Mq => json!(ROOM.0 * ROOM.1),
                },
                "attached": (*kind == ModelKind::Shm).then_some(attached),
                "removed": object.removed,
            })
        };
        let namespace = |(ns, inum): (Ns, &u64)| {
            let mine = self.objects.iter().filter(|(place, _)| place.0 == ns);
            let objects: Vec<_> = mine.map(|(place, one)| object(place, one)).collect();
            json!({"inum": inum, "members": self.has_members(ns), "objects": objects})
        };
        let alive = self.namespaces.iter().enumerate().filter(|(ns, _)| self.lives(*ns));
        json!({
            "namespaces": alive.map(namespace).collect::<Vec<_>>(),
            "made": self.namespaces.len(),
            "steps": self.steps,
        })
    }
}
