use super::*;

/// A kernel whose BTF describes all functions: those of the machine's ABIs except x32's own.
fn able(native: Abi) -> Features {
    let here = SYSCALLS.iter().filter(|entry| abis(native).contains(&entry.abi));
    let functions: BTreeSet<_> =
        here.filter(|entry| entry.functions.len() == 1).map(|entry| entry.functions[0]).collect();
    Features {
        kernel_btf: true,
        described: functions.clone(),
        present: Some(functions),
        preemption: PreemptionModel::Voluntary,
        ..Features::default()
    }
}

fn backend(plan: &Plan, op: Op) -> Backend {
    plan.ops.iter().find(|plan| plan.op == op).unwrap().backend
}

#[test]
fn all_functions_available_attaches_no_tracepoint() {
    for native in [Abi::X86_64, Abi::Aarch64] {
        let plan = plan(BackendChoice::Auto, native, &able(native)).unwrap();
        assert!(plan.ops.iter().all(|o| o.backend == Backend::Function));
        assert_eq!(plan.syscall_kinds, 0);
        for way in plan.ops.iter().flat_map(|op| &op.entries) {
            let hooked = plan.hooks.iter().any(|h| Some(h.function) == way.function);
            // x32's mq_notify, which this kernel does not have.
            assert_eq!(hooked, way.number != 527, "{way:?}");
        }
    }
}

#[test]
fn auto_uses_syscall_if_fentry_is_refused() {
    let features = Features { fentry_refused: Some("EPERM".to_owned()), ..able(Abi::X86_64) };
    let plan = plan(BackendChoice::Auto, Abi::X86_64, &features).unwrap();
    assert!(plan.ops.iter().all(|o| o.backend == Backend::Syscall && o.reason == "EPERM"));
    assert_eq!(plan.flavours, [TracepointMode::Btf, TracepointMode::Raw]);
    assert_eq!(plan.namespace_list_refused, None);
    assert!(plan.hooks.is_empty());
    assert_eq!(plan.syscall_kinds.count_ones(), 19 + ACCESS_KINDS.count_ones());
}

#[test]
fn auto_uses_tracepoints_if_functions_miss_calls() {
    let of = |preemption| Features { preemption, guards_functions: true, ..able(Abi::X86_64) };
    for model in [
        PreemptionModel::Full,
        PreemptionModel::Lazy,
        PreemptionModel::Rt,
        PreemptionModel::Unknown,
    ] {
        let features = of(model);
        let why = Inexact { cause: MissCause::Functions, model };
        let plan = plan(BackendChoice::Auto, Abi::X86_64, &features).unwrap();
        let is_so = |o: &OpPlan| o.backend == Backend::Syscall && o.reason == why.to_string();
        assert!(plan.ops.iter().all(is_so));
        assert_eq!(plan.flavours, [TracepointMode::Btf, TracepointMode::Raw]);
        assert_eq!(plan.inexact().next(), None);

        let asked_for = super::plan(BackendChoice::Function, Abi::X86_64, &features).unwrap();
        assert!(asked_for.ops.iter().all(|o| o.backend == Backend::Function));
        assert_eq!(asked_for.preferred, Backend::Syscall);
        assert_eq!(asked_for.inexact().collect::<Vec<_>>(), [(Backend::Function, why)]);
    }
    for model in [PreemptionModel::None, PreemptionModel::Voluntary] {
        let plan = plan(BackendChoice::Auto, Abi::X86_64, &of(model)).unwrap();
        assert_eq!(plan.preferred, Backend::Function);
        assert_eq!(plan.inexact().next(), None);
    }
    // Before 5.12 no run is skipped.
    let features = Features { guards_functions: false, ..of(PreemptionModel::Rt) };
    let plan = plan(BackendChoice::Auto, Abi::X86_64, &features).unwrap();
    assert_eq!(plan.preferred, Backend::Function);
}

#[test]
fn auto_uses_function_if_both_miss_calls() {
    let features = Features {
        preemption: PreemptionModel::Lazy,
        guards_functions: true,
        preempts_on_tracepoints: true,
        fprobe: true,
        ..able(Abi::X86_64)
    };
    let plan = plan(BackendChoice::Auto, Abi::X86_64, &features).unwrap();
    assert_eq!(plan.preferred, Backend::Function);
    assert_eq!(plan.flavours[0], TracepointMode::Perf);
    let inexact: Vec<_> = plan.inexact().collect();
    assert_eq!(
        inexact,
        [(Backend::Function, Inexact { cause: MissCause::Bpf, model: PreemptionModel::Lazy })]
    );
}

#[test]
fn copies_make_preempted_functions_exact() {
    let features = Features {
        preemption: PreemptionModel::Lazy,
        guards_functions: true,
        preempts_on_tracepoints: true,
        fprobe: true,
        tracing_multi: true,
        ..able(Abi::X86_64)
    };
    let plan = plan(BackendChoice::Auto, Abi::X86_64, &features).unwrap();
    assert!(plan.copied && plan.copied_functions);
    assert_eq!(plan.preferred, Backend::Function);
    assert_eq!(plan.inexact().next(), None);
    assert!(plan.hooks.iter().all(|hook| hook.entry));
    // On kernels that don't preempt they would only cost.
    let features = Features { preempts_on_tracepoints: false, ..features };
    let plan = super::plan(BackendChoice::Function, Abi::X86_64, &features).unwrap();
    assert!(!plan.copied && !plan.copied_functions);
    assert!(!plan.hooks.iter().all(|hook| hook.entry));
}

#[test]
fn entries_are_omitted_only_where_the_return_has_all() {
    let features = Features { no_x32: true, ..able(Abi::X86_64) };
    let mut plan = plan(BackendChoice::Auto, Abi::X86_64, &features).unwrap();
    let entry = |plan: &Plan, name: &str| {
        plan.hooks.iter().find(|hook| hook.function == name).map(|hook| hook.entry)
    };
    let [semop, queue] = ["__x64_sys_semtimedop", "__x64_sys_mq_timedsend"];
    assert_eq!([entry(&plan, semop), entry(&plan, queue)], [Some(true); 2]);
    plan.omit_entries();
    assert_eq!([entry(&plan, semop), entry(&plan, queue)], [Some(false), Some(true)]);
    // A call that can't be in a batch keeps its entry.
    assert!(plan.hooks.iter().all(|hook| hook.batched.is_some() || !hook.is_counted));
}

#[test]
fn failing_function_affects_only_its_operations() {
    let mut features = able(Abi::X86_64);
    features.unusable.insert("__x64_sys_mq_open", "it never fired".to_owned());
    let plan = plan(BackendChoice::Auto, Abi::X86_64, &features).unwrap();
    assert_eq!(backend(&plan, Op::MqOpen), Backend::Syscall);
    assert_eq!(plan.ops.iter().filter(|o| o.backend == Backend::Syscall).count(), 1);
    assert_eq!(dispatched(plan.syscall_kinds), Op::MqOpen.bit());
    assert!(!plan.hooks.iter().any(|h| h.function.ends_with("sys_mq_open")));

    features.unusable = BTreeMap::from([("__ia32_compat_sys_ipc", "EBUSY".to_owned())]);
    let plan = super::plan(BackendChoice::Auto, Abi::X86_64, &features).unwrap();
    assert_eq!(backend(&plan, Op::Semop), Backend::Syscall);
    assert_eq!(backend(&plan, Op::MqSend), Backend::Function);
    assert_eq!(plan.ops.iter().filter(|o| o.backend == Backend::Syscall).count(), 11);
    assert!(dispatched(plan.syscall_kinds) & SyscallCode::IPC.bit() != 0);
    assert!(!plan.hooks.iter().any(|h| h.function == "__ia32_compat_sys_ipc"));
}

#[test]
fn missing_function_is_ignored_but_missing_btf_is_not() {
    let mut features = able(Abi::X86_64);
    for set in [&mut features.described, features.present.as_mut().unwrap()] {
        set.retain(|function| !function.starts_with("__ia32"));
    }
    let plan = plan(BackendChoice::Function, Abi::X86_64, &features).unwrap();
    assert!(plan.hooks.iter().all(|h| h.function.starts_with("__x64_sys_")));

    features.described.remove("__x64_sys_semget");
    let error = super::plan(BackendChoice::Function, Abi::X86_64, &features).unwrap_err();
    assert!(error.to_string().contains("semget: __x64_sys_semget"), "{error}");
}

#[test]
fn no_btf_leaves_only_raw_tracepoints() {
    let features = Features { kernel_btf: false, ..able(Abi::X86_64) };
    let plan = plan(BackendChoice::Auto, Abi::X86_64, &features).unwrap();
    assert_eq!(plan.flavours, [TracepointMode::Raw]);
    assert!(plan.namespace_list_refused.is_some() && plan.hooks.is_empty());
}

#[test]
fn unavailable_function_backend_is_explained_error() {
    let features = Features { fentry_refused: Some("refused".to_owned()), ..able(Abi::X86_64) };
    let error = plan(BackendChoice::Function, Abi::X86_64, &features).unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
}

#[test]
fn every_operation_has_syscall_in_each_abi() {
    for native in [Abi::X86_64, Abi::Aarch64] {
        let plan = plan(BackendChoice::Syscall, native, &able(native)).unwrap();
        for op in plan.ops {
            for abi in abis(native) {
                assert!(op.entries.iter().any(|e| e.abi == *abi), "{op:?} {abi:?}");
            }
        }
    }
}
