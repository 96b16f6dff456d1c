//! Docker and Podman, by Docker's API: the existing containers, and events of new ones. An event contains the name
//! and the image before the first process of a container runs; a further request then returns its IPC namespace mode.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    future::Future,
    pin::pin,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bollard::{
    Docker,
    errors::Error,
    models::{ContainerSummary, EventMessage},
    query_parameters::{EventsOptions, ListContainersOptions},
};
use futures_util::StreamExt as _;
use tokio::{sync::mpsc::Sender, task::JoinSet, time::timeout};

use super::{
    ANSWER_TIMEOUT, IMAGE_LEN, NAME_LEN, RuntimeUpdate, Socket, receiver_gone, socket, truncated,
    valid_id,
};
use crate::{input::container::RuntimeKind, input::container::RuntimeMetadata, with_causes};

/// How many containers are inspected at a time, and how many can be queued.
const MAX_INSPECTIONS: usize = 4;
const MAX_QUEUED_INSPECTIONS: usize = 1 << 14;
/// Events are requested from that many seconds before the last one was received, so that none is missed.
const EVENTS_OVERLAP_S: u64 = 2;

/// Containers to be inspected, each once.
#[derive(Debug, Default)]
struct InspectQueue {
    order: VecDeque<Arc<str>>,
    waiting: HashSet<Arc<str>>,
}

impl InspectQueue {
    fn push(&mut self, id: &str) {
        if self.order.len() < MAX_QUEUED_INSPECTIONS && !self.waiting.contains(id) {
            let id: Arc<str> = id.into();
            self.waiting.insert(Arc::clone(&id));
            self.order.push_back(id);
        }
    }

    fn pop(&mut self) -> Option<String> {
        let id = self.order.pop_front()?;
        self.waiting.remove(&id);
        Some((*id).to_owned())
    }
}

/// Follows a runtime until it closes the connection. `received` is when it was last heard of, in seconds since 1970;
/// what happened since is requested too, as a container that came and went meanwhile is in no list.
///
/// # Errors
/// Why the runtime can't be used (any more).
pub(super) async fn follow(
    socket: &Socket,
    at: usize,
    updates: &Sender<RuntimeUpdate>,
    received: &mut Option<u64>,
) -> Result<(), String> {
    let docker = socket::client(socket.path.clone()).map_err(|error| with_causes(&error))?;
    let docker = answered(docker.negotiate_version()).await?;
    let filters = HashMap::from([
        ("type".to_owned(), vec!["container".to_owned()]),
        ("event".to_owned(), ["create", "start", "rename"].map(str::to_owned).into()),
    ]);
    let since = *received.get_or_insert_with(now);
    let options = EventsOptions {
        since: Some(since.saturating_sub(EVENTS_OVERLAP_S).to_string()),
        filters: Some(filters),
        ..EventsOptions::default()
    };
    let mut events = pin!(docker.events(Some(options)));
    let all = ListContainersOptions { all: true, ..ListContainersOptions::default() };
    let mut list = pin!(answered(docker.list_containers(Some(all))));
    let (mut listed, mut caught) = (false, false);
    let mut to_ask = InspectQueue::default();
    let mut asked = JoinSet::new();
    loop {
        while asked.len() < MAX_INSPECTIONS
            && let Some(id) = to_ask.pop()
        {
            asked.spawn(ask(docker.clone(), socket.runtime, id));
        }
        if listed && !caught && asked.is_empty() {
            caught = true;
            updates.send(RuntimeUpdate::Caught(at)).await.map_err(receiver_gone)?;
        }
        let named = tokio::select! {
            event = events.next() => match event {
                Some(event) => {
                    let event = event.map_err(|error| with_causes(&error))?;
                    *received = Some(now());
                    of_event(event)
                }
                None => return Ok(()),
            },
            summaries = &mut list, if !listed => {
                listed = true;
                for named in summaries?.into_iter().filter_map(of_summary) {
                    send_metadata(named, socket.runtime, &mut to_ask, updates).await?;
                }
                None
            }
            Some(answer) = asked.join_next(), if !asked.is_empty() => {
                match answer.map_err(|error| error.to_string()).and_then(|answer| answer) {
                    Ok(Some(named)) => updates.send(RuntimeUpdate::Named(named)).await.map_err(receiver_gone)?,
                    Ok(None) => {}
                    Err(reason) => {
                        updates.send(RuntimeUpdate::Failed(at, reason)).await.map_err(receiver_gone)?;
                    }
                }
                None
            }
        };
        if let Some(named) = named {
            send_metadata(named, socket.runtime, &mut to_ask, updates).await?;
        }
    }
}

/// The time in seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Sends a container's metadata; an inspection follows.
async fn send_metadata(
    mut named: RuntimeMetadata,
    runtime: RuntimeKind,
    to_ask: &mut InspectQueue,
    updates: &Sender<RuntimeUpdate>,
) -> Result<(), String> {
    named.runtime = Some(runtime);
    to_ask.push(&named.id);
    updates.send(RuntimeUpdate::Named(named)).await.map_err(receiver_gone)
}

/// A response, if it arrives in time.
async fn answered<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, String> {
    match timeout(ANSWER_TIMEOUT, answer).await {
        Ok(answer) => answer.map_err(|error| with_causes(&error)),
        Err(_) => Err(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())),
    }
}

fn of_event(event: EventMessage) -> Option<RuntimeMetadata> {
    let actor = event.actor?;
    let mut attributes = actor.attributes.unwrap_or_default();
    Some(RuntimeMetadata {
        id: valid_id(actor.id)?,
        name: truncated(attributes.remove("name"), NAME_LEN),
        image: truncated(attributes.remove("image"), IMAGE_LEN),
        ..RuntimeMetadata::default()
    })
}

fn of_summary(summary: ContainerSummary) -> Option<RuntimeMetadata> {
    // A container that others link to has their names for it, too, with a slash in them.
    let names = summary.names.unwrap_or_default();
    let own = |name: &&String| !name.trim_start_matches('/').contains('/');
    let name = names.iter().find(own).map(|name| name.trim_start_matches('/').to_owned());
    Some(RuntimeMetadata {
        id: valid_id(summary.id)?,
        name: truncated(name, NAME_LEN),
        image: truncated(summary.image, IMAGE_LEN),
        ..RuntimeMetadata::default()
    })
}

/// Requests the IPC namespace mode of a container. `None`: it is gone, or not reported.
///
/// # Errors
/// Why there is no response.
async fn ask(
    docker: Docker,
    runtime: RuntimeKind,
    id: String,
) -> Result<Option<RuntimeMetadata>, String> {
    let answer = match timeout(ANSWER_TIMEOUT, docker.inspect_container(&id, None)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(Error::DockerResponseServerError { status_code: 404, .. })) => return Ok(None),
        Ok(Err(error)) => return Err(with_causes(&error)),
        Err(_) => return Err(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())),
    };
    // Podman (4.3) reports this for every namespace that isn't another container's, even the host's.
    let is_reported = |mode: &String| runtime != RuntimeKind::Podman || mode != "shareable";
    let mode = answer.host_config.and_then(|config| config.ipc_mode).filter(is_reported);
    let ipc_mode = truncated(mode, NAME_LEN);
    Ok(ipc_mode.map(|mode| RuntimeMetadata {
        id,
        ipc_mode: Some(mode),
        ..RuntimeMetadata::default()
    }))
}
