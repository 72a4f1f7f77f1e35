//! An authority of our own, a server certificate for `localhost` and 127.0.0.1, and a client
//! certificate.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{artifacts::run, process::Guarded};

/// Files in PEM.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// `sslrootcert` of a client.
    pub ca: PathBuf,
    /// The server's certificate.
    pub server: PathBuf,
    /// `sslcert` of a client, common name `outboxd`.
    pub client: PathBuf,
    /// `sslkey` of a client.
    pub client_key: PathBuf,
}

pub(super) fn generate(guard: &Guarded) -> Result<Certificates> {
    let dir = guard.subdir("tls")?;
    let path = |name: &str| dir.join(name);
    run(openssl()
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "30",
            "-subj",
            "/CN=testbed authority",
            "-keyout",
        ])
        .arg(path("ca.key"))
        .arg("-out")
        .arg(path("ca.crt")))?;
    sign(&dir, "server", "localhost", "subjectAltName=DNS:localhost,IP:127.0.0.1\n")?;
    sign(&dir, "client", "outboxd", "extendedKeyUsage=clientAuth\n")?;
    // The server refuses a key that others may read. libpq refuses a key that its user cannot read.
    guard.own(&path("server.key"))?;
    std::fs::set_permissions(path("server.key"), std::fs::Permissions::from_mode(0o600))?;
    Ok(Certificates {
        ca: path("ca.crt"),
        server: path("server.crt"),
        client: path("client.crt"),
        client_key: path("client.key"),
    })
}

fn sign(dir: &Path, name: &str, common_name: &str, extensions: &str) -> Result<()> {
    let path = |ending: &str| dir.join(format!("{name}.{ending}"));
    std::fs::write(path("ext"), extensions)?;
    run(openssl()
        .args(["req", "-newkey", "rsa:2048", "-nodes", "-subj", &format!("/CN={common_name}"), "-keyout"])
        .arg(path("key"))
        .arg("-out")
        .arg(path("csr")))?;
    run(openssl()
        .args(["x509", "-req", "-days", "30", "-CAcreateserial", "-in"])
        .arg(path("csr"))
        .arg("-CA")
        .arg(dir.join("ca.crt"))
        .arg("-CAkey")
        .arg(dir.join("ca.key"))
        .arg("-extfile")
        .arg(path("ext"))
        .arg("-out")
        .arg(path("crt")))
}

fn openssl() -> Command {
    Command::new("openssl")
}
