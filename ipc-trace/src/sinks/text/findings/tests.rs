//! The text of findings.

use std::{borrow::Cow, sync::Arc};

use ipc_trace_common::op::ObjectKind;

use super::{in_full, line, summary};
use crate::{
    event::{
        Process,
        finding::{Class, Evidence, Finding, FindingLine, FoundObject, Reason, Severity, Subject},
        identity::{Ancestor, ProcessIdentity},
        objects::Creator,
        value::{CallError, Hex32, KindName},
    },
    sinks::text::fixtures::{APP, HOST, HOSTILE, at, container, ns_ref, process, text},
    sinks::text::style::Palette,
};

fn reason(weight: i32, text: &'static str) -> Reason {
    Reason { text: Cow::Borrowed(text), weight }
}

fn evidence(what: &'static str, ret: i64, count: u64) -> Evidence {
    Evidence {
        time: at(5),
        seq: Some(17),
        what: what.into(),
        ret: Some(ret),
        error: CallError::from_ret(ret),
        count,
    }
}

/// A queue that was used, with full data about its user and owner.
fn used() -> Finding {
    let ancestor =
        |pid, comm| Arc::new(Ancestor { pid, start_boot_ns: 5, comm: text(comm), exe: None });
    let ancestry = [ancestor(4200, "sh"), ancestor(900, HOSTILE), ancestor(1, "systemd")];
    let identity =
        ProcessIdentity { ancestry: Some(ancestry.into()), ..ProcessIdentity::default() };
    Finding {
        id: 1,
        class: Class::ForeignObject,
        severity: Severity::High,
        confidence: 95,
        title: "worker[4242] in namespace host used queue \"/jobs\" of namespace 4026532180".into(),
        subject: Subject {
            process: Some(Process { identity, ..process(4242, "worker") }),
            container: Some(Arc::new(container())),
            cgroup: None,
            ipc_ns: Some(HOST),
        },
        object: Some(FoundObject {
            kind: Some(KindName(ObjectKind::Mq)),
            name: Some(text("jobs")),
            ipc_ns: Some(ns_ref(APP)),
            foreign: Some(true),
            owner_container: Some(Arc::new(container())),
            owner_on_host: Some(false),
            creator: Some(Creator {
                pid: Some(77),
                uid: 33,
                gid: 33,
                comm: Some(text("owner")),
                exe: None,
                start_boot_ns: None,
                container: None,
                exact: true,
            }),
            ..FoundObject::default()
        }),
        first: at(0),
        last: at(86_400_000),
        count: 1_000,
        evidence: vec![17, 18, 1_016],
        events: vec![evidence("mq_send", 0, 990), evidence("mq_receive", -11, 10)],
        reasons: vec![reason(95, "the eBPF programs read both namespaces in the call itself")],
        declared_by: None,
        benign_explanation:
            "a service that hands its queue to a contained helper on purpose, and goes on".into(),
        policy: Some("[[allow]]\nname = \"jobs\"\nclass = \"foreign-object\"\n".into()),
    }
}

/// A finding with little data, which the policy allows.
fn declared() -> Finding {
    Finding {
        id: 2,
        class: Class::CarriedMapping,
        severity: Severity::Info,
        confidence: 30,
        object: Some(FoundObject {
            kind: Some(KindName(ObjectKind::Shm)),
            id: Some(32_769),
            key: Some(Hex32(42)),
            ipc_ns_dead: true,
            ipc_ns: Some(ns_ref(APP)),
            owner_on_host: Some(true),
            ..FoundObject::default()
        }),
        last: at(0),
        count: 1,
        reasons: vec![reason(50, "it was mapped"), reason(-20, "its namespace is not known")],
        declared_by: Some("backup".into()),
        ..used()
    }
}

fn unsure() -> Finding {
    Finding { id: 3, class: Class::ProbeId, severity: Severity::Info, confidence: 5, ..used() }
}

#[test]
fn finding_has_line_and_object_line() {
    let mut out = String::new();
    for finding in [used(), declared(), Finding { object: None, ..unsure() }] {
        let one = FindingLine { seq: 1, time: at(3), new: true, finding: &finding };
        line(&mut out, &one, Palette::PLAIN).unwrap();
    }
    let one = FindingLine { seq: 1, time: at(3), new: true, finding: &used() };
    line(&mut out, &one, Palette::COLOURED).unwrap();
    insta::assert_snapshot!("findings_live", out.replace('\x1b', "␛"));
}

#[test]
fn summary_lists_findings() {
    let mut out = String::new();
    summary(&mut out, &[], 0, Palette::PLAIN, 80).unwrap();
    assert_eq!(out, "");
    summary(&mut out, &[used(), declared(), unsure()], 25, Palette::PLAIN, 80).unwrap();
    insta::assert_snapshot!("findings_end", out);
}

#[test]
fn report_shows_findings_in_full() {
    let mut out = String::new();
    let all = [used(), declared(), unsure()];
    in_full(&mut out, &all, (25, at(0)), Palette::PLAIN, 80).unwrap();
    assert!(!out.contains(|char: char| char.is_control() && char != '\n'), "{out}");
    insta::assert_snapshot!("findings_full", out);
}
