//! The self-test of backend `function`. A function in BTF isn't necessarily on the path of the calls, so each one is
//! called once, and its programs must have run.
//!
//! A child process makes one harmless call for each system call, in an IPC namespace of its own: the first argument
//! is −1, which is no id, no descriptor and no address, and the others are 0. Before that it triggers the auxiliary
//! probes (`stimuli`). Programs mark that they ran while the gate is at `gate::TEST`, and report nothing.

mod stimuli;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    num::NonZeroUsize,
    ptr::NonNull,
    time::{Duration, Instant},
};

use ipc_trace_common::{
    hooks::{AUX_PROBES, MULTIPLEXED, SYSCALLS, Stimulus, X32_BIT},
    op::{Abi, SyscallCode},
    state::{fired_at, way_fired_at},
};
use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
    sys::{
        mman::{MapFlags, ProtFlags, mmap_anonymous, munmap},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, fork},
};

use super::plan::{Hook, Plan};
use stimuli::StimulusResults;

/// How long the test waits for the calls. They take a few milliseconds, but a busy host may schedule the child late.
const CHILD_WAIT: Duration = Duration::from_secs(10);

/// A call that was not made.
const NOT_MADE: i64 = i64::MIN;

/// A call of the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Probe {
    abi: Abi,
    number: u64,
    /// The first argument
    first: u64,
    function: &'static str,
}

/// The result of the test.
#[derive(Clone, Debug)]
pub(crate) struct SelftestResult {
    /// Function and raw result of each call that was made
    calls: Vec<(&'static str, i64)>,
    /// Of [`Stimulus::ALL`]: not negative if it was done
    stimuli: [i64; Stimulus::ALL.len()],
}

/// The test result of an auxiliary probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HookStatus {
    /// Its program ran
    Ran,
    /// It was called, and its program did not run
    Silent,
    /// It could not be called: the function, and why
    None(String),
}

/// The calls, those by `int 0x80` last: if the kernel is configured to refuse them, the first one ends the child.
fn probes(plan: &Plan) -> Vec<Probe> {
    let functions: BTreeSet<_> = plan.hooks.iter().map(|hook| hook.function).collect();
    let mut probes = Vec::new();
    for entry in SYSCALLS {
        for function in entry.functions.iter().filter(|name| functions.contains(*name)) {
            let first =
                if entry.code == SyscallCode::IPC { u64::from(MULTIPLEXED[0].0) } else { u64::MAX };
            let number = u64::from(entry.number) | if entry.abi == Abi::X32 { X32_BIT } else { 0 };
            probes.push(Probe { abi: entry.abi, number, first, function });
        }
    }
    probes.sort_by_key(|probe| probe.abi.is_32_bit());
    probes
}

/// Runs the test.
///
/// # Errors
/// No memory can be shared with a child, or no child can be created.
pub(crate) fn run(plan: &Plan) -> io::Result<SelftestResult> {
    let probes = probes(plan);
    let results = SharedResults::new(Stimulus::ALL.len() + probes.len())?;
    // SAFETY: there is no other thread; the child only makes system calls and exits.
    match unsafe { fork() }? {
        ForkResult::Child => {
            // If it is refused, the calls are still harmless.
            let mut child = StimulusResults::new(unshare(CloneFlags::CLONE_NEWIPC).is_ok());
            for (at, stimulus) in Stimulus::ALL.into_iter().enumerate() {
                results.set(at, child.does(stimulus));
            }
            for (at, probe) in probes.iter().enumerate() {
                results.set(Stimulus::ALL.len() + at, probe.call());
            }
            // SAFETY: ends this process at once.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => wait(child)?,
    }
    let result = |at| results.get(Stimulus::ALL.len() + at);
    let made = probes.iter().enumerate().map(|(at, probe)| (probe.function, result(at)));
    let calls = made.filter(|(_, result)| *result != NOT_MADE).collect();
    Ok(SelftestResult { calls, stimuli: std::array::from_fn(|at| results.get(at)) })
}

fn wait(child: nix::unistd::Pid) -> io::Result<()> {
    let begin = Instant::now();
    while waitpid(child, Some(WaitPidFlag::WNOHANG))? == WaitStatus::StillAlive {
        if begin.elapsed() > CHILD_WAIT {
            kill(child, Signal::SIGKILL)?;
            waitpid(child, None)?;
            return Ok(());
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// The functions whose programs did not run although a call returned from the kernel's IPC code. `ran` says whether
/// the program at an index ran.
pub(crate) fn silent(
    plan: &Plan,
    outcome: &SelftestResult,
    ran: impl Fn(u32) -> bool,
) -> BTreeMap<&'static str, String> {
    let all_ran = |hook: &Hook| {
        ran(fired_at(hook.place(), false)) && (!hook.entry || ran(fired_at(hook.place(), true)))
    };
    // ENOSYS: this ABI is disabled, so no process can make such calls.
    let came_back = |hook: &Hook| {
        let no_such_call = -i64::from(Errno::ENOSYS as i32);
        outcome.calls.iter().any(|(name, ret)| *name == hook.function && *ret != no_such_call)
    };
    plan.hooks
        .iter()
        .filter(|hook| came_back(hook) && !all_ran(hook))
        .map(|hook| (hook.function, "a call was made and no program ran".to_owned()))
        .collect()
}

/// The status of the function in a row of [`AUX_PROBES`]. `ran` as above.
pub(crate) fn proof(row: usize, outcome: &SelftestResult, ran: impl Fn(u32) -> bool) -> HookStatus {
    if ran(way_fired_at(row)) {
        return HookStatus::Ran;
    }
    let way = &AUX_PROBES[row];
    match outcome.stimuli[way.stimulus as usize] {
        0.. => HookStatus::Silent,
        refused => {
            HookStatus::None(format!("{} ({})", way.functions[0], stimuli::refusal(refused)))
        }
    }
}

impl Probe {
    #[cfg(target_arch = "x86_64")]
    fn call(&self) -> i64 {
        match self.abi {
            Abi::X86_64 | Abi::X32 => self.native(),
            Abi::I386 => {
                let ret: i64;
                // A 32-bit call; the assembly saves `rbx` for the compiler, and the kernel may change r8 to r11
                // (arch/x86/entry/entry_64_compat.S).
                // SAFETY: no argument is an address that can be read or written.
                unsafe {
                    core::arch::asm!(
                        "xchg rbx, {first}",
                        "int 0x80",
                        "xchg rbx, {first}",
                        first = inout(reg) self.first => _,
                        inout("rax") self.number => ret,
                        in("rcx") if self.first == u64::MAX { 0 } else { u64::MAX },
                        in("rdx") 0, in("rsi") 0, in("rdi") 0,
                        out("r8") _, out("r9") _, out("r10") _, out("r11") _,
                    );
                }
                i64::from(ret as i32)
            }
            Abi::Aarch64 | Abi::Arm => NOT_MADE,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn call(&self) -> i64 {
        match self.abi {
            Abi::Aarch64 => self.native(),
            // A 64-bit program can't make 32-bit calls there.
            Abi::Arm | Abi::X86_64 | Abi::I386 | Abi::X32 => NOT_MADE,
        }
    }

    fn native(&self) -> i64 {
        // SAFETY: no argument is an address that can be read or written.
        let ret = unsafe { libc::syscall(self.number as i64, self.first, 0u64, 0u64, 0u64, 0u64) };
        if ret == -1 { -i64::from(Errno::last_raw()) } else { ret }
    }
}

/// Results that the child writes and the parent reads.
struct SharedResults {
    at: NonNull<i64>,
    len: usize,
}

impl SharedResults {
    fn new(len: usize) -> io::Result<Self> {
        let bytes = NonZeroUsize::new(len * size_of::<i64>()).unwrap_or(NonZeroUsize::MIN);
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let at = unsafe { mmap_anonymous(None, bytes, access, MapFlags::MAP_SHARED)? }.cast();
        let shared = Self { at, len };
        (0..len).for_each(|at| shared.set(at, NOT_MADE));
        Ok(shared)
    }

    fn place(&self, at: usize) -> *mut i64 {
        assert!(at < self.len);
        // SAFETY: it lies within the mapping.
        unsafe { self.at.as_ptr().add(at) }
    }

    fn set(&self, at: usize, value: i64) {
        // SAFETY: the address is valid and aligned; no other process writes while this one does.
        unsafe { self.place(at).write_volatile(value) }
    }

    fn get(&self, at: usize) -> i64 {
        // SAFETY: as above; the child has ended.
        unsafe { self.place(at).read_volatile() }
    }
}

impl Drop for SharedResults {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and no result is used any more.
        let _ = unsafe { munmap(self.at.cast(), self.len * size_of::<i64>()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::kernel::plan::{Backend, Exactness, Features, Hook};

    fn plan(functions: &[&'static str]) -> Plan {
        let hooks =
            functions.iter().map(|function| Hook::new(function, &Features::default())).collect();
        Plan {
            flavours: vec![],
            ops: vec![],
            hooks,
            fprobe: false,
            syscall_kinds: 0,
            namespace_list_refused: None,
            copied: false,
            copied_functions: false,
            exactness: Exactness::default(),
            preferred: Backend::Function,
        }
    }

    #[test]
    fn compat_calls_come_last_and_ipc_has_call_number() {
        let plan = plan(&["__ia32_compat_sys_ipc", "__x64_sys_semop"]);
        let probes = probes(&plan);
        let abis: Vec<_> = probes.iter().map(|probe| probe.abi).collect();
        assert_eq!(abis, [Abi::X86_64, Abi::X32, Abi::I386]);
        assert_eq!(probes.last().unwrap().first, 1);
    }

    #[test]
    fn silent_program_is_reported_but_missing_call_is_not() {
        let plan = plan(&["__x64_sys_semget", "__x64_sys_semop", "__x64_compat_sys_mq_notify"]);
        let enosys = -i64::from(libc::ENOSYS);
        let calls = vec![
            ("__x64_sys_semget", -2),
            ("__x64_sys_semop", -22),
            ("__x64_sys_semop", enosys),
            ("__x64_compat_sys_mq_notify", enosys),
        ];
        let outcome = SelftestResult { calls, stimuli: [0; Stimulus::ALL.len()] };
        let semop = plan.hooks.iter().find(|h| h.function == "__x64_sys_semop").unwrap();
        let names = |silent: BTreeMap<&'static str, String>| silent.into_keys().collect::<Vec<_>>();
        assert!(silent(&plan, &outcome, |_| true).is_empty());
        let without_entry = |at| at != fired_at(semop.place(), true);
        assert_eq!(names(silent(&plan, &outcome, without_entry)), ["__x64_sys_semop"]);
        let none = names(silent(&plan, &outcome, |_| false));
        assert_eq!(none, ["__x64_sys_semget", "__x64_sys_semop"]);
    }

    #[test]
    fn probe_is_silent_only_after_its_stimulus() {
        let row = ipc_trace_common::hooks::probe_of("segment_touched");
        let mut outcome = SelftestResult { calls: vec![], stimuli: [0; Stimulus::ALL.len()] };
        assert_eq!(proof(row, &outcome, |_| false), HookStatus::Silent);
        assert_eq!(proof(row, &outcome, |at| at != way_fired_at(row)), HookStatus::Silent);
        assert_eq!(proof(row, &outcome, |at| at == way_fired_at(row)), HookStatus::Ran);

        outcome.stimuli[Stimulus::TouchSegment as usize] = -i64::from(libc::EPERM);
        let HookStatus::None(reason) = proof(row, &outcome, |_| false) else {
            panic!("it was refused")
        };
        assert_eq!(reason, "shm_fault (the test was refused it: EPERM)");
        // Other processes may have called it.
        assert_eq!(proof(row, &outcome, |_| true), HookStatus::Ran);

        outcome.stimuli[Stimulus::TouchSegment as usize] = NOT_MADE;
        assert!(matches!(proof(row, &outcome, |_| false), HookStatus::None(_)));
    }

    /// Stimuli that need an IPC namespace of their own run in one, or not at all.
    #[test]
    fn stimuli_run_only_in_own_namespace() {
        let outcome = run(&plan(&[])).unwrap();
        let of = |stimulus: Stimulus| outcome.stimuli[stimulus as usize];
        let has_namespace = of(Stimulus::MakeSemaphores) != stimuli::NO_NAMESPACE;
        for stimulus in Stimulus::ALL {
            assert_ne!(of(stimulus), NOT_MADE, "{stimulus:?}");
            let makes = stimulus as usize >= Stimulus::MakeSemaphores as usize;
            if matches!(stimulus, Stimulus::Open | Stimulus::Receive) || makes && has_namespace {
                assert!(of(stimulus) >= 0, "{stimulus:?}: {}", of(stimulus));
            }
        }
        let mut child = StimulusResults::new(false);
        for stimulus in Stimulus::ALL
            .into_iter()
            .filter(|stimulus| *stimulus as usize >= Stimulus::MakeSemaphores as usize)
        {
            assert_eq!(child.does(stimulus), stimuli::NO_NAMESPACE, "{stimulus:?}");
        }
    }

    /// Whether programs are attached or not, the calls are harmless.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn kernel_rejects_every_test_call() {
        let every: Vec<_> = SYSCALLS
            .iter()
            .filter(|entry| matches!(entry.abi, Abi::X86_64 | Abi::I386))
            .flat_map(|entry| entry.functions)
            .copied()
            .collect();
        let outcome = run(&plan(&every)).unwrap();
        assert!(outcome.calls.len() >= 20);
        for (function, ret) in outcome.calls {
            assert!((-4095..0).contains(&ret), "{function}: {ret}");
        }
    }
}
