//! One object, as far as it is known.

use std::{collections::BTreeSet, rc::Rc};

use ipc_trace_common::op::Family;

use super::{
    AppliedCall,
    users::{Accessor, ObjectUsers, ProcessKey},
};
use crate::{
    engine::track::{clock::Clock, containers::Containers, contexts::TaskInfo},
    event::{
        objects::{Creator, LastUse, ObjectLook},
        value::{FamilyName, FileMode, Hex32, OsBytes, Timestamp},
    },
    input::effect::NewObjectAttrs,
};

/// Within one namespace, which object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ObjectId {
    /// A System V object: its kind and id
    Sysv(Family, i32),
    /// A queue: the device number of its file system and its inode number
    Queue(u32, u64),
}

impl ObjectId {
    /// Its kind.
    #[must_use]
    pub(crate) const fn kind(self) -> Family {
        match self {
            Self::Sysv(kind, _) => kind,
            Self::Queue(..) => Family::Mq,
        }
    }
}

/// How an object became known, and when, on `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ObjectOrigin {
    /// A call made it
    Seen(u64),
    /// A call that would make it was the first to come back with it
    Inferred(u64),
    /// A look found it
    Found(u64),
    /// A call used it
    Used(u64),
    /// A call removed it
    Removed(u64),
}

/// Records of calls come in the order of their returns, and an object can be used and removed before
/// the call that made it has returned: a call that made an object is taken for its birth when the
/// object became known no longer ago than this. Shorter than the time in which the ids of a namespace
/// can go round: 2^22 objects must be made for that (`ipc_idr_alloc`, ipc/util.c, 6.12).
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

    /// Whether a call that made such an object and returned at `boot_ns` is what began it.
    pub(super) const fn may_be_by(self, boot_ns: u64) -> bool {
        !matches!(self, Self::Seen(_)) && boot_ns <= self.known_since().saturating_add(LATE_NS)
    }
}

/// Who did something, as far as it is known.
#[derive(Clone, Debug)]
pub(crate) struct ObjectActor {
    /// The process
    pub pid: Option<u32>,
    /// User
    pub uid: u32,
    /// Group
    pub gid: u32,
    /// The thread's name, NUL-padded; `None`: it is that of the facts
    pub comm: Option<Box<[u8; 16]>>,
    /// What else is known of it
    pub facts: Option<Rc<TaskInfo>>,
}

/// A thread's name at a call.
fn comm_at(comm: Option<&[u8; 16]>, facts: Option<&Rc<TaskInfo>>) -> Option<OsBytes<'static>> {
    let own = comm.map(|comm| OsBytes::until_nul(comm).into_owned());
    own.or_else(|| facts.map(|facts| facts.comm.clone()))
}

/// The last use.
#[derive(Clone, Debug)]
pub(super) enum Last {
    /// A call was seen
    Seen {
        boot_ns: u64,
        pid: u32,
        uid: u32,
        /// As [`ObjectActor::comm`]
        comm: Option<Box<[u8; 16]>>,
        facts: Option<Rc<TaskInfo>>,
    },
    /// A look found this
    Found(Box<LastUse>),
}

/// What a look alone knows.
#[derive(Clone, Debug, Default)]
pub(super) struct Looked {
    messages: Option<u64>,
    max_messages: Option<u64>,
    bytes: Option<u64>,
}

/// An object.
#[derive(Clone, Debug)]
pub(crate) struct TrackedObject {
    /// How it became known
    pub birth: ObjectOrigin,
    /// The key
    pub key: Option<u32>,
    /// A queue's name
    pub name: Option<Box<[u8]>>,
    pub(super) mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) size: Option<u64>,
    /// Who made it
    pub creator: Option<ObjectActor>,
    pub(super) last: Option<Last>,
    pub(super) users: ObjectUsers,
    /// Calls on it
    pub uses: u64,
    /// shm: how often it is attached, where that is known
    pub attached: Option<u64>,
    pub(super) looked: Option<Box<Looked>>,
    /// Its removal
    pub removed: Option<u64>,
    /// A look saw that it is removed
    pub(super) seen_removed: bool,
    /// The thread whose call removed it
    pub(super) removed_by: Option<u32>,
    /// Its end: when it was noticed, at the latest
    pub destroyed: Option<u64>,
    /// Whether a line has told of it,
    pub(super) told: bool,
    /// and that it was made, or is there
    pub(super) announced: bool,
}

impl TrackedObject {
    pub(super) fn new(birth: ObjectOrigin) -> Self {
        Self {
            birth,
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
            looked: None,
            removed: None,
            seen_removed: false,
            removed_by: None,
            destroyed: None,
            told: false,
            announced: false,
        }
    }

    /// As a look found it.
    pub(super) fn found(look: &ObjectLook, boot_ns: u64) -> Self {
        let mut one = Self::new(ObjectOrigin::Found(boot_ns));
        one.fill(look);
        one.seen_removed = look.removed;
        one
    }

    /// Takes over what a look knows: what changes by itself, and what is not known better.
    pub(super) fn fill(&mut self, look: &ObjectLook) {
        // The key of a removed segment is IPC_PRIVATE (do_shm_rmid, ipc/shm.c, 6.12).
        self.key = self.key.or(look.key.map(|key| key.0).filter(|_| !look.removed));
        if self.name.is_none() {
            self.name = look.name.as_ref().map(|name| name.0.as_ref().into());
        }
        self.mode = look.mode.map(|mode| mode.0).or(self.mode);
        self.uid = look.uid.or(self.uid);
        self.gid = look.gid.or(self.gid);
        self.size = look.size.or(self.size);
        self.attached = look.attached;
        if self.creator.is_none() {
            self.creator = look.creator.as_ref().map(|creator| ObjectActor {
                pid: creator.pid,
                uid: creator.uid,
                gid: creator.gid,
                comm: None,
                facts: None,
            });
        }
        if self.last.is_none() {
            self.last = look.last.clone().map(|last| Last::Found(Box::new(last)));
        }
        let ObjectLook { messages, max_messages, bytes, .. } = *look;
        self.looked = (messages.is_some() || max_messages.is_some() || bytes.is_some())
            .then(|| Box::new(Looked { messages, max_messages, bytes }));
    }

    /// A call made it.
    pub(super) fn made(&mut self, birth: ObjectOrigin, by: ObjectActor, like: NewObjectAttrs) {
        self.birth = birth;
        self.uid = Some(by.uid);
        self.gid = Some(by.gid);
        self.mode = like.mode.or(self.mode);
        self.size = like.size.or(self.size);
        self.creator = Some(by);
    }

    /// A call used it. As [`Self::used_often`].
    pub(super) fn used(&mut self, act: &AppliedCall<'_>) -> bool {
        self.used_often(act, 1)
    }

    /// Calls of one thread used it, of which `act` was the last. Whether that is by somebody of a
    /// container or user that had not used it.
    pub(super) fn used_often(&mut self, act: &AppliedCall<'_>, uses: u64) -> bool {
        let AppliedCall { boot_ns, pid, uid, facts, .. } = *act;
        self.uses += uses;
        match &mut self.last {
            // Mostly it is the one that used it last.
            Some(Last::Seen { boot_ns: at, pid: last, uid: user, comm, facts: known })
                if *last == pid
                    && *user == uid
                    && known.as_ref().map(Rc::as_ptr) == facts.map(Rc::as_ptr)
                    && comm.is_none()
                    && act.another_comm().is_none() =>
            {
                *at = boot_ns.max(*at);
                return false;
            }
            // Calls that come together come late.
            Some(Last::Seen { boot_ns: at, .. }) if *at > boot_ns => {}
            last => {
                let (comm, facts) = (act.another_comm(), facts.cloned());
                *last = Some(Last::Seen { boot_ns, pid, uid, comm, facts });
            }
        }
        self.users.add(act)
    }

    /// In which containers and as which users it was used; some, if they are many.
    #[must_use]
    pub(crate) fn parties(&self) -> &[Accessor] {
        self.users.parties()
    }

    /// Who made it and who used it last, as far as calls of theirs were seen.
    pub(crate) fn accessors(&self) -> impl Iterator<Item = &Rc<TaskInfo>> {
        let creator = self.creator.as_ref().and_then(|who| who.facts.as_ref());
        let last = match &self.last {
            Some(Last::Seen { facts, .. }) => facts.as_ref(),
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

    /// As `ObjectLook::size`.
    #[must_use]
    pub(crate) const fn size(&self) -> Option<u64> {
        self.size
    }

    /// Processes that are known to have had to do with it.
    pub(super) fn pids(&self) -> BTreeSet<u32> {
        let creator = self.creator.iter().filter_map(|who| who.pid);
        let last = self.last.iter().filter_map(|last| match last {
            Last::Seen { pid, .. } => Some(*pid),
            Last::Found(last) => last.pid,
        });
        creator.chain(last).chain(self.users.processes().iter().map(|user| user.0)).collect()
    }

    /// When its end was noticed, or the call that removed it returned: what comes back with it then is
    /// another one.
    pub(super) const fn ended(&self) -> Option<u64> {
        match self.removed {
            Some(at) => Some(at),
            None => self.destroyed,
        }
    }

    /// When it was known to exist last.
    #[must_use]
    pub(crate) const fn last_seen(&self) -> Option<u64> {
        match &self.last {
            Some(Last::Seen { boot_ns, .. }) => Some(*boot_ns),
            Some(Last::Found(_)) | None => Some(self.birth.known_since()),
        }
    }

    /// Whether a key or name leads to it no more.
    #[must_use]
    pub(crate) const fn is_removed(&self) -> bool {
        self.removed.is_some() || self.seen_removed
    }

    /// Whether its users are gone and it is still there; `None`: not known. `open`: whether somebody
    /// is known to have it open or attached.
    pub(super) fn leaked(
        &self,
        open: Option<bool>,
        lives: &dyn Fn(ProcessKey) -> bool,
    ) -> Option<bool> {
        if self.is_removed() || self.destroyed.is_some() || open == Some(true) {
            return Some(false);
        }
        match self.users.gone(lives) {
            Some(true) => open.map(|open| !open),
            other => other,
        }
    }

    /// As it is shown.
    #[must_use]
    pub(crate) fn info(
        &self,
        local: ObjectId,
        clock: &Clock,
        containers: &Containers,
    ) -> ObjectLook {
        let owned = |text: &OsBytes<'static>| text.clone();
        let (id, ino) = match local {
            ObjectId::Sysv(_, id) => (Some(id), None),
            ObjectId::Queue(_, ino) => (None, (ino != 0).then_some(ino)),
        };
        let looked = self.looked.as_deref();
        ObjectLook {
            kind: FamilyName(local.kind()),
            id,
            key: self.key.map(Hex32),
            name: self.name.as_ref().map(|name| OsBytes(name.to_vec().into())),
            mode: self.mode.map(FileMode),
            uid: self.uid,
            gid: self.gid,
            size: self.size,
            messages: looked.and_then(|one| one.messages),
            max_messages: looked.and_then(|one| one.max_messages),
            bytes: looked.and_then(|one| one.bytes),
            creator: self.creator.as_ref().map(|who| Creator {
                pid: who.pid,
                uid: who.uid,
                gid: who.gid,
                comm: comm_at(who.comm.as_deref(), who.facts.as_ref()),
                exe: who.facts.as_ref().and_then(|facts| facts.exe.as_ref().map(owned)),
                start_boot_ns: who.facts.as_ref().map(|facts| facts.start_boot_ns),
                container: who.facts.as_ref().and_then(|facts| facts.container(containers)),
                exact: !matches!(self.birth, ObjectOrigin::Inferred(_)),
            }),
            last: self.last.as_ref().map(|last| match last {
                Last::Found(last) => (**last).clone(),
                Last::Seen { boot_ns, pid, comm, facts, .. } => LastUse {
                    pid: Some(*pid),
                    comm: comm_at(comm.as_deref(), facts.as_ref()),
                    time: Some(clock.time(*boot_ns)),
                },
            }),
            attached: self.attached,
            removed: self.is_removed(),
            ino,
        }
    }

    /// When a call made it, if that was seen.
    #[must_use]
    pub(crate) fn created(&self, clock: &Clock) -> Option<Timestamp> {
        match self.birth {
            ObjectOrigin::Seen(at) | ObjectOrigin::Inferred(at) => Some(clock.time(at)),
            ObjectOrigin::Found(_) | ObjectOrigin::Used(_) | ObjectOrigin::Removed(_) => None,
        }
    }
}
