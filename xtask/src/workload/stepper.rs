//! `stepper`: threads that make one call each for every line of standard input, and print a line when they have.

use std::{
    io::{BufRead as _, Write as _},
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Result, anyhow};

use super::{calls::CountingCaller, oracle::WorkloadReport, process};

/// A key that no object has.
const NO_KEY: i32 = 0x5e05_0000;

/// Options of `stepper`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StepperArgs {
    /// How many threads, the first one included
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
}

pub(crate) fn run(options: &StepperArgs) -> Result<()> {
    let ended = AtomicBool::new(false);
    let barrier = Barrier::new(options.threads as usize);
    let step = |caller: &mut CountingCaller| {
        barrier.wait();
        if ended.load(Ordering::Relaxed) {
            return false;
        }
        caller.shmget(NO_KEY, 0, 0);
        barrier.wait();
        true
    };
    let mut all = WorkloadReport::default();
    thread::scope(|scope| -> Result<()> {
        let work = || -> Result<WorkloadReport> {
            let mut caller = CountingCaller::new("home")?;
            while step(&mut caller) {}
            Ok(caller.report())
        };
        let others: Vec<_> = (1..options.threads).map(|_| scope.spawn(work)).collect();
        let mut caller = CountingCaller::new("home")?;
        for line in std::io::stdin().lock().lines() {
            line?;
            step(&mut caller);
            println!("done");
            std::io::stdout().flush()?;
        }
        ended.store(true, Ordering::Relaxed);
        step(&mut caller);
        all.absorb(caller.report());
        for other in others {
            all.absorb(other.join().map_err(|_| anyhow!("a thread panicked"))??);
        }
        Ok(())
    })?;
    all.fact("tid", process::tid()).print()
}
