//! What only the kernel can say: the programs are loaded and attached, and let go of.

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
        layout::{self, BtfFacts, Layout, LayoutError},
        options::SessionOptions,
        plan::{BackendChoice, Plan, TracepointMode},
    },
};

/// What is asked of the kernel. Tests have another one than the running kernel.
pub(crate) trait KernelProbe {
    /// What the BTF in this file has.
    ///
    /// # Errors
    /// It can't be read or is no BTF.
    fn look_up(&self, btf: &Path) -> Result<BtfFacts, LayoutError> {
        layout::look_up(btf)
    }

    /// Attaches by the best plan, as a run would, takes the namespace list, and lets go.
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

/// How a start went.
#[derive(Clone, Debug)]
pub(crate) struct Started {
    /// What was attached
    pub plan: Plan,
    /// How programs were attached to tracepoints
    pub flavour: TracepointMode,
    /// Why better flavours were not to be had
    pub fallbacks: Vec<String>,
    /// Why no namespace list can be taken
    pub namespace_list_refused: Option<String>,
    /// How many functions are watched beside those of the system calls
    pub watched: usize,
    /// What is not seen, and why
    pub unseen: Vec<String>,
    /// Which of the functions could not be tested, and why
    pub untested: Vec<String>,
    /// What existed
    pub namespace_list: NamespaceList,
    /// How long it took until the programs were attached
    pub took: Duration,
    /// What a call that is no IPC took, before and while attached
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
        // Where it can't be lifted, the checks say so if it matters.
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

/// Nanoseconds of a system call that does next to nothing. The shortest of many short times: other
/// processes and interrupts only ever make it longer. The programs look at the call's number
/// before they look at the gate (`worth_a_look`), so a closed gate makes it no cheaper.
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
