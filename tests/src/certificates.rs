//! Certificates for tests, made by the `openssl` program: an authority, and what it signs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// An authority and its folder.
pub struct Certificates {
    folder: TempDir,
}

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Certificates {
    /// A new authority.
    ///
    /// # Panics
    /// If `openssl` is missing or fails.
    #[must_use]
    pub fn authority() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        openssl(
            folder.path(),
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=authority \
             -keyout ca.key -out ca.pem",
        );
        Self { folder }
    }

    /// The authority's own certificate.
    #[must_use]
    pub fn authority_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for a server on loopback or for a client, in the name `name`.
    ///
    /// # Panics
    /// If `openssl` fails.
    #[must_use]
    pub fn sign(&self, name: &str) -> Signed {
        let folder = self.folder.path();
        let extensions =
            "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n";
        fs::write(folder.join("extensions"), extensions).expect("a file of extensions");
        openssl(
            folder,
            &format!(
                "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={name} -keyout {name}.key \
                 -out {name}.csr"
            ),
        );
        openssl(
            folder,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions \
                 -out {name}.pem"
            ),
        );
        Signed { cert: folder.join(format!("{name}.pem")), key: folder.join(format!("{name}.key")) }
    }
}

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split_whitespace()).current_dir(folder).output();
    let output = output.expect("openssl is missing; run tests/install.sh");
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
