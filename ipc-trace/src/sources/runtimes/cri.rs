//! containerd and CRI-O, by CRI: the API between Kubernetes and its runtimes. Containers are listed at intervals, and
//! at once when the runtime sends an event, which not all runtimes do.

mod messages;

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper::{Uri, http::uri::PathAndQuery};
use tokio::{
    sync::{Notify, mpsc::Sender},
    task::JoinSet,
    time::timeout,
};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::{
    ANSWER_TIMEOUT, IMAGE_LEN, NAME_LEN, RuntimeUpdate, Socket, receiver_gone, socket, truncated,
    valid_id,
};
use crate::{input::container::Labels, input::container::RuntimeMetadata, with_causes};
use messages::{
    All, ContainerEvent, CriContainer, ListContainersResponse, ListPodSandboxResponse,
    NamespaceMode, PodSandbox, PodSandboxStatusRequest, PodSandboxStatusResponse,
};

/// How often all containers are listed: for a runtime that sends events, and for one that does not.
const LIST_INTERVAL_WITH_EVENTS: Duration = Duration::from_secs(10);
const LIST_INTERVAL: Duration = Duration::from_secs(1);
/// How long to wait after an event: events come in groups.
const EVENT_DEBOUNCE: Duration = Duration::from_millis(50);
/// How long to wait before the events are requested again after they have ended.
const EVENTS_RETRY: Duration = Duration::from_secs(5);
/// The largest response in bytes: tens of thousands of containers.
const MAX_RESPONSE_BYTES: usize = 32 << 20;
/// How many labels of a pod are kept, and the largest label in bytes; Kubernetes allows 317 for a key and 63 for a
/// value.
const MAX_LABELS: usize = 32;
const LABEL_LEN: usize = 320;

type Client = Grpc<Channel>;

/// Follows a runtime until a request fails.
///
/// # Errors
/// Why the runtime can't be used (any more).
pub(super) async fn follow(
    socket: &Socket,
    at: usize,
    updates: &Sender<RuntimeUpdate>,
) -> Result<(), String> {
    let happened = Arc::new(Notify::new());
    let sends_events = Arc::new(AtomicBool::new(false));
    // Aborted when dropped.
    let mut events = JoinSet::new();
    events.spawn(listen(socket.path.clone(), Arc::clone(&happened), Arc::clone(&sends_events)));
    let (mut sent, mut modes) = (HashMap::new(), HashMap::new());
    let mut first = true;
    loop {
        let mut all = HashMap::new();
        for mut named in list(&socket.path, &mut modes).await? {
            named.runtime = Some(socket.runtime);
            if sent.get(&named.id) != Some(&named) {
                updates.send(RuntimeUpdate::Named(named.clone())).await.map_err(receiver_gone)?;
            }
            all.insert(named.id.clone(), named);
        }
        sent = all;
        if std::mem::take(&mut first) {
            updates.send(RuntimeUpdate::Caught(at)).await.map_err(receiver_gone)?;
        }
        let pause = if sends_events.load(Ordering::Relaxed) {
            LIST_INTERVAL_WITH_EVENTS
        } else {
            LIST_INTERVAL
        };
        if timeout(pause, happened.notified()).await.is_ok() {
            tokio::time::sleep(EVENT_DEBOUNCE).await;
        }
        if updates.is_closed() {
            return Ok(());
        }
    }
}

/// Notifies of events, as long as the runtime sends them.
async fn listen(path: PathBuf, happened: Arc<Notify>, sends_events: Arc<AtomicBool>) {
    loop {
        let ended = wait_for_events(&path, &happened, &sends_events).await;
        sends_events.store(false, Ordering::Relaxed);
        if ended.is_err_and(|status| status.code() == Code::Unimplemented) {
            return;
        }
        tokio::time::sleep(EVENTS_RETRY).await;
    }
}

async fn wait_for_events(
    path: &std::path::Path,
    happened: &Notify,
    sends_events: &AtomicBool,
) -> Result<(), Status> {
    let mut client = client(path).await?;
    let codec: ProstCodec<All, ContainerEvent> = ProstCodec::default();
    let path = PathAndQuery::from_static("/runtime.v1.RuntimeService/GetContainerEvents");
    let answer = client.server_streaming(Request::new(All {}), path, codec).await?;
    let mut events = answer.into_inner();
    sends_events.store(true, Ordering::Relaxed);
    while events.message().await?.is_some() {
        happened.notify_one();
    }
    Ok(())
}

/// A new connection for each round: each connection's bytes are bounded.
async fn client(path: &std::path::Path) -> Result<Client, Status> {
    let path = path.to_owned();
    let connect = tower::service_fn(move |_: Uri| socket::connect(path.clone()));
    let channel = Endpoint::from_static("http://localhost")
        .connect_timeout(ANSWER_TIMEOUT)
        .connect_with_connector(connect)
        .await
        .map_err(|error| Status::unavailable(with_causes(&error)))?;
    let mut client = Grpc::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES);
    ready(&mut client).await?;
    Ok(client)
}

async fn ready(client: &mut Client) -> Result<(), Status> {
    client.ready().await.map_err(|error| Status::unavailable(with_causes(&error)))
}

/// Makes one request.
async fn ask<Q, A>(client: &mut Client, path: &'static str, question: Q) -> Result<A, Status>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    ready(client).await?;
    let codec: ProstCodec<Q, A> = ProstCodec::default();
    let answer = client.unary(Request::new(question), PathAndQuery::from_static(path), codec);
    match timeout(ANSWER_TIMEOUT, answer).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!(
            "no answer within {} s",
            ANSWER_TIMEOUT.as_secs()
        ))),
    }
}

/// All containers, and the sandboxes of pods. `modes`: the sandboxes' modes that earlier requests returned, which do
/// not change.
async fn list(
    path: &std::path::Path,
    modes: &mut HashMap<String, Option<String>>,
) -> Result<Vec<RuntimeMetadata>, String> {
    listed(path, modes).await.map_err(|status| {
        if status.code() == Code::Unimplemented {
            return "it does not serve CRI (runtime.v1)".to_owned();
        }
        status.message().to_owned()
    })
}

async fn listed(
    path: &std::path::Path,
    modes: &mut HashMap<String, Option<String>>,
) -> Result<Vec<RuntimeMetadata>, Status> {
    let mut client = client(path).await?;
    let pods: ListPodSandboxResponse =
        ask(&mut client, "/runtime.v1.RuntimeService/ListPodSandbox", All {}).await?;
    let containers: ListContainersResponse =
        ask(&mut client, "/runtime.v1.RuntimeService/ListContainers", All {}).await?;
    let mut by_id = HashMap::new();
    let mut kept_modes = HashMap::new();
    for pod in pods.items {
        let Some(mut named) = of_pod(pod) else { continue };
        let mode = match modes.remove(&named.id) {
            Some(mode) => mode,
            None => mode_of(&mut client, &named.id).await,
        };
        kept_modes.insert(named.id.clone(), mode.clone());
        named.ipc_mode = mode;
        by_id.insert(named.id.clone(), named);
    }
    *modes = kept_modes;
    let mut all: Vec<_> =
        containers.containers.into_iter().filter_map(|one| of_container(one, &by_id)).collect();
    all.extend(by_id.into_values());
    Ok(all)
}

/// The IPC namespace mode of a pod. `None`: the pod is gone, or the runtime does not report it.
async fn mode_of(client: &mut Client, id: &str) -> Option<String> {
    let question = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned() };
    let path = "/runtime.v1.RuntimeService/PodSandboxStatus";
    let answer: PodSandboxStatusResponse = ask(client, path, question).await.ok()?;
    let options = answer.status?.linux?.namespaces?.options?;
    Some(match options.ipc() {
        NamespaceMode::Node => "host".to_owned(),
        NamespaceMode::Pod | NamespaceMode::Container | NamespaceMode::Target => "pod".to_owned(),
    })
}

/// A pod's sandbox, which is a container without a name.
fn of_pod(pod: PodSandbox) -> Option<RuntimeMetadata> {
    let about = pod.metadata.unwrap_or_default();
    Some(RuntimeMetadata {
        id: valid_id(Some(pod.id))?,
        pod: truncated(Some(about.name), NAME_LEN),
        pod_uid: truncated(Some(about.uid), NAME_LEN),
        pod_namespace: truncated(Some(about.namespace), NAME_LEN),
        labels: Some(labels(pod.labels)),
        ..RuntimeMetadata::default()
    })
}

fn of_container(
    one: CriContainer,
    pods: &HashMap<String, RuntimeMetadata>,
) -> Option<RuntimeMetadata> {
    let image = one.image.unwrap_or_default();
    let image =
        Some(image.user_specified_image).filter(|text| !text.is_empty()).or(Some(image.image));
    let pod = pods.get(&one.pod_sandbox_id).cloned().unwrap_or_default();
    Some(RuntimeMetadata {
        id: valid_id(Some(one.id))?,
        name: truncated(one.metadata.map(|about| about.name), NAME_LEN),
        image: truncated(image, IMAGE_LEN),
        ..pod
    })
}

/// The first labels, ordered by their keys.
fn labels(all: HashMap<String, String>) -> Labels {
    let count = all.len();
    let fits = |(key, value): &(String, String)| key.len() <= LABEL_LEN && value.len() <= LABEL_LEN;
    let sorted: BTreeMap<_, _> = all.into_iter().filter(fits).collect();
    let kept: BTreeMap<_, _> = sorted.into_iter().take(MAX_LABELS).collect();
    let lost = u32::try_from(count - kept.len()).unwrap_or(u32::MAX);
    Labels { kept, lost }
}

#[cfg(test)]
mod tests;
