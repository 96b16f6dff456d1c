//! Events for the tests of the text: ordinary ones, and ones with a hostile process's data.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    time::{Duration, UNIX_EPOCH},
};

use ipc_trace_common::{
    op::{Abi, ObjectKind, Op},
    state::HOST_INUM,
};

use crate::event::{
    CallObject, Container, Ipc, IpcNs, IpcNsRef, NsInodes, PendingCall, Process, ReadFrom,
    args::{Args, CommandName, IpcSet, MqAttr, Sigevent, Sop, Timespec},
    identity::ProcessIdentity,
    objects::{Creator, LastUse, ObjectInfo},
    value::{
        AbiName, Address, CallError, FileMode, Flags, Hex32, KindName, OpName, OsBytes, Timestamp,
    },
};

pub(super) const HOST: IpcNs = IpcNs { inum: HOST_INUM, r#gen: 1, ns_id: Some(1), host: true };
pub(super) const APP: IpcNs = IpcNs { inum: 4_026_532_180, r#gen: 1, ns_id: None, host: false };
pub(super) const AGAIN: IpcNs = IpcNs { inum: 4_026_532_301, r#gen: 2, ns_id: None, host: false };

/// A name that would clear the screen, forge a line and turn the text around.
pub(super) const HOSTILE: &str = "a\x1b[2J\r\n\u{202e}x";

pub(super) const fn ns_ref(ns: IpcNs) -> IpcNsRef {
    IpcNsRef { inum: ns.inum, r#gen: ns.r#gen }
}

/// Milliseconds after 2026-11-23 14:44:40 UTC.
pub(super) fn at(millis: u64) -> Timestamp {
    Timestamp(UNIX_EPOCH + Duration::from_millis(1_795_445_080_000 + millis))
}

pub(super) fn text(text: &str) -> OsBytes<'static> {
    OsBytes(Cow::Owned(text.as_bytes().to_vec()))
}

pub(super) fn process(pid: u32, comm: &str) -> Process<'static> {
    Process {
        pid,
        tid: pid,
        ppid: Some(4200),
        comm: text(comm),
        exe: Some(text("/usr/bin/worker")),
        exe_deleted: false,
        uid: 1000,
        gid: 1000,
        start_boot_ns: Some(1_443_900_000_000),
        ns: NsInodes::default(),
        identity: ProcessIdentity::default(),
    }
}

pub(super) fn container() -> Container {
    Container {
        runtime: "docker".into(),
        id: text("d8522205927a2b6a4f1b7c3c0e9d5a4f8e7d6c5b4a39281706f5e4d3c2b1a090"),
        name: Some(text("app1")),
        image: Some(text("alpine:latest")),
        pod: None,
        pod_uid: None,
        pod_namespace: None,
        labels: BTreeMap::new(),
        labels_lost: 0,
        ipc_mode: None,
    }
}

/// An object of [`APP`] or another namespace, with all fields known.
pub(super) fn object(kind: ObjectKind, id: Option<i32>, name: Option<&str>) -> ObjectInfo {
    ObjectInfo {
        kind: KindName(kind),
        id,
        key: id.map(|_| Hex32(0x8cd1_ab21)),
        name: name.map(text),
        mode: Some(FileMode(0o640)),
        uid: Some(1000),
        gid: Some(100),
        size: Some(16_384),
        messages: None,
        max_messages: None,
        bytes: None,
        creator: Some(Creator {
            pid: Some(4242),
            uid: 1000,
            gid: 100,
            comm: Some(text("worker")),
            exe: Some(text("/usr/bin/worker")),
            start_boot_ns: Some(1_443_900_000_000),
            container: None,
            exact: true,
        }),
        last: Some(LastUse { pid: Some(7), comm: Some(text(HOSTILE)), time: Some(at(565)) }),
        attached: None,
        removed: false,
        ino: None,
    }
}

/// An object without known fields.
pub(super) fn unknown_object(kind: ObjectKind) -> ObjectInfo {
    let (key, name, last) = (None, None, None);
    let (mode, uid, gid, size, creator) = (None, None, None, None, None);
    ObjectInfo { key, name, last, mode, uid, gid, size, creator, ..object(kind, None, None) }
}

/// A call in [`APP`] by `worker[4242]` without further data.
pub(super) fn call(op: Op, ret: i64, args: Args) -> Ipc<'static> {
    Ipc {
        seq: 17,
        time: at(565),
        boot_ns: 1_444_040_565_716,
        op: OpName(op),
        abi: AbiName(Abi::X86_64),
        ret: Some(ret),
        error: CallError::from_ret(ret),
        made: Some(true),
        duration_ns: None,
        process: process(4242, "worker"),
        container: None,
        ipc_ns: APP,
        object: CallObject {
            kind: KindName(op.object_kind()),
            id: None,
            key: None,
            name: None,
            name_from: None,
            ipc_ns: None,
            foreign: None,
            ipc_ns_dead: false,
        },
        args,
        args_from: ReadFrom::Entry,
    }
}

const GET: &[(u64, u64, &str)] = &[(0o1000, 0o1000, "IPC_CREAT"), (0o2000, 0o2000, "IPC_EXCL")];
const OPERATE: &[(u64, u64, &str)] =
    &[(0o4000, 0o4000, "IPC_NOWAIT"), (0x1000, 0x1000, "SEM_UNDO")];
const ATTACH: &[(u64, u64, &str)] = &[(0o10000, 0o10000, "SHM_RDONLY")];
const OPEN: &[(u64, u64, &str)] = &[
    (3, 0, "O_RDONLY"),
    (3, 1, "O_WRONLY"),
    (3, 2, "O_RDWR"),
    (0o100, 0o100, "O_CREAT"),
    (0o4000, 0o4000, "O_NONBLOCK"),
];

const ATTRIBUTE: &[(u64, u64, &str)] = &[(0o4000, 0o4000, "O_NONBLOCK")];

const fn flags(names: &'static [(u64, u64, &'static str)], bits: u64) -> Flags {
    Flags { bits, names }
}

const fn command(number: u32, name: &'static str) -> CommandName {
    CommandName { number, name: Some(name) }
}

const BUFFER: Address = Address(0x7ffd_1234_5678);
const NULL: Address = Address(0);
const SET: IpcSet = IpcSet { uid: 1000, gid: 100, mode: FileMode(0o600), msg_qbytes: None };
const ATTR: MqAttr =
    MqAttr { mq_flags: flags(ATTRIBUTE, 0), mq_maxmsg: 10, mq_msgsize: 8192, mq_curmsgs: 0 };

const fn sop(sem_num: u16, sem_op: i16, sem_flg: u64) -> Sop {
    Sop { sem_num, sem_op, sem_flg: flags(OPERATE, sem_flg) }
}

const fn limit(tv_sec: i64, tv_nsec: i64) -> Option<Timespec> {
    Some(Timespec { tv_sec, tv_nsec })
}

pub(super) fn semop(sops: Option<Vec<Sop>>) -> Args {
    let nsops = sops.as_ref().map_or(1, |sops| sops.len() as u32);
    Args::Semop { semid: 3, nsops, sops, sops_truncated: false, timeout: None }
}

pub(super) fn one_sop() -> Option<Vec<Sop>> {
    Some(vec![sop(0, -1, 0o4000)])
}

fn system_v() -> Vec<Ipc<'static>> {
    let (key, mode) = (Hex32(0x8cd1_ab21), FileMode(0o600));
    let create = flags(GET, 0o1600);
    let many = vec![sop(0, -1, 0o4000), sop(1, 1, 0), sop(2, 0, 0x1000)];
    vec![
        call(Op::Shmget, 5, Args::Shmget { key, size: 1 << 40, shmflg: create, mode }),
        call(
            Op::Shmget,
            -2,
            Args::Shmget { key: Hex32(0), size: 0, shmflg: flags(GET, 0), mode: FileMode(0) },
        ),
        call(
            Op::Shmat,
            0x7f12_ab00_0000,
            Args::Shmat { shmid: 5, shmaddr: NULL, shmflg: flags(ATTACH, 0o10000) },
        ),
        call(Op::Shmdt, 0, Args::Shmdt { shmaddr: Address(0x7f12_ab00_0000) }),
        call(
            Op::Shmctl,
            0,
            Args::Shmctl { shmid: 5, cmd: command(0, "IPC_RMID"), buf: NULL, set: None },
        ),
        call(
            Op::Shmctl,
            -1,
            Args::Shmctl { shmid: 5, cmd: command(1, "IPC_SET"), buf: BUFFER, set: Some(SET) },
        ),
        call(
            Op::Semget,
            3,
            Args::Semget { key, nsems: 250, semflg: flags(GET, 0o3666), mode: FileMode(0o666) },
        ),
        call(Op::Semop, -11, semop(one_sop())),
        call(Op::Semop, -512, semop(None)),
        call(
            Op::Semop,
            0,
            Args::Semop {
                semid: 3,
                nsops: 9,
                sops: Some(many),
                sops_truncated: true,
                timeout: limit(1, 500_000_000),
            },
        ),
        call(
            Op::Semctl,
            0,
            Args::Semctl {
                semid: 3,
                semnum: 1,
                cmd: command(16, "SETVAL"),
                arg: Some(Address(7)),
                val: Some(7),
                set: None,
            },
        ),
        call(
            Op::Semctl,
            -22,
            Args::Semctl {
                semid: 3,
                semnum: 0,
                cmd: CommandName { number: 0x4d2, name: None },
                arg: Some(BUFFER),
                val: None,
                set: None,
            },
        ),
        call(Op::Msgget, 0, Args::Msgget { key, msgflg: flags(GET, 0x4000_0180), mode }),
        call(
            Op::Msgsnd,
            0,
            Args::Msgsnd {
                msqid: 0,
                msgp: BUFFER,
                msgsz: 64,
                msgflg: flags(OPERATE, 0),
                mtype: Some(1),
            },
        ),
        call(
            Op::Msgrcv,
            -42,
            Args::Msgrcv {
                msqid: 0,
                msgp: Some(BUFFER),
                msgsz: 8192,
                msgtyp: Some(-3),
                msgflg: flags(OPERATE, 0o4000),
                mtype: None,
            },
        ),
        call(
            Op::Msgctl,
            0,
            Args::Msgctl {
                msqid: 0,
                cmd: command(1, "IPC_SET"),
                buf: BUFFER,
                set: Some(IpcSet { msg_qbytes: Some(16384), ..SET }),
            },
        ),
    ]
}

fn queues() -> Vec<Ipc<'static>> {
    let name = Some(text("jobs"));
    vec![
        call(
            Op::MqOpen,
            3,
            Args::MqOpen {
                name: name.clone(),
                name_truncated: false,
                oflag: flags(OPEN, 0o102),
                mode: Some(FileMode(0o600)),
                attr: Some(MqAttr { mq_flags: flags(ATTRIBUTE, 0o4000), ..ATTR }),
            },
        ),
        call(
            Op::MqOpen,
            -14,
            Args::MqOpen {
                name: None,
                name_truncated: false,
                oflag: flags(OPEN, 0),
                mode: None,
                attr: None,
            },
        ),
        call(Op::MqUnlink, -2, Args::MqUnlink { name: Some(text(HOSTILE)), name_truncated: true }),
        call(
            Op::MqSend,
            -110,
            Args::MqSend {
                mqdes: 3,
                msg_ptr: BUFFER,
                msg_len: 64,
                msg_prio: 5,
                abs_timeout: limit(1_795_445_080, 0),
            },
        ),
        call(
            Op::MqReceive,
            64,
            Args::MqReceive {
                mqdes: 3,
                msg_ptr: BUFFER,
                msg_len: 8192,
                msg_prio: Some(5),
                abs_timeout: limit(0, -1),
            },
        ),
        call(
            Op::MqNotify,
            0,
            Args::MqNotify {
                mqdes: 3,
                sevp: Some(Sigevent { sigev_notify: command(0, "SIGEV_SIGNAL"), sigev_signo: 10 }),
            },
        ),
        call(Op::MqNotify, -16, Args::MqNotify { mqdes: 3, sevp: None }),
        call(
            Op::MqGetsetattr,
            0,
            Args::MqGetsetattr {
                mqdes: 3,
                newattr: None,
                oldattr: Some(MqAttr { mq_curmsgs: 4, ..ATTR }),
            },
        ),
    ]
}

/// A call of every operation, with and without its optional data.
pub(crate) fn every_operation() -> Vec<Ipc<'static>> {
    let calls: Vec<_> = system_v().into_iter().chain(queues()).collect();
    for op in Op::ALL {
        assert!(calls.iter().any(|call| call.op == OpName(op)), "{op:?}");
    }
    calls
}

/// Two calls that have not returned, the longest first.
pub(super) fn pending() -> Vec<PendingCall> {
    let semop = PendingCall {
        op: OpName(Op::Semop),
        abi: AbiName(Abi::X86_64),
        pid: 4242,
        tid: 4242,
        comm: text("worker"),
        exe: None,
        ipc_ns: APP,
        kind: KindName(ObjectKind::Sem),
        id: Some(3),
        mqdes: None,
        name: None,
        since: at(0),
        for_ns: 14_000_000_000,
    };
    let receive = PendingCall {
        op: OpName(Op::MqReceive),
        tid: 4250,
        comm: text(HOSTILE),
        kind: KindName(ObjectKind::Mq),
        id: None,
        mqdes: Some(3),
        name: Some(text("jobs")),
        since: at(3_500),
        for_ns: 10_500_000_000,
        ipc_ns: HOST,
        ..semop.clone()
    };
    vec![semop, receive]
}
