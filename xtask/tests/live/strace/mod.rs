//! The stream against strace: both trace the same commands in one run. The stream has every call that strace
//! saw exactly once, of the same thread, with the same arguments and result, and no other.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`line`] | parses what strace prints |
//! | [`expected`] | makes a call of that |
//! | [`traced`] | makes a call of a line of ipc-trace |
//! | [`call`] | defines when the two are the same |
//! | [`run`] | runs a command under both, and compares |
//! | [`program32`] | makes a 32-bit program |
//!
//! Invariant: what strace can't know is left open by `expected`, which explains why; nothing else may
//! differ.

mod call;
mod expected;
mod line;
mod program32;
pub(crate) mod run;
mod traced;

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::PathBuf,
};

use nix::unistd::User;
use xtask::find_on_path;

use crate::tracer::{scaled, xtask};
use program32::{Syscall32, Word};
use run::no_difference;

/// The executable of that name; `cargo xtask test` has installed it.
fn executable(name: &str) -> OsString {
    find_on_path(name).unwrap_or_else(|| panic!("{name} is not on PATH")).into()
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

fn shell(script: &str, args: &[OsString]) -> Vec<OsString> {
    [words(&["/bin/sh", "-e", "-c", script, "sh"]), args.to_vec()].concat()
}

#[test]
fn every_operation_by_every_route() {
    let command = [vec![xtask()], words(&["workload", "all-args"])].concat();
    assert!(no_difference("all-args", &[], &command) > 300);
}

#[test]
fn calls_interrupted_by_signals() {
    let command = [vec![xtask()], words(&["workload", "restart"])].concat();
    no_difference("restart", &[], &command);
}

/// Some of its processes are killed within calls.
fn stress(stressor: &str, operations: u64) {
    let operations = scaled(operations).to_string();
    let [number, limit] = [format!("--{stressor}"), format!("--{stressor}-ops")];
    let temporary = env::temp_dir();
    let options = [number.as_str(), "1", &limit, &operations, "--quiet", "--temp-path"];
    let command = [vec![executable("stress-ng")], words(&options), vec![temporary.into()]].concat();
    let calls = no_difference(stressor, &[], &command);
    assert!(calls as u64 >= operations.parse().unwrap(), "{calls} calls");
}

#[test]
fn stress_ng_with_shared_memory() {
    stress("shm-sysv", 300);
}

#[test]
fn stress_ng_with_semaphores() {
    stress("sem-sysv", 15_000);
}

#[test]
fn stress_ng_with_message_queues() {
    stress("msg", 15_000);
}

#[test]
fn stress_ng_with_posix_queues() {
    stress("mq", 5_000);
}

#[test]
fn ipcmk_ipcs_and_ipcrm() {
    let script = r#"
        set -- "$@" $("$1" -M 12345 -p 0640) $("$1" -S 7) $("$1" -Q -p 0604)
        "$2" -a; "$2" -p; "$2" -t; "$2" -c; "$2" -l; "$2" -u
        "$2" -m -i "$7"; "$2" -s -i "${10}"; "$2" -q -i "${14}"
        "$3" -m "$7" -s "${10}" -q "${14}"
        if "$3" -q "${14}"; then exit 1; fi"#;
    let programs = ["ipcmk", "ipcs", "ipcrm"].map(executable);
    let calls = no_difference("ipcs", &[], &shell(script, &programs));
    assert!(calls > 20, "{calls} calls");
}

/// Where things lie in the data of the 32-bit program.
mod data {
    pub(super) const SOPS: u32 = 0;
    pub(super) const MESSAGE: u32 = 0x40;
    pub(super) const TIME: u32 = 0x60;
    pub(super) const ATTRIBUTES: u32 = 0x80;
    pub(super) const NAME: u32 = 0xa0;
    pub(super) const KLUDGE: u32 = 0xe0;
    pub(super) const ADDRESS: u32 = 0xf0;
    pub(super) const OUT: u32 = 0x100;
}

/// What its calls read.
fn data_32(name: &str) -> Vec<u8> {
    let mut data = vec![0; data::OUT as usize];
    let mut put = |at: u32, bytes: &[u8]| {
        data[at as usize..][..bytes.len()].copy_from_slice(bytes);
    };
    let longs = |all: &[u32]| all.iter().copied().flat_map(u32::to_le_bytes).collect::<Vec<_>>();
    let sops: [i16; 6] = [1, 5, 0, 2, 0, libc::IPC_NOWAIT as i16];
    put(data::SOPS, &sops.map(i16::to_le_bytes).concat());
    put(data::MESSAGE, &longs(&[77]));
    put(data::MESSAGE + 4, b"eight...");
    put(data::TIME, &longs(&[2_000_000_000, 123_456_789]));
    put(data::ATTRIBUTES, &longs(&[0, 3, 64, 0]));
    put(data::NAME, name.as_bytes());
    // `struct ipc_kludge`: where the message goes, and its type.
    put(data::KLUDGE, &longs(&[0, 0]));
    data
}

/// Each operation, by its own number and through ipc(2); a few fail.
fn calls_32() -> Vec<Syscall32> {
    use Word::{Data as D, Number as N, Result as R, Stored as S};
    use data::{ADDRESS, ATTRIBUTES, KLUDGE, MESSAGE, NAME, OUT, SOPS, TIME};
    // Through ipc(2): the call, first, second, third, ptr, fifth.
    let ipc = |call, rest: &[Word]| (117, [&[N(call)], rest].concat());
    let own = |number, args: &[Word]| (number, args.to_vec());
    let (rmid, stat) = (N(0), N(2));
    vec![
        own(395, &[N(0), N(8192), N(0o1600)]),
        own(397, &[R(0), N(0), N(0)]),
        own(398, &[R(1)]),
        own(396, &[R(0), stat, D(OUT)]),
        own(396, &[R(0), rmid, N(0)]),
        own(396, &[R(0), rmid, N(0)]),
        // 6
        own(393, &[N(0), N(3), N(0o600)]),
        own(394, &[R(6), N(2), N(16), N(0)]),
        own(420, &[R(6), D(SOPS), N(2), N(0)]),
        own(394, &[R(6), N(1), N(12), N(0)]),
        own(394, &[R(6), N(0), rmid, N(0)]),
        // 11
        own(399, &[N(0), N(0o600)]),
        own(400, &[R(11), D(MESSAGE), N(8), N(0)]),
        own(401, &[R(11), D(OUT), N(64), N(-80_i32 as u32), N(0)]),
        own(401, &[R(11), D(OUT), N(64), N(1), N(libc::IPC_NOWAIT as u32)]),
        own(402, &[R(11), rmid, N(0)]),
        // 16
        own(277, &[D(NAME), N(0o102), N(0o600), D(ATTRIBUTES)]),
        own(279, &[R(16), D(MESSAGE), N(8), N(9), D(TIME)]),
        own(280, &[R(16), D(OUT), N(64), D(OUT + 64), D(TIME)]),
        own(281, &[R(16), N(0)]),
        own(282, &[R(16), D(ATTRIBUTES), D(OUT)]),
        own(278, &[D(NAME)]),
        own(278, &[D(NAME)]),
        // 23
        ipc(23, &[N(0), N(4096), N(0o600)]),
        ipc(21, &[R(23), N(libc::SHM_RDONLY as u32), D(ADDRESS), N(0)]),
        ipc(22, &[N(0), N(0), N(0), S(ADDRESS)]),
        ipc(24, &[R(23), rmid, N(0), N(0)]),
        // 27
        ipc(2, &[N(0), N(3), N(0o600)]),
        ipc(1, &[R(27), N(2), N(0), D(SOPS)]),
        ipc(4, &[R(27), N(1), N(0), D(SOPS), D(TIME)]),
        ipc(3, &[R(27), N(1), N(12), D(OUT)]),
        ipc(3, &[R(27), N(0), rmid, D(OUT)]),
        // 32
        ipc(13, &[N(0), N(0o600)]),
        ipc(11, &[R(32), N(8), N(0), D(MESSAGE)]),
        ipc(12 | 1 << 16, &[R(32), N(4), N(0), D(OUT), N(77)]),
        // Its kludge has address 0.
        ipc(12, &[R(32), N(64), N(0), D(KLUDGE)]),
        ipc(14, &[R(32), rmid, N(0), N(0)]),
    ]
}

#[test]
fn program_of_32_bits() {
    let folder = tempfile::Builder::new().prefix("program32").tempdir().unwrap();
    let path = folder.path().join("program32");
    let calls = calls_32();
    let name = format!("ipc-trace-32-{}\0", std::process::id());
    fs::write(&path, program32::program(&calls, &data_32(&name))).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(no_difference("32", &[], &[path.into()]), calls.len());
}

/// PostgreSQL 15, of which a machine without a disk has nothing: `cargo xtask vm` leaves it out.
#[test]
fn postgresql_cluster() {
    let script = r#"
        initdb --pgdata="$1/data" --auth=trust --username=postgres --no-sync >/dev/null
        pg_ctl --pgdata="$1/data" --log="$1/log" --wait \
            --options="-c listen_addresses= -c unix_socket_directories=$1 -c fsync=off" start >/dev/null
        PGHOST="$1"; PGUSER=postgres; export PGHOST PGUSER
        pgbench --initialize --quiet postgres 2>/dev/null
        pgbench --client=2 --jobs=2 --time=10 postgres
        pg_ctl --pgdata="$1/data" --mode=fast --wait stop >/dev/null"#;
    let postgres = User::from_name("postgres").unwrap().expect("the user postgres");
    let folder = tempfile::Builder::new().prefix("postgresql").tempdir().unwrap();
    // It refuses to run as root.
    chown(folder.path(), Some(postgres.uid.as_raw()), Some(postgres.gid.as_raw())).unwrap();
    let path = env::join_paths(
        std::iter::once(PathBuf::from("/usr/lib/postgresql/15/bin"))
            .chain(env::split_paths(&env::var_os("PATH").unwrap())),
    );
    let mut path_option = OsString::from("PATH=");
    path_option.push(path.unwrap());
    let options = ["--user", "postgres", "-E", path_option.to_str().unwrap()];
    let calls = no_difference("pg", &options, &shell(script, &[folder.path().into()]));
    assert!(calls > 10, "{calls} calls");
}
