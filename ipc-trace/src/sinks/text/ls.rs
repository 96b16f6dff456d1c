//! `ls` as text: a line for each namespace, or one namespace in full.

use std::fmt::{self, Display};

use ipc_trace_common::op::ObjectKind;

use super::{
    style::{Palette, Role},
    units::{Date, GroupedCount},
    wrap::{Align, Shape, Span, TextRow, TextTable, flow},
};
use crate::event::{
    escape::{escaped, quoted},
    tag::{NsTag, ProcessTag},
};
use crate::event::{
    ls::{
        DescriptorOf, Holder, Limit, LimitName, Ls, MountOf, NamespaceSnapshot, PRESSING,
        ProcessInfo, UnseenWhat, percent,
    },
    objects::ObjectInfo,
    value::{KindName, OsBytes},
};

mod full;

/// Cells of the host's name and the kernel's release.
const NAME_WIDTH: usize = 40;
/// Cells of a mount point, a queue's name, a reason.
const WORD_WIDTH: usize = 60;
/// The largest number of processes, and of other holders, on a namespace's line.
const NAMED: usize = 3;

/// The text, with newlines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LsText<'a> {
    ls: &'a Ls,
    full: bool,
    palette: Palette,
    width: usize,
}

/// The text for a terminal of `width` cells. `full`: with every process, holder and object.
#[must_use]
pub(crate) const fn text(ls: &Ls, full: bool, palette: Palette, width: usize) -> LsText<'_> {
    LsText { ls, full, palette, width }
}

impl Display for LsText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.full {
            for namespace in &self.ls.namespaces {
                self.namespace(f, namespace)?;
            }
            return Ok(());
        }
        self.heading(f)?;
        writeln!(f)?;
        self.table(f)?;
        self.pressing(f)?;
        self.unseen(f)
    }
}

fn plain(text: impl Display) -> Span {
    Span::new(Role::Plain, text)
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{} {}", GroupedCount(count as u64), if count == 1 { one } else { many })
}

/// The objects of a kind: `?` if they could not be seen.
fn objects(namespace: &NamespaceSnapshot, kind: ObjectKind) -> Span {
    let part = if kind == ObjectKind::Mq { UnseenWhat::Queues } else { UnseenWhat::Sysv };
    match namespace.count(kind) {
        _ if namespace.is_unseen(part) => Span::new(Role::Loss, "?"),
        0 => Span::new(Role::Dim, "0"),
        count => plain(GroupedCount(count as u64)),
    }
}

/// Something with a limit: a namespace's limit, or a queue.
struct Fullness {
    what: String,
    used: u64,
    of: u64,
}

impl Fullness {
    fn percent(&self) -> u64 {
        percent(self.used, self.of)
    }

    fn is_pressing(&self) -> bool {
        self.percent() >= PRESSING
    }
}

/// The limits and queues of a namespace, the fullest first.
fn fullness(namespace: &NamespaceSnapshot) -> Vec<Fullness> {
    let limits = namespace.limits.iter().filter_map(|(name, Limit { limit, used })| {
        Some(Fullness { what: name.to_string(), used: (*used)?, of: *limit })
    });
    let queues = namespace.objects.iter().filter_map(|object| {
        let (name, used, of) = match (object.kind.0, &object.name) {
            (ObjectKind::Msg, _) => (object.id?.to_string(), object.bytes?, object.size?),
            (ObjectKind::Mq, Some(name)) => {
                (quoted(&name.0, WORD_WIDTH).to_string(), object.messages?, object.max_messages?)
            }
            (ObjectKind::Shm | ObjectKind::Sem | ObjectKind::Mq, _) => return None,
        };
        Some(Fullness { what: format!("{} {name}", object.kind), used, of })
    });
    let mut all: Vec<_> = limits.chain(queues).collect();
    all.sort_by_key(|one| std::cmp::Reverse(one.percent()));
    all
}

/// `worker[4242]`
fn process(comm: Option<&OsBytes<'static>>, pid: u32) -> String {
    match comm {
        Some(comm) => ProcessTag::new(comm, pid).to_string(),
        None => format!("process {pid}"),
    }
}

/// How a namespace is held, as text; `None` for a process in it.
fn held_by(holder: &Holder) -> Option<String> {
    let named = |name: &Option<OsBytes<'static>>| {
        name.as_ref().map(|name| quoted(&name.0, WORD_WIDTH).to_string())
    };
    Some(match holder {
        Holder::Process { .. } => return None,
        Holder::Descriptor { pid, comm, fd, of, name, pins: _ } => {
            let what = match (of, named(name)) {
                (DescriptorOf::Namespace, _) => String::new(),
                (DescriptorOf::Queue, Some(name)) if name == "\"/\"" => {
                    ": its mqueue file system".to_owned()
                }
                (DescriptorOf::Queue, Some(name)) => format!(": queue {name}"),
                (DescriptorOf::Queue, None) => ": a queue".to_owned(),
                (DescriptorOf::Sysvipc, Some(name)) => {
                    format!(": /proc/sysvipc/{}", name.trim_matches('"'))
                }
                (DescriptorOf::Sysvipc, None) => ": a file of /proc/sysvipc".to_owned(),
            };
            format!("descriptor {fd} of {}{what}", process(comm.as_ref(), *pid))
        }
        Holder::Mount { mnt_ns, pid, mount_point, of, pins: _ } => {
            let what = match of {
                MountOf::Namespace => "",
                MountOf::Mqueue => ": its mqueue file system",
            };
            let point = escaped(&mount_point.0, WORD_WIDTH);
            format!("mount {point} seen by {pid} in mnt {mnt_ns}{what}")
        }
        Holder::Mapping { pid, comm, shmid, mappings, bytes: _, exact } => {
            let often = if *mappings == 1 { String::new() } else { format!(" {mappings} times") };
            let guessed = if *exact { "" } else { ", presumably" };
            let who = process(comm.as_ref(), *pid);
            format!("mapping of shm {shmid} by {who}{often}{guessed}")
        }
    })
}

impl LsText<'_> {
    fn paragraph(&self, f: &mut fmt::Formatter<'_>, used: usize, spans: &[Span]) -> fmt::Result {
        let shape = Shape { width: self.width, used, indent: used.max(2) };
        flow(f, spans, " · ", shape, self.palette)?;
        writeln!(f)
    }

    fn title(&self, f: &mut fmt::Formatter<'_>, title: &str) -> fmt::Result {
        writeln!(f, "\n{}", self.palette.paint(Role::Heading, title))
    }

    fn host(&self) -> [Span; 3] {
        let Ls { host, kernel, time, .. } = self.ls;
        [
            Span::new(
                Role::Heading,
                format_args!("IPC on {}", escaped(host.as_bytes(), NAME_WIDTH)),
            ),
            plain(format_args!("Linux {}", escaped(kernel.as_bytes(), NAME_WIDTH))),
            plain(format_args!("{} UTC", Date(*time))),
        ]
    }

    fn heading(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.paragraph(f, 0, &self.host())?;
        let Ls { namespaces, complete, .. } = self.ls;
        let objects: usize = namespaces.iter().map(|ns| ns.objects.len()).sum();
        let hidden = namespaces.iter().filter(|ns| ns.processes.is_empty()).count();
        let pressing =
            namespaces.iter().filter(|ns| fullness(ns).iter().any(Fullness::is_pressing)).count();
        let mut spans = vec![
            plain(counted(namespaces.len(), "namespace", "namespaces")),
            plain(counted(objects, "object", "objects")),
        ];
        if hidden > 0 {
            let text = format!("{} without a process", GroupedCount(hidden as u64));
            spans.push(Span::new(Role::Loss, text));
        }
        if pressing > 0 {
            spans.push(Span::new(
                Role::Loss,
                format!("{} near a limit", GroupedCount(pressing as u64)),
            ));
        }
        if !complete {
            spans.push(Span::new(Role::Loss, "these may not be all"));
        }
        self.paragraph(f, 0, &spans)
    }

    fn table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |namespace: &NamespaceSnapshot| {
            let NamespaceSnapshot { inum, r#gen, processes, .. } = namespace;
            let count = processes.len();
            let role = if count == 0 { Role::Loss } else { Role::Plain };
            TextRow {
                cells: vec![
                    Span::new(Role::Namespace, NsTag::new(*inum, *r#gen)),
                    Span::new(role, GroupedCount(count as u64)),
                    objects(namespace, ObjectKind::Shm),
                    objects(namespace, ObjectKind::Sem),
                    objects(namespace, ObjectKind::Msg),
                    objects(namespace, ObjectKind::Mq),
                    full_cell(namespace),
                ],
                notes: holders(namespace),
            }
        };
        let table = TextTable {
            columns: &[
                ("NAMESPACE", Align::Left),
                ("PROCESSES", Align::Right),
                ("SHM", Align::Right),
                ("SEM", Align::Right),
                ("MSG", Align::Right),
                ("MQ", Align::Right),
                ("FULL", Align::Right),
            ],
            notes: "HELD BY",
            rows: self.ls.namespaces.iter().map(row).collect(),
        };
        table.write(f, self.width, self.palette)
    }

    /// The nearly full ones, one line each, the fullest first.
    fn pressing(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// The largest number of lines
        const LINES: usize = 20;
        let mut all: Vec<_> = self
            .ls
            .namespaces
            .iter()
            .flat_map(|ns| fullness(ns).into_iter().map(move |one| (ns, one)))
            .filter(|(_, one)| one.is_pressing())
            .collect();
        if all.is_empty() {
            return Ok(());
        }
        all.sort_by_key(|(_, one)| std::cmp::Reverse(one.percent()));
        self.title(f, "NEAR A LIMIT")?;
        for (ns, one) in all.iter().take(LINES) {
            let tag = self.palette.paint(Role::Namespace, NsTag::new(ns.inum, ns.r#gen));
            write!(f, "  {tag:<10}  ")?;
            self.paragraph(f, 14, &[pressing_span(one)])?;
        }
        match all.len().saturating_sub(LINES) {
            0 => Ok(()),
            more => writeln!(f, "  and {} more", GroupedCount(more as u64)),
        }
    }

    /// Parts of single namespaces that could not be seen.
    fn unseen(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut reasons: Vec<(&str, Vec<NsTag>)> = Vec::new();
        for namespace in &self.ls.namespaces {
            for unseen in &namespace.unseen {
                let tag = NsTag::new(namespace.inum, namespace.r#gen);
                match reasons.iter_mut().find(|(reason, _)| *reason == unseen.reason) {
                    Some((_, tags)) if tags.last() == Some(&tag) => {}
                    Some((_, tags)) => tags.push(tag),
                    None => reasons.push((&unseen.reason, vec![tag])),
                }
            }
        }
        if reasons.is_empty() {
            return Ok(());
        }
        self.title(f, "NOT SEEN")?;
        for (reason, tags) in reasons {
            let which: Vec<_> = tags.iter().take(NAMED).map(ToString::to_string).collect();
            let mut which = which.join(", ");
            if tags.len() > NAMED {
                which.push_str(&format!(" and {} more", GroupedCount((tags.len() - NAMED) as u64)));
            }
            f.write_str("  ")?;
            self.words(f, 2, Role::Plain, &format!("{which}: {reason}"))?;
        }
        Ok(())
    }

    /// Writes text from cell `used` on.
    fn words(
        &self,
        f: &mut fmt::Formatter<'_>,
        used: usize,
        role: Role,
        text: &str,
    ) -> fmt::Result {
        let words = text.split_whitespace();
        let spans: Vec<_> =
            words.map(|word| Span::new(role, escaped(word.as_bytes(), self.width))).collect();
        flow(f, &spans, " ", Shape { width: self.width, used, indent: used + 2 }, self.palette)?;
        writeln!(f)
    }
}

/// `! queues_max is full: 256 of 256 (100 %)`: the mark is for output without colours.
fn pressing_span(one: &Fullness) -> Span {
    let Fullness { what, used, of } = one;
    let text =
        format!("! {what}: {} of {} ({} %)", GroupedCount(*used), GroupedCount(*of), one.percent());
    Span::new(Role::Loss, text)
}

/// The fullest one.
fn full_cell(namespace: &NamespaceSnapshot) -> Span {
    match fullness(namespace).first() {
        Some(one) if one.is_pressing() => Span::new(Role::Loss, format!("! {} %", one.percent())),
        Some(one) => Span::new(Role::Dim, format!("{} %", one.percent())),
        None => plain("?"),
    }
}

/// The processes in a namespace, and its other holders.
fn holders(namespace: &NamespaceSnapshot) -> Vec<Span> {
    // Kernel threads are least informative.
    let (users, kernel): (Vec<_>, Vec<_>) =
        namespace.processes.iter().partition(|process| process.exe.is_some());
    let members = users.into_iter().chain(kernel);
    let mut spans =
        crate::sinks::text::containers::containers(&namespace.containers, namespace.sharing);
    let tags = members.take(NAMED);
    spans.extend(tags.map(|ProcessInfo { pid, comm, .. }| plain(ProcessTag::new(comm, *pid))));
    let more = |spans: &mut Vec<Span>, more: usize| {
        if more > 0 {
            spans.push(Span::new(Role::Dim, format_args!("{} more", GroupedCount(more as u64))));
        }
    };
    more(&mut spans, namespace.processes.len().saturating_sub(NAMED));
    let others: Vec<_> = namespace.holders.iter().filter_map(held_by).collect();
    if namespace.processes.is_empty() {
        spans.extend(others.iter().take(NAMED).map(|text| Span::new(Role::Loss, text)));
        more(&mut spans, others.len().saturating_sub(NAMED));
        if others.is_empty() {
            spans.push(Span::new(Role::Loss, "no visible holder"));
        }
    } else if !others.is_empty() {
        let count = counted(others.len(), "other holder", "other holders");
        spans.push(Span::new(Role::Dim, count));
    }
    spans
}

/// The cells of a limit's line that all kinds have in common.
fn limit_row(name: LimitName, limit: &Limit) -> TextRow {
    let used = match limit.used {
        Some(used) => plain(GroupedCount(used)),
        None => plain(""),
    };
    // The defaults of SHMMAX and SHMALL (include/uapi/linux/shm.h).
    let of = match i64::try_from(limit.limit) {
        Ok(_) => plain(GroupedCount(limit.limit)),
        Err(_) => Span::new(Role::Dim, "no limit"),
    };
    let full = match limit.percent() {
        Some(percent) if percent >= PRESSING => Span::new(Role::Loss, format!("! {percent} %")),
        Some(percent) => Span::new(Role::Dim, format!("{percent} %")),
        None => plain(""),
    };
    TextRow {
        cells: vec![plain(name), used, of, full],
        notes: vec![Span::new(Role::Dim, name.what())],
    }
}

/// Whether an object is of a kind.
fn is(kind: ObjectKind) -> impl Fn(&&ObjectInfo) -> bool {
    move |object| object.kind == KindName(kind)
}

#[cfg(test)]
mod tests;
