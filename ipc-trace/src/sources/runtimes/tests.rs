//! Runtimes that hang, lie, garble, vanish and come back: servers on sockets of the tests' own.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use super::*;

/// Nothing takes so long: what does, hangs.
const PATIENCE: Duration = Duration::from_secs(60);

const ID: &str = "d8522205927a2b6a4f1b7c3c0e9d5a4f8e7d6c5b4a39281706f5e4d3c2b1a090";

/// A socket in a folder of its own, gone with it.
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

    /// Serves each connection by a thread: `answer` is given the request's path, and the connection.
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

fn whole(mut stream: UnixStream, status: &str, body: &str) {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    // The client may have gone.
    let _ = stream.write_all((head + body).as_bytes());
}

/// A body that goes on: the connection stays open.
fn chunk(stream: &mut UnixStream, body: &str) {
    let _ = stream.write_all(format!("{:x}\r\n{body}\r\n", body.len()).as_bytes());
}

fn chunked(stream: &mut UnixStream) {
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let _ = stream.write_all(head.as_bytes());
}

/// What Docker answers, with one container that exists, and the events `told`.
fn docker(told: &'static [&'static str]) -> impl Fn(&str, UnixStream) + Clone + Send + 'static {
    move |path, mut stream| {
        if path.ends_with("/version") {
            whole(stream, "200 OK", r#"{"ApiVersion":"1.41","Version":"20.10"}"#);
        } else if path.contains("/events") {
            chunked(&mut stream);
            for event in told {
                chunk(&mut stream, &format!("{event}\n"));
            }
            thread::sleep(PATIENCE);
        } else if path.contains("/containers/json") {
            let list =
                format!(r#"[{{"Id":"{ID}","Names":["/other/x","/app1"],"Image":"alpine"}}]"#);
            whole(stream, "200 OK", &list);
        } else if path.contains(&format!("/containers/{ID}/json")) {
            let one = format!(r#"{{"Id":"{ID}","HostConfig":{{"IpcMode":"shareable"}}}}"#);
            whole(stream, "200 OK", &one);
        } else {
            whole(stream, "404 Not Found", r#"{"message":"no such container"}"#);
        }
    }
}

/// What is heard until `enough`.
pub(super) fn hear(
    names: &mut RuntimeClients,
    enough: impl Fn(&[RuntimeMetadata], &RuntimeClients) -> bool,
) -> Vec<RuntimeMetadata> {
    let (begin, mut all) = (Instant::now(), Vec::new());
    loop {
        all.extend(names.heard());
        if enough(&all, names) {
            return all;
        }
        assert!(begin.elapsed() < PATIENCE, "{all:?} {:?}", names.states());
        thread::sleep(Duration::from_millis(1));
    }
}

fn silent(names: &RuntimeClients) -> bool {
    matches!(names.states(), [RuntimeState::Silent(_)])
}

#[test]
fn questions_that_are_not_answered_are_counted() {
    let place = SocketFolder::new();
    let usual = docker(&[]);
    place.serve(move |path, stream| {
        if path.contains(&format!("/containers/{ID}/json")) {
            whole(stream, "500 Internal Server Error", r#"{"message":"out of order"}"#);
        } else {
            usual(path, stream);
        }
    });
    let mut names = place.ask();
    let all = hear(&mut names, |_, names| names.any_answers());
    assert!(all.iter().any(|named| named.name.as_deref() == Some("app1")), "{all:?}");
    assert_eq!(names.failed.iter().sum::<u64>(), 1);
}

#[test]
fn the_end_of_the_thread_that_asks_is_noticed() {
    let mut names = SocketFolder::new().ask();
    // As when it panics: nobody is left to send.
    (_, names.news) = mpsc::channel(1);
    assert!(names.heard().is_none());
    assert!(silent(&names) && names.ended);
}

#[test]
fn containers_that_exist_are_told_with_their_namespaces() {
    let place = SocketFolder::new();
    place.serve(docker(&[]));
    let mut all = Vec::new();
    place.ask().wait(PATIENCE, |named| all.push(named));
    let id = ID.to_owned();
    let runtime = Some(RuntimeKind::Docker);
    let (name, image) = (Some("app1".to_owned()), Some("alpine".to_owned()));
    let told =
        RuntimeMetadata { id: id.clone(), runtime, name, image, ..RuntimeMetadata::default() };
    let mode = RuntimeMetadata {
        id,
        ipc_mode: Some("shareable".to_owned()),
        ..RuntimeMetadata::default()
    };
    assert_eq!(all, [told, mode]);
}

#[test]
fn events_tell_of_new_ones_and_what_makes_no_sense_is_passed_over() {
    let place = SocketFolder::new();
    place.serve(docker(&[
        r#"{"Type":"container","Action":"create","Actor":{"ID":"../../etc","Attributes":{"name":"a"}}}"#,
        r#"{"Type":"container","Action":"create"}"#,
        r#"{"Type":"container","Action":"create","Actor":{"ID":"00000000927a2b6a4f1b7c3c0e9d5a4f8e7d6c5b4a39281706f5e4d3c2b1a090","Attributes":{"name":"app2","image":"debian"}}}"#,
    ]));
    let app2 = |one: &RuntimeMetadata| one.name.as_deref() == Some("app2");
    let all = hear(&mut place.ask(), |all, _| all.iter().any(app2));
    let mut ids = all.iter().map(|one| one.id.as_str());
    assert!(ids.all(|id| id == ID || id.starts_with("00000000927a")), "{all:?}");
}

#[test]
fn garbage_is_no_answer_and_the_next_one_is_heard() {
    let place = SocketFolder::new();
    let times = std::sync::Arc::new(AtomicU32::new(0));
    let right = docker(&[]);
    place.serve(move |path, mut stream| match times.fetch_add(1, Ordering::Relaxed) {
        0 => drop(stream.write_all(b"\0\xff\xfe garbage \x1b[2J\r\n\r\n")),
        1 => whole(stream, "200 OK", "[{]]"),
        2 => whole(stream, "500 Internal Server Error", "no"),
        3 => drop(stream),
        _ => right(path, stream),
    });
    let mut names = place.ask();
    hear(&mut names, |_, names| silent(names));
    let all = hear(&mut names, |_, names| names.any_answers());
    assert_eq!(all.iter().filter(|one| one.name.as_deref() == Some("app1")).count(), 1);
}

#[test]
fn one_that_never_ends_to_speak_is_left() {
    let place = SocketFolder::new();
    place.serve(|_, mut stream| {
        chunked(&mut stream);
        let much = "[".repeat(1 << 20);
        // Until the client has gone: it takes no more than it would have to.
        let mut sent = 0;
        while stream.write_all(format!("{:x}\r\n{much}\r\n", much.len()).as_bytes()).is_ok() {
            sent += 1;
            assert!(sent < 256, "the client takes everything");
        }
    });
    let mut names = place.ask();
    let all = hear(&mut names, |_, names| silent(names));
    assert_eq!(all, []);
}

#[test]
fn one_that_hangs_is_waited_for_by_nobody_who_has_something_to_do() {
    let place = SocketFolder::new();
    place.serve(|_, _| thread::sleep(PATIENCE));
    let mut names = place.ask();
    assert_eq!(names.heard(), None);
    assert_eq!(names.states(), [RuntimeState::Asked]);
    hear(&mut names, |_, names| silent(names));
}

#[test]
fn one_that_vanishes_and_comes_back_is_heard_again() {
    let place = SocketFolder::new();
    let mut names = place.ask();
    hear(&mut names, |_, names| silent(names));
    place.serve(docker(&[]));
    hear(&mut names, |_, names| names.any_answers());
}

#[test]
fn who_does_not_listen_is_not_told_everything_at_once() {
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
    while names.news.len() < WAITING {
        assert!(begin.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(names.news.len(), WAITING);
    let some = hear(&mut names, |all, _| all.len() > 100);
    let kept = |one: &RuntimeMetadata| one.name.as_ref().is_none_or(|name| name.len() <= NAME_LEN);
    assert!(some.iter().all(kept));
}
