//! The cgroup hierarchy that identifies containers, and its cgroups.
//!
//! If cgroups of version 1 are in use, alone or beside version 2, runtimes create their cgroups in every hierarchy
//! with a controller, so one controller's hierarchy is used. Otherwise there is only one, the default hierarchy.

use std::{
    fs,
    os::unix::{ffi::OsStrExt as _, ffi::OsStringExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use crate::{
    sources::host::lines::{MountInfo, mountinfo},
    sources::kernel::{
        field_offsets::{CONTROLLERS, Layout},
        options::Cgroups,
    },
};

/// The largest number of cgroups that a walk lists: more than any host has.
const MAX_CGROUPS: usize = 1 << 17;
/// The largest depth of a walk. A controller's limit is higher, but no host nests that deep.
const MAX_DEPTH: usize = 64;

/// A hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// The controller by which it was chosen; `None`: it is the default hierarchy
    pub controller: Option<&'static str>,
    /// Its number; 0 is the default hierarchy
    pub number: u32,
    /// Its mount point, if visible
    pub root: Option<PathBuf>,
}

impl Hierarchy {
    /// Finds the hierarchy by this process's entries in `proc`. `None`: there are no cgroups.
    #[must_use]
    pub(crate) fn find(proc: &Path) -> Option<Self> {
        let own = fs::read_to_string(proc.join("self/cgroup")).ok()?;
        let mounts = fs::read(proc.join("self/mountinfo")).unwrap_or_default();
        let mounted = |controller| mount_point(&mounts, controller);
        let numbered = |controller: &'static str| {
            let of = |line: &&str| {
                let controllers = line.split(':').nth(1)?;
                controllers.split(',').any(|one| one == controller).then_some(())
            };
            let line = own.lines().find(|line| of(line).is_some())?;
            Some((controller, line.split(':').next()?.parse().ok()?))
        };
        match CONTROLLERS.into_iter().find_map(numbered) {
            Some((controller, number)) => {
                Some(Self { controller: Some(controller), number, root: mounted(Some(controller)) })
            }
            None => Some(Self { controller: None, number: 0, root: mounted(None) }),
        }
    }

    /// The ids that the programs use. `None`: the controller's number isn't in the kernel's BTF.
    #[must_use]
    pub(crate) fn kernel_ids(&self, layout: &Layout) -> Option<Cgroups> {
        let controller = match self.controller {
            Some(name) => Some(layout.controller(name)?),
            None => None,
        };
        Some(Cgroups { hierarchy: self.number, controller })
    }

    /// Passes the number and the path of each cgroup to `each`. Returns whether these are all.
    pub(crate) fn walk(&self, mut each: impl FnMut(u64, &[u8])) -> bool {
        let Some(root) = &self.root else { return false };
        let (mut left, mut listed) = (vec![(root.clone(), 0)], 0);
        while let Some((folder, depth)) = left.pop() {
            let Ok(facts) = fs::symlink_metadata(&folder) else { continue };
            listed += 1;
            if listed > MAX_CGROUPS {
                return false;
            }
            let path = folder.strip_prefix(root).unwrap_or(Path::new(""));
            each(facts.ino(), &[b"/", path.as_os_str().as_bytes()].concat());
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            let is_folder = |one: &fs::DirEntry| one.file_type().is_ok_and(|kind| kind.is_dir());
            if depth < MAX_DEPTH {
                left.extend(entries.flatten().filter(is_folder).map(|one| (one.path(), depth + 1)));
            }
        }
        true
    }

    /// The path of a process's cgroup, if it has that number.
    #[must_use]
    pub(crate) fn path_of(&self, proc: &Path, pid: u32, number: u64) -> Option<Vec<u8>> {
        let path = self.path_of_process(proc, pid)?;
        let inside = path.strip_prefix(b"/")?;
        // In a cgroup namespace, cgroups outside it are shown like that (cgroup_namespaces(7)).
        if inside.split(|byte| *byte == b'/').any(|one| one == b"..") {
            return None;
        }
        let folder = self.root.as_ref()?.join(std::ffi::OsStr::from_bytes(inside));
        (fs::symlink_metadata(folder).ok()?.ino() == number).then_some(path)
    }

    /// The path of a process's cgroup.
    #[must_use]
    pub(crate) fn path_of_process(&self, proc: &Path, pid: u32) -> Option<Vec<u8>> {
        // NUMBER:CONTROLLERS:PATH, see cgroups(7). A path may contain anything but a line break, and is not escaped;
        // lines start with a number.
        let text = fs::read(proc.join(pid.to_string()).join("cgroup")).ok()?;
        let line = text.split(|byte| *byte == b'\n').find_map(|line| {
            let mut parts = line.splitn(3, |byte| *byte == b':');
            let number: u32 = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
            parts.next()?;
            (number == self.number).then_some(parts.next()?)
        })?;
        Some(line.strip_suffix(b" (deleted)").unwrap_or(line).to_vec())
    }
}

/// The mount point of a hierarchy's root.
fn mount_point(text: &[u8], controller: Option<&str>) -> Option<PathBuf> {
    let is_it = |line: &MountInfo<'_>| match controller {
        None => line.kind == b"cgroup2",
        Some(name) => {
            let mut options = line.options.split(|byte| *byte == b',');
            line.kind == b"cgroup" && options.any(|option| option == name.as_bytes())
        }
    };
    let found = mountinfo(text).find(|line| is_it(line) && line.root == b"/")?;
    Some(PathBuf::from(std::ffi::OsString::from_vec(found.point())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `/proc` and a tree of cgroups in a temporary directory.
    struct Fixture(tempfile::TempDir);

    impl Fixture {
        fn new(cgroup: &str, mounts: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let root = folder.path();
            fs::create_dir_all(root.join("proc/self")).unwrap();
            fs::write(root.join("proc/self/cgroup"), cgroup).unwrap();
            let mounts = mounts.replace("ROOT", root.to_str().unwrap());
            fs::write(root.join("proc/self/mountinfo"), mounts).unwrap();
            Self(folder)
        }

        fn find(&self) -> Hierarchy {
            Hierarchy::find(&self.0.path().join("proc")).unwrap()
        }
    }

    const V2: &str = "30 1 0:27 / ROOT/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn version_2_uses_default_hierarchy() {
        let fixture = Fixture::new("0::/user.slice\n", V2);
        let root = Some(fixture.0.path().join("cgroup"));
        assert_eq!(fixture.find(), Hierarchy { controller: None, number: 0, root });
    }

    #[test]
    fn version_1_and_hybrid_use_controller_hierarchy() {
        let v1 = "31 1 0:28 / ROOT/pids\\040here rw - cgroup cgroup rw,pids\n\
                  32 1 0:29 /inner ROOT/memory rw - cgroup cgroup rw,memory\n";
        let own = "9:pids:/\n3:cpu,memory:/x\n1:name=systemd:/\n0::/\n";
        let fixture = Fixture::new(own, &[V2, v1].concat());
        let root = Some(fixture.0.path().join("pids here"));
        assert_eq!(fixture.find(), Hierarchy { controller: Some("pids"), number: 9, root });
        // A mount of a subtree is no root.
        let fixture = Fixture::new("3:cpu,memory:/x\n", v1);
        assert_eq!(fixture.find(), Hierarchy { controller: Some("memory"), number: 3, root: None });
    }

    #[test]
    fn walk_lists_directories_and_follows_no_links() {
        let fixture = Fixture::new("0::/\n", V2);
        let root = fixture.0.path().join("cgroup");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/cgroup.procs"), "").unwrap();
        std::os::unix::fs::symlink(&root, root.join("a/loop")).unwrap();
        let mut seen = Vec::new();
        let hierarchy = fixture.find();
        assert!(hierarchy.walk(|ino, path| seen.push((path.to_vec(), ino))));
        seen.sort();
        let paths: Vec<&[u8]> = seen.iter().map(|one| one.0.as_slice()).collect();
        assert_eq!(paths, [&b"/"[..], b"/a", b"/a/b"]);
        let ino = fs::metadata(root.join("a/b")).unwrap().ino();
        assert_eq!(seen[2].1, ino);

        let proc = fixture.0.path().join("proc");
        fs::create_dir_all(proc.join("7")).unwrap();
        fs::write(proc.join("7/cgroup"), "4:pids:/wrong\n0::/a/b\n").unwrap();
        assert_eq!(hierarchy.path_of(&proc, 7, ino).as_deref(), Some(&b"/a/b"[..]));
        // It is in another one by now.
        assert_eq!(hierarchy.path_of(&proc, 7, ino + 1), None);
        assert_eq!(hierarchy.path_of(&proc, 8, ino), None);
        // Paths above the hierarchy are ignored.
        fs::write(proc.join("7/cgroup"), "0::/../cgroup/a/b\n").unwrap();
        assert_eq!(hierarchy.path_of(&proc, 7, ino), None);
    }
}
