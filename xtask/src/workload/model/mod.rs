//! `model`: a random program over objects, processes and namespaces, and the expected state at its end. It runs
//! until its standard input has data, and for some steps more; then it prints the expected state, and keeps
//! everything until it is killed.
//!
//! | module | its job |
//! | --- | --- |
//! | [`worker`] | the processes, which execute one command after the other |
//! | [`world`] | the expected state |

mod worker;
mod world;

use std::time::Duration;

use anyhow::Result;
use nix::unistd::pause;
use serde::{Deserialize, Serialize};

use world::ModelWorld;

/// Options of `model`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ModelArgs {
    /// The seed of the random program
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Steps after standard input has data
    #[arg(long, default_value_t = 200)]
    steps: u32,
    /// Microseconds between two steps
    #[arg(long, default_value_t = 300)]
    pause: u64,
}

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ModelKind {
    Shm,
    Sem,
    Msg,
    Mq,
}

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `limit`, which is not 0.
    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// One of them, if there are any.
    fn one_of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.below(all.len().max(1)))
    }
}

pub(crate) fn run(options: &ModelArgs) -> Result<()> {
    let mut world = ModelWorld::new(Random(options.seed))?;
    let mut left = None;
    while left != Some(0) {
        world.step()?;
        std::thread::sleep(Duration::from_micros(options.pause));
        left = match left {
            Some(left) => Some(left - 1),
            None => has_input().then_some(options.steps),
        };
    }
    println!("{}", world.expected_state());
    loop {
        pause();
    }
}

/// Whether standard input has data.
fn has_input() -> bool {
    let mut poll = libc::pollfd { fd: 0, events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
}
