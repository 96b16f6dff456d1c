//! The POSIX message queue operations of a [`CountingCaller`], by every route. Names are those of the
//! system calls: without the slash that C libraries want.

use serde_json::{Value, json};

use super::calls::{CountingCaller, Spelling, TimeLimit, slot};
use super::oracle::WorkloadOp;

/// The size of a queue that is created: `mq_maxmsg` and `mq_msgsize`.
pub(crate) type QueueSize = (i64, i64);

/// What `mq_notify` registers: `sigev_notify`, `sigev_signo`, `sigev_value`.
pub(crate) type Notify = (i32, i32, u32);

fn w(value: i32) -> u64 {
    i64::from(value) as u64
}

/// The numbers and the arguments which are the same by every route.
fn same(native: i64, direct: u32, ipc: u32, args: [u64; 6]) -> Spelling {
    Spelling { native: (native, args), direct: (direct, args), ipc: (ipc, args) }
}

impl CountingCaller {
    fn put_name(&mut self, name: &[u8]) -> u64 {
        self.put(slot::NAME, name);
        self.put(slot::NAME + name.len(), &[0]);
        self.pointer(slot::NAME)
    }

    /// `mq_open(2)`.
    pub(crate) fn mq_open(
        &mut self,
        name: &[u8],
        oflag: i32,
        mode: u32,
        attr: Option<QueueSize>,
    ) -> i64 {
        let at = self.put_name(name);
        let attr_at = match attr {
            Some((maxmsg, msgsize)) => {
                self.put_longs(slot::IN, &[0, maxmsg, msgsize, 0, 0, 0, 0, 0]);
                self.good_pointer(slot::IN)
            }
            None => 0,
        };
        let spelling = same(240, 277, 277, [at, w(oflag), u64::from(mode), attr_at, 0, 0]);
        self.go(WorkloadOp::MqOpen, &spelling, || {
            let attr = attr.map_or(Value::Null, |(maxmsg, msgsize)| {
                json!({"mq_flags": 0, "mq_maxmsg": maxmsg, "mq_msgsize": msgsize, "mq_curmsgs": 0})
            });
            json!({"name": String::from_utf8_lossy(name), "name_bytes": name,
                   "oflag": oflag, "mode": mode, "attr": attr})
        })
    }

    /// `mq_unlink(2)`.
    pub(crate) fn mq_unlink(&mut self, name: &[u8]) -> i64 {
        let at = self.put_name(name);
        let spelling = same(241, 278, 278, [at, 0, 0, 0, 0, 0]);
        self.go(
            WorkloadOp::MqUnlink,
            &spelling,
            || json!({"name": String::from_utf8_lossy(name), "name_bytes": name}),
        )
    }

    /// `mq_timedsend(2)`.
    pub(crate) fn mq_send(
        &mut self,
        mqdes: i32,
        text: &[u8],
        prio: u32,
        until: Option<TimeLimit>,
    ) -> i64 {
        self.put(slot::IN, text);
        let at = self.pointer(slot::IN);
        let time = self.put_time(until);
        let len = text.len() as u64;
        let args = [w(mqdes), at, len, u64::from(prio), time, 0];
        self.go(WorkloadOp::MqSend, &same(242, 418, 279, args), || {
            json!({"mqdes": mqdes, "msg_len": len, "msg_prio": prio,
                   "abs_timeout": TimeLimit::json(until)})
        })
    }

    /// `mq_timedreceive(2)` into the output slot; the priority goes unasked.
    ///
    /// # Panics
    ///
    /// If the output slot is shorter than `len`.
    pub(crate) fn mq_receive(&mut self, mqdes: i32, len: usize, until: Option<TimeLimit>) -> i64 {
        assert!(len <= slot::TIME - slot::OUT);
        let at = self.pointer(slot::OUT);
        let time = self.put_time(until);
        let args = [w(mqdes), at, len as u64, 0, time, 0];
        self.go(
            WorkloadOp::MqReceive,
            &same(243, 419, 280, args),
            || json!({"mqdes": mqdes, "msg_len": len, "abs_timeout": TimeLimit::json(until)}),
        )
    }

    /// `mq_notify(2)`; none removes what is registered.
    pub(crate) fn mq_notify(&mut self, mqdes: i32, notify: Option<Notify>) -> i64 {
        let at = match notify {
            Some((how, signo, value)) => {
                self.put(slot::IN, &[0; 64]);
                let head = self.put_longs(slot::IN, &[i64::from(value)]);
                self.put_words(slot::IN + head, &[signo as u32, how as u32]);
                self.pointer(slot::IN)
            }
            None => 0,
        };
        self.go(WorkloadOp::MqNotify, &same(244, 281, 281, [w(mqdes), at, 0, 0, 0, 0]), || {
            let sevp = notify.map_or(Value::Null, |(how, signo, value)| {
                json!({"sigev_notify": how, "sigev_signo": signo, "sigev_value": value})
            });
            json!({"mqdes": mqdes, "sevp": sevp})
        })
    }

    /// `mq_getsetattr(2)`; `flags` are the new `mq_flags`, the old attributes go to the
    /// output slot.
    pub(crate) fn mq_getsetattr(&mut self, mqdes: i32, flags: Option<i64>) -> i64 {
        let new = match flags {
            Some(flags) => {
                self.put_longs(slot::IN, &[flags, 0, 0, 0, 0, 0, 0, 0]);
                self.good_pointer(slot::IN)
            }
            None => 0,
        };
        let args = [w(mqdes), new, self.pointer(slot::OUT), 0, 0, 0];
        self.go(WorkloadOp::MqGetsetattr, &same(245, 282, 282, args), || {
            let newattr = flags.map_or(Value::Null, |f| json!({"mq_flags": f}));
            json!({"mqdes": mqdes, "newattr": newattr})
        })
    }
}

/// Closes a descriptor which one of these calls returned; that is no IPC call.
pub(crate) fn close(fd: i64) {
    if let Ok(fd) = i32::try_from(fd)
        && fd > 2
    {
        // SAFETY: the number came from `mq_open`, and no Rust value owns it.
        unsafe { libc::close(fd) };
    }
}
