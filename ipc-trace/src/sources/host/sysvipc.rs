//! The tables of `/proc/sysvipc`: pure.
//!
//! A table is a line of column names, then a line an object (`sysvipc_shm_proc_show` in ipc/shm.c,
//! and its like in ipc/sem.c and ipc/msg.c). Columns are found by their names, so that a kernel may
//! add some.

use std::time::{Duration, SystemTime};

use ipc_trace_common::op::Family;

use crate::event::{
    objects::{Creator, LastUse, ObjectLook},
    value::{FamilyName, FileMode, Hex32, Timestamp},
};

/// `SHM_DEST` (include/linux/shm.h): removed, and gone with the last attachment.
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

    /// A process of another pid namespace, or none, is 0.
    fn pid(&self, name: &str) -> Option<u32> {
        self.number(name).filter(|pid| *pid > 0)
    }

    fn object(&self, kind: Family, id: &str) -> Option<ObjectLook> {
        let mode = u32::from_str_radix(self.text("perms")?, 8).ok()?;
        Some(ObjectLook {
            kind: FamilyName(kind),
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
            removed: kind == Family::Shm && mode & SHM_DEST != 0,
            ino: None,
        })
    }

    fn shm(&self) -> Option<ObjectLook> {
        let last = last_use(self.pid("lpid"), self.time("atime").max(self.time("dtime")));
        Some(ObjectLook {
            size: Some(self.number("size")?),
            attached: Some(self.number("nattch")?),
            bytes: self.number("rss"),
            last,
            ..self.object(Family::Shm, "shmid")?
        })
    }

    fn sem(&self) -> Option<ObjectLook> {
        Some(ObjectLook {
            size: Some(self.number("nsems")?),
            last: last_use(None, self.time("otime")),
            ..self.object(Family::Sem, "semid")?
        })
    }

    fn msg(&self) -> Option<ObjectLook> {
        let (sent, received) = (self.time("stime"), self.time("rtime"));
        let pid = self.pid(if received > sent { "lrpid" } else { "lspid" });
        Some(ObjectLook {
            messages: Some(self.number("qnum")?),
            bytes: Some(self.number("cbytes")?),
            last: last_use(pid, sent.max(received)),
            ..self.object(Family::Msg, "msqid")?
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

/// The objects of a table; an error is a line that is not understood.
///
/// # Errors
/// The table is none, or a line of it has no such columns: the line.
pub(crate) fn parse(kind: Family, table: &str) -> Result<Vec<ObjectLook>, String> {
    let mut lines = table.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
    if names.first() != Some(&"key") {
        return Err(format!("it begins with {:?}", names.first().unwrap_or(&"")));
    }
    let object = |text: &str| {
        let line = SysvipcLine { names: &names, values: text.split_whitespace().collect() };
        let object = match kind {
            Family::Shm => line.shm(),
            Family::Sem => line.sem(),
            Family::Msg => line.msg(),
            Family::Mq => None,
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
    fn a_segment_has_all_its_columns() {
        let objects = parse(Family::Shm, SHM).unwrap();
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
    fn a_queues_last_user_is_who_used_it_last() {
        let table = |stime, rtime| {
            format!(
                "key msqid perms cbytes qnum lspid lrpid uid gid cuid cgid stime rtime ctime\n\
                 0 3 666 12 2 71 72 0 0 0 0 {stime} {rtime} 5\n"
            )
        };
        let last = |stime, rtime| parse(Family::Msg, &table(stime, rtime)).unwrap()[0].last.clone();
        assert_eq!(last(10, 5).unwrap().pid, Some(71));
        assert_eq!(last(5, 10).unwrap().pid, Some(72));
    }

    #[test]
    fn what_is_no_table_is_an_error() {
        assert!(parse(Family::Sem, "").is_err());
        assert!(parse(Family::Sem, "semid key\n").is_err());
        assert!(parse(Family::Shm, "key shmid perms\n1 2\n").is_err());
        assert_eq!(parse(Family::Sem, "key semid perms nsems\n").unwrap(), []);
    }

    proptest! {
        #[test]
        fn no_text_is_too_much(table in "key[ a-z0-9\n-]{0,200}") {
            for kind in Family::ALL {
                let _ = parse(kind, &table);
            }
        }
    }
}
