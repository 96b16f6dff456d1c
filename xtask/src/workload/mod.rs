//! Programs that make IPC calls and count them on their own, for tests, the demo and benches. Their counts are the
//! oracle that a tracer's output is compared with.
//!
//! Every IPC call of these processes goes through [`calls::CountingCaller`] (or is entered by hand in
//! `loops.rs` and `turns.rs`) and never through glibc. Each workload prints one JSON object when it
//! ends: `{"namespaces": [{"label", "inum", "ops": {OP: {"calls", "failed", "errors"}}}], ...}`,
//! with further facts beside `namespaces`. A call counts for the namespace that the calling thread
//! is in.

pub(crate) mod abi;
mod all_args;
mod all_ops;
mod bench_loops;
mod blocking;
pub(crate) mod calls;
mod changing;
mod churn;
mod count;
mod create_race;
mod demo;
mod equal_tids;
mod false_name;
mod flood;
mod hostile;
mod killed;
mod leak;
mod loops;
mod many_namespaces;
mod map_lookups;
mod model;
pub(crate) mod mq;
mod never_made;
mod ns_holders;
mod ns_transitions;
pub(crate) mod oracle;
mod overwritten;
mod path_swap;
pub(crate) mod process;
mod queue_cache;
pub(crate) mod queue_fd_passing;
mod queue_names;
mod saturate;
mod seccomp;
mod sleepers;
mod stepper;
pub(crate) mod sysv;
mod turns;
pub(crate) mod uring;

/// A workload and its options.
#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum Workload {
    /// Make an exact number of calls of all kinds, from several namespaces and threads
    Count(count::CountArgs),
    /// Be two small companies for a second or two: something to trace
    Demo(demo::Demo),
    /// Make semtimedop calls as fast as possible, and report what one costs
    SemopLoop(loops::CountedLoop),
    /// Make getppid calls as fast as possible, and report what one costs
    GetppidLoop(loops::CountedLoop),
    /// Make semtimedop calls as fast as possible for some time, in several threads
    SemopFlood(loops::SemopFlood),
    /// Time loops of several kinds of calls, for a machine with one processor
    BenchLoops(bench_loops::BenchLoops),
    /// Make calls and namespaces at full speed, in more threads than there are processors
    Saturate(saturate::Saturate),
    /// Send signals to sleeping calls, with and without SA_RESTART
    Restart,
    /// Let a thread sleep in a call; its tid is printed first, once it sleeps
    Blocked(blocking::Blocked),
    /// Make calls which a seccomp filter answers with EPERM
    Seccomp,
    /// Make calls that seccomp or a ptrace tracer prevents
    NeverMade,
    /// Overwrite a queue's name while calls with that name are held in the kernel
    FalseName,
    /// Use many queues of two namespaces on two processors
    QueueCache(queue_cache::QueueCache),
    /// Open and unlink queues by names of all lengths and contents
    QueueNames,
    /// Be many threads at once, many of which have thread IDs with equal low halves
    EqualTids(equal_tids::EqualTids),
    /// Create namespaces while a process whose PID has the same low half makes calls
    CollidingCreations(equal_tids::CollidingCreations),
    /// Change user, group and name between identical calls
    ChangingCaller,
    /// Use a queue of one namespace, and a set of another, by one thread
    TwoNamespaces,
    /// Overwrite the arguments in memory of calls that are blocked
    Overwritten,
    /// Kill threads at the entry of calls, which are then not made
    Killed,
    /// Make calls from processes, and on queues, with names that are hard to print
    HostileNames,
    /// Run many processes which make one call each
    ChurnProcesses(churn::ChurnProcesses),
    /// Make many IPC namespaces, with one call in each, which makes semaphores
    ChurnNamespaces(churn::ChurnNamespaces),
    /// Flood a tracer's control ring, as an unprivileged user on all processors
    ControlFlood(flood::ControlFlood),
    /// Send to a queue of another namespace many times
    ForeignSends(flood::Sends),
    /// Use queue descriptors outside of their queues' namespaces
    QueueFdPassing,
    /// Switch IPC namespaces by setns, unshare and clone
    NsTransitions,
    /// Make every operation with distinct arguments, by every route into the kernel
    AllArgs,
    /// Hold IPC namespaces with objects in every possible way, until standard input ends
    NsHolders,
    /// Replace held namespaces and queues by other files, until standard input ends
    PathSwap,
    /// Be many processes in many namespaces with many objects, until standard input ends
    ManyNamespaces(many_namespaces::ManyNamespaces),
    /// Request objects that others created, by calls that would create them
    CreateRace,
    /// Leave objects behind, until standard input ends
    Leak,
    /// Create, use and remove objects at random, in processes and namespaces that come and go
    Model(model::ModelArgs),
    /// Be many threads that make calls and then wait, until standard input ends
    Sleepers(sleepers::Sleepers),
    /// Let threads make one call each for every line of standard input
    Stepper(stepper::StepperArgs),
    /// Make one shmget call
    #[command(hide = true)]
    OneCall(churn::OneCall),
}

/// Runs a workload to its end. It may leave the process in another IPC namespace.
pub(crate) fn run(workload: Workload) -> anyhow::Result<()> {
    match workload {
        Workload::Count(options) => count::run(&options),
        Workload::Demo(options) => demo::run(&options),
        Workload::SemopLoop(options) => loops::semop(&options),
        Workload::GetppidLoop(options) => loops::getppid(&options),
        Workload::SemopFlood(options) => loops::flood(&options),
        Workload::BenchLoops(options) => bench_loops::run(&options),
        Workload::Saturate(options) => saturate::run(&options),
        Workload::Restart => blocking::restart(),
        Workload::Blocked(options) => blocking::blocked(&options),
        Workload::Seccomp => seccomp::run(),
        Workload::Killed => killed::run(),
        Workload::NeverMade => never_made::run(),
        Workload::FalseName => false_name::run(),
        Workload::QueueCache(options) => queue_cache::run(&options),
        Workload::QueueNames => queue_names::run(),
        Workload::EqualTids(options) => equal_tids::run(&options),
        Workload::CollidingCreations(options) => equal_tids::creations(&options),
        Workload::ChangingCaller => changing::caller(),
        Workload::TwoNamespaces => changing::namespaces(),
        Workload::Overwritten => overwritten::run(),
        Workload::HostileNames => hostile::run(),
        Workload::ChurnProcesses(options) => churn::processes(&options),
        Workload::ChurnNamespaces(options) => churn::namespaces(&options),
        Workload::ControlFlood(options) => flood::run(&options),
        Workload::ForeignSends(options) => flood::foreign_sends(&options),
        Workload::QueueFdPassing => queue_fd_passing::run(),
        Workload::NsTransitions => ns_transitions::run(),
        Workload::AllArgs => all_args::run(),
        Workload::NsHolders => ns_holders::run(),
        Workload::PathSwap => path_swap::run(),
        Workload::ManyNamespaces(options) => many_namespaces::run(&options),
        Workload::CreateRace => create_race::run(),
        Workload::Leak => leak::run(),
        Workload::Model(options) => model::run(&options),
        Workload::Sleepers(options) => sleepers::run(&options),
        Workload::Stepper(options) => stepper::run(&options),
        Workload::OneCall(options) => churn::one_call(&options),
    }
}
