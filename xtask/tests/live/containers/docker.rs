//! Real Docker containers.

use std::{collections::BTreeMap, fs};

use serde_json::{Value, json};
use xtask::containers::{Docker, IMAGE};

use super::{PROGRAMS, by_id, of_container};
use crate::{
    invariants::assert_complete,
    tracer::{LiveTracer, ReportTracer, list, of_type, program, scaled, text},
};

/// Starts a container that sleeps: its id.
fn sleeper(docker: &Docker, name: &str, ipc: &str) -> String {
    let words = ["run", "--detach", "--network", "none", "--name", name, "--ipc", ipc];
    let id = docker.run(&[&words[..], &[IMAGE, "sleep", "3600"]].concat()).unwrap();
    id.trim_end().to_owned()
}

/// The option that has the tracer ask this daemon.
fn socket(docker: &Docker) -> [String; 2] {
    ["--runtime-socket".to_owned(), format!("docker={}", docker.socket().display())]
}

/// The output of `ls`.
fn ls(docker: &Docker) -> Value {
    let output = program().args(["ls", "-o", "json"]).args(socket(docker)).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn short_lived_containers_have_ids_and_names() {
    const WORKERS: u64 = 4;
    let docker = Docker::start("docker-short", &PROGRAMS).unwrap();
    let socket = socket(&docker);
    let options = socket.each_ref().map(String::as_str);
    let live = LiveTracer::start(&options);
    let report = ReportTracer::start(&options);
    let some = [&options[..], &["--container", "short1*", "--image", IMAGE]].concat();
    let some = LiveTracer::start(&some);
    let count = scaled(200);
    let run = |number: u64| {
        let name = format!("short{number}");
        let file = docker.folder().join(&name);
        let words = ["run", "--rm", "--network", "none", "--name", &name, "--cidfile"];
        let program = [file.to_str().unwrap(), IMAGE, "ipcmk", "--queue"];
        docker.run(&[&words[..], &program].concat()).unwrap();
        (fs::read_to_string(file).unwrap(), name)
    };
    let names: BTreeMap<String, String> = std::thread::scope(|scope| {
        let run = &run;
        let workers: Vec<_> = (0..WORKERS)
            .map(|first| {
                let mine = (0..count).filter(move |number| number % WORKERS == first);
                scope.spawn(move || mine.map(run).collect::<Vec<_>>())
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    let (lines, report, some) = (live.end(), report.end(), some.end());
    assert_eq!(names.len() as u64, count);
    assert_of_some(&some, &names);

    let mut seen = BTreeMap::new();
    let calls = of_type(&lines, "ipc").into_iter();
    for call in calls.filter(|call| call["process"]["comm"] == "ipcmk") {
        let container = &call["container"];
        let id = container["id"].as_str().unwrap_or_else(|| panic!("no container: {call}"));
        // A container of another test. One of these with a wrong id would be missing below.
        let Some(name) = names.get(id) else { continue };
        // A name that is known later is on a line of its own.
        let amended = || {
            let named = of_type(&lines, "container").into_iter();
            named.map(|line| &line["container"]).find(|one| one["id"] == id).cloned()
        };
        let shown = match container["name"].is_null() {
            true => amended().unwrap_or_else(|| panic!("it has no name: {call}"))["name"].clone(),
            false => container["name"].clone(),
        };
        assert_eq!(shown, *name, "{call}");
        assert_eq!(container["runtime"], "docker");
        *seen.entry(id).or_insert(0) += 1;
    }
    // ipcmk makes one call.
    assert_eq!(seen, names.keys().map(|id| (id.as_str(), 1)).collect());

    for (id, name) in &names {
        let namespaces = of_container(&report, id);
        assert_eq!(namespaces.len(), 1, "{id}");
        let container = by_id(&namespaces[0]["containers"])[id.as_str()];
        assert_eq!(container["name"], *name);
        assert_eq!(container["image"], IMAGE);
    }
}

/// The lines have only the containers that the filter selects, and one call of each.
fn assert_of_some(lines: &[Value], names: &BTreeMap<String, String>) {
    assert_complete(lines);
    let mut seen: Vec<_> = of_type(lines, "ipc")
        .into_iter()
        .filter(|call| call["process"]["comm"] == "ipcmk")
        .map(|call| call["container"]["id"].as_str().unwrap())
        .filter(|id| names.contains_key(*id))
        .collect();
    seen.sort_unstable();
    let wanted = names.iter().filter(|(_, name)| name.starts_with("short1"));
    assert_eq!(seen, wanted.map(|(id, _)| id.as_str()).collect::<Vec<_>>());
}

/// The steps of the guide that ipc-trace is based on.
#[test]
fn sharing_between_containers_is_shown_as_declared() {
    let docker = Docker::start("docker-sharing", &PROGRAMS).unwrap();
    let app1 = sleeper(&docker, "app1", "shareable");
    let segments = |name: &str| {
        let rows = docker.run(&["exec", name, "ipcs", "--shmems"]).unwrap();
        rows.lines().filter(|line| line.starts_with("0x")).map(str::to_owned).collect::<Vec<_>>()
    };
    // A fresh container has nothing, and what is made in it is there alone.
    assert_eq!(segments("app1"), [""; 0]);
    docker.run(&["exec", "app1", "ipcmk", "--shmem", "1024"]).unwrap();
    let made = segments("app1");
    assert_eq!(made.len(), 1);
    let key = made[0].split(' ').next().unwrap();

    let app2 = sleeper(&docker, "app2", &format!("container:{app1}"));
    let app3 = sleeper(&docker, "app3", "host");
    assert_eq!(segments("app2"), made);

    let ls = ls(&docker);
    let [shared] = of_container(&ls, &app1)[..] else { panic!("{ls}") };
    assert_eq!(shared["sharing"], "declared");
    let containers = by_id(&shared["containers"]);
    assert_eq!(containers.keys().copied().collect::<Vec<_>>(), {
        let mut ids = [app1.as_str(), &app2];
        ids.sort_unstable();
        ids
    });
    assert_eq!(containers[app1.as_str()]["ipc_mode"], "shareable");
    assert_eq!(containers[app2.as_str()]["ipc_mode"], format!("container:{app1}"));
    assert_eq!(containers[app2.as_str()]["name"], "app2");
    let keys: Vec<_> = list(&shared["objects"]).iter().map(|one| &one["key"]).collect();
    assert_eq!(keys, [key]);
    let elsewhere = list(&ls["namespaces"]).iter().filter(|ns| ns["inum"] != shared["inum"]);
    for object in elsewhere.flat_map(|ns| list(&ns["objects"])) {
        assert_ne!(object["key"], key);
    }
    let [host] = of_container(&ls, &app3)[..] else { panic!("{ls}") };
    assert_eq!((&host["host"], &host["sharing"]), (&json!(true), &json!("declared")));
    assert_eq!(by_id(&host["containers"])[app3.as_str()]["ipc_mode"], "host");

    // Two containers of one name, one after the other; and app2, which only sleeps.
    let socket = socket(&docker);
    let options = socket.each_ref().map(String::as_str);
    let (live, report) = (LiveTracer::start(&options), ReportTracer::start(&options));
    let same_name = ["first", "second"].map(|_| {
        let id = sleeper(&docker, "same-name", "private");
        docker.run(&["exec", "same-name", "ipcmk", "--queue"]).unwrap();
        docker.run(&["rm", "--force", "same-name"]).unwrap();
        id
    });
    docker.run(&["exec", "app1", "ipcmk", "--semaphore", "1"]).unwrap();
    let (lines, report) = (live.end(), report.end());
    let made = |id: &str| {
        let calls = of_type(&lines, "ipc").into_iter();
        let of_id = |call: &&Value| call["container"]["id"] == id;
        calls.filter(of_id).map(|call| call["op"].clone()).collect::<Vec<_>>()
    };
    assert_ne!(same_name[0], same_name[1]);
    assert_eq!(same_name.each_ref().map(|id| made(id)), [[json!("msgget")], [json!("msgget")]]);
    assert_eq!(made(&app1), [json!("semget")]);
    let objects = of_type(&lines, "object").into_iter();
    let made_by: Vec<_> = objects
        .filter(|line| line["event"] == "created" && line["object"]["kind"] == "sem")
        .map(|line| &line["object"]["creator"]["container"]["name"])
        .collect();
    assert_eq!(made_by, ["app1"]);

    let [shared] = of_container(&report, &app1)[..] else { panic!("{report}") };
    assert_eq!(shared["sharing"], "declared");
    assert!(by_id(&shared["containers"]).contains_key(app2.as_str()), "{shared}");
    for id in &same_name {
        assert_eq!(
            by_id(&of_container(&report, id)[0]["containers"])[id.as_str()]["name"],
            "same-name"
        );
    }
}
