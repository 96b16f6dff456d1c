//! Parses the lines of `/proc/PID/mountinfo` and `/proc/PID/maps` that are related to IPC: pure.

use crate::event::escape::unescaped;

/// A mount of an IPC namespace or of an mqueue file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IpcMount {
    /// The mounted file
    pub of: Mounted,
    /// The mount point, any bytes
    pub point: Vec<u8>,
}

/// The mounted file: a namespace or a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mounted {
    /// The IPC namespace with this number
    Namespace(u32),
    /// The mqueue file system with this device: major and minor number
    Mqueue(u32, u32),
}

/// The mounts in a mountinfo file that are related to IPC.
pub(crate) fn mounts(text: &[u8]) -> impl Iterator<Item = IpcMount> {
    mountinfo(text).filter_map(mount)
}

/// A line of mountinfo (proc_pid_mountinfo(5)), with the fields used here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MountInfo<'a> {
    /// MAJOR:MINOR
    device: &'a [u8],
    /// The mounted subtree of the file system
    pub(crate) root: &'a [u8],
    point: &'a [u8],
    /// The file system's type
    pub(crate) kind: &'a [u8],
    /// Its options
    pub(crate) options: &'a [u8],
}

impl MountInfo<'_> {
    /// The mount point.
    pub(crate) fn point(&self) -> Vec<u8> {
        // Blanks, line ends and backslashes are in octal (`mangle`, fs/seq_file.c).
        unescaped(self.point, b"\\", 3, 8)
    }
}

/// The lines of a mountinfo file.
pub(crate) fn mountinfo(text: &[u8]) -> impl Iterator<Item = MountInfo<'_>> {
    text.split(|byte| *byte == b'\n').filter_map(|line| {
        // ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [OPTIONAL…] - TYPE SOURCE OPTIONS
        let mut fields = line.split(|byte| *byte == b' ');
        let (device, root, point) = (fields.nth(2)?, fields.next()?, fields.next()?);
        fields.find(|field| *field == b"-")?;
        let kind = fields.next()?;
        let options = fields.nth(1).unwrap_or_default();
        Some(MountInfo { device, root, point, kind, options })
    })
}

fn mount(line: MountInfo<'_>) -> Option<IpcMount> {
    let of = match line.kind {
        b"mqueue" => {
            let (major, minor) = std::str::from_utf8(line.device).ok()?.split_once(':')?;
            Mounted::Mqueue(major.parse().ok()?, minor.parse().ok()?)
        }
        b"nsfs" => Mounted::Namespace(namespace(std::str::from_utf8(line.root).ok()?)?),
        _ => return None,
    };
    Some(IpcMount { of, point: line.point() })
}

/// The number in `ipc:[4026531839]`, the form of links in `/proc/PID/ns` and of descriptors.
#[must_use]
pub(crate) fn namespace(link: &str) -> Option<u32> {
    numbered(link, "ipc")
}

/// The number in `KIND:[4026531839]`.
#[must_use]
pub(crate) fn numbered(link: &str, kind: &str) -> Option<u32> {
    link.strip_prefix(kind)?.strip_prefix(":[")?.strip_suffix(']')?.parse().ok()
}

/// A mapped segment, as a process's `maps` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MappedSegment {
    /// The segment's id: `newseg` (ipc/shm.c) makes it the file's inode number
    pub shmid: i32,
    /// The key at its creation: `newseg` puts it into the file's name
    pub key: u32,
    /// Bytes
    pub bytes: u64,
}

/// The mapped segments in a maps file (proc_pid_maps(5)).
pub(crate) fn segments(text: &[u8]) -> impl Iterator<Item = MappedSegment> {
    text.split(|byte| *byte == b'\n').filter_map(segment)
}

fn segment(line: &[u8]) -> Option<MappedSegment> {
    // START-END PERMISSIONS OFFSET DEVICE INODE      /SYSV8cd1ab21 (deleted)
    let line = std::str::from_utf8(line.strip_suffix(b" (deleted)")?).ok()?;
    let (fields, key) = line.rsplit_once(" /SYSV")?;
    let mut fields = fields.split_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let [start, end] = [start, end].map(|at| u64::from_str_radix(at, 16).ok());
    let shmid = fields.nth(3)?.parse().ok()?;
    // A longer path is another file with such an ending, which any process can create.
    if fields.next().is_some() {
        return None;
    }
    let (key, bytes) = (u32::from_str_radix(key, 16).ok()?, end?.checked_sub(start?)?);
    Some(MappedSegment { shmid, key, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipc_mounts_are_found_among_others() {
        let text = b"22 1 0:20 / /proc rw,nosuid - proc proc rw\n\
            34 25 0:19 / /dev/mqueue rw shared:15 - mqueue mqueue rw\n\
            35 25 0:4 ipc:[4026532180] /run/ns\\040x/a\\134b rw - nsfs nsfs rw\n\
            36 25 0:4 net:[4026532181] /run/netns/x rw - nsfs nsfs rw\n\
            37 broken";
        let mounts: Vec<_> = mounts(text).collect();
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].of, Mounted::Mqueue(0, 19));
        assert_eq!(mounts[0].point, b"/dev/mqueue");
        assert_eq!(mounts[1].of, Mounted::Namespace(4_026_532_180));
        assert_eq!(mounts[1].point, b"/run/ns x/a\\b");
    }

    #[test]
    fn segments_are_found_among_other_mappings() {
        let text = b"7f00-7f10 rw-p 00000000 00:00 0 \n\
            7f12ab000000-7f12ab002000 rw-s 00000000 00:01 32769                      /SYSV8cd1ab21 (deleted)\n\
            7f12ab000000-7f12ab002000 rw-s 00000000 00:01 7    /dev/shm/SYSV00000001 (deleted)\n\
            7f12ab000000-7f12ab002000 rw-s 00000000 00:01 8    /SYSV00000001\n\
            7f12ab000000-7f12ab002000 rw-s 00000000 00:01 9    /tmp/a /SYSV00000001 (deleted)\n";
        let found: Vec<_> = segments(text).collect();
        assert_eq!(found, [MappedSegment { shmid: 32769, key: 0x8cd1_ab21, bytes: 0x2000 }]);
    }

    #[test]
    fn parses_namespace_links() {
        assert_eq!(namespace("ipc:[4026531839]"), Some(4_026_531_839));
        for other in ["net:[4026531839]", "ipc:[]", "ipc:[1", "ipc:[x]", ""] {
            assert_eq!(namespace(other), None);
        }
    }
}
