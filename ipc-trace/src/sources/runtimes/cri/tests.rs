//! A CRI runtime on the test's own socket.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Mutex,
    task::{Context, Poll},
};

use futures_util::stream;
use hyper::http;
use tokio::net::UnixListener;
use tonic::{Response, body::Body, server::NamedService};

use super::{
    super::{
        RuntimeState,
        tests::{SocketFolder, receive_until},
    },
    messages::{
        ContainerMetadata, CriNamespace, ImageSpec, LinuxPodSandboxStatus, NamespaceOption,
        PodSandboxMetadata, PodSandboxStatus,
    },
    *,
};
use crate::{input::container::RuntimeKind, sources::runtimes::RuntimeClients};

/// The state of the runtime.
#[derive(Debug, Default)]
struct Has {
    containers: Vec<CriContainer>,
    pods: Vec<PodSandbox>,
    /// Whether pods are in the host's IPC namespace
    host: bool,
    /// Whether it sends events; the stream then never ends
    events: bool,
}

/// The runtime.
#[derive(Clone, Debug)]
struct Server(Arc<Mutex<Has>>, Arc<Notify>);

impl NamedService for Server {
    const NAME: &'static str = "runtime.v1.RuntimeService";
}

type CannedReply = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl tower::Service<http::Request<Body>> for Server {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = CannedReply;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> CannedReply {
        let (has, happened) = (Arc::clone(&self.0), Arc::clone(&self.1));
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            Ok(match path.rsplit('/').next().unwrap_or_default() {
                "ListContainers" => {
                    let containers = has.lock().unwrap().containers.clone();
                    one::<All, _>(request, ListContainersResponse { containers }).await
                }
                "ListPodSandbox" => {
                    let items = has.lock().unwrap().pods.clone();
                    one::<All, _>(request, ListPodSandboxResponse { items }).await
                }
                "PodSandboxStatus" => {
                    let mode = if has.lock().unwrap().host {
                        NamespaceMode::Node
                    } else {
                        NamespaceMode::Pod
                    };
                    let options = Some(NamespaceOption { ipc: mode as i32 });
                    let namespaces = Some(CriNamespace { options });
                    let linux = Some(LinuxPodSandboxStatus { namespaces });
                    let status = Some(PodSandboxStatus { linux });
                    one::<PodSandboxStatusRequest, _>(request, PodSandboxStatusResponse { status })
                        .await
                }
                "GetContainerEvents" if has.lock().unwrap().events => {
                    let mut grpc =
                        tonic::server::Grpc::new(ProstCodec::<ContainerEvent, All>::default());
                    let each = move |_: Request<All>| {
                        let happened = Arc::clone(&happened);
                        let events = stream::unfold(happened, |happened| async {
                            happened.notified().await;
                            Some((Ok(ContainerEvent {}), happened))
                        });
                        std::future::ready(Ok::<_, Status>(Response::new(events)))
                    };
                    grpc.server_streaming(tower::service_fn(each), request).await
                }
                _ => Status::unimplemented("unknown method").into_http(),
            })
        })
    }
}

/// Responds with one message.
async fn one<Q, A>(request: http::Request<Body>, answer: A) -> http::Response<Body>
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + Clone + 'static,
{
    let mut grpc = tonic::server::Grpc::new(ProstCodec::<A, Q>::default());
    let each =
        move |_: Request<Q>| std::future::ready(Ok::<_, Status>(Response::new(answer.clone())));
    grpc.unary(tower::service_fn(each), request).await
}

/// Starts it: returns its state, and a handle that notifies its clients of changes.
fn serve(place: &SocketFolder, has: Has) -> (Arc<Mutex<Has>>, Arc<Notify>) {
    let (has, happened) = (Arc::new(Mutex::new(has)), Arc::new(Notify::new()));
    let server = Server(Arc::clone(&has), Arc::clone(&happened));
    let path = place.path();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let listener = runtime.block_on(async { UnixListener::bind(path).unwrap() });
    std::thread::spawn(move || {
        runtime.block_on(async move {
            let incoming = stream::unfold(listener, |listener| async {
                let stream = listener.accept().await.map(|(stream, _)| stream);
                Some((stream, listener))
            });
            tonic::transport::Server::builder()
                .add_service(server)
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
    });
    (has, happened)
}

fn ask_at(place: &SocketFolder) -> RuntimeClients {
    RuntimeClients::ask(vec![Socket { runtime: RuntimeKind::Containerd, path: place.path() }])
        .unwrap()
}

fn id(n: u64) -> String {
    format!("{n:064x}")
}

fn container(n: u64, pod: u64, name: &str) -> CriContainer {
    CriContainer {
        id: id(n),
        pod_sandbox_id: id(pod),
        metadata: Some(ContainerMetadata { name: name.to_owned() }),
        image: Some(ImageSpec {
            image: "sha256:1".to_owned(),
            user_specified_image: "web:2".to_owned(),
        }),
    }
}

fn pod(n: u64, name: &str) -> PodSandbox {
    let about = |text: &str| text.to_owned();
    PodSandbox {
        id: id(n),
        metadata: Some(PodSandboxMetadata {
            name: about(name),
            uid: about("6d1c1d3a-7f7e-4f0c-9d0c-0a1b2c3d4e5f"),
            namespace: about("shop"),
        }),
        labels: HashMap::from([(about("app"), about("web"))]),
    }
}

#[test]
fn containers_and_sandboxes_have_pods() {
    let place = SocketFolder::new();
    serve(
        &place,
        Has {
            containers: vec![container(1, 9, "app")],
            pods: vec![pod(9, "web-0")],
            ..Has::default()
        },
    );
    let all = receive_until(&mut ask_at(&place), |_, names| names.any_has_answered());
    let sandbox = RuntimeMetadata {
        id: id(9),
        runtime: Some(RuntimeKind::Containerd),
        pod: Some("web-0".to_owned()),
        pod_uid: Some("6d1c1d3a-7f7e-4f0c-9d0c-0a1b2c3d4e5f".to_owned()),
        pod_namespace: Some("shop".to_owned()),
        labels: Some(Labels {
            kept: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
            lost: 0,
        }),
        ipc_mode: Some("pod".to_owned()),
        ..RuntimeMetadata::default()
    };
    let app = RuntimeMetadata {
        id: id(1),
        name: Some("app".to_owned()),
        image: Some("web:2".to_owned()),
        ..sandbox.clone()
    };
    assert_eq!(all, [app, sandbox]);
}

#[test]
fn new_containers_are_sent_once() {
    // With events, and without.
    for events in [true, false] {
        let place = SocketFolder::new();
        let host = true;
        let (has, happened) =
            serve(&place, Has { pods: vec![pod(9, "web-0")], events, host, ..Has::default() });
        let mut names = ask_at(&place);
        let first = receive_until(&mut names, |_, names| names.any_has_answered());
        assert_eq!(
            first.iter().map(|one| &one.ipc_mode).collect::<Vec<_>>(),
            [&Some("host".to_owned())]
        );
        has.lock().unwrap().containers.push(container(1, 9, "late"));
        happened.notify_one();
        let more = receive_until(&mut names, |all, _| !all.is_empty());
        assert_eq!(more.iter().map(|one| one.name.as_deref()).collect::<Vec<_>>(), [Some("late")]);
    }
}

#[test]
fn malformed_data_is_skipped_and_long_data_truncated() {
    let place = SocketFolder::new();
    let mut odd = pod(9, &"n".repeat(10_000));
    odd.labels = (0..100).map(|n| (format!("label{n:03}"), "v".repeat(n * 10))).collect();
    let mut stray = container(2, 7, "stray");
    stray.image = None;
    let nameless = CriContainer { id: id(3), ..CriContainer::default() };
    let hostile = CriContainer { id: "../../etc".to_owned(), ..container(1, 9, "hostile") };
    serve(
        &place,
        Has { containers: vec![hostile, stray, nameless], pods: vec![odd], ..Has::default() },
    );
    let all = receive_until(&mut ask_at(&place), |_, names| names.any_has_answered());
    let ids: Vec<_> = all.iter().map(|one| one.id.clone()).collect();
    assert_eq!(ids, [id(2), id(3), id(9)]);
    assert_eq!((all[0].name.as_deref(), &all[0].pod, &all[0].image), (Some("stray"), &None, &None));
    assert_eq!(all[2].pod.as_ref().map(String::len), Some(NAME_LEN));
    let labels = all[2].labels.as_ref().unwrap();
    assert_eq!((labels.kept.len(), labels.lost), (MAX_LABELS, 100 - MAX_LABELS as u32));
}

#[test]
fn other_server_is_not_a_runtime() {
    let place = SocketFolder::new();
    place.serve(|_, stream| drop(stream));
    let mut names = ask_at(&place);
    let silent = |names: &RuntimeClients| matches!(names.states(), [RuntimeState::Silent(_)]);
    assert_eq!(receive_until(&mut names, |_, names| silent(names)), []);
}
