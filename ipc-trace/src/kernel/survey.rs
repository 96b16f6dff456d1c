//! Who holds what now, as the kernel side's iterators list it: all IPC namespaces and threads,
//! descriptors that have to do with IPC, mapped segments. Nothing is traced for it.

use std::collections::BTreeMap;

use aya::{Btf, Ebpf};
use ipc_trace_common::record::{
    DescriptorRecord, MappingRecord, NamespaceRecord, TaskRecord, flag,
};

use super::{
    attach::{self, describe, iterator},
    census::{CensusError, read_all},
    layout::Layout,
    session::SessionError,
};
use crate::decode::{self, Record};

/// The threads and namespaces that exist.
#[derive(Debug, Default)]
pub struct Tasks {
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

/// The iterators, loaded.
pub struct Survey {
    ebpf: Ebpf,
    /// Why the kernel did not take a program
    refused: BTreeMap<&'static str, String>,
}

impl std::fmt::Debug for Survey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Survey").finish_non_exhaustive()
    }
}

impl Survey {
    /// Loads the object of the kernel side. `btf`: the running kernel's, if it was read already.
    ///
    /// # Errors
    /// The kernel's BTF can't be read, or maps can't be made.
    pub fn load(layout: &Layout, btf: Option<&Btf>) -> Result<Self, SessionError> {
        let read;
        let btf = match btf {
            Some(btf) => btf,
            None => {
                read = attach::kernel_btf()?;
                &read
            }
        };
        let mut ebpf = attach::load_for_iterators(layout, btf)?;
        let mut refused = BTreeMap::new();
        for (name, kind) in PROGRAMS {
            let loaded = iterator(&mut ebpf, name)
                .and_then(|program| program.load(kind, btf).map_err(|e| describe(&e)));
            if let Err(reason) = loaded {
                refused.insert(name, reason);
            }
        }
        Ok(Self { ebpf, refused })
    }

    /// The namespaces and threads.
    ///
    /// # Errors
    /// The kernel does not take the program, or what it gives can't be read.
    pub fn tasks(&mut self) -> Result<Tasks, CensusError> {
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
            | Record::Context(_)
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
            | Record::Unknown(_) => {}
        })?;
        Ok(found)
    }

    /// Descriptors of namespaces (of any kind), of queues and of files of `/proc/sysvipc`.
    ///
    /// # Errors
    /// As [`Self::tasks`].
    pub fn descriptors(&mut self) -> Result<Vec<DescriptorRecord>, CensusError> {
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
    pub fn mappings(&mut self) -> Result<Vec<MappingRecord>, CensusError> {
        let mut found = Vec::new();
        self.each("survey_mappings", |record| {
            if let Record::Mapping(r) = record {
                found.push(*r);
            }
        })?;
        Ok(found)
    }

    fn each(&mut self, name: &str, each: impl FnMut(Record<'_>)) -> Result<(), CensusError> {
        if let Some(reason) = self.refused.get(name) {
            return Err(CensusError::Load(reason.clone()));
        }
        let program = iterator(&mut self.ebpf, name).map_err(CensusError::Load)?;
        let link = program.attach()?;
        let iterator = program.take_link(link)?.into_file()?;
        Ok(decode::iterated(&read_all(iterator)?, each)?)
    }
}
