//! Parsing and evaluation of rules, also with random input.

use std::{
    collections::BTreeMap,
    panic::{RefUnwindSafe, catch_unwind},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use ipc_trace_common::op::ObjectKind;
use proptest::prelude::*;

use super::{
    Policy, PolicyDecision, check,
    conditions::Attribute,
    finding_view::{ContainerScope, FindingView, Party},
    parse::{self, PolicyError, RuleKey, TABLES},
    suggest::suggest,
};
use crate::event::{
    Container,
    finding::{Class, Severity},
    value::OsBytes,
};

/// The sixth of January 1970.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(5 * 86_400)
}

fn user(name: &str) -> Result<u32, String> {
    match name {
        "root" => Ok(0),
        "postgres" => Ok(999),
        _ => Err("no such user".to_owned()),
    }
}

fn read(text: &str) -> Result<Policy, String> {
    parse::policy(text.as_bytes(), &user)
        .map_err(|problems| PolicyError { file: PathBuf::from("p.toml"), problems }.to_string())
}

fn good(text: &str) -> Policy {
    read(text).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

fn container(name: &str, image: &str) -> Container {
    Container {
        runtime: "docker".into(),
        id: "d8522205927ad8522205927ad8522205927ad8522205927ad8522205927a0001".into(),
        name: Some(name.into()),
        image: Some(image.into()),
        pod: None,
        pod_uid: None,
        pod_namespace: None,
        labels: BTreeMap::from([("app.example/tier".into(), name.into())]),
        labels_lost: 0,
        ipc_mode: None,
    }
}

fn case<'a>(class: Class, subject: &'a Container, owner: &'a Container) -> FindingView<'a> {
    let side = |one| Party { scope: ContainerScope::Container(one), ..Party::default() };
    FindingView {
        class,
        subject: Party {
            uid: Some(999),
            cgroup: Some(b"/docker/abc"),
            exe: Some(b"/usr/bin/worker"),
            comm: Some(b"worker"),
            ipc_ns: Some((4_026_532_180, false)),
            ..side(subject)
        },
        owner: Party { ipc_ns: Some((4_026_531_839, true)), ..side(owner) },
        kind: Some(ObjectKind::Mq),
        key: None,
        name: Some(b"jobs"),
        name_is_proven: true,
        severity: Severity::Medium,
    }
}

#[test]
fn all_conditions_must_hold_and_one_value_of_each_suffices() {
    let (web, db) = (container("web-1", "web:3"), container("db", "postgres:15"));
    let case = case(Class::ForeignObject, &web, &db);
    let evaluate_rule = |asked: &str| {
        let text = format!("[[allow]]\nname = \"x\"\n{asked}");
        good(&text).evaluate(&case, now()) == PolicyDecision::Declared(0)
    };
    for so in [
        "subject = { container = 'web-*', user = 'postgres' }",
        "subject = { container = ['app', 'web-1'] }",
        "subject = { container = 'd8522205927a' }",
        "subject = { container = true, image = 'web:*', exe = '/usr/**', comm = 'w*' }",
        "subject = { cgroup = '/docker/*', ipc_ns = 4026532180, user = 999 }",
        "subject = { label = ['x=y', 'app.example/tier=web-*'] }",
        "object = { container = 'db', image = 'postgres:1?', ipc_ns = 'host' }",
        "object = { kind = ['msg', 'mq'], name = 'jobs' }",
        "class = 'foreign-object'\nsubject = { container = 'web-1' }",
        "until = 1970-01-11\nsubject = { container = 'web-1' }",
    ] {
        assert!(evaluate_rule(so), "{so}");
    }
    for not in [
        "subject = { container = 'web-*', user = 'root' }",
        "subject = { container = false }",
        "subject = { container = 'd85222' }",
        "subject = { pod = '*' }",
        "subject = { label = 'app.example/tier=db' }",
        "subject = { ipc_ns = 'host' }",
        "object = { key = '0x00000001' }",
        "object = { user = 999 }",
        "class = ['probe-id', 'weak-mode']\nsubject = { container = 'web-1' }",
        "until = 1970-01-01\nsubject = { container = 'web-1' }",
    ] {
        assert!(!evaluate_rule(not), "{not}");
    }
}

#[test]
fn mute_precedes_allow_and_allow_precedes_severity() {
    let (web, db) = (container("web", "web"), container("db", "db"));
    let case = case(Class::WeakMode, &web, &db);
    let rules = [
        "[[severity]]\nname = 'a'\nclass = 'weak-mode'\nset = 'high'\n",
        "[[severity]]\nname = 'b'\nclass = 'weak-mode'\nset = 'low'\n",
        "[[allow]]\nname = 'c'\nsubject = { container = 'web' }\n",
        "[[mute]]\nname = 'd'\nreason = 'r'\nclass = 'weak-mode'\n",
    ];
    let evaluate_rule = |count: usize| good(&rules[..count].concat()).evaluate(&case, now());
    assert_eq!(evaluate_rule(0), PolicyDecision::Silent);
    assert_eq!(evaluate_rule(2), PolicyDecision::Weighs(0, Severity::High));
    assert_eq!(evaluate_rule(3), PolicyDecision::Declared(0));
    assert_eq!(evaluate_rule(4), PolicyDecision::Muted(0));
}

#[test]
fn a_rule_expires_at_its_date_or_time() {
    let at = |until: &str, now: u64| {
        let text =
            format!("[[mute]]\nname = 'x'\nreason = 'r'\nclass = 'weak-mode'\nuntil = {until}");
        good(&text).rules()[0].holds(SystemTime::UNIX_EPOCH + Duration::from_secs(now))
    };
    assert!(at("1970-01-02", 2 * 86_400 - 1) && !at("1970-01-02", 2 * 86_400));
    assert!(at("1970-01-01T10:00:00Z", 35_999) && !at("1970-01-01T10:00:00Z", 36_000));
    assert!(at("1970-01-01T10:00:00+02:00", 28_799) && !at("1970-01-01T10:00:00+02:00", 28_800));
}

/// Each text with a part of its message.
#[test]
fn errors_have_a_position_and_a_hint() {
    let all = [
        ("[[allow]\n", "p.toml:1:9: unclosed"),
        ("[[alow]]\nname = 'x'\n", "p.toml:1:3: unknown table \"alow\"; did you mean \"allow\"?"),
        (
            "[[allow]]\nname = 'x'\n  subjct = { user = 0 }\n",
            "p.toml:3:3: unknown key of [[allow]] \"subjct\"; did you mean \"subject\"?",
        ),
        (
            "[[allow]]\nname = 'x'\nsubject = { contaner = 'a' }\n",
            "p.toml:3:13: unknown key of a rule's subject \"contaner\"; did you mean \"container\"?",
        ),
        (
            "[[mute]]\nname = 'x'\nreason = 'r'\nclass = ['weak-mode', 'foreign-objekt']\n",
            "p.toml:4:23: unknown class \"foreign-objekt\"; did you mean \"foreign-object\"?",
        ),
        ("[[mute]]\nname = 'x'\nclass = 'weak-mode'\n", "p.toml:1:1: [[mute]] lacks a reason"),
        ("[[mute]]\nname = 'x'\nreason = 'r'\n", "lacks a class, a subject or an object"),
        ("[[allow]]\nname = 'x'\nclass = 'weak-mode'\n", "lacks a subject or an object"),
        ("[[allow]]\nsubject = { user = 0 }\n", "[[allow]] lacks a name"),
        ("[[severity]]\nname = 'x'\nclass = 'weak-mode'\n", "lacks what to set"),
        (
            "[[severity]]\nname = 'x'\nclass = 'weak-mode'\nset = 'lo'\n",
            "p.toml:4:7: unknown severity \"lo\"; did you mean \"low\"?",
        ),
        (
            "[[allow]]\nname = 'x'\nset = 'low'\nsubject = { user = 0 }\n",
            "p.toml:3:1: unknown key of [[allow]] \"set\"",
        ),
        (
            "[[allow]]\nname = 7\nsubject = { user = 0 }\n",
            "p.toml:2:8: expected a string, found: integer",
        ),
        (
            "[[allow]]\nname = 'x'\nsubject = { user = 'nobody-here' }\n",
            "p.toml:3:20: \"nobody-here\": no such user",
        ),
        ("[[allow]]\nname = 'x'\nsubject = { user = -1 }\n", "expected a number below 2^32"),
        (
            "[[allow]]\nname = 'x'\nsubject = { image = '[a' }\n",
            "p.toml:3:21: \"[a\": not a pattern",
        ),
        ("[[allow]]\nname = 'x'\nsubject = {}\n", "p.toml:3:11: an empty subject; leave it out"),
        ("[[allow]]\nname = 'x'\nobject = { key = 'frog' }\n", "p.toml:3:18: \"frog\": no key"),
        (
            "[[allow]]\nname = 'x'\nobject = { kind = 'shn' }\n",
            "unknown kind \"shn\"; did you mean \"shm\"?",
        ),
        (
            "[[allow]]\nname = 'x'\nobject = { ipc_ns = 'mine' }\n",
            "expected the number of a namespace",
        ),
        (
            "[[allow]]\nname = 'x'\nsubject = { user = [] }\n",
            "expected a list of 1 to 256 values, not 0",
        ),
        (
            "[[allow]]\nname = 'x'\nuntil = '2030-01-01'\nsubject = { user = 0 }\n",
            "p.toml:3:9: expected a day without quotes",
        ),
        ("[[allow]]\nname = 'x'\nuntil = 10:00:00\nsubject = { user = 0 }\n", "write 2030-01-31"),
        ("allow = 5\n", "p.toml:1:9: expected [[allow]] and its keys"),
        (
            "[[allow]]\nname = 'x'\nsubject = { user = 0 }\n[[mute]]\nname = 'x'\nreason = 'r'\nsubject = { user = 1 }\n",
            "p.toml:4:1: a second rule called \"x\"; the first one is in line 1",
        ),
        ("[[allow]]\nname = 'x'\n\"\\u001b[31m\" = 1\n", "unknown key of [[allow]] \"\\x1b[31m\""),
    ];
    for (text, wanted) in all {
        let said = read(text).expect_err(text);
        assert!(said.contains(wanted), "{text}\n{said}\nwanted {wanted}");
        assert!(!said.contains('\u{1b}'), "{said:?}");
    }
    let bytes = parse::policy(b"# \xc3\xa9\n# \xff\n", &user).unwrap_err();
    assert_eq!(bytes[0].at, Some((2, 3)));
}

#[test]
fn all_errors_are_reported_up_to_a_limit() {
    let text = "[[allow]]\nfrog = 1\n".repeat(30);
    let said = read(&text).unwrap_err();
    assert_eq!(said.lines().count(), 21);
    assert!(said.ends_with("and 10 more"), "{said}");
    let rule = |n| format!("[[allow]]\nname = '{n}'\nsubject = {{ user = 0 }}\n");
    let many: String = (0..=super::MAX_RULES).map(rule).collect();
    assert!(read(&many).unwrap_err().contains("1000 are the most"));
}

/// Blocks of a document in TOML: each is a policy.
fn blocks(text: &'static str) -> Vec<&'static str> {
    let blocks = text.split("```toml\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap_or_default()).collect()
}

/// The blocks of the policy's documentation.
fn documented() -> Vec<&'static str> {
    blocks(include_str!("../../../../docs/POLICY.md"))
}

#[test]
fn each_class_is_documented_with_a_matching_policy() {
    let text = include_str!("../../../../docs/DETECTION.md");
    for class in Class::ALL {
        let heading = format!("\n## {class}\n");
        let page = text.split(&heading).nth(1).unwrap_or_else(|| panic!("{class}"));
        let page = page.split("\n## ").next().unwrap_or_default();
        let [policy] = blocks(page)[..] else { panic!("{class}: one example") };
        for rule in good(policy).rules() {
            assert_eq!(rule.classes, [class], "{policy}");
            assert!(rule.reason.is_some(), "{policy}");
        }
    }
    let all = blocks(text).concat();
    assert_eq!(good(&all).rules().len(), Class::ALL.len());
}

#[test]
fn documented_examples_are_valid_policies() {
    let all = documented();
    assert!(all.len() >= 3, "{}", all.len());
    for text in &all {
        assert!(!good(text).rules().is_empty(), "{text}");
    }
    insta::assert_snapshot!(check::text(&good(&all.concat()), now()));
}

#[test]
fn documentation_covers_each_table_key_class_and_severity() {
    let text = include_str!("../../../../docs/POLICY.md");
    let tables = TABLES.map(|action| format!("[[{}]]", action.table()));
    let names =
        RuleKey::ALL.map(RuleKey::name).into_iter().chain(Attribute::ALL.map(Attribute::name));
    let words = Class::ALL.map(Class::name).into_iter().chain(Severity::ALL.map(Severity::name));
    for word in names.chain(words).map(str::to_owned).chain(tables) {
        assert!(text.contains(&format!("`{word}`")), "{word}");
    }
}

#[test]
fn an_expired_rule_is_marked_as_expired() {
    let policy =
        good("[[mute]]\nname = 'old'\nreason = 'r'\nclass = 'weak-mode'\nuntil = 1970-01-01\n");
    let said = check::text(&policy, now());
    assert!(said.contains("EXPIRED 1970-01-01") && said.contains("1 of them expired"), "{said}");
}

/// A finding with random names of any bytes.
#[derive(Clone, Debug)]
struct Wild {
    class: Class,
    scope: Option<Option<Vec<u8>>>,
    owner: Option<Option<Vec<u8>>>,
    uid: Option<u32>,
    exe: Option<Vec<u8>>,
    ns: Option<(u32, bool)>,
    kind: Option<ObjectKind>,
    key: Option<u32>,
    name: Option<Vec<u8>>,
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![any::<u8>(), prop::sample::select(b"*?[]{}\\\"'\n/ab".as_slice())];
    prop::collection::vec(byte.prop_filter("no NUL", |b| *b != 0), 1..20)
}

fn wild() -> impl Strategy<Value = Wild> {
    let scope = || prop::option::of(prop::option::of(name()));
    let of = |class| prop::sample::select(class);
    (
        of(Class::ALL.to_vec()),
        (scope(), scope()),
        prop::option::of(any::<u32>()),
        prop::option::of(name()),
        prop::option::of((1..u32::MAX, any::<bool>())),
        prop::option::of(prop::sample::select(ObjectKind::ALL.to_vec())),
        prop::option::of(any::<u32>()),
        prop::option::of(name()),
    )
        .prop_map(|(class, (scope, owner), uid, exe, ns, kind, key, name)| Wild {
            class,
            scope,
            owner,
            uid,
            exe,
            ns,
            kind,
            key,
            name,
        })
}

/// Calls `then` with the view of a random finding.
fn with<R>(wild: &Wild, then: impl FnOnce(&FindingView<'_>) -> R) -> R {
    let named = |name: &Option<Option<Vec<u8>>>| {
        name.as_ref().map(|name| {
            name.as_ref().map(|name| {
                let mut one = container("", "image");
                one.name = Some(OsBytes(name.clone().into()));
                one
            })
        })
    };
    fn scope(container: &Option<Option<Container>>) -> ContainerScope<'_> {
        container.as_ref().map_or(ContainerScope::Unknown, |one| {
            one.as_ref().map_or(ContainerScope::Host, ContainerScope::Container)
        })
    }
    let (subject, owner) = (named(&wild.scope), named(&wild.owner));
    then(&FindingView {
        class: wild.class,
        subject: Party {
            scope: scope(&subject),
            uid: wild.uid,
            exe: wild.exe.as_deref(),
            ipc_ns: wild.ns,
            ..Party::default()
        },
        owner: Party { scope: scope(&owner), ipc_ns: wild.ns, ..Party::default() },
        kind: wild.kind,
        key: wild.key,
        name: wild.name.as_deref(),
        name_is_proven: true,
        severity: Severity::Medium,
    })
}

#[test]
fn an_unproven_name_hides_no_finding() {
    let (web, db) = (container("web-1", "web:3"), container("db", "postgres:15"));
    let mut case = case(Class::ForeignObject, &web, &db);
    let evaluate_rule = |case: &FindingView<'_>, rule: &str| good(rule).evaluate(case, now());
    let weighs = |severity: &str| {
        format!("[[severity]]\nname = 'x'\nset = '{severity}'\nobject = {{ name = 'jobs' }}")
    };
    let allow = "[[allow]]\nname = 'x'\nobject = { name = 'jobs' }";
    assert_eq!(evaluate_rule(&case, allow), PolicyDecision::Declared(0));
    assert_eq!(evaluate_rule(&case, &weighs("info")), PolicyDecision::Weighs(0, Severity::Info));
    case.name_is_proven = false;
    assert_eq!(evaluate_rule(&case, allow), PolicyDecision::Silent);
    assert_eq!(evaluate_rule(&case, &weighs("info")), PolicyDecision::Silent);
    assert_eq!(evaluate_rule(&case, &weighs("high")), PolicyDecision::Weighs(0, Severity::High));
}

proptest! {
    #[test]
    fn a_suggested_rule_allows_its_finding_only(wild in wild(), other in wild()) {
        let suggested = with(&wild, suggest);
        if let Some(text) = &suggested {
            let policy = good(text);
            prop_assert_eq!(policy.rules().len(), 1);
            prop_assert_eq!(with(&wild, |case| policy.evaluate(case, now())), PolicyDecision::Declared(0));
            prop_assert!(text.lines().all(|line| !line.chars().any(char::is_control)), "{}", text);
            if other.class != wild.class {
                prop_assert_eq!(with(&other, |case| policy.evaluate(case, now())), PolicyDecision::Silent);
            }
        }
    }

    /// Additional conditions match less; additional values match more.
    #[test]
    fn more_conditions_never_match_more(wild in wild(), uid in 0..3_u32) {
        let wild = Wild { uid: wild.uid.map(|uid| uid % 3), ..wild };
        let evaluate_rule = |subject: &str| {
            let policy = good(&format!("[[allow]]\nname = 'x'\nsubject = {{ {subject} }}\n"));
            with(&wild, |case| policy.evaluate(case, now())) == PolicyDecision::Declared(0)
        };
        let one = evaluate_rule(&format!("user = {uid}"));
        let with_more = evaluate_rule(&format!("user = {uid}, container = true"));
        prop_assert!(!with_more || one);
        let with_another = evaluate_rule(&format!("user = [{uid}, 7]"));
        prop_assert!(!one || with_another);
        prop_assert_eq!(one, wild.uid == Some(uid));
    }

    #[test]
    fn any_bytes_parse_or_give_positioned_errors(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        any_bytes(bytes);
    }

    /// Nearly valid policies.
    #[test]
    fn any_tokens_parse_or_give_positioned_errors(
        words in prop::collection::vec(prop::sample::select(vec![
            "[[allow]]", "[[mute]]", "[severity]", "\n", "name", "reason", "class", "subject", "until",
            "set", " = ", "'x'", "\"y\\u001b\"", "{", "}", "[", "]", ",", "container = '*'", "2030-01-01",
            "07:00:00", "99999999999999999999", "0x7fffffff", "-1", "1e9", "true", "'weak-mode'", "'low'",
        ]), 0..30),
    ) {
        any_bytes(words.concat().into_bytes());
    }
}

fn any_bytes(bytes: Vec<u8>) {
    fn check(bytes: impl AsRef<[u8]> + RefUnwindSafe) {
        if let Err(problems) = parse::policy(bytes.as_ref(), &user) {
            assert!(!problems.is_empty());
            let said = PolicyError { file: PathBuf::from("p"), problems }.to_string();
            assert!(!said.chars().any(|c| c.is_control() && c != '\n'), "{said:?}");
        }
    }
    assert!(catch_unwind(|| check(&bytes)).is_ok(), "{bytes:?}");
}
