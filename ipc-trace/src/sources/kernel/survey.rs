//! Who holds what now, as the kernel side's iterators list it: all IPC namespaces and threads,
//! descriptors that have to do with IPC, mapped segments. Nothing is traced for it.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, OwnedFd},
};

use ipc_trace_common::record::{
    DescriptorRecord, MappingRecord, NamespaceRecord, TaskRecord, flag,
};

use super::{
    attach,
    census::{CensusError, listed},
    error::SessionError,
    layout::Layout,
    object::Linked,
};
use crate::sources::kernel::decode::{self, Record};

/// The threads and namespaces that exist.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    /// All IPC namespaces
    pub namespaces: Vec<NamespaceRecord>,
    /// Whether these are all
    pub complete: bool,
    /// All threads of the pid namespace that this process is in
    pub tasks: Vec<TaskRecord>,
    /// This process, in the initial pid namespace
    pub self_pid: u32,
    /// Inode number of this process's IPC namespace, by the way that the programs take
    pub self_ns_inum: u32,
}

/// Programs, and what each iterates over.
const PROGRAMS: [(&str, &str); 3] = [
    ("survey_tasks", "task"),
    ("survey_descriptors", "task_file"),
    ("survey_mappings", "task_vma"),
];

/// The iterators, loaded; or why the kernel did not take one.
#[derive(Debug)]
pub(crate) struct Survey {
    programs: BTreeMap<&'static str, Result<OwnedFd, String>>,
}

impl Survey {
    /// Loads the object of the kernel side for this alone.
    ///
    /// # Errors
    /// The maps can't be made.
    pub(crate) fn load(layout: &Layout) -> Result<Self, SessionError> {
        Ok(Self::of(&attach::link_for_iterators(layout)?, layout))
    }

    /// Loads them from an object.
    pub(super) fn of(linked: &Linked, layout: &Layout) -> Self {
        let load = |(name, over)| (name, linked.iterator(name, over, layout));
        Self { programs: PROGRAMS.into_iter().map(load).collect() }
    }

    /// The namespaces and threads.
    ///
    /// # Errors
    /// The kernel does not take the program, or what it gives can't be read.
    pub(crate) fn tasks(&self) -> Result<Tasks, CensusError> {
        let mut found = Tasks::default();
        self.each("survey_tasks", |record| match record {
            Record::Alive(r) => found.namespaces.push(*r),
            Record::Task(r) => found.tasks.push(*r),
            Record::End(r) => {
                found.complete = r.header.flags & flag::TRUNCATED == 0 && r.namespaces != u64::MAX;
                found.self_pid = r.self_pid;
                found.self_ns_inum = r.self_ns_inum;
            }
            Record::Call(_)
            | Record::Context(..)
            | Record::Namespace(_)
            | Record::Move(_)
            | Record::Exit(_)
            | Record::Queue(_)
            | Record::Pending(..)
            | Record::Descriptor(_)
            | Record::Mapping(_)
            | Record::Change(_)
            | Record::Batch(_)
            | Record::Cgroup(_)
            | Record::Access(_)
            | Record::Unknown => {}
        })?;
        Ok(found)
    }

    /// Descriptors of namespaces (of any kind), of queues and of files of `/proc/sysvipc`.
    ///
    /// # Errors
    /// As [`Self::tasks`].
    pub(crate) fn descriptors(&self) -> Result<Vec<DescriptorRecord>, CensusError> {
        let mut found = Vec::new();
        self.each("survey_descriptors", |record| {
            if let Record::Descriptor(r) = record {
                found.push(*r);
            }
        })?;
        Ok(found)
    }

    /// Mapped segments; one may be listed twice.
    ///
    /// # Errors
    /// As [`Self::tasks`]; kernels before 5.12 can't list mappings so.
    pub(crate) fn mappings(&self) -> Result<Vec<MappingRecord>, CensusError> {
        let mut found = Vec::new();
        self.each("survey_mappings", |record| {
            if let Record::Mapping(r) = record {
                found.push(*r);
            }
        })?;
        Ok(found)
    }

    fn each(&self, name: &str, each: impl FnMut(Record<'_>)) -> Result<(), CensusError> {
        let program = match self.programs.get(name) {
            Some(Ok(program)) => program,
            Some(Err(reason)) => return Err(CensusError::Load(reason.clone())),
            None => return Err(CensusError::Load(format!("there is no program {name}"))),
        };
        Ok(decode::iterated(&listed(program.as_fd())?, each)?)
    }
}
