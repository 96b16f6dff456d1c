//! Namespaces, processes, containers, objects and findings, as a report has them: as they were at the end.

use std::sync::Arc;

use super::{Cell, RowRun, calls::container_name, cell::nanos, table};
use crate::event::{
    Container, Sharing,
    finding::Finding,
    objects::{Creator, ObjectReport},
    report::{NamespaceReport, ProcessReport, Report},
    value::Timestamp,
};

/// The namespace that a row is of.
#[derive(Clone, Debug)]
struct OfNamespace {
    run: Arc<RowRun>,
    inum: u32,
    generation: u32,
    host: bool,
}

/// A namespace.
#[derive(Debug)]
pub(crate) struct NamespaceRow {
    of: OfNamespace,
    ns: NamespaceReport,
    objects: usize,
    processes: usize,
}

/// A process in a namespace.
#[derive(Debug)]
pub(crate) struct ProcessRow {
    of: OfNamespace,
    process: ProcessReport,
}

/// A container in a namespace.
#[derive(Debug)]
pub(crate) struct ContainerRow {
    of: OfNamespace,
    container: Arc<Container>,
}

/// An object.
#[derive(Debug)]
pub(crate) struct ObjectRow {
    of: OfNamespace,
    object: ObjectReport,
}

/// A finding.
#[derive(Debug)]
pub(crate) struct FindingRow {
    run: Arc<RowRun>,
    finding: Finding,
}

/// The rows of reports.
#[derive(Debug, Default)]
pub(crate) struct StateRows {
    /// Findings
    pub findings: Vec<FindingRow>,
    /// Objects
    pub objects: Vec<ObjectRow>,
    /// Namespaces
    pub namespaces: Vec<NamespaceRow>,
    /// Processes
    pub processes: Vec<ProcessRow>,
    /// Containers
    pub containers: Vec<ContainerRow>,
}

impl StateRows {
    /// Adds what a report has.
    pub(crate) fn add(&mut self, report: &Report) {
        let run = RowRun::new(&report.host, report.run_id.as_deref());
        let row =
            |finding: &Finding| FindingRow { run: Arc::clone(&run), finding: finding.clone() };
        self.findings.extend(report.findings.iter().map(row));
        for ns in &report.namespaces {
            let mut ns = ns.clone();
            let of = OfNamespace {
                run: Arc::clone(&run),
                inum: ns.inum,
                generation: ns.r#gen,
                host: ns.host,
            };
            let objects = std::mem::take(&mut ns.objects);
            let processes = std::mem::take(&mut ns.processes);
            let row = NamespaceRow {
                of: of.clone(),
                objects: objects.len(),
                processes: processes.len(),
                ns,
            };
            let containers = row.ns.containers.iter().cloned();
            self.containers
                .extend(containers.map(|container| ContainerRow { of: of.clone(), container }));
            let of = &of;
            self.objects
                .extend(objects.into_iter().map(|object| ObjectRow { of: of.clone(), object }));
            self.processes.extend(
                processes.into_iter().map(|process| ProcessRow { of: of.clone(), process }),
            );
            self.namespaces.push(row);
        }
    }
}

fn time_ns(time: Option<Timestamp>) -> Cell<'static> {
    time.map(nanos).into()
}

fn name(container: Option<&Arc<Container>>) -> Cell<'_> {
    container.map_or(Cell::Null, |container| container_name(container))
}

fn id(container: Option<&Arc<Container>>) -> Cell<'_> {
    container.map(|container| &container.id).into()
}

impl NamespaceRow {
    fn sum(&self, of: impl Fn(&crate::event::report::OpReport) -> u64) -> u64 {
        self.ns.ops.values().map(of).fold(0, u64::saturating_add)
    }

    fn creator<'a, T: Into<Cell<'a>>>(
        &'a self,
        of: impl Fn(&'a crate::event::Process<'static>) -> T,
    ) -> Cell<'a> {
        self.ns.created.as_ref().and_then(|created| created.process.as_ref()).map(of).into()
    }
}

table! {
    /// an IPC namespace: one generation of an inode number
    NAMESPACES = "namespaces", NamespaceRow {
        /// The host's name
        host: Text = |row| (&row.of.run.host).into(),
        /// The id of the run of ipc-trace
        run_id: Text = |row| row.of.run.run_id.as_ref().into(),
        /// The inode number
        ipc_ns: Integer = |row| row.of.inum.into(),
        /// The generation of that number within the run
        ipc_ns_gen: Integer = |row| row.of.generation.into(),
        /// The kernel's own number of it; null before Linux 6.18
        ns_id: Integer = |row| row.ns.ns_id.into(),
        /// Whether it is the host's
        is_host_ns: Boolean = |row| row.of.host.into(),
        /// When it was created; null: not observed
        created: Time = |row| row.ns.created.as_ref().map(|created| created.time).into(),
        /// The same, in nanoseconds since 1970
        created_ns: Integer = |row| time_ns(row.ns.created.as_ref().map(|created| created.time)),
        /// The process that created it
        creator_pid: Integer = |row| row.creator(|process| process.pid),
        /// The name of the thread that created it
        creator_comm: Text = |row| row.creator(|process| &process.comm),
        /// When it no longer existed; null: it exists, or not observed
        destroyed: Time = |row| row.ns.destroyed.map(|end| end.before).into(),
        /// The same, in nanoseconds since 1970
        destroyed_ns: Integer = |row| time_ns(row.ns.destroyed.map(|end| end.before)),
        /// Calls from it, with those whose details were lost
        calls: Integer = |row| row.sum(|op| op.counts.calls).into(),
        /// Failed ones among them
        failed: Integer = |row| row.sum(|op| op.counts.failed).into(),
        /// Calls of which only counts are known
        dropped: Integer = |row| row.ns.dropped.into(),
        /// Calls from other namespaces on its objects
        foreign_calls: Integer = |row| row.ns.foreign_calls.into(),
        /// Objects that exist or existed
        objects: Integer = |row| row.objects.into(),
        /// Processes that made calls in it, or on its objects
        processes: Integer = |row| row.processes.into(),
        /// The names of its containers
        containers: Json = |row| Cell::json(
            &row.ns.containers.iter().map(|one| one.name.as_ref().unwrap_or(&one.id)).collect::<Vec<_>>(),
        ),
        /// How they share it: declared, unknown or undeclared
        sharing: Text = |row| row.ns.sharing.map(|sharing| match sharing {
            Sharing::Declared => "declared",
            Sharing::Unknown => "unknown",
            Sharing::Undeclared => "undeclared",
        }).into(),
    }
}

table! {
    /// a process that made calls in an IPC namespace, or on its objects
    PROCESSES = "processes", ProcessRow {
        /// The host's name
        host: Text = |row| (&row.of.run.host).into(),
        /// The id of the run of ipc-trace
        run_id: Text = |row| row.of.run.run_id.as_ref().into(),
        /// The inode number of the IPC namespace
        ipc_ns: Integer = |row| row.of.inum.into(),
        /// The generation of that number
        ipc_ns_gen: Integer = |row| row.of.generation.into(),
        /// Its number in the initial pid namespace
        pid: Integer = |row| row.process.pid.into(),
        /// The parent
        ppid: Integer = |row| row.process.ppid.into(),
        /// The name of the thread that made the first call
        comm: Text = |row| (&row.process.comm).into(),
        /// The path of the executable
        exe: Text = |row| row.process.exe.as_ref().into(),
        /// The effective user
        uid: Integer = |row| row.process.uid.into(),
        /// The effective group
        gid: Integer = |row| row.process.gid.into(),
        /// When it started, on CLOCK_BOOTTIME; with pid it identifies the process
        start_boot_ns: Integer = |row| row.process.start_boot_ns.into(),
        /// Its systemd unit
        unit: Text = |row| row.process.identity.unit.as_deref().into(),
        /// The container's name, or its id while the name is unknown; null: on the host
        container: Text = |row| name(row.process.container.as_ref()),
        /// The container's id
        container_id: Text = |row| id(row.process.container.as_ref()),
        /// Its calls
        calls: Integer = |row| row.process.calls.into(),
        /// Failed ones among them
        failed: Integer = |row| row.process.failed.into(),
        /// Those on objects of other namespaces
        foreign_calls: Integer = |row| row.process.foreign_calls.into(),
    }
}

table! {
    /// a container with processes in an IPC namespace
    CONTAINERS = "containers", ContainerRow {
        /// The host's name
        host: Text = |row| (&row.of.run.host).into(),
        /// The id of the run of ipc-trace
        run_id: Text = |row| row.of.run.run_id.as_ref().into(),
        /// The inode number of the IPC namespace
        ipc_ns: Integer = |row| row.of.inum.into(),
        /// The generation of that number
        ipc_ns_gen: Integer = |row| row.of.generation.into(),
        /// Its name, or its id while the name is unknown
        container: Text = |row| container_name(&row.container),
        /// Its id
        container_id: Text = |row| (&row.container.id).into(),
        /// Its runtime
        runtime: Text = |row| (&*row.container.runtime).into(),
        /// Its image
        image: Text = |row| row.container.image.as_ref().into(),
        /// Its pod
        pod: Text = |row| row.container.pod.as_ref().into(),
        /// Its pod's namespace in Kubernetes
        pod_namespace: Text = |row| row.container.pod_namespace.as_ref().into(),
        /// Its pod's labels
        labels: Json = |row| Cell::json(&row.container.labels),
        /// The IPC mode that its runtime has configured
        ipc_mode: Text = |row| row.container.ipc_mode.as_ref().into(),
    }
}

impl ObjectRow {
    fn creator<'a, T: Into<Cell<'a>>>(&'a self, of: impl Fn(&'a Creator) -> T) -> Cell<'a> {
        self.object.info.creator.as_ref().map(of).into()
    }
}

table! {
    /// an object
    OBJECTS = "objects", ObjectRow {
        /// The host's name
        host: Text = |row| (&row.of.run.host).into(),
        /// The id of the run of ipc-trace
        run_id: Text = |row| row.of.run.run_id.as_ref().into(),
        /// The inode number of the IPC namespace that it belongs to
        ipc_ns: Integer = |row| row.of.inum.into(),
        /// The generation of that number
        ipc_ns_gen: Integer = |row| row.of.generation.into(),
        /// Its kind: shm, sem, msg or mq
        object_kind: Text = |row| row.object.info.kind.0.name().into(),
        /// The shmid, semid or msqid
        object_id: Integer = |row| row.object.info.id.into(),
        /// Its key
        object_key: Text = |row| row.object.info.key.map(|key| key.to_string()).into(),
        /// The queue's name, without the slash
        object_name: Text = |row| row.object.info.name.as_ref().into(),
        /// Its permissions, in octal
        mode: Text = |row| row.object.info.mode.map(|mode| mode.to_string()).into(),
        /// Its owner
        uid: Integer = |row| row.object.info.uid.into(),
        /// Its owner's group
        gid: Integer = |row| row.object.info.gid.into(),
        /// shm: bytes; sem: semaphores; msg, mq: capacity in bytes
        size: Integer = |row| row.object.info.size.into(),
        /// When it was created; null: not observed
        created: Time = |row| row.object.created.into(),
        /// The same, in nanoseconds since 1970
        created_ns: Integer = |row| time_ns(row.object.created),
        /// When it was removed; null: it wasn't
        removed: Time = |row| row.object.removed_at.into(),
        /// The same, in nanoseconds since 1970
        removed_ns: Integer = |row| time_ns(row.object.removed_at),
        /// When it was destroyed; null: it exists
        destroyed: Time = |row| row.object.destroyed.into(),
        /// The same, in nanoseconds since 1970
        destroyed_ns: Integer = |row| time_ns(row.object.destroyed),
        /// Successful calls on it
        uses: Integer = |row| row.object.uses.into(),
        /// Whether it exists though all of its users have exited; null: unknown
        is_leaked: Boolean = |row| row.object.leaked.into(),
        /// The process that created it
        creator_pid: Integer = |row| row.creator(|creator| creator.pid),
        /// The name of the thread that created it
        creator_comm: Text = |row| row.creator(|creator| creator.comm.as_ref()),
        /// The path of its executable
        creator_exe: Text = |row| row.creator(|creator| creator.exe.as_ref()),
        /// The user that created it
        creator_uid: Integer = |row| row.creator(|creator| creator.uid),
        /// The container that created it; null: on the host, or unknown
        creator_container: Text = |row| name(
            row.object.info.creator.as_ref().and_then(|creator| creator.container.as_ref()),
        ),
        /// The process that used it last
        last_pid: Integer = |row| row.object.info.last.as_ref().map(|last| last.pid).into(),
        /// The name of that thread
        last_comm: Text = |row| {
            row.object.info.last.as_ref().and_then(|last| last.comm.as_ref()).into()
        },
        /// When it was last used
        last_used: Time = |row| row.object.info.last.as_ref().map(|last| last.time).into(),
        /// The same, in nanoseconds since 1970
        last_used_ns: Integer = |row| {
            time_ns(row.object.info.last.as_ref().and_then(|last| last.time))
        },
    }
}

impl FindingRow {
    fn process<'a, T: Into<Cell<'a>>>(
        &'a self,
        of: impl Fn(&'a crate::event::Process<'static>) -> T,
    ) -> Cell<'a> {
        self.finding.subject.process.as_ref().map(of).into()
    }

    fn object<'a, T: Into<Cell<'a>>>(
        &'a self,
        of: impl Fn(&'a crate::event::finding::FoundObject) -> T,
    ) -> Cell<'a> {
        self.finding.object.as_ref().map(of).into()
    }
}

table! {
    /// a finding: an access or attempt across namespaces or containers
    FINDINGS = "findings", FindingRow {
        /// The host's name
        host: Text = |row| (&row.run.host).into(),
        /// The id of the run of ipc-trace
        run_id: Text = |row| row.run.run_id.as_ref().into(),
        /// Its number within the run
        finding: Integer = |row| row.finding.id.into(),
        /// Its class
        class: Text = |row| row.finding.class.name().into(),
        /// Its severity, after the policy: info, low, medium, high or critical
        severity: Text = |row| row.finding.severity.name().into(),
        /// The confidence that it is right, from 0 to 100
        confidence: Integer = |row| row.finding.confidence.into(),
        /// What happened, in one sentence
        title: Text = |row| (&row.finding.title).into(),
        /// When it was first observed
        first: Time = |row| row.finding.first.into(),
        /// The same, in nanoseconds since 1970
        first_ns: Integer = |row| nanos(row.finding.first).into(),
        /// When it was last observed
        last: Time = |row| row.finding.last.into(),
        /// The same, in nanoseconds since 1970
        last_ns: Integer = |row| nanos(row.finding.last).into(),
        /// Observations
        count: Integer = |row| row.finding.count.into(),
        /// The process that did it; null: it is about a container
        pid: Integer = |row| row.process(|process| process.pid),
        /// Its thread
        tid: Integer = |row| row.process(|process| process.tid),
        /// The thread's name
        comm: Text = |row| row.process(|process| &process.comm),
        /// The path of the executable
        exe: Text = |row| row.process(|process| process.exe.as_ref()),
        /// The effective user
        uid: Integer = |row| row.process(|process| process.uid),
        /// When the process started, on CLOCK_BOOTTIME
        start_boot_ns: Integer = |row| row.process(|process| process.start_boot_ns),
        /// The container's name, or its id while the name is unknown; null: on the host
        container: Text = |row| name(row.finding.subject.container.as_ref()),
        /// The container's id
        container_id: Text = |row| id(row.finding.subject.container.as_ref()),
        /// The inode number of its IPC namespace
        ipc_ns: Integer = |row| row.finding.subject.ipc_ns.map(|ns| ns.inum).into(),
        /// The generation of that number
        ipc_ns_gen: Integer = |row| row.finding.subject.ipc_ns.map(|ns| ns.r#gen).into(),
        /// The object's kind; null: the namespace itself, or none
        object_kind: Text = |row| row.object(|object| object.kind.map(|kind| kind.0.name())),
        /// The shmid, semid or msqid
        object_id: Integer = |row| row.object(|object| object.id),
        /// The key
        object_key: Text = |row| row.object(|object| object.key.map(|key| key.to_string())),
        /// The name of a queue or file
        object_name: Text = |row| row.object(|object| object.name.as_ref()),
        /// The inode number of the IPC namespace that the object belongs to
        object_ipc_ns: Integer = |row| row.object(|object| object.ipc_ns.map(|ns| ns.inum)),
        /// The generation of that number
        object_ipc_ns_gen: Integer = |row| row.object(|object| object.ipc_ns.map(|ns| ns.r#gen)),
        /// The container that the object belongs to
        owner_container: Text = |row| {
            name(row.finding.object.as_ref().and_then(|object| object.owner_container.as_ref()))
        },
        /// Whether its owner is the host
        is_owner_host: Boolean = |row| row.object(|object| object.owner_on_host),
        /// The rule or configuration that allows it
        declared_by: Text = |row| row.finding.declared_by.as_ref().into(),
        /// The events that support it
        events: Json = |row| Cell::json(&row.finding.events),
        /// The reasons for the confidence
        reasons: Json = |row| Cell::json(&row.finding.reasons),
        /// A benign explanation
        benign_explanation: Text = |row| (&*row.finding.benign_explanation).into(),
        /// A policy rule that would allow it
        policy: Text = |row| row.finding.policy.as_ref().into(),
    }
}
