//! Which files may be loaded into this process: what another user of the machine could have written may not.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// A library's path that is not trusted.
#[derive(Debug, Error)]
pub enum UnsafePath {
    /// A relative path means something else in another folder.
    #[error("the path of a library must be absolute")]
    Relative,
    /// The system refused.
    #[error("{path}: {error}")]
    System {
        /// The file or folder.
        path: String,
        /// As the system says.
        error: io::Error,
    },
    /// A folder, a device or a pipe.
    #[error("{0} is not a regular file")]
    NotAFile(String),
    /// Somebody else may write it.
    #[error("{0} may be written by others than its owner: chmod go-w {0}")]
    Writable(String),
    /// It is somebody else's.
    #[error("{path} belongs to the user {owner}, and neither to this process's user {user} nor to root")]
    Owner {
        /// The file or folder.
        path: String,
        /// Whose it is.
        owner: u32,
        /// Who asks.
        user: u32,
    },
}

const WRITABLE_BY_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Follows the links of `path` and checks the file and every folder above it.
///
/// # Errors
/// [`UnsafePath`], with the remedy.
pub(super) fn check(path: &Path) -> Result<PathBuf, UnsafePath> {
    if !path.is_absolute() {
        return Err(UnsafePath::Relative);
    }
    let system = |path: &Path, error| UnsafePath::System { path: path.display().to_string(), error };
    let real = fs::canonicalize(path).map_err(|error| system(path, error))?;
    let file = fs::metadata(&real).map_err(|error| system(&real, error))?;
    if !file.is_file() {
        return Err(UnsafePath::NotAFile(real.display().to_string()));
    }
    check_owner(&real, &file)?;
    check_mode(&real, &file)?;
    for (above, folder) in real.ancestors().skip(1).enumerate() {
        let found = fs::metadata(folder).map_err(|error| system(folder, error))?;
        check_owner(folder, &found)?;
        // In a sticky folder nobody can replace what is another's. The library's own folder has no such excuse: who
        // can add files to it can add what the library loads in turn.
        if above == 0 || found.mode() & STICKY == 0 {
            check_mode(folder, &found)?;
        }
    }
    Ok(real)
}

fn check_owner(path: &Path, found: &Metadata) -> Result<(), UnsafePath> {
    let user = rustix::process::geteuid().as_raw();
    if found.uid() == 0 || found.uid() == user {
        return Ok(());
    }
    Err(UnsafePath::Owner { path: path.display().to_string(), owner: found.uid(), user })
}

fn check_mode(path: &Path, found: &Metadata) -> Result<(), UnsafePath> {
    if found.mode() & WRITABLE_BY_OTHERS == 0 {
        return Ok(());
    }
    Err(UnsafePath::Writable(path.display().to_string()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_file_that_only_its_owner_can_write_is_trusted_also_behind_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("libx.so");
        fs::write(&file, "").unwrap();
        chmod(&file, 0o644);
        let link = folder.path().join("link.so");
        symlink(&file, &link).unwrap();
        assert_eq!(check(&link).unwrap(), fs::canonicalize(&file).unwrap());
    }

    #[test]
    fn what_others_can_write_or_replace_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let file = inner.join("libx.so");
        fs::write(&file, "").unwrap();
        chmod(&file, 0o664);
        assert!(matches!(check(&file), Err(UnsafePath::Writable(path)) if path.ends_with("libx.so")));
        chmod(&file, 0o644);
        chmod(&inner, 0o1777);
        assert!(matches!(check(&file), Err(UnsafePath::Writable(path)) if path.ends_with("inner")));
        chmod(&inner, 0o755);
        chmod(folder.path(), 0o777);
        assert!(matches!(check(&file), Err(UnsafePath::Writable(_))), "the folder above");
        chmod(folder.path(), 0o1777);
        assert!(check(&file).is_ok(), "a sticky folder above");
    }

    #[test]
    fn what_is_no_absolute_path_to_a_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(check(Path::new("libx.so")), Err(UnsafePath::Relative)));
        assert!(matches!(check(folder.path()), Err(UnsafePath::NotAFile(_))));
        assert!(matches!(check(&folder.path().join("missing.so")), Err(UnsafePath::System { .. })));
        assert!(matches!(check(Path::new("/dev/null")), Err(UnsafePath::NotAFile(_))));
    }
}
