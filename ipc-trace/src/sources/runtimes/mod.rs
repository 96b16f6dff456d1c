//! What runtimes say of their containers, asked for by a thread of its own.
//!
//! | module | its job |
//! | --- | --- |
//! | [`docker`] | Docker and Podman, by Docker's API |
//! | [`cri`] | containerd and CRI-O, by the API that Kubernetes has for them |
//! | `socket` | connections that take no more than a runtime has to say |
//!
//! Invariant: nothing waits for a runtime. What it says goes through a bounded channel, which is looked
//! at between events; while that is full, the runtime waits. An absent, slow or garbling runtime is
//! asked again after a while, and what it has not said stays unknown.

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

/// Messages of runtimes that wait to be read.
const WAITING: usize = 1 << 10;
/// How long a runtime is left alone after it failed: at first, and at most.
const PAUSE: Duration = Duration::from_millis(100);
const LONG_PAUSE: Duration = Duration::from_secs(5);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// Bytes of a name and of an image that are kept.
const NAME_LEN: usize = 256;
const IMAGE_LEN: usize = 512;

/// A runtime's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Socket {
    /// Whose
    pub runtime: RuntimeKind,
    /// Where
    pub path: PathBuf,
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.runtime.name(), self.path.display())
    }
}

/// The sockets of the host's own runtimes, where they usually are.
#[must_use]
pub(crate) fn usual() -> Vec<Socket> {
    [
        (RuntimeKind::Docker, "/run/docker.sock"),
        (RuntimeKind::Podman, "/run/podman/podman.sock"),
        (RuntimeKind::Containerd, "/run/containerd/containerd.sock"),
        (RuntimeKind::Crio, "/run/crio/crio.sock"),
    ]
    .map(|(runtime, path)| Socket { runtime, path: path.into() })
    .into()
}

/// What a runtime's thread tells.
#[derive(Debug)]
pub(crate) enum News {
    /// Something about a container
    Named(RuntimeMetadata),
    /// All containers that there were have been told of; which socket, by its place
    Caught(usize),
    /// A runtime does not answer, and why
    Silent(usize, String),
    /// A runtime did not answer a question about one container, and why
    Failed(usize, String),
}

/// What comes from all runtimes.
#[derive(Debug)]
pub(crate) struct RuntimeClients {
    news: Receiver<News>,
    states: Vec<RuntimeState>,
    /// What is asked, in the order of the states
    sockets: Vec<Socket>,
    /// By socket, questions about containers that were not answered
    failed: Vec<u64>,
    /// Whether nothing more will come
    ended: bool,
}

/// How far a runtime has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RuntimeState {
    /// Not heard of yet
    Asked,
    /// It has told of all its containers
    Caught,
    /// It does not answer
    Silent(String),
}

impl RuntimeClients {
    /// Starts to ask.
    ///
    /// # Errors
    /// There can be no thread.
    pub(crate) fn ask(sockets: Vec<Socket>) -> io::Result<Self> {
        let (sender, news) = mpsc::channel(WAITING);
        let states = vec![RuntimeState::Asked; sockets.len()];
        let (asked, failed) = (sockets.clone(), vec![0; sockets.len()]);
        if !sockets.is_empty() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let ask = move || runtime.block_on(follow_all(sockets, sender));
            thread::Builder::new().name("ipc-trace-names".to_owned()).spawn(ask)?;
        }
        Ok(Self { news, states, sockets: asked, failed, ended: false })
    }

    /// The next that was said of a container, if there is something.
    pub(crate) fn heard(&mut self) -> Option<RuntimeMetadata> {
        loop {
            match self.news.try_recv() {
                Ok(News::Named(named)) => return Some(named),
                Ok(News::Caught(at)) => self.is_now(at, RuntimeState::Caught),
                Ok(News::Silent(at, reason)) => self.is_now(at, RuntimeState::Silent(reason)),
                Ok(News::Failed(at, reason)) => self.count_failure(at, &reason),
                Err(TryRecvError::Empty) => return None,
                Err(TryRecvError::Disconnected) => {
                    self.note_end();
                    return None;
                }
            }
        }
    }

    /// Counts a question that was not answered, and tells of the first one to each runtime.
    fn count_failure(&mut self, at: usize, reason: &str) {
        let (Some(count), Some(socket)) = (self.failed.get_mut(at), self.sockets.get(at)) else {
            return;
        };
        *count += 1;
        if *count == 1 {
            log::warn!(
                "{socket} does not tell which IPC namespace a container was given: {reason}; what is found of \
                 such containers is less sure; see whether the runtime answers `inspect`"
            );
        }
    }

    /// The thread that asks has ended, though it never does while somebody listens: it has panicked.
    fn note_end(&mut self) {
        if self.sockets.is_empty() || std::mem::replace(&mut self.ended, true) {
            return;
        }
        let reason = "the thread that asks it has panicked";
        self.states.fill(RuntimeState::Silent(reason.to_owned()));
        log::warn!(
            "containers that begin from now on have no names: the thread that asks their runtimes has panicked; \
             start ipc-trace anew, and report what it wrote above"
        );
    }

    fn is_now(&mut self, at: usize, state: RuntimeState) {
        if let Some(known) = self.states.get_mut(at) {
            *known = state;
        }
    }

    /// How far each runtime has come, in the order of the sockets.
    #[must_use]
    pub(crate) fn states(&self) -> &[RuntimeState] {
        &self.states
    }

    /// Whether one of them answers.
    #[must_use]
    pub(crate) fn any_answers(&self) -> bool {
        self.states.contains(&RuntimeState::Caught)
    }

    /// Waits until every runtime has told all, or does not answer, or it takes too long: for who has
    /// nothing else to do.
    pub(crate) fn wait(&mut self, patience: Duration, mut each: impl FnMut(RuntimeMetadata)) {
        let begin = Instant::now();
        loop {
            while let Some(named) = self.heard() {
                each(named);
            }
            if !self.states.contains(&RuntimeState::Asked) || begin.elapsed() >= patience {
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

async fn follow_all(sockets: Vec<Socket>, news: Sender<News>) {
    let tasks = sockets.into_iter().enumerate().map(|(at, socket)| {
        let news = news.clone();
        tokio::spawn(async move {
            let task = tokio::spawn(follow(socket.clone(), at, news.clone()));
            if task.await.is_err_and(|error| error.is_panic()) {
                log::warn!("no names from {socket} any more: the task that asks it has panicked");
                // Nobody may listen any more.
                let _ = news
                    .send(News::Silent(at, "the task that asks it has panicked".to_owned()))
                    .await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        // Each has told how its own task ended.
        let _ = task.await;
    }
}

/// Asks a runtime, again and again, until nobody listens.
async fn follow(socket: Socket, at: usize, news: Sender<News>) {
    let (mut pause, mut before) = (PAUSE, None);
    loop {
        let begin = Instant::now();
        let followed = match socket.runtime {
            RuntimeKind::Containerd | RuntimeKind::Crio | RuntimeKind::Cri => {
                cri::follow(&socket, at, &news).await
            }
            RuntimeKind::Docker
            | RuntimeKind::Podman
            | RuntimeKind::Lxc
            | RuntimeKind::Nspawn
            | RuntimeKind::Unknown => docker::follow(&socket, at, &news).await,
        };
        let reason = match followed {
            Ok(()) => "it closed the connection".to_owned(),
            Err(reason) => reason,
        };
        if news.is_closed() {
            return;
        }
        if before.as_ref() != Some(&reason) {
            log::info!("no names from {socket}: {reason}");
        }
        if news.send(News::Silent(at, reason.clone())).await.is_err() {
            return;
        }
        before = Some(reason);
        if begin.elapsed() > LONG_PAUSE {
            pause = PAUSE;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONG_PAUSE);
    }
}

fn nobody(_: SendError<News>) -> String {
    "nobody listens".to_owned()
}

/// A text of a runtime, which may say anything, as far as it is kept. `None`: there is none.
fn kept(text: Option<String>, len: usize) -> Option<String> {
    let mut text = text.filter(|text| !text.is_empty())?;
    text.truncate(text.floor_char_boundary(len));
    Some(text)
}

/// An id as runtimes make it; others are not looked for.
fn kept_id(id: Option<String>) -> Option<String> {
    id.filter(|id| id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests;
