//! An actor with an executable of its own, which has objects that others look for: whose keys coincide
//! because two run the same program says little.

use anyhow::Result;

use super::{
    actor::{self, Image},
    acts::{made, open_queue},
    stage::{NamespaceSource, Stage},
};
use crate::workload::calls::CountingCaller;

/// Options of the actor.
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

/// Is the actor.
pub(super) fn be(own: &Own) -> Result<()> {
    actor::inherited(|me| {
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

/// Plays a container with such an actor, called `database`, whose image is a link to this program.
pub(super) fn database(stage: &mut Stage, key: i32, more: i32, burn: u32) -> Result<()> {
    let (image, queue) = (Image::new("database")?, String::from_utf8(stage.queue())?);
    let words = ["scenarios", "own", "--key", &key.to_string(), "--queue", &queue]
        .into_iter()
        .chain(["--more", &more.to_string(), "--burn", &burn.to_string()])
        .map(str::to_owned)
        .collect::<Vec<_>>();
    let container = stage.container()?;
    stage.contain(&container, NamespaceSource::Fresh, "database", |me| {
        me.become_image(image.path(), &words)
    })?;
    stage.keep(container);
    stage.settle()
}
