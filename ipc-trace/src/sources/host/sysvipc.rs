//! The tables of `/proc/sysvipc`: pure.
//!
//! A table is a line of column names, followed by a line for each object (`sysvipc_shm_proc_show` in ipc/shm.c, and
//! similar functions in ipc/sem.c and ipc/msg.c). Columns are found by their names, so that a kernel may add some.

use std::time::{Duration, SystemTime};

use ipc_trace_common::op::ObjectKind;

use crate::event::{
    objects::{Creator, LastUse, ObjectInfo},
    value::{FileMode, Hex32, KindName, Timestamp},
};

/// `SHM_DEST` (include/linux/shm.h): removed, and destroyed with the last attachment.
const SHM_DEST: u32 = 0o1000;

/// A line with the names of its columns.
struct SysvipcLine<'a> {
    names: &'a [&'a str],
    values: Vec<&'a str>,
}

impl SysvipcLine<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        self.values.get(self.names.iter().position(|one| *one == name)?).copied()
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.text(name)?.parse().ok()
    }

    /// Seconds since 1970; 0: never.
    fn time(&self, name: &str) -> Option<SystemTime> {
        let seconds = self.number(name).filter(|seconds| *seconds > 0)?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    }

    /// 0: a process of another pid namespace, or none.
    fn pid(&self, name: &str) -> Option<u32> {
        self.number(name).filter(|pid| *pid > 0)
    }

    fn object(&self, kind: ObjectKind, id: &str) -> Option<ObjectInfo> {
        let mode = u32::from_str_radix(self.text("perms")?, 8).ok()?;
        Some(ObjectInfo {
            kind: KindName(kind),
            id: Some(self.number(id)?),
            key: Some(Hex32(self.number::<i32>("key")? as u32)),
            name: None,
            mode: Some(FileMode(mode & 0o777)),
            uid: Some(self.number("uid")?),
            gid: Some(self.number("gid")?),
            size: None,
            messages: None,
            max_messages: None,
            bytes: None,
            creator: Some(Creator {
                pid: self.pid("cpid"),
                uid: self.number("cuid")?,
                gid: self.number("cgid")?,
                comm: None,
                exe: None,
                start_boot_ns: None,
                container: None,
                exact: true,
            }),
            last: None,
            attached: None,
            removed: kind == ObjectKind::Shm && mode & SHM_DEST != 0,
            ino: None,
        })
    }

    fn shm(&self) -> Option<ObjectInfo> {
        let last = last_use(self.pid("lpid"), self.time("atime").max(self.time("dtime")));
        Some(ObjectInfo {
            size: Some(self.number("size")?),
            attached: Some(self.number("nattch")?),
            bytes: self.number("rss"),
            last,
            ..self.object(ObjectKind::Shm, "shmid")?
        })
    }

    fn sem(&self) -> Option<ObjectInfo> {
        Some(ObjectInfo {
            size: Some(self.number("nsems")?),
            last: last_use(None, self.time("otime")),
            ..self.object(ObjectKind::Sem, "semid")?
        })
    }

    fn msg(&self) -> Option<ObjectInfo> {
        let (sent, received) = (self.time("stime"), self.time("rtime"));
        let pid = self.pid(if received > sent { "lrpid" } else { "lspid" });
        Some(ObjectInfo {
            messages: Some(self.number("qnum")?),
            bytes: Some(self.number("cbytes")?),
            last: last_use(pid, sent.max(received)),
            ..self.object(ObjectKind::Msg, "msqid")?
        })
    }
}

fn last_use(pid: Option<u32>, time: Option<SystemTime>) -> Option<LastUse> {
    (pid.is_some() || time.is_some()).then(|| LastUse {
        pid,
        comm: None,
        time: time.map(Timestamp),
    })
}

/// The objects of a table.
///
/// # Errors
/// It is no table, or a line lacks columns: the line.
pub(crate) fn parse(kind: ObjectKind, table: &str) -> Result<Vec<ObjectInfo>, String> {
    let mut lines = table.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
    if names.first() != Some(&"key") {
        return Err(format!("it begins with {:?}", names.first().unwrap_or(&"")));
    }
    let object = |text: &str| {
        let line = SysvipcLine { names: &names, values: text.split_whitespace().collect() };
        let object = match kind {
            ObjectKind::Shm => line.shm(),
            ObjectKind::Sem => line.sem(),
            ObjectKind::Msg => line.msg(),
            ObjectKind::Mq => None,
        };
        object.ok_or_else(|| format!("its line {text:?} is not understood"))
    };
    lines.map(object).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHM: &str = "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap
-1932416223      32768  1600  18446744073709551615  4242     0      2  1000   100     0     0 1795445080          0 1795445070                  4096                     0
";

    #[test]
    fn segment_has_all_columns() {
        let objects = parse(ObjectKind::Shm, SHM).unwrap();
        let [one] = objects.as_slice() else { panic!("{objects:?}") };
        assert_eq!((one.id, one.key), (Some(32768), Some(Hex32(0x8cd1_ab21))));
        assert_eq!((one.mode, one.removed), (Some(FileMode(0o600)), true));
        assert_eq!((one.uid, one.gid, one.size), (Some(1000), Some(100), Some(u64::MAX)));
        assert_eq!((one.attached, one.bytes), (Some(2), Some(4096)));
        let creator = one.creator.as_ref().unwrap();
        assert_eq!((creator.pid, creator.uid, creator.gid), (Some(4242), 0, 0));
        let last = one.last.as_ref().unwrap();
        assert_eq!(last.pid, None);
        assert_eq!(last.time.unwrap().to_string(), "2026-11-23T14:44:40.000000000Z");
    }

    #[test]
    fn queue_last_use_is_latest() {
        let table = |stime, rtime| {
            format!(
                "key msqid perms cbytes qnum lspid lrpid uid gid cuid cgid stime rtime ctime\n\
                 0 3 666 12 2 71 72 0 0 0 0 {stime} {rtime} 5\n"
            )
        };
        let last =
            |stime, rtime| parse(ObjectKind::Msg, &table(stime, rtime)).unwrap()[0].last.clone();
        assert_eq!(last(10, 5).unwrap().pid, Some(71));
        assert_eq!(last(5, 10).unwrap().pid, Some(72));
    }

    #[test]
    fn malformed_table_is_error() {
        assert!(parse(ObjectKind::Sem, "").is_err());
        assert!(parse(ObjectKind::Sem, "semid key\n").is_err());
        assert!(parse(ObjectKind::Shm, "key shmid perms\n1 2\n").is_err());
        assert_eq!(parse(ObjectKind::Sem, "key semid perms nsems\n").unwrap(), []);
    }

    proptest! {
        #[test]
        fn any_text_has_an_object_per_line_or_an_error(table in "key[ a-z0-9\n-]{0,200}") {
            crate::fuzzing::sysvipc(table.as_bytes());
        }
    }
}
