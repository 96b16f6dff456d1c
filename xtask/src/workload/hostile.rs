//! `hostile-names`: processes and queues with names that must be escaped when they are
//! printed.

use anyhow::{Result, ensure};
use serde_json::json;

use super::abi::is_error;
use super::calls::CountingCaller;
use super::mq::close;
use super::oracle::outcome;
use super::process;

/// Up to 15 bytes, as a thread name may have; all but the empty one serve as queue names too.
const NAMES: [&[u8]; 14] = [
    b"",
    b" ",
    b"\x1b[31mred\x1b[0m",
    b"\x1b]0;title\x07",
    b"\x1b[2J\x1b[H",
    b"two\nlines",
    b"\r\x08\x7f\t\x01\x0b",
    b"\xff\xfe\xc3(",
    b"cut\xe2\x82",
    b"c1\xc2\x9b31m",
    b"rtl\xe2\x80\xaeabc",
    b"\"quotes'\\n",
    b"a,b;c=$(d)`e`",
    b") S 1 (1",
];

pub(crate) fn run() -> Result<()> {
    let mut caller = CountingCaller::new("home")?;
    caller.unshare("hostile")?;
    let mut children = Vec::new();
    for (i, comm) in NAMES.into_iter().enumerate() {
        let mut queue = comm.to_vec();
        if queue.is_empty() {
            // As long as a name may be, and of bytes which are never UTF-8.
            queue = vec![0x80; 255];
        }
        children.push(process::spawn(comm, move || {
            let mut caller = CountingCaller::new("hostile")?;
            let fd = caller.mq_open(&queue, libc::O_CREAT | libc::O_RDWR, 0o600, Some((2, 32)));
            ensure!(!is_error(fd), "mq_open: {}", outcome(fd));
            caller.mq_send(fd as i32, comm, 0, None);
            caller.mq_receive(fd as i32, 32, None);
            caller.mq_unlink(&queue);
            caller.mq_unlink(&queue);
            close(fd);
            caller.semget(0x4057_0000 + i as i32, 1, 0);
            let who = json!({"tid": process::tid(), "comm": comm, "queue": queue});
            Ok(caller.report().fact("processes", vec![who]))
        })?);
    }
    process::join_all(children)?.print()
}
