//! Parses a cgroup's path to its systemd unit: pure. Containers have no unit here: the scope that a runtime
//! requests from systemd has the container's name.

use std::{borrow::Cow, sync::Arc};

use crate::event::value::OsBytes;

/// Suffixes of units that have processes (systemd.unit(5)).
const UNIT_SUFFIXES: [&[u8]; 5] = [b".service", b".scope", b".socket", b".mount", b".swap"];

/// The unit of the innermost unit cgroup: a service may create cgroups below its own, and a user's service
/// manager runs units below its.
#[must_use]
pub(crate) fn of_path(path: &[u8]) -> Option<Arc<OsBytes<'static>>> {
    let is_unit = |name: &&[u8]| {
        UNIT_SUFFIXES.iter().any(|kind| name.len() > kind.len() && name.ends_with(kind))
    };
    let name = path.split(|byte| *byte == b'/').rfind(is_unit)?;
    // systemd prefixes names that collide with kernel files with an underscore (`cg_escape`,
    // src/basic/cgroup-util.c).
    let name = name.strip_prefix(b"_").unwrap_or(name);
    Some(Arc::new(OsBytes(Cow::Owned(name.to_vec()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_unit_cgroup_names_the_unit() {
        let of = |path: &str| of_path(path.as_bytes()).map(|unit| unit.to_string());
        let some = |name: &str| Some(name.to_owned());
        assert_eq!(of("/system.slice/nginx.service"), some("nginx.service"));
        assert_eq!(of("/system.slice/nginx.service/worker/7"), some("nginx.service"));
        let user = "/user.slice/user-1000.slice/user@1000.service/app.slice/_app.service";
        assert_eq!(of(user), some("app.service"));
        assert_eq!(of("/user.slice/user-0.slice/session-3.scope"), some("session-3.scope"));
        assert_eq!(of("/init.scope"), some("init.scope"));
        for none in ["/", "", "/system.slice", "/.service", "/kubepods/besteffort"] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
