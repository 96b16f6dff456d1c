//! Resolves the kernel-layout table against the BTF of a kernel.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

#[cfg(test)]
use ipc_trace_common::layout::Field;
use ipc_trace_common::{
    hooks,
    layout::{self, FIELDS, FieldLocation, FieldSpec, Need},
};

use super::btf::{BtfTypes, Function};

/// The running kernel's own BTF.
pub(crate) const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// A structure of kernels that can attach programs to functions by fprobe (kernel/trace/bpf_trace.c, 5.18).
const PROGRAMS_BY_FPROBE: &str = "bpf_kprobe_multi_link";
/// A structure of fprobe since it is built on the function graph tracer (include/linux/fprobe.h, 6.14).
const GRAPH_FPROBE: &str = "fprobe_hlist";

/// A structure of kernels that can attach one program to many functions like fentry and fexit
/// (kernel/trace/bpf_trace.c, 7.3).
const TRACING_MULTI: &str = "bpf_tracing_multi_link";

/// The kernel's support for attaching one program to many functions by fprobe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fprobe {
    /// Nothing
    None,
    /// It sees each entry, and returns as long as its store of return addresses lasts
    Entries,
    /// It sees each return, too
    All,
}

/// The function by which programs read any address with plain loads (kernel/bpf/helpers.c, 6.2).
const CAST: &str = "bpf_rdonly_cast";
/// The structure as which they do, since its first members are numbers (arch/x86/include/asm/ptrace.h,
/// arch/arm64/include/asm/ptrace.h).
const CAST_TO: &str = "pt_regs";

/// What programs refer to by the numbers of types: iterators and tracepoints that they are attached to, as BTF names
/// them, a function, and a structure.
const HOOKS: [&str; 13] = [
    "bpf_iter_task",
    "bpf_iter_task_file",
    "bpf_iter_task_vma",
    "btf_trace_cgroup_attach_task",
    "btf_trace_cgroup_mkdir",
    "btf_trace_cgroup_rmdir",
    "btf_trace_sched_process_exec",
    "btf_trace_sched_process_exit",
    "btf_trace_sys_enter",
    "btf_trace_sys_exit",
    "btf_trace_task_newtask",
    CAST,
    CAST_TO,
];

/// The enumeration of the controllers of cgroups (include/linux/cgroup-defs.h), whose members' names end
/// in `_cgrp_id`.
const SUBSYSTEMS: &str = "cgroup_subsys_id";

/// Controllers whose hierarchy identifies containers with cgroups of version 1, best first: every runtime puts its
/// containers into a cgroup of their own there.
pub(crate) const CONTROLLERS: [&str; 2] = ["pids", "memory"];

/// Why the layout is unknown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayoutError {
    /// The file can't be read.
    #[error(
        "can't read the kernel's type information (BTF) from {path}: {source}; this kernel may be built without CONFIG_DEBUG_INFO_BTF: name a file with its BTF by --btf FILE"
    )]
    Read {
        /// Which file
        path: PathBuf,
        /// What the system said
        source: std::io::Error,
    },
    /// The file isn't BTF.
    #[error(
        "{path} is not BTF that can be used: {reason}; name the BTF of this very kernel by --btf FILE"
    )]
    Parse {
        /// Which file
        path: PathBuf,
        /// What is wrong
        reason: String,
    },
    /// A required field is missing.
    #[error(
        "the kernel's BTF has no field {tried}, without which nothing can be traced; is it the BTF of this very kernel?"
    )]
    Missing {
        /// The locations that were tried
        tried: String,
    },
}

/// One row of the table, resolved.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    /// The row
    pub spec: &'static FieldSpec,
    /// Structure and member of the field, with its offset; `None`: not found
    pub found: Option<(String, u32)>,
}

/// How programs read any address with plain loads: numbers in the kernel's BTF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cast {
    /// The function that calls a number a pointer
    pub function: u32,
    /// The structure that it then points to
    pub structure: u32,
}

/// The contents of a BTF file, whether or not it suffices for tracing.
#[derive(Clone, Debug)]
pub(crate) struct BtfFacts {
    /// The complete table, in order
    pub rows: Vec<Resolved>,
    /// Functions of the hook table that it describes
    pub functions: BTreeMap<&'static str, Function>,
    /// Types of iterators and tracepoints
    pub hooks: BTreeMap<&'static str, u32>,
    /// The kernel's numbers of the controllers of cgroups
    pub controllers: BTreeMap<&'static str, u32>,
    /// The kernel's fprobe support
    pub fprobe: Fprobe,
    /// Whether the kernel can attach one program to many functions like fentry and fexit
    pub tracing_multi: bool,
}

/// The table, resolved for one kernel.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    rows: Vec<Resolved>,
    functions: BTreeMap<&'static str, Function>,
    hooks: BTreeMap<&'static str, u32>,
    controllers: BTreeMap<&'static str, u32>,
    fprobe: Fprobe,
    tracing_multi: bool,
}

impl Layout {
    /// Reads the BTF in `path` and resolves every row.
    ///
    /// # Errors
    /// The file can't be read or isn't BTF, or a required field is missing.
    pub(crate) fn from_file(path: &Path) -> Result<Self, LayoutError> {
        Self::from_btf(read_btf_facts(path)?)
    }

    /// Resolves every row by `offset_of(structure, path)`, in bytes.
    ///
    /// # Errors
    /// A required field is missing.
    #[cfg(test)]
    pub(crate) fn resolve(
        offset_of: impl Fn(&str, &str) -> Option<u32>,
    ) -> Result<Self, LayoutError> {
        Self::from_btf(BtfFacts {
            rows: rows(offset_of),
            functions: BTreeMap::new(),
            hooks: BTreeMap::new(),
            controllers: BTreeMap::new(),
            fprobe: Fprobe::None,
            tracing_multi: false,
        })
    }

    /// The layout, if all required fields were found.
    ///
    /// # Errors
    /// A required field is missing.
    pub(crate) fn from_btf(found: BtfFacts) -> Result<Self, LayoutError> {
        let BtfFacts { rows, functions, hooks, controllers, fprobe, tracing_multi } = found;
        match rows.iter().find(|row| row.found.is_none() && row.spec.need == Need::Required) {
            Some(row) => Err(LayoutError::Missing { tried: places(row.spec) }),
            None => Ok(Self { rows, functions, hooks, controllers, fprobe, tracing_multi }),
        }
    }

    /// Functions of the hook table that the BTF describes.
    #[must_use]
    pub(crate) const fn functions(&self) -> &BTreeMap<&'static str, Function> {
        &self.functions
    }

    /// The type of an iterator or tracepoint in the kernel's own BTF.
    ///
    /// # Errors
    /// There is none with that name.
    pub(crate) fn hook(&self, name: &str) -> Result<u32, String> {
        let none = || format!("the kernel's BTF has no {name}");
        self.hooks.get(name).copied().ok_or_else(none)
    }

    /// How programs read any address with plain loads, if they can: not while the kernel interprets programs, which
    /// `proc` (its root) says, as those call no kernel function.
    #[must_use]
    pub(crate) fn cast(&self, proc: &Path) -> Option<Cast> {
        let jit = std::fs::read_to_string(proc.join("sys/net/core/bpf_jit_enable"));
        let number = |name| self.hooks.get(name).copied();
        let interprets = jit.is_ok_and(|jit| jit.trim() == "0");
        (!interprets).then_some(())?;
        Some(Cast { function: number(CAST)?, structure: number(CAST_TO)? })
    }

    /// The kernel's number of a cgroup controller, of those that can identify containers.
    #[must_use]
    pub(crate) fn controller(&self, name: &str) -> Option<u32> {
        self.controllers.get(name).copied()
    }

    /// The kernel's fprobe support.
    #[must_use]
    pub(crate) const fn fprobe(&self) -> Fprobe {
        self.fprobe
    }

    /// Whether the kernel can attach one program to many functions like fentry and fexit.
    #[must_use]
    pub(crate) const fn has_tracing_multi(&self) -> bool {
        self.tracing_multi
    }

    /// The offsets that are patched into the programs, by the numbers of `Field`.
    #[must_use]
    pub(crate) fn offsets(&self) -> [u32; layout::COUNT] {
        let mut offsets = [layout::ABSENT; layout::COUNT];
        for (offset, row) in offsets.iter_mut().zip(&self.rows) {
            if let Some((_, bytes)) = row.found {
                *offset = bytes;
            }
        }
        offsets
    }

    /// The offset of a field, if the kernel has it.
    #[must_use]
    #[cfg(test)]
    pub(crate) fn offset(&self, field: Field) -> Option<u32> {
        self.rows.get(field as usize)?.found.as_ref().map(|found| found.1)
    }

    /// The features lost because of missing fields: the missing field and what needs it.
    pub(crate) fn losses(&self) -> impl Iterator<Item = (String, &'static str)> {
        self.rows.iter().filter(|row| row.found.is_none()).filter_map(|row| match row.spec.need {
            Need::Required => None,
            Need::Optional(what) => Some((places(row.spec), what)),
        })
    }
}

/// Searches the BTF in `path` for every field of the table and every function of the hook table.
///
/// # Errors
/// The file can't be read or isn't BTF.
pub(crate) fn read_btf_facts(path: &Path) -> Result<BtfFacts, LayoutError> {
    let bytes = std::fs::read(path)
        .map_err(|source| LayoutError::Read { path: path.to_owned(), source })?;
    let parse = |reason: String| LayoutError::Parse { path: path.to_owned(), reason };
    let types = BtfTypes::new(bytes).map_err(parse)?;
    let places = FIELDS.iter().flat_map(|spec| spec.places);
    let of_features = [PROGRAMS_BY_FPROBE, GRAPH_FPROBE, TRACING_MULTI];
    let names = places.map(|place| place.structure).chain(of_features);
    let structures = types.structures(&names.collect());
    // Functions' type numbers are valid only in the kernel's own BTF.
    let own = if path == Path::new(KERNEL_BTF) { None } else { std::fs::read(KERNEL_BTF).ok() };
    let own = own.and_then(|bytes| BtfTypes::new(bytes).ok());
    let numbers = own.as_ref().unwrap_or(&types);
    let controllers = types.enumerators(SUBSYSTEMS);
    let number =
        |name: &'static str| Some((name, *controllers.get(format!("{name}_cgrp_id").as_bytes())?));
    Ok(BtfFacts {
        controllers: CONTROLLERS.into_iter().filter_map(number).collect(),
        rows: rows(|structure, path| structures.offset_of(structure, path)),
        functions: numbers.functions(&hooks::functions().chain(hooks::all_aux_probes()).collect()),
        hooks: numbers.hooks(&HOOKS.into_iter().collect()),
        fprobe: match () {
            () if structures.has(GRAPH_FPROBE) => Fprobe::All,
            () if structures.has(PROGRAMS_BY_FPROBE) => Fprobe::Entries,
            () => Fprobe::None,
        },
        tracing_multi: structures.has(TRACING_MULTI),
    })
}

/// Every row, resolved by `offset_of(structure, path)`, in bytes.
pub(crate) fn rows(offset_of: impl Fn(&str, &str) -> Option<u32>) -> Vec<Resolved> {
    let place = |place: &FieldLocation| {
        let bytes = offset_of(place.structure, place.path)?.checked_add(place.plus)?;
        Some((format!("{}.{}", place.structure, place.path), bytes))
    };
    FIELDS.iter().map(|spec| Resolved { spec, found: spec.places.iter().find_map(place) }).collect()
}

/// The locations of a field, as text.
#[must_use]
pub(crate) fn places(spec: &FieldSpec) -> String {
    let names: Vec<_> =
        spec.places.iter().map(|place| format!("{}.{}", place.structure, place.path)).collect();
    names.join(" or ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_kernel_has_all_required_fields() {
        let layout = Layout::from_file(Path::new(KERNEL_BTF)).unwrap();
        assert!(layout.offset(Field::IpcNsInum).is_some());
    }

    #[test]
    fn missing_optional_field_lists_losses() {
        let found = Layout::resolve(|_, path| (path != "ns.ns_id").then_some(8)).unwrap();
        let losses: Vec<_> = found.losses().collect();
        assert_eq!(losses.len(), 1);
        assert_eq!(losses[0].0, "ipc_namespace.ns.ns_id");
        assert_eq!(found.offsets()[Field::IpcNsId as usize], layout::ABSENT);
    }

    #[test]
    fn missing_required_field_is_named_error() {
        let error = Layout::resolve(|_, path| (path != "nsproxy").then_some(8)).unwrap_err();
        assert!(error.to_string().contains("task_struct.nsproxy"), "{error}");
    }

    #[test]
    fn non_btf_files_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in [
            ("empty", vec![]),
            ("text", b"not btf at all, but long enough to hold a header".to_vec()),
            ("cut", [&[0x9f, 0xeb, 1, 0, 24, 0, 0, 0][..], &[0xff; 16]].concat()),
        ] {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            assert!(Layout::from_file(&path).is_err(), "{name}");
        }
    }
}
