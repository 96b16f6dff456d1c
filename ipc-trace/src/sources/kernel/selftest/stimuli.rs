//! What the self-test's child does to trigger the auxiliary probes ([`Stimulus`]), and the results.
//!
//! Invariant: between fork and exit there are only system calls: no allocation, and no lock. Objects are created in
//! an IPC namespace of the child's own, or not at all; they end with it.

use std::{ffi::CStr, ptr};

use ipc_trace_common::hooks::Stimulus;
use nix::errno::Errno;

use super::NOT_MADE;

/// The child has no IPC namespace of its own, so it creates nothing.
pub(super) const NO_NAMESPACE: i64 = i64::MIN + 1;

/// The queue, which exists for a moment. The kernel takes names without the slash.
const QUEUE: &CStr = c"ipc-trace-test";
/// A setting of an IPC namespace, as old as any.
const SETTING: &CStr = c"/proc/sys/kernel/msgmax";
/// A table of the caller's namespace; `/proc/sysvipc/sem` is the smallest on all kernels.
const TABLE: &CStr = c"/proc/sysvipc/sem";
/// Bytes of the segment: one page or less; the kernel rounds up.
const SEGMENT: usize = 4096;

/// A system call: its result, or the error's number, negative.
macro_rules! call {
    ($number:ident $(, $argument:expr)*) => {{
        // SAFETY: each address among the arguments is that of a value that outlives the call, and has the size that
        // the kernel expects.
        match unsafe { libc::syscall(libc::$number $(, $argument)*) } {
            -1 => -i64::from(Errno::last_raw()),
            ret => ret,
        }
    }};
}

/// Results of stimuli that later stimuli use; negative ones are errors.
#[derive(Debug)]
pub(super) struct StimulusResults {
    /// Whether it has an IPC namespace of its own
    pub(super) has_namespace: bool,
    queue: i64,
    segment: i64,
    attached: i64,
}

impl StimulusResults {
    pub(super) const fn new(has_namespace: bool) -> Self {
        Self { has_namespace, queue: NOT_MADE, segment: NOT_MADE, attached: NOT_MADE }
    }

    /// Performs a stimulus: not negative if it was done.
    pub(super) fn does(&mut self, stimulus: Stimulus) -> i64 {
        match stimulus {
            Stimulus::Open => with(open(c"/", libc::O_RDONLY), |_| 0),
            Stimulus::Receive => receive(),
            Stimulus::ReadTable => {
                let mut bytes = [0_u8; 64];
                with(open(TABLE, libc::O_RDONLY), |table| {
                    call!(SYS_read, table, bytes.as_mut_ptr(), bytes.len())
                })
            }
            // Writing no bytes changes nothing (`__do_proc_dointvec`, kernel/sysctl.c), even in a namespace that
            // isn't the child's own.
            Stimulus::WriteSetting => with(open(SETTING, libc::O_WRONLY), |setting| {
                call!(SYS_write, setting, c"".as_ptr(), 0_usize)
            }),
            Stimulus::Mount => mount(),
            _ if !self.has_namespace => NO_NAMESPACE,
            Stimulus::MakeSemaphores => call!(SYS_semget, libc::IPC_PRIVATE, 1, 0o600),
            Stimulus::MakeMessages => call!(SYS_msgget, libc::IPC_PRIVATE, 0o600),
            Stimulus::MakeQueue => {
                self.queue = make_queue();
                self.queue
            }
            Stimulus::ReadQueue => {
                let mut bytes = [0_u8; 64];
                after(self.queue, |queue| call!(SYS_read, queue, bytes.as_mut_ptr(), bytes.len()))
            }
            Stimulus::PollQueue => after(self.queue, poll),
            Stimulus::UnlinkQueue => after(self.queue, |_| call!(SYS_mq_unlink, QUEUE.as_ptr())),
            Stimulus::MakeSegment => {
                self.segment = call!(SYS_shmget, libc::IPC_PRIVATE, SEGMENT, 0o600);
                self.segment
            }
            Stimulus::TouchSegment => {
                self.attached =
                    after(self.segment, |id| call!(SYS_shmat, id, ptr::null::<u8>(), 0));
                after(self.attached, touch)
            }
            Stimulus::DestroySegment => self.destroy_segment(),
        }
    }

    fn destroy_segment(&self) -> i64 {
        after(self.attached, |at| {
            let removed = call!(SYS_shmctl, self.segment, libc::IPC_RMID, ptr::null::<u8>());
            let detached = call!(SYS_shmdt, at);
            if removed < 0 { removed } else { detached }
        })
    }
}

/// Uses the result of an earlier stimulus; returns its error, if it failed.
fn after(given: i64, stimulus: impl FnOnce(i64) -> i64) -> i64 {
    if given < 0 { given } else { stimulus(given) }
}

/// As [`after`], with a descriptor that is closed afterwards.
fn with(fd: i64, stimulus: impl FnOnce(i64) -> i64) -> i64 {
    after(fd, |fd| {
        let ret = stimulus(fd);
        call!(SYS_close, fd);
        ret
    })
}

fn open(path: &CStr, flags: libc::c_int) -> i64 {
    call!(SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags | libc::O_CLOEXEC, 0)
}

/// Sends itself a descriptor, and receives it.
fn receive() -> i64 {
    let mut ends = [-1_i32; 2];
    let made = call!(
        SYS_socketpair,
        libc::AF_UNIX,
        libc::SOCK_DGRAM | libc::SOCK_CLOEXEC,
        0,
        ends.as_mut_ptr()
    );
    after(made, |_| {
        let [from, to] = ends.map(i64::from);
        let sent = send(from, from);
        let ret = after(sent, |_| take(to));
        call!(SYS_close, from);
        call!(SYS_close, to);
        ret
    })
}

/// Room for a control message with one descriptor (cmsg(3)): header, number, padding.
#[repr(C, align(8))]
struct DescriptorMessage {
    header: libc::cmsghdr,
    fd: libc::c_int,
    padding: u32,
}

impl DescriptorMessage {
    fn new(fd: libc::c_int) -> Self {
        // SAFETY: all zero is a valid header.
        let mut header: libc::cmsghdr = unsafe { std::mem::zeroed() };
        header.cmsg_len = (size_of::<libc::cmsghdr>() + size_of::<libc::c_int>()) as _;
        header.cmsg_level = libc::SOL_SOCKET;
        header.cmsg_type = libc::SCM_RIGHTS;
        Self { header, fd, padding: 0 }
    }
}

/// Makes a call with a message of one byte and this control message.
fn message(control: &mut DescriptorMessage, call: impl FnOnce(*mut libc::msghdr) -> i64) -> i64 {
    let mut byte = 0_u8;
    let mut part = libc::iovec { iov_base: ptr::from_mut(&mut byte).cast(), iov_len: 1 };
    // SAFETY: all zero is a valid header of a message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = ptr::from_mut(control).cast();
    message.msg_controllen = size_of::<DescriptorMessage>() as _;
    call(&raw mut message)
}

fn send(by: i64, fd: i64) -> i64 {
    message(&mut DescriptorMessage::new(fd as libc::c_int), |message| {
        call!(SYS_sendmsg, by, message, libc::MSG_DONTWAIT)
    })
}

fn take(by: i64) -> i64 {
    let mut control = DescriptorMessage::new(-1);
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    let ret = message(&mut control, |message| call!(SYS_recvmsg, by, message, flags));
    // A rejected descriptor leaves no control message.
    if ret >= 0 && control.fd < 0 {
        return -i64::from(libc::EBADF);
    }
    with(if ret < 0 { ret } else { i64::from(control.fd) }, |_| ret)
}

fn mount() -> i64 {
    /// include/uapi/linux/mount.h
    const FSCONFIG_CMD_CREATE: u32 = 6;
    const FSOPEN_CLOEXEC: u32 = 1;
    const FSMOUNT_CLOEXEC: u32 = 1;
    with(call!(SYS_fsopen, c"mqueue".as_ptr(), FSOPEN_CLOEXEC), |context| {
        let null = ptr::null::<u8>();
        after(call!(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, null, null, 0), |_| {
            with(call!(SYS_fsmount, context, FSMOUNT_CLOEXEC, 0), |_| 0)
        })
    })
}

fn make_queue() -> i64 {
    // As small as possible: queues count against a limit of the user (RLIMIT_MSGQUEUE).
    // SAFETY: all zero is a valid value.
    let mut attributes: libc::mq_attr = unsafe { std::mem::zeroed() };
    (attributes.mq_maxmsg, attributes.mq_msgsize) = (1, 1);
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC;
    call!(SYS_mq_open, QUEUE.as_ptr(), flags, 0o600, &raw const attributes)
}

fn poll(fd: i64) -> i64 {
    let mut all = libc::pollfd { fd: fd as libc::c_int, events: libc::POLLIN, revents: 0 };
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    call!(SYS_ppoll, &raw mut all, 1, &raw mut now, ptr::null::<u8>(), 0_usize)
}

/// Lets the kernel write to that address. It returns an error where a write by the process itself would end it: if
/// there is no memory.
fn touch(at: i64) -> i64 {
    call!(SYS_uname, at)
}

const _: () = assert!(size_of::<libc::utsname>() <= SEGMENT);

/// Why a stimulus was not done, by its result.
pub(super) fn refusal(result: i64) -> String {
    match result {
        NOT_MADE => "the test ended before it".to_owned(),
        NO_NAMESPACE => "the test has no IPC namespace of its own to do it in".to_owned(),
        error => format!("the test was refused it: {:?}", Errno::from_raw(-error as i32)),
    }
}
