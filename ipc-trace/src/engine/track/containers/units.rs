//! From a cgroup's path to the systemd unit that it is of: pure. Containers have no unit here: what their
//! runtimes ask systemd for is a scope that has the container's name.

use std::{borrow::Cow, sync::Arc};

use crate::event::value::OsBytes;

/// What the cgroups of units that have processes end in (systemd.unit(5)).
const KINDS: [&[u8]; 5] = [b".service", b".scope", b".socket", b".mount", b".swap"];

/// The unit of the innermost cgroup that is one: a service may have made further ones below its own, and
/// what a user's service manager runs is below that.
#[must_use]
pub(super) fn of_path(path: &[u8]) -> Option<Arc<OsBytes<'static>>> {
    let is_unit =
        |name: &&[u8]| KINDS.iter().any(|kind| name.len() > kind.len() && name.ends_with(kind));
    let name = path.split(|byte| *byte == b'/').rfind(is_unit)?;
    // A name that could be taken for a file of the kernel's has this before it (`cg_escape`,
    // src/basic/cgroup-util.c).
    let name = name.strip_prefix(b"_").unwrap_or(name);
    Some(Arc::new(OsBytes(Cow::Owned(name.to_vec()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_named_by_the_innermost_cgroup_that_is_one() {
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
