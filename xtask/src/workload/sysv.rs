//! The System V operations of a [`CountingCaller`], by every route. All return the kernel's raw
//! answer, `-errno` for a failure.

use serde_json::{Value, json};

use super::calls::{CountingCaller, Route, Spelling, TimeLimit, ipc, slot};
use super::oracle::WorkloadOp;

/// `sembuf`: one step of a `semop`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SemStep(pub(crate) u16, pub(crate) i16, pub(crate) i16);

/// As glibc does it on i386: asks `ipc(2)` for the present layout of the structures.
const IPC_64: i32 = 0x100;

/// The longest message text that is sent or received.
pub(crate) const MAX_TEXT: usize = 0x5000;

fn w(value: i32) -> u64 {
    i64::from(value) as u64
}

impl CountingCaller {
    /// The command as the route wants it.
    fn versioned(&self, cmd: i32) -> i32 {
        if self.route() == Route::Int80Ipc { cmd | IPC_64 } else { cmd }
    }

    /// `shmget(2)`.
    pub(crate) fn shmget(&mut self, key: i32, size: usize, shmflg: i32) -> i64 {
        let a = [w(key), size as u64, w(shmflg)];
        let args = [a[0], a[1], a[2], 0, 0, 0];
        let spelling = Spelling {
            native: (29, args),
            direct: (395, args),
            ipc: ipc(23, 0, [a[0], a[1], a[2], 0, 0]),
        };
        self.go(
            WorkloadOp::Shmget,
            &spelling,
            || json!({"key": key, "size": size, "shmflg": shmflg}),
        )
    }

    /// `shmat(2)`; the address is returned by every route, also where the kernel stores it
    /// (which [`CountingCaller::fault`] prevents).
    pub(crate) fn shmat(&mut self, shmid: i32, shmaddr: u64, shmflg: i32) -> i64 {
        let args = [w(shmid), shmaddr, w(shmflg), 0, 0, 0];
        let place = self.pointer(slot::WORD);
        let spelling = Spelling {
            native: (30, args),
            direct: (397, args),
            ipc: ipc(21, 0, [args[0], args[2], place, shmaddr, 0]),
        };
        let ret = self.go(
            WorkloadOp::Shmat,
            &spelling,
            || json!({"shmid": shmid, "shmaddr": shmaddr, "shmflg": shmflg}),
        );
        if ret == 0 && self.route() == Route::Int80Ipc {
            let at = i64::from(u32::from_ne_bytes(self.get(slot::WORD)));
            self.amend_log("stored_addr", at);
            at
        } else {
            ret
        }
    }

    /// `shmdt(2)`.
    pub(crate) fn shmdt(&mut self, shmaddr: u64) -> i64 {
        let args = [shmaddr, 0, 0, 0, 0, 0];
        let spelling = Spelling {
            native: (67, args),
            direct: (398, args),
            ipc: ipc(22, 0, [0, 0, 0, shmaddr, 0]),
        };
        self.go(WorkloadOp::Shmdt, &spelling, || json!({"shmaddr": shmaddr}))
    }

    /// `shmctl(2)` with the arena's output slot as its buffer.
    pub(crate) fn shmctl(&mut self, shmid: i32, cmd: i32) -> i64 {
        let raw = self.versioned(cmd);
        let buf = self.pointer(slot::OUT);
        let args = [w(shmid), w(cmd), buf, 0, 0, 0];
        let spelling = Spelling {
            native: (31, args),
            direct: (396, args),
            ipc: ipc(24, 0, [args[0], w(raw), 0, buf, 0]),
        };
        self.go(
            WorkloadOp::Shmctl,
            &spelling,
            || json!({"shmid": shmid, "cmd": cmd, "raw_cmd": raw, "buf": buf}),
        )
    }

    /// `semget(2)`.
    pub(crate) fn semget(&mut self, key: i32, nsems: i32, semflg: i32) -> i64 {
        let args = [w(key), w(nsems), w(semflg), 0, 0, 0];
        let spelling = Spelling {
            native: (64, args),
            direct: (393, args),
            ipc: ipc(2, 0, [args[0], args[1], args[2], 0, 0]),
        };
        self.go(
            WorkloadOp::Semget,
            &spelling,
            || json!({"key": key, "nsems": nsems, "semflg": semflg}),
        )
    }

    fn put_steps(&mut self, sops: &[SemStep]) -> Value {
        for (i, SemStep(sem_num, sem_op, sem_flg)) in sops.iter().enumerate() {
            self.put(slot::IN + 6 * i, &sem_num.to_ne_bytes());
            self.put(slot::IN + 6 * i + 2, &sem_op.to_ne_bytes());
            self.put(slot::IN + 6 * i + 4, &sem_flg.to_ne_bytes());
        }
        if !self.is_logging() {
            return Value::Null;
        }
        let one = |s: &SemStep| json!({"sem_num": s.0, "sem_op": s.1, "sem_flg": s.2});
        sops.iter().map(one).collect()
    }

    /// `semop(2)`; i386 has no number of its own for it, only `ipc(2)` does.
    pub(crate) fn semop(&mut self, semid: i32, sops: &[SemStep]) -> i64 {
        let steps = self.put_steps(sops);
        let at = self.pointer(slot::IN);
        let n = sops.len() as u64;
        let spelling = Spelling {
            native: (65, [w(semid), at, n, 0, 0, 0]),
            direct: (420, [w(semid), at, n, 0, 0, 0]),
            ipc: ipc(1, 0, [w(semid), n, 0, at, 0]),
        };
        self.go(
            WorkloadOp::Semop,
            &spelling,
            || json!({"semid": semid, "nsops": n, "sops": steps, "timeout": null}),
        )
    }

    /// `semtimedop(2)`.
    pub(crate) fn semtimedop(
        &mut self,
        semid: i32,
        sops: &[SemStep],
        timeout: Option<TimeLimit>,
    ) -> i64 {
        let steps = self.put_steps(sops);
        let at = self.pointer(slot::IN);
        let time = self.put_time(timeout);
        let n = sops.len() as u64;
        let args = [w(semid), at, n, time, 0, 0];
        let spelling = Spelling {
            native: (220, args),
            direct: (420, args),
            ipc: ipc(4, 0, [w(semid), n, 0, at, time]),
        };
        self.go(
            WorkloadOp::Semop,
            &spelling,
            || json!({"semid": semid, "nsops": n, "sops": steps, "timeout": TimeLimit::json(timeout)}),
        )
    }

    /// `semctl(2)`; `val` is the argument of `SETVAL`, the output slot that of the commands
    /// which want an address.
    pub(crate) fn semctl(&mut self, semid: i32, semnum: i32, cmd: i32, val: i32) -> i64 {
        let takes_address =
            matches!(
                cmd,
                libc::IPC_STAT | libc::IPC_SET | libc::IPC_INFO | libc::GETALL | libc::SETALL
            ) || matches!(cmd, libc::SEM_STAT | libc::SEM_INFO | libc::SEM_STAT_ANY);
        let arg = if takes_address { self.pointer(slot::OUT) } else { w(val) };
        let raw = self.versioned(cmd);
        let args = [w(semid), w(semnum), w(cmd), arg, 0, 0];
        self.put_words(slot::WORD, &[arg as u32]);
        let word = self.good_pointer(slot::WORD);
        let spelling = Spelling {
            native: (66, args),
            direct: (394, args),
            ipc: ipc(3, 0, [args[0], args[1], w(raw), word, 0]),
        };
        self.go(WorkloadOp::Semctl, &spelling, || {
            let mut json = json!({"semid": semid, "semnum": semnum, "cmd": cmd, "raw_cmd": raw});
            json[if takes_address { "buf" } else { "val" }] = json!(arg as i64);
            json
        })
    }

    /// `msgget(2)`.
    pub(crate) fn msgget(&mut self, key: i32, msgflg: i32) -> i64 {
        let args = [w(key), w(msgflg), 0, 0, 0, 0];
        let spelling = Spelling {
            native: (68, args),
            direct: (399, args),
            ipc: ipc(13, 0, [args[0], args[1], 0, 0, 0]),
        };
        self.go(WorkloadOp::Msgget, &spelling, || json!({"key": key, "msgflg": msgflg}))
    }

    /// `msgsnd(2)`. The text is padded with what is left in the arena if `msgsz` claims more
    /// than there is.
    pub(crate) fn msgsnd(&mut self, msqid: i32, mtype: i64, text: &[u8], msgflg: i32) -> i64 {
        self.msgsnd_sized(msqid, mtype, text, text.len(), msgflg)
    }

    /// `msgsnd(2)` with a size of its own.
    pub(crate) fn msgsnd_sized(
        &mut self,
        msqid: i32,
        mtype: i64,
        text: &[u8],
        msgsz: usize,
        msgflg: i32,
    ) -> i64 {
        let head = self.put_longs(slot::IN, &[mtype]);
        self.put(slot::IN + head, text);
        let at = self.pointer(slot::IN);
        let args = [w(msqid), at, msgsz as u64, w(msgflg), 0, 0];
        let spelling = Spelling {
            native: (69, args),
            direct: (400, args),
            ipc: ipc(11, 0, [args[0], args[2], args[3], at, 0]),
        };
        self.go(
            WorkloadOp::Msgsnd,
            &spelling,
            || json!({"msqid": msqid, "mtype": mtype, "msgsz": msgsz, "msgflg": msgflg}),
        )
    }

    /// `msgrcv(2)` into the output slot.
    ///
    /// # Panics
    ///
    /// If `msgsz` is neither within [`MAX_TEXT`] nor so large that the kernel refuses it.
    pub(crate) fn msgrcv(&mut self, msqid: i32, msgsz: usize, msgtyp: i64, msgflg: i32) -> i64 {
        assert!(msgsz <= MAX_TEXT || msgsz > i32::MAX as usize);
        let at = self.pointer(slot::OUT);
        let (size, flags) = (msgsz as u64, w(msgflg));
        let args = [w(msqid), at, size, msgtyp as u64, flags, 0];
        let old = self.old_msgrcv();
        let through_ipc = if old {
            self.put_words(slot::WORD, &[at as u32, msgtyp as u32]);
            ipc(12, 0, [args[0], size, flags, self.good_pointer(slot::WORD), 0])
        } else {
            ipc(12, 1, [args[0], size, flags, at, msgtyp as u64])
        };
        let spelling = Spelling { native: (70, args), direct: (401, args), ipc: through_ipc };
        let version = (self.route() == Route::Int80Ipc).then_some(u32::from(!old));
        self.go(WorkloadOp::Msgrcv, &spelling, || {
            json!({"msqid": msqid, "msgsz": msgsz, "msgtyp": msgtyp, "msgflg": msgflg,
                   "ipc_version": version})
        })
    }

    /// `msgctl(2)` with the output slot as its buffer.
    pub(crate) fn msgctl(&mut self, msqid: i32, cmd: i32) -> i64 {
        let raw = self.versioned(cmd);
        let buf = self.pointer(slot::OUT);
        let args = [w(msqid), w(cmd), buf, 0, 0, 0];
        let spelling = Spelling {
            native: (71, args),
            direct: (402, args),
            ipc: ipc(14, 0, [args[0], w(raw), 0, buf, 0]),
        };
        self.go(
            WorkloadOp::Msgctl,
            &spelling,
            || json!({"msqid": msqid, "cmd": cmd, "raw_cmd": raw, "buf": buf}),
        )
    }
}
