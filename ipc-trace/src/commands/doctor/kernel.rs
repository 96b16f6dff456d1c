//! The checks that need the kernel: the programs are loaded, attached and detached.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    commands::run::setup::{self, SetupError},
    event::doctor::Measured,
    input::namespace_list::NamespaceList,
    sources::kernel::{
        attach,
        field_offsets::{self, BtfFacts, Layout, LayoutError},
        options::SessionOptions,
        plan::{BackendChoice, Plan, TracepointMode},
    },
};

/// The operations of the kernel that `doctor` needs. Tests replace the running kernel.
pub(crate) trait KernelProbe {
    /// The contents of a BTF file.
    ///
    /// # Errors
    /// It can't be read or isn't BTF.
    fn read_btf_facts(&self, btf: &Path) -> Result<BtfFacts, LayoutError> {
        field_offsets::read_btf_facts(btf)
    }

    /// Attaches by the best plan, as a run would, takes the namespace list, and detaches.
    ///
    /// # Errors
    /// Tracing can't start.
    fn start(
        &self,
        choice: BackendChoice,
        layout: &Layout,
        options: &SessionOptions,
    ) -> Result<Started, SetupError>;
}

/// The result of a start.
#[derive(Clone, Debug)]
pub(crate) struct Started {
    /// The plan that was attached
    pub plan: Plan,
    /// How programs were attached to tracepoints
    pub flavour: TracepointMode,
    /// Why better modes were not available
    pub fallbacks: Vec<String>,
    /// Why the namespace list is unavailable
    pub namespace_list_refused: Option<String>,
    /// How many auxiliary probes are attached
    pub watched: usize,
    /// Functions that can't be hooked, and why
    pub unseen: Vec<String>,
    /// Auxiliary probes that could not be tested, and why
    pub untested: Vec<String>,
    /// The namespaces and calls that existed
    pub namespace_list: NamespaceList,
    /// The time until the programs were attached
    pub took: Duration,
    /// The time of a call that isn't IPC, before and while attached
    pub measured: Option<Measured>,
}

/// The running kernel.
#[derive(Debug)]
pub(crate) struct ThisKernel {
    _private: (),
}

impl ThisKernel {
    /// The running kernel; lifts the limit on locked memory first, as a run does.
    #[must_use]
    pub(crate) fn new() -> Self {
        // If that fails, the checks report it if it matters.
        drop(attach::lift_memory_lock_limit());
        Self { _private: () }
    }
}

impl Default for ThisKernel {
    fn default() -> Self {
        Self::new()
    }
}

impl KernelProbe for ThisKernel {
    fn start(
        &self,
        choice: BackendChoice,
        layout: &Layout,
        options: &SessionOptions,
    ) -> Result<Started, SetupError> {
        let before_ns = getppid_ns();
        let begin = Instant::now();
        let (plan, session, namespace_list) = setup::start(choice, layout, options)?;
        let took = begin.elapsed();
        let attached_ns = getppid_ns();
        Ok(Started {
            plan,
            flavour: session.flavour,
            fallbacks: session.fallbacks.clone(),
            namespace_list_refused: session.namespace_list_refused.clone(),
            watched: session.watched(),
            unseen: session.unseen.clone(),
            untested: session.untested.clone(),
            namespace_list,
            took,
            measured: Some(Measured { call: "getppid", before_ns, attached_ns }),
        })
    }
}

/// Nanoseconds of a system call that does next to nothing. The shortest of many short times: other processes and
/// interrupts only make it longer. The programs look up the call's number (`at_return`) before they check the gate, so
/// a closed gate makes it no cheaper.
fn getppid_ns() -> u64 {
    const TIMES: usize = 50;
    const CALLS: u32 = 1_000;
    let time = |_| {
        let begin = Instant::now();
        for _ in 0..CALLS {
            nix::unistd::getppid();
        }
        begin.elapsed()
    };
    let shortest = (0..TIMES).map(time).min().unwrap_or_default();
    u64::try_from((shortest / CALLS).as_nanos()).unwrap_or(u64::MAX)
}
