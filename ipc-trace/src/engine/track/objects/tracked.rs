//! One object.

use std::{collections::BTreeSet, rc::Rc};

use ipc_trace_common::{op::ObjectKind, record::NsRef};
use minicbor::{Decode, Encode};

use super::{
    AppliedCall, ObjectChange,
    users::{Accessor, ObjectUsers},
};
use crate::event::shared::SharedState;
use crate::{
    engine::track::{clock::Clock, containers::Containers, contexts::TaskInfo},
    event::{
        objects::{Creator, LastUse, ObjectEventKind, ObjectInfo},
        value::{FileMode, Hex32, KindName, OsBytes, Timestamp},
    },
    input::{effect::NewObjectAttrs, process::ProcessId},
};

/// The id of an object within its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub(crate) enum ObjectId {
    /// A System V object: its kind and id.
    #[n(0)]
    Sysv(#[n(0)] ObjectKind, #[n(1)] i32),
    /// A queue: the device number of its file system and its inode number
    #[n(1)]
    Queue(#[n(0)] u32, #[n(1)] u64),
}

impl ObjectId {
    /// Its kind.
    #[must_use]
    pub(crate) const fn kind(self) -> ObjectKind {
        match self {
            Self::Sysv(kind, _) => kind,
            Self::Queue(..) => ObjectKind::Mq,
        }
    }
}

/// How an object became known, and when, on `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum ObjectOrigin {
    /// A call created it.
    #[n(0)]
    Seen(#[n(0)] u64),
    /// A call that creates it if missing was the first to return it.
    #[n(1)]
    Inferred(#[n(0)] u64),
    /// A snapshot found it.
    #[n(2)]
    Found(#[n(0)] u64),
    /// A call used it.
    #[n(3)]
    Used(#[n(0)] u64),
    /// A call removed it.
    #[n(4)]
    Removed(#[n(0)] u64),
}

/// Call records arrive in the order of their returns, and an object can be used and removed before the call
/// that created it returns: a creating call is matched to an object that became known at most this long ago,
/// nanoseconds. The time is shorter than a namespace takes to reuse an id: that needs 2^22 new objects
/// (`ipc_idr_alloc`, ipc/util.c, 6.12).
pub(super) const LATE_NS: u64 = 2_000_000_000;

impl ObjectOrigin {
    /// When it became known.
    pub(super) const fn known_since(self) -> u64 {
        match self {
            Self::Seen(at)
            | Self::Inferred(at)
            | Self::Found(at)
            | Self::Used(at)
            | Self::Removed(at) => at,
        }
    }

    /// Whether a creating call that returned at `boot_ns` may be the object's creation.
    pub(super) const fn may_be_by(self, boot_ns: u64) -> bool {
        !matches!(self, Self::Seen(_)) && boot_ns <= self.known_since().saturating_add(LATE_NS)
    }
}

/// The actor of a call.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(crate) struct ObjectActor {
    /// The process
    #[n(0)]
    pub pid: Option<u32>,
    /// The effective user.
    #[n(1)]
    pub uid: u32,
    /// The effective group.
    #[n(2)]
    pub gid: u32,
    /// The thread's name, NUL-padded; `None`: that of the task.
    #[cbor(n(3), with = "ipc_trace_common::cbor")]
    pub comm: Option<Box<[u8; 16]>>,
    /// The task, if known.
    #[cbor(n(4), with = "crate::event::shared::optional")]
    pub task_info: Option<Rc<TaskInfo>>,
}

/// A thread's name at the time of a call.
fn comm_at(comm: Option<&[u8; 16]>, task_info: Option<&Rc<TaskInfo>>) -> Option<OsBytes<'static>> {
    let own = comm.map(|comm| OsBytes::until_nul(comm).into_owned());
    own.or_else(|| task_info.map(|task_info| task_info.comm.clone()))
}

/// The last use.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(super) enum Last {
    /// An observed call.
    #[n(0)]
    Seen {
        #[n(0)]
        boot_ns: u64,
        #[n(1)]
        pid: u32,
        #[n(2)]
        uid: u32,
        /// As [`ObjectActor::comm`]
        #[cbor(n(3), with = "ipc_trace_common::cbor")]
        comm: Option<Box<[u8; 16]>>,
        #[cbor(n(4), with = "crate::event::shared::optional")]
        task_info: Option<Rc<TaskInfo>>,
    },
    /// Found by a snapshot.
    #[n(1)]
    Found(#[n(0)] Box<LastUse>),
}

/// Counters that only a snapshot has.
#[derive(Clone, Debug, Default, Encode, Decode)]
pub(super) struct QueueUsage {
    #[n(0)]
    messages: Option<u64>,
    #[n(1)]
    max_messages: Option<u64>,
    #[n(2)]
    bytes: Option<u64>,
}

/// A tracked object.
#[derive(Clone, Debug, Encode, Decode)]
#[cbor(context_bound = "SharedState")]
pub(crate) struct TrackedObject {
    /// How it became known
    #[n(0)]
    pub origin: ObjectOrigin,
    /// The key
    #[n(1)]
    pub key: Option<u32>,
    /// A queue's name
    #[n(2)]
    pub name: Option<Box<[u8]>>,
    #[n(3)]
    pub(super) mode: Option<u32>,
    #[n(4)]
    pub(super) uid: Option<u32>,
    #[n(5)]
    pub(super) gid: Option<u32>,
    #[n(6)]
    pub(super) size: Option<u64>,
    /// The creator.
    #[n(7)]
    pub creator: Option<ObjectActor>,
    #[n(8)]
    pub(super) last: Option<Last>,
    #[n(9)]
    pub(super) users: ObjectUsers,
    /// Number of calls on it.
    #[n(10)]
    pub uses: u64,
    /// shm: number of attachments, if known.
    #[n(11)]
    pub attached: Option<u64>,
    #[n(12)]
    pub(super) usage: Option<Box<QueueUsage>>,
    /// When it was removed.
    #[n(13)]
    pub removed: Option<u64>,
    /// Whether a snapshot saw it removed.
    #[n(14)]
    pub(super) seen_removed: bool,
    /// The thread whose call removed it.
    #[n(15)]
    pub(super) removed_by: Option<u32>,
    /// When its destruction was noticed.
    #[n(16)]
    pub destroyed: Option<u64>,
    /// Whether any event of it was reported,
    #[n(17)]
    pub(super) reported: bool,
    /// and whether its creation or existence was.
    #[n(18)]
    pub(super) announced: bool,
}

impl TrackedObject {
    pub(super) fn new(origin: ObjectOrigin) -> Self {
        Self {
            origin,
            key: None,
            name: None,
            mode: None,
            uid: None,
            gid: None,
            size: None,
            creator: None,
            last: None,
            users: ObjectUsers::default(),
            uses: 0,
            attached: None,
            usage: None,
            removed: None,
            seen_removed: false,
            removed_by: None,
            destroyed: None,
            reported: false,
            announced: false,
        }
    }

    /// An object found by a snapshot.
    pub(super) fn found(info: &ObjectInfo, boot_ns: u64) -> Self {
        let mut one = Self::new(ObjectOrigin::Found(boot_ns));
        one.fill(info);
        one.seen_removed = info.removed;
        one
    }

    /// Applies a snapshot: attributes that change without a call, and those not known better.
    pub(super) fn fill(&mut self, info: &ObjectInfo) {
        // The key of a removed segment is IPC_PRIVATE (do_shm_rmid, ipc/shm.c, 6.12).
        self.key = self.key.or(info.key.map(|key| key.0).filter(|_| !info.removed));
        if self.name.is_none() {
            self.name = info.name.as_ref().map(|name| name.0.as_ref().into());
        }
        self.mode = info.mode.map(|mode| mode.0).or(self.mode);
        self.uid = info.uid.or(self.uid);
        self.gid = info.gid.or(self.gid);
        self.size = info.size.or(self.size);
        self.attached = info.attached;
        if self.creator.is_none() {
            self.creator = info.creator.as_ref().map(|creator| ObjectActor {
                pid: creator.pid,
                uid: creator.uid,
                gid: creator.gid,
                comm: None,
                task_info: None,
            });
        }
        if self.last.is_none() {
            self.last = info.last.clone().map(|last| Last::Found(Box::new(last)));
        }
        let ObjectInfo { messages, max_messages, bytes, .. } = *info;
        self.usage = (messages.is_some() || max_messages.is_some() || bytes.is_some())
            .then(|| Box::new(QueueUsage { messages, max_messages, bytes }));
    }

    /// A call created it.
    pub(super) fn made(&mut self, origin: ObjectOrigin, by: ObjectActor, like: NewObjectAttrs) {
        self.origin = origin;
        self.uid = Some(by.uid);
        self.gid = Some(by.gid);
        self.mode = like.mode.or(self.mode);
        self.size = like.size.or(self.size);
        self.creator = Some(by);
    }

    /// A call used it. See [`Self::used_often`].
    pub(super) fn used(&mut self, applied: &AppliedCall<'_>) -> bool {
        self.used_often(applied, 1)
    }

    /// Calls of one thread used it; `applied` is the last one. Returns whether the user's container or uid is
    /// new.
    pub(super) fn used_often(&mut self, applied: &AppliedCall<'_>, uses: u64) -> bool {
        let AppliedCall { boot_ns, pid, uid, task_info, .. } = *applied;
        self.uses += uses;
        match &mut self.last {
            // Usually it is the last user.
            Some(Last::Seen { boot_ns: at, pid: last, uid: user, comm, task_info: known })
                if *last == pid
                    && *user == uid
                    && known.as_ref().map(Rc::as_ptr) == task_info.map(Rc::as_ptr)
                    && comm.is_none()
                    && applied.another_comm().is_none() =>
            {
                *at = boot_ns.max(*at);
                return false;
            }
            // Batched calls arrive late.
            Some(Last::Seen { boot_ns: at, .. }) if *at > boot_ns => {}
            last => {
                let (comm, task_info) = (applied.another_comm(), task_info.cloned());
                *last = Some(Last::Seen { boot_ns, pid, uid, comm, task_info });
            }
        }
        self.users.add(applied)
    }

    /// The containers and uids that used it; the first ones, if there are many.
    #[must_use]
    pub(crate) fn accessors(&self) -> &[Accessor] {
        self.users.accessors()
    }

    /// The tasks of its creator and last user, if known.
    pub(crate) fn known_tasks(&self) -> impl Iterator<Item = &Rc<TaskInfo>> {
        let creator = self.creator.as_ref().and_then(|who| who.task_info.as_ref());
        let last = match &self.last {
            Some(Last::Seen { task_info, .. }) => task_info.as_ref(),
            Some(Last::Found(_)) | None => None,
        };
        creator.into_iter().chain(last)
    }

    /// Whether a process is known to have used it.
    #[must_use]
    pub(crate) fn was_used_by(&self, pid: u32, start_boot_ns: u64) -> bool {
        self.users.processes().contains(&(pid, start_boot_ns))
    }

    /// Permission bits.
    #[must_use]
    pub(crate) const fn mode(&self) -> Option<u32> {
        self.mode
    }

    /// Its owner and group.
    #[must_use]
    pub(crate) const fn owner(&self) -> (Option<u32>, Option<u32>) {
        (self.uid, self.gid)
    }

    /// As `ObjectInfo::size`.
    #[must_use]
    pub(crate) const fn size(&self) -> Option<u64> {
        self.size
    }

    /// Processes known to be related to it.
    pub(super) fn pids(&self) -> BTreeSet<u32> {
        let creator = self.creator.iter().filter_map(|who| who.pid);
        let last = self.last.iter().filter_map(|last| match last {
            Last::Seen { pid, .. } => Some(*pid),
            Last::Found(last) => last.pid,
        });
        creator.chain(last).chain(self.users.processes().iter().map(|user| user.0)).collect()
    }

    /// When its destruction was noticed, or when the call that removed it returned: a later result with its
    /// id is another object.
    pub(super) const fn ended(&self) -> Option<u64> {
        match self.removed {
            Some(at) => Some(at),
            None => self.destroyed,
        }
    }

    /// When it was last known to exist.
    #[must_use]
    pub(crate) const fn last_seen(&self) -> Option<u64> {
        match &self.last {
            Some(Last::Seen { boot_ns, .. }) => Some(*boot_ns),
            Some(Last::Found(_)) | None => Some(self.origin.known_since()),
        }
    }

    /// Whether it is removed: no key or name leads to it.
    #[must_use]
    pub(crate) const fn is_removed(&self) -> bool {
        self.removed.is_some() || self.seen_removed
    }

    /// Whether it exists though its users have exited; `None`: unknown. `open`: whether a process is known to
    /// have it open or attached.
    pub(super) fn leaked(
        &self,
        open: Option<bool>,
        lives: &dyn Fn(ProcessId) -> bool,
    ) -> Option<bool> {
        if self.is_removed() || self.destroyed.is_some() || open == Some(true) {
            return Some(false);
        }
        match self.users.gone(lives) {
            Some(true) => open.map(|open| !open),
            other => other,
        }
    }

    /// The object as it is shown.
    #[must_use]
    pub(crate) fn info(
        &self,
        local: ObjectId,
        clock: &Clock,
        containers: &Containers,
    ) -> ObjectInfo {
        let owned = |text: &OsBytes<'static>| text.clone();
        let (id, ino) = match local {
            ObjectId::Sysv(_, id) => (Some(id), None),
            ObjectId::Queue(_, ino) => (None, (ino != 0).then_some(ino)),
        };
        let usage = self.usage.as_deref();
        ObjectInfo {
            kind: KindName(local.kind()),
            id,
            key: self.key.map(Hex32),
            name: self.name.as_ref().map(|name| OsBytes(name.to_vec().into())),
            mode: self.mode.map(FileMode),
            uid: self.uid,
            gid: self.gid,
            size: self.size,
            messages: usage.and_then(|one| one.messages),
            max_messages: usage.and_then(|one| one.max_messages),
            bytes: usage.and_then(|one| one.bytes),
            creator: self.creator.as_ref().map(|who| Creator {
                pid: who.pid,
                uid: who.uid,
                gid: who.gid,
                comm: comm_at(who.comm.as_deref(), who.task_info.as_ref()),
                exe: who.task_info.as_ref().and_then(|task_info| task_info.exe.as_ref().map(owned)),
                start_boot_ns: who.task_info.as_ref().map(|task_info| task_info.start_boot_ns),
                container: who
                    .task_info
                    .as_ref()
                    .and_then(|task_info| task_info.container(containers)),
                exact: !matches!(self.origin, ObjectOrigin::Inferred(_)),
            }),
            last: self.last.as_ref().map(|last| match last {
                Last::Found(last) => (**last).clone(),
                Last::Seen { boot_ns, pid, comm, task_info, .. } => LastUse {
                    pid: Some(*pid),
                    comm: comm_at(comm.as_deref(), task_info.as_ref()),
                    time: Some(clock.time(*boot_ns)),
                },
            }),
            attached: self.attached,
            removed: self.is_removed(),
            ino,
        }
    }

    /// When it was created, if observed.
    #[must_use]
    pub(crate) fn created(&self, clock: &Clock) -> Option<Timestamp> {
        match self.origin {
            ObjectOrigin::Seen(at) | ObjectOrigin::Inferred(at) => Some(clock.time(at)),
            ObjectOrigin::Found(_) | ObjectOrigin::Used(_) | ObjectOrigin::Removed(_) => None,
        }
    }
}

/// The call that created an object arrives after others on it.
pub(super) fn created_late(
    applied: &AppliedCall<'_>,
    (ns, local): (NsRef, ObjectId),
    one: &mut TrackedObject,
    origin: ObjectOrigin,
    (key, name, like): (Option<u32>, Option<&[u8]>, NewObjectAttrs),
    changes: &mut Vec<ObjectChange>,
) {
    let inferred = matches!(one.origin, ObjectOrigin::Inferred(_));
    let life = match inferred || one.announced {
        true => ObjectEventKind::Changed,
        false => ObjectEventKind::Created,
    };
    let (mode, uid, gid) = (one.mode, one.uid, one.gid);
    one.made(origin, applied.who(), like);
    if !inferred {
        // The current attributes come from a snapshot, or were set since.
        (one.mode, one.uid, one.gid) = (mode.or(one.mode), uid.or(one.uid), gid.or(one.gid));
    }
    one.key = key.or(one.key);
    if one.name.is_none() {
        one.name = name.map(Into::into);
    }
    one.uses += 1;
    changes.push(ObjectChange::new(life, applied.boot_ns, ns, local, one).by(applied));
}
