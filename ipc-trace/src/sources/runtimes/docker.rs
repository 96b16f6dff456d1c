//! Docker and Podman, by Docker's API: the containers that exist, and events of those that are made.
//! An event tells the name and the image before the first process of a container runs; which IPC
//! namespace it was given is asked for then.

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

use super::{ANSWER, IMAGE_LEN, NAME_LEN, News, Socket, kept, kept_id, nobody, socket};
use crate::{input::container::RuntimeKind, input::container::RuntimeMetadata, with_causes};

/// Containers that are asked about at a time, and that wait to be.
const ASKED: usize = 4;
const TO_ASK: usize = 1 << 14;
/// Seconds before the connection from which on events are wanted, so that none falls between.
const BEFORE: u64 = 2;

/// Containers that wait to be asked about, each once.
#[derive(Debug, Default)]
struct ToAsk {
    order: VecDeque<Arc<str>>,
    waiting: HashSet<Arc<str>>,
}

impl ToAsk {
    fn push(&mut self, id: &str) {
        if self.order.len() < TO_ASK && !self.waiting.contains(id) {
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

/// Follows a runtime until it closes the connection.
///
/// # Errors
/// Why it is of no use (any more).
pub(super) async fn follow(socket: &Socket, at: usize, news: &Sender<News>) -> Result<(), String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let docker = socket::client(socket.path.clone()).map_err(|error| with_causes(&error))?;
    let docker = answered(docker.negotiate_version()).await?;
    let filters = HashMap::from([
        ("type".to_owned(), vec!["container".to_owned()]),
        ("event".to_owned(), ["create", "start", "rename"].map(str::to_owned).into()),
    ]);
    let options = EventsOptions {
        since: Some(now.saturating_sub(BEFORE).to_string()),
        filters: Some(filters),
        ..EventsOptions::default()
    };
    let mut events = pin!(docker.events(Some(options)));
    let all = ListContainersOptions { all: true, ..ListContainersOptions::default() };
    let mut list = pin!(answered(docker.list_containers(Some(all))));
    let (mut listed, mut caught) = (false, false);
    let mut to_ask = ToAsk::default();
    let mut asked = JoinSet::new();
    loop {
        while asked.len() < ASKED
            && let Some(id) = to_ask.pop()
        {
            asked.spawn(ask(docker.clone(), socket.runtime, id));
        }
        if listed && !caught && asked.is_empty() {
            caught = true;
            news.send(News::Caught(at)).await.map_err(nobody)?;
        }
        let named = tokio::select! {
            event = events.next() => match event {
                Some(event) => of_event(event.map_err(|error| with_causes(&error))?),
                None => return Ok(()),
            },
            summaries = &mut list, if !listed => {
                listed = true;
                for named in summaries?.into_iter().filter_map(of_summary) {
                    send_metadata(named, socket.runtime, &mut to_ask, news).await?;
                }
                None
            }
            Some(answer) = asked.join_next(), if !asked.is_empty() => {
                match answer.map_err(|error| error.to_string()).and_then(|answer| answer) {
                    Ok(Some(named)) => news.send(News::Named(named)).await.map_err(nobody)?,
                    Ok(None) => {}
                    Err(reason) => {
                        news.send(News::Failed(at, reason)).await.map_err(nobody)?;
                    }
                }
                None
            }
        };
        if let Some(named) = named {
            send_metadata(named, socket.runtime, &mut to_ask, news).await?;
        }
    }
}

/// Tells of a container, about which more will be asked.
async fn send_metadata(
    mut named: RuntimeMetadata,
    runtime: RuntimeKind,
    to_ask: &mut ToAsk,
    news: &Sender<News>,
) -> Result<(), String> {
    named.runtime = Some(runtime);
    to_ask.push(&named.id);
    news.send(News::Named(named)).await.map_err(nobody)
}

/// An answer, if it comes in time.
async fn answered<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, String> {
    match timeout(ANSWER, answer).await {
        Ok(answer) => answer.map_err(|error| with_causes(&error)),
        Err(_) => Err(format!("no answer within {} s", ANSWER.as_secs())),
    }
}

fn of_event(event: EventMessage) -> Option<RuntimeMetadata> {
    let actor = event.actor?;
    let mut attributes = actor.attributes.unwrap_or_default();
    Some(RuntimeMetadata {
        id: kept_id(actor.id)?,
        name: kept(attributes.remove("name"), NAME_LEN),
        image: kept(attributes.remove("image"), IMAGE_LEN),
        ..RuntimeMetadata::default()
    })
}

fn of_summary(summary: ContainerSummary) -> Option<RuntimeMetadata> {
    // A container that others link to has their names for it, too, with a slash in them.
    let names = summary.names.unwrap_or_default();
    let own = |name: &&String| !name.trim_start_matches('/').contains('/');
    let name = names.iter().find(own).map(|name| name.trim_start_matches('/').to_owned());
    Some(RuntimeMetadata {
        id: kept_id(summary.id)?,
        name: kept(name, NAME_LEN),
        image: kept(summary.image, IMAGE_LEN),
        ..RuntimeMetadata::default()
    })
}

/// Asks which IPC namespace a container was given. `None`: it is gone, or that is not said.
///
/// # Errors
/// Why there is no answer.
async fn ask(
    docker: Docker,
    runtime: RuntimeKind,
    id: String,
) -> Result<Option<RuntimeMetadata>, String> {
    let answer = match timeout(ANSWER, docker.inspect_container(&id, None)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(Error::DockerResponseServerError { status_code: 404, .. })) => return Ok(None),
        Ok(Err(error)) => return Err(with_causes(&error)),
        Err(_) => return Err(format!("no answer within {} s", ANSWER.as_secs())),
    };
    // Podman (4.3) calls every namespace so that is not another container's, even the host's.
    let told = |mode: &String| runtime != RuntimeKind::Podman || mode != "shareable";
    let mode = answer.host_config.and_then(|config| config.ipc_mode).filter(told);
    let ipc_mode = kept(mode, NAME_LEN);
    Ok(ipc_mode.map(|mode| RuntimeMetadata {
        id,
        ipc_mode: Some(mode),
        ..RuntimeMetadata::default()
    }))
}
