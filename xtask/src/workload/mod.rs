//! Programs which make IPC calls and keep books of their own about them, for tests, the demo
//! and benches: what a tracer says can be held against what was really done.
//!
//! Every IPC call of these processes goes through [`calls::CountingCaller`] (or is entered by hand in
//! `loops.rs` and `turns.rs`) and never through glibc. Each workload prints one JSON object when it
//! ends: `{"namespaces": [{"label", "inum", "ops": {OP: {"calls", "failed", "errors"}}}], ...}`,
//! with further facts of its own beside `namespaces`. Calls count for the namespace which the
//! calling thread is in.

pub(crate) mod abi;
mod births;
mod blocking;
pub(crate) mod book;
pub(crate) mod calls;
pub(crate) mod carried;
mod changing;
mod churn;
mod count;
mod crowd;
mod demo;
mod equal_tids;
mod false_name;
mod flood;
mod hold;
mod hostile;
mod killed;
mod laps;
mod leak;
mod loops;
mod map_lookups;
mod model;
pub(crate) mod mq;
mod never_made;
mod overwritten;
mod path_swap;
pub(crate) mod process;
mod queue_cache;
mod queue_names;
mod saturate;
mod seccomp;
mod sleepers;
mod steps;
pub(crate) mod sysv;
mod tour;
mod turns;
pub(crate) mod uring;
mod walk;
mod zoo;

/// A workload and its options.
#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum Workload {
    /// Make an exact number of calls of all kinds, from several namespaces and threads
    Count(count::CountArgs),
    /// Be two small companies for a second or two: something to look at with a tracer
    Demo(demo::Demo),
    /// Make semtimedop calls as fast as possible, and say what one costs
    SemopLoop(loops::CountedLoop),
    /// Make getppid calls as fast as possible, and say what one costs
    GetppidLoop(loops::CountedLoop),
    /// Make semtimedop calls as fast as possible for some time, in several threads
    SemopFlood(loops::SemopFlood),
    /// Make calls of several kinds, and say what one of each costs on a machine with one processor
    Laps(laps::Laps),
    /// Make calls and namespaces at full speed, in more threads than there are processors
    Saturate(saturate::Saturate),
    /// Send signals to sleeping calls, with and without SA_RESTART
    Restart,
    /// Let a thread sleep in a call; its tid is printed first, once it sleeps
    Blocked(blocking::Blocked),
    /// Make calls which a seccomp filter answers with EPERM
    Seccomp,
    /// Make calls which the kernel is kept from making: by seccomp's other answers, and by a tracer
    NeverMade,
    /// Let a queue's name be overwritten while calls that took it are held in the kernel
    FalseName,
    /// Go through many queues of two namespaces on two processors
    QueueCache(queue_cache::QueueCache),
    /// Open and unlink queues by names of all lengths and contents
    QueueNames,
    /// Be many threads at a time, of which many have numbers with equal low halves
    EqualTids(equal_tids::EqualTids),
    /// Make namespaces while a process calls whose number has the same low half
    CollidingBirths(equal_tids::CollidingBirths),
    /// Change user, group and name between calls that are alike
    ChangingCaller,
    /// Use a queue of one namespace, and a set of another, by one thread
    TwoNamespaces,
    /// Let memory be overwritten while calls that took something from there are blocked
    Overwritten,
    /// Let threads be killed at the entries of calls, which they then do not make
    Killed,
    /// Make calls from processes, and on queues, whose names are hard to print
    HostileNames,
    /// Run many processes which make one call each
    ChurnProcesses(churn::ChurnProcesses),
    /// Make many IPC namespaces, with one call in each, which makes semaphores
    ChurnNamespaces(churn::ChurnNamespaces),
    /// Have a tracer told of the same things again and again, by an unprivileged user on all processors
    ControlFlood(flood::ControlFlood),
    /// Send to a queue of another namespace many times
    ForeignSends(flood::Sends),
    /// Use queue descriptors in other namespaces than those of their queues
    CarriedQueue,
    /// Go from one IPC namespace to another by setns, unshare and clone
    SetnsWalk,
    /// Make every operation with distinctive arguments, by every route into the kernel
    ArgsZoo,
    /// Hold IPC namespaces with objects in every way there is, until standard input ends
    Hold,
    /// Put other files in the place of namespaces and queues that are held, until standard input ends
    PathSwap,
    /// Be many processes in many namespaces with many objects, until standard input ends
    Crowd(crowd::Crowd),
    /// Ask for objects that others have made, by calls that make what is not there
    Births,
    /// Leave objects behind, until standard input ends
    Leak,
    /// Make, use and remove objects at random in processes and namespaces that come and go
    Model(model::ModelArgs),
    /// Be many threads that make calls and then wait, until standard input ends
    Sleepers(sleepers::Sleepers),
    /// Let threads make one call each for every line of standard input
    Steps(steps::StepsArgs),
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
        Workload::Laps(options) => laps::run(&options),
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
        Workload::CollidingBirths(options) => equal_tids::births(&options),
        Workload::ChangingCaller => changing::caller(),
        Workload::TwoNamespaces => changing::namespaces(),
        Workload::Overwritten => overwritten::run(),
        Workload::HostileNames => hostile::run(),
        Workload::ChurnProcesses(options) => churn::processes(&options),
        Workload::ChurnNamespaces(options) => churn::namespaces(&options),
        Workload::ControlFlood(options) => flood::run(&options),
        Workload::ForeignSends(options) => flood::foreign_sends(&options),
        Workload::CarriedQueue => carried::run(),
        Workload::SetnsWalk => walk::run(),
        Workload::ArgsZoo => zoo::run(),
        Workload::Hold => hold::run(),
        Workload::PathSwap => path_swap::run(),
        Workload::Crowd(options) => crowd::run(&options),
        Workload::Births => births::run(),
        Workload::Leak => leak::run(),
        Workload::Model(options) => model::run(&options),
        Workload::Sleepers(options) => sleepers::run(&options),
        Workload::Steps(options) => steps::run(&options),
        Workload::OneCall(options) => churn::one_call(&options),
    }
}
