//! The eBPF programs' task iterators: all IPC namespaces and threads, descriptors related to IPC, and mapped
//! segments. They need no tracing.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, OwnedFd},
};

use ipc_trace_common::record::{DescriptorRecord, MappingRecord, NamespaceRecord, TaskRecord};

use super::{
    attach,
    error::SessionError,
    field_offsets::Layout,
    loader::LoadedObject,
    namespace_list::{NamespaceListError, listed},
};
use crate::sources::kernel::decode::{self, IteratorRecord};

/// The threads and namespaces that exist.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    /// All IPC namespaces
    pub namespaces: Vec<NamespaceRecord>,
    /// Whether the list is complete
    pub complete: bool,
    /// All threads of this process's pid namespace
    pub tasks: Vec<TaskRecord>,
    /// This process's pid, in the initial pid namespace
    pub self_pid: u32,
    /// Inode number of this process's IPC namespace, as the programs read it
    pub self_ns_inum: u32,
}

/// The programs, with what each iterates over.
const PROGRAMS: [(&str, &str); 3] =
    [("iter_tasks", "task"), ("iter_descriptors", "task_file"), ("iter_mappings", "task_vma")];

/// The loaded iterators; or why the kernel rejected one.
#[derive(Debug)]
pub(crate) struct TaskIterators {
    programs: BTreeMap<&'static str, Result<OwnedFd, String>>,
}

impl TaskIterators {
    /// Loads the eBPF programs' object for these iterators only.
    ///
    /// # Errors
    /// The maps can't be created.
    pub(crate) fn load(layout: &Layout) -> Result<Self, SessionError> {
        Ok(Self::load_from(&attach::link_for_iterators(layout)?, layout))
    }

    /// Loads them from an object.
    pub(super) fn load_from(linked: &LoadedObject, layout: &Layout) -> Self {
        let load = |(name, over)| (name, linked.iterator(name, over, layout));
        Self { programs: PROGRAMS.into_iter().map(load).collect() }
    }

    /// The namespaces and threads.
    ///
    /// # Errors
    /// The kernel rejects the program, or its output can't be read.
    pub(crate) fn tasks(&self) -> Result<Tasks, NamespaceListError> {
        let mut found = Tasks::default();
        self.each("iter_tasks", |record| match record {
            IteratorRecord::Alive(r) => found.namespaces.push(*r),
            IteratorRecord::Task(r) => found.tasks.push(*r),
            IteratorRecord::End(r) => {
                found.complete = r.is_complete();
                found.self_pid = r.self_pid;
                found.self_ns_inum = r.self_ns_inum;
            }
            IteratorRecord::Pending(..)
            | IteratorRecord::Descriptor(_)
            | IteratorRecord::Mapping(_) => {}
        })?;
        Ok(found)
    }

    /// Descriptors of namespaces (of any kind), of queues and of files of `/proc/sysvipc`.
    ///
    /// # Errors
    /// As [`Self::tasks`].
    pub(crate) fn descriptors(&self) -> Result<Vec<DescriptorRecord>, NamespaceListError> {
        let mut found = Vec::new();
        self.each("iter_descriptors", |record| {
            if let IteratorRecord::Descriptor(r) = record {
                found.push(*r);
            }
        })?;
        Ok(found)
    }

    /// Mapped segments; one may be listed twice.
    ///
    /// # Errors
    /// As [`Self::tasks`]; kernels before 5.12 can't list mappings this way.
    pub(crate) fn mappings(&self) -> Result<Vec<MappingRecord>, NamespaceListError> {
        let mut found = Vec::new();
        self.each("iter_mappings", |record| {
            if let IteratorRecord::Mapping(r) = record {
                found.push(*r);
            }
        })?;
        Ok(found)
    }

    fn each(
        &self,
        name: &str,
        each: impl FnMut(IteratorRecord<'_>),
    ) -> Result<(), NamespaceListError> {
        let program = match self.programs.get(name) {
            Some(Ok(program)) => program,
            Some(Err(reason)) => return Err(NamespaceListError::Load(reason.clone())),
            None => return Err(NamespaceListError::Load(format!("there is no program {name}"))),
        };
        Ok(decode::iterated(&listed(program.as_fd())?, each)?)
    }
}
