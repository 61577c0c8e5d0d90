//! The only place that names consensus backends.

/// The backends of this build, as `consensus` and `--consensus` take them.
pub(crate) fn names() -> Vec<&'static str> {
    let mut names = Vec::new();
    if cfg!(feature = "raftrs") {
        names.push("raftrs");
    }
    if cfg!(feature = "etcd") {
        names.push("etcd");
    }
    names
}
