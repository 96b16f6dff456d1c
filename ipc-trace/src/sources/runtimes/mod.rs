//! Containers' metadata from container runtimes, requested by a thread of its own.
//!
//! | module | its job |
//! | --- | --- |
//! | [`docker`] | Docker and Podman, by Docker's API |
//! | [`cri`] | containerd and CRI-O, by Kubernetes's CRI |
//! | `socket` | connections with bounded responses |
//!
//! Invariant: nothing blocks on a runtime. Its updates go through a bounded channel, which is polled between events;
//! while that is full, the runtime waits. An absent, slow or faulty runtime is retried after a while, and metadata
//! that it has not sent stays unknown.

pub(crate) mod cri;
pub(crate) mod docker;
mod socket;

use std::{
    fmt, io,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc::{
    self, Receiver, Sender,
    error::{SendError, TryRecvError},
};

use crate::input::container::{RuntimeKind, RuntimeMetadata};

/// How many updates can wait in the channel.
const MAX_WAITING_UPDATES: usize = 1 << 10;
/// How long to wait before a failed runtime is retried: at first, and at most.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// The timeout of a response.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest name and image in bytes.
const NAME_LEN: usize = 256;
const IMAGE_LEN: usize = 512;

/// A runtime's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Socket {
    /// The runtime's name
    pub runtime: RuntimeKind,
    /// Its path
    pub path: PathBuf,
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.runtime.name(), self.path.display())
    }
}

/// The default sockets of the host's own runtimes.
#[must_use]
pub(crate) fn default_sockets() -> Vec<Socket> {
    [
        (RuntimeKind::Docker, "/run/docker.sock"),
        (RuntimeKind::Podman, "/run/podman/podman.sock"),
        (RuntimeKind::Containerd, "/run/containerd/containerd.sock"),
        (RuntimeKind::Crio, "/run/crio/crio.sock"),
    ]
    .map(|(runtime, path)| Socket { runtime, path: path.into() })
    .into()
}

/// An update from a runtime's task.
#[derive(Debug)]
pub(crate) enum RuntimeUpdate {
    /// Something about a container
    Named(RuntimeMetadata),
    /// All existing containers have been sent; the index of the socket
    Caught(usize),
    /// A runtime does not answer: why
    Silent(usize, String),
    /// A runtime did not answer a request about one container: why
    Failed(usize, String),
}

/// Receives updates from all runtimes.
#[derive(Debug)]
pub(crate) struct RuntimeClients {
    updates: Receiver<RuntimeUpdate>,
    states: Vec<RuntimeState>,
    /// The sockets, in the order of the states
    sockets: Vec<Socket>,
    /// By socket, how many requests about containers failed
    failed: Vec<u64>,
    /// Whether one has sent all its containers
    answered: bool,
    /// Whether no more updates will come
    ended: bool,
}

/// The state of a runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RuntimeState {
    /// No answer yet
    Asked,
    /// It has sent all its containers
    Caught,
    /// It does not answer
    Silent(String),
}

impl RuntimeClients {
    /// Starts the thread.
    ///
    /// # Errors
    /// The thread can't be created.
    pub(crate) fn ask(sockets: Vec<Socket>) -> io::Result<Self> {
        let (sender, updates) = mpsc::channel(MAX_WAITING_UPDATES);
        let states = vec![RuntimeState::Asked; sockets.len()];
        let (asked, failed) = (sockets.clone(), vec![0; sockets.len()]);
        if !sockets.is_empty() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let ask = move || runtime.block_on(follow_all(sockets, sender));
            thread::Builder::new().name("ipc-trace-names".to_owned()).spawn(ask)?;
        }
        Ok(Self { updates, states, sockets: asked, failed, answered: false, ended: false })
    }

    /// The next update about a container, if there is one.
    pub(crate) fn try_recv(&mut self) -> Option<RuntimeMetadata> {
        loop {
            match self.updates.try_recv() {
                Ok(RuntimeUpdate::Named(named)) => return Some(named),
                Ok(RuntimeUpdate::Caught(at)) => {
                    self.answered = true;
                    self.set_state(at, RuntimeState::Caught);
                }
                Ok(RuntimeUpdate::Silent(at, reason)) => {
                    self.set_state(at, RuntimeState::Silent(reason))
                }
                Ok(RuntimeUpdate::Failed(at, reason)) => self.count_failure(at, &reason),
                Err(TryRecvError::Empty) => return None,
                Err(TryRecvError::Disconnected) => {
                    self.note_end();
                    return None;
                }
            }
        }
    }

    /// Counts a failed request, and logs the first one for each runtime.
    fn count_failure(&mut self, at: usize, reason: &str) {
        let (Some(count), Some(socket)) = (self.failed.get_mut(at), self.sockets.get(at)) else {
            return;
        };
        *count += 1;
        if *count == 1 {
            log::warn!(
                "{socket} does not report a container's IPC namespace mode: {reason}; findings about \
                 such containers get a lower confidence; check whether the runtime answers `inspect`"
            );
        }
    }

    /// The thread has ended, though it never does while its receiver exists: it has panicked.
    fn note_end(&mut self) {
        if self.sockets.is_empty() || std::mem::replace(&mut self.ended, true) {
            return;
        }
        let reason = "the thread that asks it has panicked";
        self.states.fill(RuntimeState::Silent(reason.to_owned()));
        log::warn!(
            "containers that start from now on have no names: the thread that asks their runtimes has panicked; \
             restart ipc-trace, and report its messages above"
        );
    }

    fn set_state(&mut self, at: usize, state: RuntimeState) {
        if let Some(known) = self.states.get_mut(at) {
            *known = state;
        }
    }

    /// The state of each runtime, in the order of the sockets.
    #[must_use]
    pub(crate) fn states(&self) -> &[RuntimeState] {
        &self.states
    }

    /// Whether one of them has answered, though the connection to it may have ended since.
    #[must_use]
    pub(crate) fn any_has_answered(&self) -> bool {
        self.answered
    }

    /// Waits until every runtime has sent all containers, or does not answer, or the time is over: for callers that
    /// can block.
    pub(crate) fn wait(&mut self, limit: Duration, mut each: impl FnMut(RuntimeMetadata)) {
        let begin = Instant::now();
        loop {
            while let Some(named) = self.try_recv() {
                each(named);
            }
            if !self.states.contains(&RuntimeState::Asked) || begin.elapsed() >= limit {
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

async fn follow_all(sockets: Vec<Socket>, updates: Sender<RuntimeUpdate>) {
    let tasks = sockets.into_iter().enumerate().map(|(at, socket)| {
        let updates = updates.clone();
        tokio::spawn(async move {
            let task = tokio::spawn(follow(socket.clone(), at, updates.clone()));
            if task.await.is_err_and(|error| error.is_panic()) {
                log::warn!("no names from {socket} any more: the task that asks it has panicked");
                // The receiver may be gone.
                let _ = updates
                    .send(RuntimeUpdate::Silent(
                        at,
                        "the task that asks it has panicked".to_owned(),
                    ))
                    .await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        // Each task has reported how it ended.
        let _ = task.await;
    }
}

/// Follows a runtime, with retries, until the receiver is gone.
async fn follow(socket: Socket, at: usize, updates: Sender<RuntimeUpdate>) {
    let (mut pause, mut before, mut received) = (RETRY_MIN, None, None);
    loop {
        let begin = Instant::now();
        let followed = match socket.runtime {
            RuntimeKind::Containerd | RuntimeKind::Crio | RuntimeKind::Cri => {
                cri::follow(&socket, at, &updates).await
            }
            RuntimeKind::Docker
            | RuntimeKind::Podman
            | RuntimeKind::Lxc
            | RuntimeKind::Nspawn
            | RuntimeKind::Unknown => docker::follow(&socket, at, &updates, &mut received).await,
        };
        let reason = match followed {
            Ok(()) => "it closed the connection".to_owned(),
            Err(reason) => reason,
        };
        if updates.is_closed() {
            return;
        }
        if before.as_ref() != Some(&reason) {
            log::info!("no names from {socket}: {reason}");
        }
        if updates.send(RuntimeUpdate::Silent(at, reason.clone())).await.is_err() {
            return;
        }
        before = Some(reason);
        if begin.elapsed() > RETRY_MAX {
            pause = RETRY_MIN;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

fn receiver_gone(_: SendError<RuntimeUpdate>) -> String {
    "the receiver is gone".to_owned()
}

/// A text from a runtime, truncated. `None`: there is none.
fn truncated(text: Option<String>, len: usize) -> Option<String> {
    let mut text = text.filter(|text| !text.is_empty())?;
    text.truncate(text.floor_char_boundary(len));
    Some(text)
}

/// An id in the format of runtimes; others are ignored.
fn valid_id(id: Option<String>) -> Option<String> {
    id.filter(|id| id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests;
