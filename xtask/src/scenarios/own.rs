//! A process with an executable of its own, which has objects that others look up: equal keys of two processes
//! with the same program prove little.

use anyhow::Result;

use super::{
    actions::{made, open_queue},
    fixture::{NamespaceSource, ScenarioFixture},
    process::{self, Image},
};
use crate::workload::calls::CountingCaller;

/// Options of the process.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Own {
    /// Has a segment, a semaphore and a message queue of this key
    #[arg(long)]
    key: i32,
    /// Has so many semaphores of the following keys
    #[arg(long, default_value_t = 0)]
    more: i32,
    /// Has a POSIX queue of this name
    #[arg(long)]
    queue: String,
    /// Makes and removes so many semaphores before
    #[arg(long, default_value_t = 0)]
    burn: u32,
}

/// Is the process.
pub(super) fn be(own: &Own) -> Result<()> {
    process::inherited(|me| {
        let mut caller = CountingCaller::new("owner")?;
        for _ in 0..own.burn {
            let id = made("semget", caller.semget(libc::IPC_PRIVATE, 1, 0o600))?;
            caller.semctl(id, 0, libc::IPC_RMID, 0);
        }
        let flags = libc::IPC_CREAT | 0o600;
        made("shmget", caller.shmget(own.key, 4096, flags))?;
        made("msgget", caller.msgget(own.key, flags))?;
        for key in own.key..=own.key + own.more {
            made("semget", caller.semget(key, 1, flags))?;
        }
        open_queue(&mut caller, own.queue.as_bytes())?;
        me.stay()
    })
}

/// Starts a container with such a process, called `database`, whose executable is a link to this program.
pub(super) fn database(
    fixture: &mut ScenarioFixture,
    key: i32,
    more: i32,
    burn: u32,
) -> Result<()> {
    let (image, queue) = (Image::new("database")?, String::from_utf8(fixture.queue())?);
    let words = ["scenarios", "own", "--key", &key.to_string(), "--queue", &queue]
        .into_iter()
        .chain(["--more", &more.to_string(), "--burn", &burn.to_string()])
        .map(str::to_owned)
        .collect::<Vec<_>>();
    let container = fixture.container()?;
    fixture.spawn_contained(&container, NamespaceSource::Fresh, "database", |me| {
        me.exec_image(image.path(), &words)
    })?;
    fixture.keep(container);
    fixture.wait_ready()
}
