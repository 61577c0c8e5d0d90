//! The private etcd of `quorate dev --consensus etcd`.

use std::{
    ffi::OsString,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use super::plan::Plan;

/// The name of its only member.
const MEMBER: &str = "quorate-dev";

/// Finds the etcd to start: the one that was named, else the one on `path`, the value of PATH.
///
/// # Errors
/// A sentence with the line that installs one.
pub(crate) fn find(named: Option<&Path>, path: Option<&str>) -> Result<PathBuf, String> {
    if let Some(named) = named {
        return if is_program(named) {
            std::path::absolute(named).map_err(|error| format!("{}: {error}", named.display()))
        } else {
            Err(format!("--etcd-binary {}: no program is there", named.display()))
        };
    }
    let on_path = std::env::split_paths(path.unwrap_or_default()).map(|folder| folder.join("etcd"));
    on_path.into_iter().find(|candidate| is_program(candidate)).ok_or_else(|| {
        "--consensus etcd needs an etcd, and there is none on PATH. Install it:\n  \
         apt-get install etcd-server        (Debian, Ubuntu)\n  \
         brew install etcd                  (macOS)\n\
         or name it with --etcd-binary PATH, or use a running one with --override \
         consensus.etcd.endpoints=http://HOST:2379"
            .to_owned()
    })
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Its command line, without the program.
pub(crate) fn arguments(plan: &Plan) -> Vec<OsString> {
    let (clients, peers) = plan.etcd_ports();
    let (clients, peers) = (format!("http://127.0.0.1:{clients}"), format!("http://127.0.0.1:{peers}"));
    let mut arguments = vec![OsString::from("--data-dir"), plan.etcd_folder().into()];
    let pairs = [
        ("--name", MEMBER.to_owned()),
        ("--listen-client-urls", clients.clone()),
        ("--advertise-client-urls", clients),
        ("--listen-peer-urls", peers.clone()),
        ("--initial-advertise-peer-urls", peers.clone()),
        ("--initial-cluster", format!("{MEMBER}={peers}")),
        // Its history of revisions is of no use here, and would grow until the quota stops all writes.
        ("--auto-compaction-mode", "periodic".to_owned()),
        ("--auto-compaction-retention", "1h".to_owned()),
    ];
    arguments.extend(pairs.into_iter().flat_map(|(flag, value)| [flag.into(), value.into()]));
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_named_binary_wins_and_a_missing_one_is_told_with_the_install_line() {
        let folder = tempfile::tempdir().unwrap();
        let etcd = folder.path().join("etcd");
        fs::write(&etcd, "#!/bin/sh\n").unwrap();
        let path = folder.path().to_str();
        assert!(find(None, path).unwrap_err().contains("apt-get install etcd-server"));
        assert!(find(Some(&etcd), path).unwrap_err().contains("no program is there"));
        fs::set_permissions(&etcd, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find(None, path).unwrap(), etcd);
        assert_eq!(find(Some(&etcd), None).unwrap(), etcd);
    }
}
