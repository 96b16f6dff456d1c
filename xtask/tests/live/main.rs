//! Tests with real programs in the running kernel, against workloads that keep books of their own.
//!
//! | module | what it holds the tracer to |
//! | --- | --- |
//! | [`budget`] | how large the kernel's programs may be |
//! | [`counts`] | reports: every call counted, also when the ring runs over |
//! | [`lines`] | lines: each call once, with its result, its time, its end |
//! | [`losses`] | what is known after records were lost |
//! | [`floods`] | what is known while others have the tracer told of the same things again and again |
//! | [`args`] | the arguments of every operation, by every route |
//! | [`namespaces`] | births, moves and ends of namespaces; queues carried between them |
//! | [`objects`] | lives of objects: what there was, who made and left what |
//! | [`preemption`] | calls and births of threads that are preempted everywhere, beside neighbours that use BPF maps |
//! | [`processes`] | who called, also of processes that live a millisecond or bear hostile names |
//! | [`containers`] | in which container: moved threads, real Docker |
//! | [`scenarios`] | what is found of access across namespaces, and what is not |
//! | [`seam`] | whether what the engine is fed with tells the same to a process that has nothing else |
//! | [`filters`] | what each filter lets through, and that the rest is accounted for |
//! | [`policy`] | what a policy makes of findings |
//! | [`bad_input`] | what the user got wrong |
//! | [`bad_days`] | full disks, closed pipes, signals, stuck readers |
//! | [`doctor`] | what is said of this host and user |
//! | [`strace`] | what strace sees of the same commands, call by call |
//! | [`ls`] | what exists, without tracing |
//! | [`traces_left`] | what is left in the kernel and on disk afterwards: nothing |
//!
//! They need root, `/proc`, `/sys` and `/bin/sh`, and nothing else of the machine but the programs
//! that [`strace`], [`ls`] and [`containers`] run: they also run in virtual machines that have nothing else. No test
//! measures time; those that wait, wait for something.

mod args;
mod bad_days;
mod bad_input;
mod book;
mod budget;
mod containers;
mod counts;
mod doctor;
mod filters;
mod floods;
mod lines;
mod losses;
mod ls;
mod namespaces;
mod objects;
mod policy;
mod preemption;
mod processes;
mod scenarios;
mod seam;
mod strace;
mod tracer;
mod traces_left;
