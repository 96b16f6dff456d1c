use super::*;

fn call(text: &str) -> StraceCall {
    text.parse::<StraceLine>().unwrap().call().unwrap().unwrap()
}

fn arg(text: &str, name: &str) -> Option<Value> {
    call(text).args[name].clone()
}

#[test]
fn pointer_or_its_target_is_shown() {
    let known = r#"[  69] msgsnd(0, {mtype=-5, mtext=""...}, 8, 0x800) = 0"#;
    assert_eq!((arg(known, "msgp"), arg(known, "mtype")), (None, Some(json!(-5))));
    let bad = "[  69] msgsnd(0, 0x10, 8, 0) = -1 EFAULT (Bad address)";
    assert_eq!((arg(bad, "msgp"), arg(bad, "mtype")), (Some(json!(16)), Some(Value::Null)));
    let set = "[  71] msgctl(0, 0x1, {msg_perm={uid=1, gid=-1, mode=01622}, msg_qbytes=9}) = 0";
    let expected = json!({"uid": 1, "gid": u32::MAX, "mode": 0o622, "msg_qbytes": 9});
    assert_eq!((arg(set, "buf"), arg(set, "set")), (None, Some(expected)));
    let stat = "[  71] msgctl(0, 0x2, {msg_perm={uid=1, gid=1, mode=0622}}) = 0";
    assert_eq!(arg(stat, "set"), Some(Value::Null));
}

#[test]
fn arguments_through_ipc_are_in_memory() {
    let arg3 =
        |arg3: &str, name| arg(&format!("[ 117] semctl(2, 4, 0x100|0x10, {arg3}) = 0"), name);
    assert_eq!(arg3("[0xfffffff9]", "arg"), Some(json!(0xffff_fff9_u32)));
    assert_eq!(arg3("[0xfffffff9]", "val"), Some(json!(-7)));
    assert_eq!(arg3("[NULL]", "cmd"), Some(json!(16)));
    assert_eq!(arg3("0x5000", "arg"), Some(Value::Null));
    assert_eq!(arg3("0x5000", "val"), Some(Value::Null));
    let shmat = call("[ 117] shmat(5, NULL, 0x1000) = 0xf7f13000");
    assert_eq!(shmat.outcome, StraceOutcome::Value(0));
    let failed = "[ 117] msgrcv(2, 0x41843100, 4321, 0x800) = -1 ENOMSG (No message)";
    assert_eq!((arg(failed, "msgp"), arg(failed, "msgtyp")), (None, None));
    assert_eq!(arg(failed, "msgflg"), Some(json!(0x800)));
    let none = "[ 117] ipc(0xfff, 0, 0, 0, NULL, 0) = -1 ENOSYS (Function not implemented)";
    assert_eq!(none.parse::<StraceLine>().unwrap().call(), Ok(None));
}

#[test]
fn partly_unreadable_operations_are_null() {
    let sops = |list: &str, nsops: u32| {
        arg(&format!("[ 220] semtimedop(1, {list}, {nsops}, NULL) = 0"), "sops")
    };
    let one = "{sem_num=1, sem_op=-2, sem_flg=0x1000}";
    let shown = json!({"sem_num": 1, "sem_op": -2, "sem_flg": 0x1000});
    assert_eq!(sops(&format!("[{one}]"), 1), Some(json!([shown])));
    assert_eq!(sops(&format!("[{one}, ... /* 0x7ffc */]"), 2), Some(Value::Null));
    let nine = [one; 9].join(", ");
    let eight = sops(&format!("[{nine}, ... /* 0x7ffc */]"), u32::MAX).unwrap();
    assert_eq!(eight.as_array().unwrap().len(), SOPS);
    assert_eq!(sops("NULL", 0), Some(json!([])));
}

#[test]
fn unfinished_line_has_unknown_arguments() {
    let cut = call("[  70] msgrcv(5,  <unfinished ...>) = ?");
    assert_eq!(cut.args["msqid"], Some(json!(5)));
    assert!(["msgp", "msgsz", "msgtyp", "mtype"].iter().all(|name| cut.args[name].is_none()));
}

#[test]
fn syscall_number_determines_the_abi() {
    assert_eq!(call("[ 278] mq_unlink(\"\\x61\\xff\") = 0").abi, "i386");
    assert_eq!(arg("[ 241] mq_unlink(\"\\x61\\xff\") = 0", "name"), Some(json!("a\\xff")));
    assert!("[ 999] mq_unlink(NULL) = 0".parse::<StraceLine>().unwrap().call().is_err());
    assert!("[  64] getpid() = 0".parse::<StraceLine>().unwrap().call().is_err());
}
