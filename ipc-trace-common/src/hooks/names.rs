//! Comparison of names at compile time.

/// Whether two names are the same.
pub(super) const fn equal(a: &str, b: &str) -> bool {
    same(a.as_bytes(), b.as_bytes())
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}
