//! A row for each call.

use std::sync::Arc;

use super::{
    Cell, RowRun,
    cell::{date, nanos},
    table,
};
use crate::event::{
    CallObject, Container, Ipc, IpcNs, Process, ReadFrom,
    args::Args,
    value::{AbiName, CallError, OpName, OsBytes},
};

/// A call.
#[derive(Debug)]
pub(crate) struct CallRow {
    run: Arc<RowRun>,
    seq: u64,
    time_ns: i64,
    op: OpName,
    abi: AbiName,
    ret: Option<i64>,
    error: Option<CallError>,
    made: Option<bool>,
    duration_ns: Option<u64>,
    process: Arc<Process<'static>>,
    container: Option<Arc<Container>>,
    ipc_ns: IpcNs,
    object: CallObject<'static>,
    args: Args,
    args_from: ReadFrom,
}

/// How many callers are kept.
const KEPT: usize = 256;

/// Makes rows of calls. It keeps the callers, which calls share.
#[derive(Debug)]
pub(crate) struct CallRows {
    run: Arc<RowRun>,
    /// By the low bits of their tids
    callers: Vec<Option<Arc<Process<'static>>>>,
}

impl CallRows {
    /// Of a run.
    pub(crate) fn new(run: Arc<RowRun>) -> Self {
        Self { run, callers: vec![None; KEPT] }
    }

    /// The row of a call.
    pub(crate) fn row(&mut self, ipc: &Ipc<'_>) -> CallRow {
        let object = &ipc.object;
        CallRow {
            run: Arc::clone(&self.run),
            seq: ipc.seq,
            time_ns: nanos(ipc.time),
            op: ipc.op,
            abi: ipc.abi,
            ret: ipc.ret,
            error: ipc.error,
            made: ipc.made,
            duration_ns: ipc.duration_ns,
            process: self.caller(&ipc.process),
            container: ipc.container.clone(),
            ipc_ns: ipc.ipc_ns,
            object: CallObject {
                kind: object.kind,
                id: object.id,
                key: object.key,
                name: object.name.clone().map(OsBytes::into_owned),
                name_from: object.name_from,
                ipc_ns: object.ipc_ns,
                foreign: object.foreign,
                ipc_ns_dead: object.ipc_ns_dead,
            },
            args: ipc.args.clone(),
            args_from: ipc.args_from,
        }
    }

    fn caller(&mut self, process: &Process<'_>) -> Arc<Process<'static>> {
        #[expect(clippy::indexing_slicing, reason = "the index is less than the length")]
        let place = &mut self.callers[process.tid as usize % KEPT];
        match place {
            Some(known) if **known == *process => Arc::clone(known),
            _ => Arc::clone(place.insert(Arc::new(process.clone().into_owned()))),
        }
    }
}

impl CallRow {
    /// Bytes of the message that it sent or received.
    fn bytes(&self) -> Option<u64> {
        if self.error.is_some() || self.made == Some(false) {
            return None;
        }
        #[expect(clippy::wildcard_enum_match_arm, reason = "others carry no message")]
        match self.args {
            Args::Msgsnd { msgsz, .. } => Some(msgsz),
            Args::MqSend { msg_len, .. } => Some(msg_len),
            Args::Msgrcv { .. } | Args::MqReceive { .. } => {
                self.ret.and_then(|ret| u64::try_from(ret).ok())
            }
            _ => None,
        }
    }

    fn container<'a>(&'a self, of: impl Fn(&'a Container) -> Cell<'a>) -> Cell<'a> {
        self.container.as_deref().map_or(Cell::Null, of)
    }
}

/// The name of a container, or its id while the name is unknown.
pub(super) fn container_name(container: &Container) -> Cell<'_> {
    container.name.as_ref().unwrap_or(&container.id).into()
}

/// The name of a source of values.
fn source(from: ReadFrom) -> &'static str {
    match from {
        ReadFrom::Kernel => "kernel",
        ReadFrom::Entry => "entry",
        ReadFrom::Return => "return",
    }
}

table! {
    /// a call that returned, as a line of `live`
    CALLS = "calls", CallRow {
        /// The host's name
        host: Text = |row| (&row.run.host).into(),
        /// The day on which it returned, in UTC
        date: Text = |row| date(row.time_ns),
        /// The id of the run of ipc-trace
        run_id: Text = |row| row.run.run_id.as_ref().into(),
        /// The number of its line
        seq: Integer = |row| row.seq.into(),
        /// When it returned
        time: Time = |row| Cell::Time(row.time_ns),
        /// The same, in nanoseconds since 1970
        time_ns: Integer = |row| row.time_ns.into(),
        /// The operation
        op: Text = |row| row.op.0.name().into(),
        /// The calling convention
        abi: Text = |row| row.abi.0.name().into(),
        /// The kernel's raw result
        ret: Integer = |row| row.ret.into(),
        /// The name of the error; null: it succeeded
        error: Text = |row| row.error.map(|error| error.to_string()).into(),
        /// Whether the kernel made the call; null: unknown
        made: Boolean = |row| row.made.into(),
        /// Nanoseconds in the kernel; null: it can't block, or unknown
        duration_ns: Integer = |row| row.duration_ns.into(),
        /// Bytes of the message that it sent or received
        bytes: Integer = |row| row.bytes().into(),
        /// The calling process, in the initial pid namespace
        pid: Integer = |row| row.process.pid.into(),
        /// The calling thread
        tid: Integer = |row| row.process.tid.into(),
        /// The parent
        ppid: Integer = |row| row.process.ppid.into(),
        /// The thread's name
        comm: Text = |row| (&row.process.comm).into(),
        /// The path of the executable
        exe: Text = |row| row.process.exe.as_ref().into(),
        /// The effective user
        uid: Integer = |row| row.process.uid.into(),
        /// The effective group
        gid: Integer = |row| row.process.gid.into(),
        /// When the process started, on CLOCK_BOOTTIME; with pid it identifies the process
        start_boot_ns: Integer = |row| row.process.start_boot_ns.into(),
        /// The container's name, or its id while the name is unknown; null: on the host
        container: Text = |row| row.container(container_name),
        /// The container's id
        container_id: Text = |row| row.container(|container| (&container.id).into()),
        /// Its runtime
        runtime: Text = |row| row.container(|container| (&*container.runtime).into()),
        /// Its image
        image: Text = |row| row.container(|container| container.image.as_ref().into()),
        /// Its pod
        pod: Text = |row| row.container(|container| container.pod.as_ref().into()),
        /// The inode number of the caller's IPC namespace
        ipc_ns: Integer = |row| row.ipc_ns.inum.into(),
        /// The generation of that number within the run
        ipc_ns_gen: Integer = |row| row.ipc_ns.r#gen.into(),
        /// Whether it is the host's namespace
        is_host_ns: Boolean = |row| row.ipc_ns.host.into(),
        /// The kind of object: shm, sem, msg or mq
        object_kind: Text = |row| row.object.kind.0.name().into(),
        /// The shmid, semid or msqid
        object_id: Integer = |row| row.object.id.into(),
        /// The key that was looked up
        object_key: Text = |row| row.object.key.map(|key| key.to_string()).into(),
        /// The queue's name, without the slash
        object_name: Text = |row| row.object.name.as_ref().into(),
        /// The inode number of the IPC namespace that the object belongs to
        object_ipc_ns: Integer = |row| row.object.ipc_ns.map(|ns| ns.inum).into(),
        /// The generation of that number
        object_ipc_ns_gen: Integer = |row| row.object.ipc_ns.map(|ns| ns.r#gen).into(),
        /// Whether that is another namespace than the caller's; null: unknown
        is_foreign: Boolean = |row| row.object.foreign.into(),
        /// The arguments, by the man page's names
        args: Json = |row| Cell::json(&row.args),
        /// Where the kernel took the arguments from: kernel, entry or return
        args_from: Text = |row| source(row.args_from).into(),
    }
}
