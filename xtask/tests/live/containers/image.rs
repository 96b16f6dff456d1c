//! What containers are made of, and where they are found in what the tracer says.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::tracer::{list, text};

/// What containers run, from the host's `PATH`.
const PROGRAMS: [&str; 2] = ["ipcmk", "ipcs"];

/// An archive of busybox and the programs with their libraries, in a folder.
pub(super) fn tar(folder: &Path) -> PathBuf {
    let root = folder.join("image");
    let add = |from: &Path| {
        let to = root.join(from.strip_prefix("/").unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    };
    let on_path = |name: &str| {
        let found = Command::new("sh").args(["-c", &format!("command -v {name}")]).output();
        text(&found.unwrap().stdout).trim_end().to_owned()
    };
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::copy(on_path("busybox"), root.join("bin/busybox")).unwrap();
    for name in ["sh", "sleep"] {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    for name in PROGRAMS {
        let path = on_path(name);
        let libraries = text(&Command::new("ldd").arg(&path).output().unwrap().stdout);
        add(Path::new(&path));
        let words = libraries.split_whitespace().filter(|word| word.starts_with('/'));
        words.for_each(|word| add(Path::new(word)));
    }
    let tar = folder.join("image.tar");
    let made = Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".").status();
    assert!(made.unwrap().success());
    tar
}

/// By id, each container in a list.
pub(super) fn by_id(containers: &Value) -> BTreeMap<&str, &Value> {
    list(containers).iter().map(|one| (one["id"].as_str().unwrap(), one)).collect()
}

/// The namespaces of a report or a look that a container is in.
pub(super) fn of_container<'a>(all: &'a Value, id: &str) -> Vec<&'a Value> {
    let in_it = |ns: &&Value| by_id(&ns["containers"]).contains_key(id);
    list(&all["namespaces"]).iter().filter(in_it).collect()
}
