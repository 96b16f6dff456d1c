//! Runtimes that hang, send garbage, vanish and return: servers on the tests' own sockets.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use super::*;

/// No test takes that long unless it hangs.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

const ID: &str = "d8522205927a2b6a4f1b7c3c0e9d5a4f8e7d6c5b4a39281706f5e4d3c2b1a090";

/// A socket in a temporary directory, removed with it.
pub(super) struct SocketFolder(PathBuf);

impl SocketFolder {
    pub(super) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ipc-trace-socket-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    pub(super) fn path(&self) -> PathBuf {
        self.0.join("docker.sock")
    }

    fn ask(&self) -> RuntimeClients {
        RuntimeClients::ask(vec![Socket { runtime: RuntimeKind::Docker, path: self.path() }])
            .unwrap()
    }

    /// Serves each connection in a thread: `answer` gets the request's path, and the connection.
    pub(super) fn serve(&self, answer: impl Fn(&str, UnixStream) + Clone + Send + 'static) {
        let listener = UnixListener::bind(self.path()).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, answer) = (stream.unwrap(), answer.clone());
                thread::spawn(move || {
                    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                    let request = lines.next().unwrap().unwrap();
                    while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {
                    }
                    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
                    answer(&path, stream);
                });
            }
        });
    }
}

impl Drop for SocketFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn respond(mut stream: UnixStream, status: &str, body: &str) {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    // The client may have gone.
    let _ = stream.write_all((head + body).as_bytes());
}

/// A chunked body: the connection stays open.
fn chunk(stream: &mut UnixStream, body: &str) {
    let _ = stream.write_all(format!("{:x}\r\n{body}\r\n", body.len()).as_bytes());
}

fn chunked(stream: &mut UnixStream) {
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let _ = stream.write_all(head.as_bytes());
}

/// Docker's responses, with one existing container, and the given events.
fn docker(events: &'static [&'static str]) -> impl Fn(&str, UnixStream) + Clone + Send + 'static {
    move |path, mut stream| {
        if path.ends_with("/version") {
            respond(stream, "200 OK", r#"{"ApiVersion":"1.41","Version":"20.10"}"#);
        } else if path.contains("/events") {
            chunked(&mut stream);
            for event in events {
                chunk(&mut stream, &format!("{event}\n"));
            }
            thread::sleep(TEST_TIMEOUT);
        } else if path.contains("/containers/json") {
            let list =
                format!(r#"[{{"Id":"{ID}","Names":["/other/x","/app1"],"Image":"alpine"}}]"#);
            respond(stream, "200 OK", &list);
        } else if path.contains(&format!("/containers/{ID}/json")) {
            let one = format!(r#"{{"Id":"{ID}","HostConfig":{{"IpcMode":"shareable"}}}}"#);
            respond(stream, "200 OK", &one);
        } else {
            respond(stream, "404 Not Found", r#"{"message":"no such container"}"#);
        }
    }
}

/// The updates received until `enough`.
pub(super) fn receive_until(
    names: &mut RuntimeClients,
    enough: impl Fn(&[RuntimeMetadata], &RuntimeClients) -> bool,
) -> Vec<RuntimeMetadata> {
    let (begin, mut all) = (Instant::now(), Vec::new());
    loop {
        all.extend(names.try_recv());
        if enough(&all, names) {
            return all;
        }
        assert!(begin.elapsed() < TEST_TIMEOUT, "{all:?} {:?}", names.states());
        thread::sleep(Duration::from_millis(1));
    }
}

fn silent(names: &RuntimeClients) -> bool {
    matches!(names.states(), [RuntimeState::Silent(_)])
}

#[test]
fn failed_requests_are_counted() {
    let place = SocketFolder::new();
    let default_sockets = docker(&[]);
    place.serve(move |path, stream| {
        if path.contains(&format!("/containers/{ID}/json")) {
            respond(stream, "500 Internal Server Error", r#"{"message":"out of order"}"#);
        } else {
            default_sockets(path, stream);
        }
    });
    let mut names = place.ask();
    let all = receive_until(&mut names, |_, names| names.any_has_answered());
    assert!(all.iter().any(|named| named.name.as_deref() == Some("app1")), "{all:?}");
    assert_eq!(names.failed.iter().sum::<u64>(), 1);
}

#[test]
fn panic_of_runtime_thread_is_noticed() {
    let mut names = SocketFolder::new().ask();
    // As when it panics: all senders are gone.
    (_, names.updates) = mpsc::channel(1);
    assert!(names.try_recv().is_none());
    assert!(silent(&names) && names.ended);
}

#[test]
fn existing_containers_are_sent_with_namespace_modes() {
    let place = SocketFolder::new();
    place.serve(docker(&[]));
    let mut all = Vec::new();
    place.ask().wait(TEST_TIMEOUT, |named| all.push(named));
    let id = ID.to_owned();
    let runtime = Some(RuntimeKind::Docker);
    let (name, image) = (Some("app1".to_owned()), Some("alpine".to_owned()));
    let expected =
        RuntimeMetadata { id: id.clone(), runtime, name, image, ..RuntimeMetadata::default() };
    let mode = RuntimeMetadata {
        id,
        ipc_mode: Some("shareable".to_owned()),
        ..RuntimeMetadata::default()
    };
    assert_eq!(all, [expected, mode]);
}

#[test]
fn events_report_new_containers_and_malformed_ones_are_skipped() {
    let place = SocketFolder::new();
    place.serve(docker(&[
        r#"{"Type":"container","Action":"create","Actor":{"ID":"../../etc","Attributes":{"name":"a"}}}"#,
        r#"{"Type":"container","Action":"create"}"#,
        r#"{"Type":"container","Action":"create","Actor":{"ID":"00000000927a2b6a4f1b7c3c0e9d5a4f8e7d6c5b4a39281706f5e4d3c2b1a090","Attributes":{"name":"app2","image":"debian"}}}"#,
    ]));
    let app2 = |one: &RuntimeMetadata| one.name.as_deref() == Some("app2");
    let all = receive_until(&mut place.ask(), |all, _| all.iter().any(app2));
    let mut ids = all.iter().map(|one| one.id.as_str());
    assert!(ids.all(|id| id == ID || id.starts_with("00000000927a")), "{all:?}");
}

#[test]
fn garbage_fails_and_retry_succeeds() {
    let place = SocketFolder::new();
    let times = std::sync::Arc::new(AtomicU32::new(0));
    let right = docker(&[]);
    place.serve(move |path, mut stream| match times.fetch_add(1, Ordering::Relaxed) {
        0 => drop(stream.write_all(b"\0\xff\xfe garbage \x1b[2J\r\n\r\n")),
        1 => respond(stream, "200 OK", "[{]]"),
        2 => respond(stream, "500 Internal Server Error", "no"),
        3 => drop(stream),
        _ => right(path, stream),
    });
    let mut names = place.ask();
    receive_until(&mut names, |_, names| silent(names));
    let all = receive_until(&mut names, |_, names| names.any_has_answered());
    assert_eq!(all.iter().filter(|one| one.name.as_deref() == Some("app1")).count(), 1);
}

#[test]
fn endless_response_is_aborted() {
    let place = SocketFolder::new();
    place.serve(|_, mut stream| {
        chunked(&mut stream);
        let much = "[".repeat(1 << 20);
        // Until the client disconnects: it takes no more than it must.
        let mut sent = 0;
        while stream.write_all(format!("{:x}\r\n{much}\r\n", much.len()).as_bytes()).is_ok() {
            sent += 1;
            assert!(sent < 256, "the client takes everything");
        }
    });
    let mut names = place.ask();
    let all = receive_until(&mut names, |_, names| silent(names));
    assert_eq!(all, []);
}

#[test]
fn hanging_runtime_does_not_block_receiver() {
    let place = SocketFolder::new();
    place.serve(|_, _| thread::sleep(TEST_TIMEOUT));
    let mut names = place.ask();
    assert_eq!(names.try_recv(), None);
    assert_eq!(names.states(), [RuntimeState::Asked]);
    receive_until(&mut names, |_, names| silent(names));
}

#[test]
fn restarted_runtime_is_followed_again() {
    let place = SocketFolder::new();
    let mut names = place.ask();
    receive_until(&mut names, |_, names| silent(names));
    place.serve(docker(&[]));
    receive_until(&mut names, |_, names| names.any_has_answered());
}

#[test]
fn events_of_an_interruption_are_requested_again() {
    let place = SocketFolder::new();
    let (sender, requested) = std::sync::mpsc::channel();
    place.serve(move |path, mut stream| {
        if let Some((_, since)) = path.split_once("since=") {
            let digits = since.split(|digit: char| !digit.is_ascii_digit()).next();
            sender.send(digits.unwrap().parse::<u64>().unwrap()).unwrap();
            // The connection ends after a while.
            chunked(&mut stream);
            thread::sleep(Duration::from_millis(1100));
        } else {
            docker(&[])(path, stream);
        }
    });
    let _names = place.ask();
    let [first, second] = [(); 2].map(|()| requested.recv_timeout(TEST_TIMEOUT).unwrap());
    assert_eq!(second, first, "nothing was received in between");
}

#[test]
fn bounded_channel_applies_backpressure() {
    let place = SocketFolder::new();
    place.serve(|path, mut stream| {
        if path.contains("/events") {
            chunked(&mut stream);
            let mut number: u64 = 0;
            loop {
                number += 1;
                let event = format!(
                    r#"{{"Actor":{{"ID":"{number:064x}","Attributes":{{"name":"{}"}}}}}}"#,
                    "n".repeat(10_000)
                );
                if stream
                    .write_all(format!("{:x}\r\n{event}\n\r\n", event.len() + 1).as_bytes())
                    .is_err()
                {
                    return;
                }
            }
        }
        docker(&[])(path, stream);
    });
    let mut names = place.ask();
    let begin = Instant::now();
    while names.updates.len() < MAX_WAITING_UPDATES {
        assert!(begin.elapsed() < TEST_TIMEOUT);
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(names.updates.len(), MAX_WAITING_UPDATES);
    let some = receive_until(&mut names, |all, _| all.len() > 100);
    let truncated =
        |one: &RuntimeMetadata| one.name.as_ref().is_none_or(|name| name.len() <= NAME_LEN);
    assert!(some.iter().all(truncated));
}
