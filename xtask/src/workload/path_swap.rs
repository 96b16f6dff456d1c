//! `path-swap`: a process that replaces what it is known to hold by other files: namespaces that it has mounted, and
//! queues behind its descriptors. The report comes first, `{"inum", "queues", "hidden"}`; when standard input ends,
//! a second line reports which of these files were opened.

use std::{
    fs::{self, File},
    io::Read as _,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::fs::{OpenOptionsExt as _, symlink},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::CloneFlags,
    sys::{
        inotify::{AddWatchFlags, InitFlags, Inotify},
        stat::Mode,
    },
};
use serde_json::json;

use super::{abi::is_error, calls::CountingCaller, oracle::outcome, process};

/// Unlinked queues.
const QUEUES: i32 = 32;
/// The descriptors that are swapped: those of the queues themselves come behind them.
const SLOTS: RawFd = 100;
const SOURCES: RawFd = 500;
/// How long each of two files stays in place
const SWAP_INTERVAL: Duration = Duration::from_millis(1);

/// What is in the place of a mount point, by label.
const HIDDEN: [&str; 5] = ["symlink", "folder", "fifo", "terminal", "other"];

pub(crate) fn run() -> Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("making mounts private")?;
    let scratch = tempfile::Builder::new().prefix("ipc-trace-path-swap-").tempdir()?;
    let ran = swap(scratch.path());
    // What is below them goes with them.
    for label in HIDDEN {
        let _ = umount2(&scratch.path().join(label), MntFlags::MNT_DETACH);
        let _ = umount2(&scratch.path().join(label).join("dir/ns"), MntFlags::MNT_DETACH);
    }
    let _ = umount2(&scratch.path().join("pts"), MntFlags::MNT_DETACH);
    ran?;
    scratch.close().context("removing what was made")
}

fn swap(scratch: &Path) -> Result<()> {
    // Where everybody sees it, other than what is mounted here.
    let host_file = scratch.join("host/ns");
    fs::create_dir(scratch.join("host"))?;
    fs::write(&host_file, "a file of the host")?;
    let watch = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    watch.add_watch(&host_file, AddWatchFlags::IN_OPEN | AddWatchFlags::IN_ACCESS)?;
    let fifo = Fifo::new(scratch.join("pipe"))?;
    let terminal = Terminal::new(&scratch.join("pts"))?;

    let home = process::open_namespace()?;
    let mut caller = CountingCaller::new("home")?;
    let mut hidden = Vec::new();
    for label in HIDDEN {
        let inum = caller.unshare(label)?;
        let point = hide(&scratch.join(label))?;
        match label {
            "symlink" => symlink(&host_file, &point)?,
            "folder" => {
                let folder = point.parent().context("no folder")?;
                fs::remove_dir(folder)?;
                symlink(scratch.join("host"), folder)?;
            }
            "fifo" => bind(&fifo.path, &point)?,
            "terminal" => bind(&terminal.path, &point)?,
            _ => bind(Path::new(&format!("/proc/self/fd/{}", home.as_raw_fd())), &point)?,
        }
        hidden.push(json!({"label": label, "inum": inum}));
    }

    let inum = caller.unshare("queues")?;
    let mut sources = Vec::new();
    for number in 0..QUEUES {
        let name = format!("swapped-{number}");
        let oflag = libc::O_CREAT | libc::O_RDWR;
        let fd = caller.mq_open(name.as_bytes(), oflag, 0o600, Some((1, 16)));
        ensure!(!is_error(fd), "mq_open: {}", outcome(fd));
        // SAFETY: mq_open has just made it.
        let queue = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
        sources.push(fcntl(&queue, FcntlArg::F_DUPFD_CLOEXEC(SOURCES))?);
        caller.mq_unlink(name.as_bytes());
    }
    let path_only = File::options().read(true).custom_flags(libc::O_PATH).open(&fifo.path)?;
    let others = [path_only.as_raw_fd(), terminal.slave.as_raw_fd()];
    let stop = Arc::new(AtomicBool::new(false));
    let swapping = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            let mut taken = false;
            while !stop.load(Ordering::Relaxed) {
                put(&mut sources.iter().copied())?;
                taken |= terminal.is_controlling();
                put(&mut others.into_iter().cycle().take(sources.len()))?;
                taken |= terminal.is_controlling();
            }
            Ok::<_, anyhow::Error>(taken)
        })
    };

    caller.report().fact("inum", inum).fact("queues", QUEUES).fact("hidden", hidden).print()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    stop.store(true, Ordering::Relaxed);
    let terminal = swapping.join().map_err(|_| anyhow::anyhow!("the swapping thread failed"))??;
    let host_file = match watch.read_events() {
        Ok(events) => !events.is_empty(),
        Err(Errno::EAGAIN) => false,
        Err(error) => return Err(error).context("inotify"),
    };
    let fifo = fifo.was_opened()?;
    println!("{}", json!({"host_file": host_file, "fifo": fifo, "terminal": terminal}));
    Ok(())
}

/// Lets the descriptors be those for a while.
fn put(fds: &mut dyn Iterator<Item = RawFd>) -> Result<()> {
    for (slot, fd) in (SLOTS..).zip(fds) {
        // SAFETY: takes numbers alone; nothing else here has the descriptors that are replaced.
        Errno::result(unsafe { libc::dup2(fd, slot) }).context("dup2")?;
    }
    std::thread::sleep(SWAP_INTERVAL);
    Ok(())
}

/// Mounts the thread's IPC namespace below `top`, and hides it behind a mount that has a folder in its place.
/// Returns its mount point, at which nothing is left.
fn hide(top: &Path) -> Result<PathBuf> {
    let point = top.join("dir/ns");
    fs::create_dir_all(top.join("dir"))?;
    bind(Path::new(&format!("/proc/self/task/{}/ns/ipc", process::tid())), &point)?;
    mount(Some("tmpfs"), top, Some("tmpfs"), MsFlags::empty(), None::<&str>).context("tmpfs")?;
    fs::create_dir(top.join("dir"))?;
    Ok(point)
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    File::create(to)?;
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("mounting {} at {}", from.display(), to.display()))
}

/// A FIFO whose writer waits until a process opens it to read.
struct Fifo {
    path: PathBuf,
    opened: Arc<AtomicBool>,
    writer: JoinHandle<Result<()>>,
}

impl Fifo {
    fn new(path: PathBuf) -> Result<Self> {
        nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let opened = Arc::new(AtomicBool::new(false));
        let (begin, began) = mpsc::channel();
        let writer = std::thread::spawn({
            let (path, opened) = (path.clone(), Arc::clone(&opened));
            move || {
                begin.send(())?;
                File::options().write(true).open(path)?;
                opened.store(true, Ordering::SeqCst);
                Ok(())
            }
        });
        began.recv()?;
        Ok(Self { path, opened, writer })
    }

    fn was_opened(self) -> Result<bool> {
        let opened = self.opened.load(Ordering::SeqCst);
        let flags = libc::O_NONBLOCK;
        let _reader = File::options().read(true).custom_flags(flags).open(&self.path)?;
        self.writer.join().map_err(|_| anyhow::anyhow!("the writer failed"))??;
        Ok(opened)
    }
}

/// A terminal that is nobody's controlling terminal.
struct Terminal {
    path: PathBuf,
    master: File,
    slave: File,
}

impl Terminal {
    fn new(folder: &Path) -> Result<Self> {
        fs::create_dir(folder)?;
        mount(Some("devpts"), folder, Some("devpts"), MsFlags::empty(), Some("ptmxmode=0600"))
            .context("devpts")?;
        let open = |name: &str| {
            let flags = libc::O_NOCTTY;
            File::options().read(true).write(true).custom_flags(flags).open(folder.join(name))
        };
        let master = open("ptmx").context("a terminal")?;
        let unlocked: libc::c_int = 0;
        // SAFETY: the ioctl reads an int.
        Errno::result(unsafe {
            libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked)
        })?;
        let slave = open("0").context("the terminal's slave")?;
        Ok(Self { path: folder.join("0"), master, slave })
    }

    /// Whether it has become a session's.
    fn is_controlling(&self) -> bool {
        let mut session: libc::pid_t = 0;
        // SAFETY: the ioctl writes an int. By the master, it answers everybody (`tiocgsid`,
        // drivers/tty/tty_jobctrl.c).
        unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCGSID, &raw mut session) == 0 }
    }
}
