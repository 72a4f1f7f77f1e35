//! PgBouncer before a server.

use std::{fs::Permissions, os::unix::fs::PermissionsExt as _, process::Stdio, time::Duration};

use anyhow::Result;
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use crate::{Postgres, eventually, ports, postgres::ROLE};

const UP_WITHIN: Duration = Duration::from_secs(30);

/// A PgBouncer that pools sessions of one server, and trusts everybody. It ends when it is dropped.
#[derive(Debug)]
pub struct Pooler {
    port: u16,
    _process: Child,
    _folder: TempDir,
}

impl Pooler {
    /// Starts one on a free port, and waits until it listens.
    pub async fn start(server: &Postgres) -> Result<Self> {
        let (folder, port) = (tempfile::tempdir()?, ports::free()?);
        let config = format!(
            "[databases]\n* = host=127.0.0.1 port={} user={ROLE}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n",
            server.port()?
        );
        // It refuses to run as root, and has to read its file as somebody else.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        let file = folder.path().join("pgbouncer.ini");
        std::fs::write(&file, config)?;
        let mut command = Command::new("/usr/sbin/pgbouncer");
        if nix::unistd::geteuid().is_root() {
            command.args(["-u", "nobody"]);
        }
        let process = command.arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn()?;
        eventually(UP_WITHIN, || async {
            TcpStream::connect(("127.0.0.1", port)).await?;
            anyhow::Ok(())
        })
        .await;
        Ok(Self { port, _process: process, _folder: folder })
    }

    /// The address of a database, through the pooler.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{ROLE}@127.0.0.1:{}/{database}", self.port)
    }
}
