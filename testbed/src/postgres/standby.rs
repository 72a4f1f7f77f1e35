//! Copies of a server: base backups, streaming standbys, and older disks that are put back.
//!
//! SQL and `cp` make them, because Maven's binaries come without `pg_basebackup`.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::AtomicU16,
};

use anyhow::{Context, Result};

use super::{Child, Place, Postgres};
use crate::{
    artifacts::run,
    process::{Account, Guarded},
};

/// The physical slot of [`Postgres::failover_standby`].
const STANDBY_SLOT: &str = "standby";

/// The data directory at one moment. Its files are removed together with the server that it came
/// from.
#[derive(Debug, Clone)]
pub struct Backup {
    dir: PathBuf,
}

impl Postgres {
    /// Makes an online base backup with data and label. It holds no WAL, which the server keeps
    /// (`wal_keep_size`).
    async fn base_backup(&self) -> Result<Backup> {
        let child = self.child()?;
        let client = child.connect("postgres").await?;
        let dir = child.guard.dir().join(crate::unique("backup"));
        client.execute("SELECT pg_backup_start('testbed', true)", &[]).await?;
        copy(&child.data_dir(), &dir)?;
        let label = client.query_one("SELECT labelfile FROM pg_backup_stop(false)", &[]).await?;
        // As with pg_basebackup, a backup holds neither the server's process id nor its slots.
        let _ = fs::remove_file(dir.join("postmaster.pid"));
        empty(&dir.join("pg_replslot"))?;
        fs::write(dir.join("backup_label"), label.get::<_, String>(0))?;
        child.guard.own(&dir.join("backup_label"))?;
        Ok(Backup { dir })
    }

    /// Copies the disk of a stopped server as it is, with slots and WAL.
    pub fn copy_disk(&self) -> Result<Backup> {
        let child = self.child()?;
        let dir = child.guard.dir().join(crate::unique("disk"));
        copy(&child.data_dir(), &dir)?;
        Ok(Backup { dir })
    }

    /// Puts a copy in the place of a stopped server's disk. [`Postgres::start_again`] then runs on
    /// it.
    pub fn restore_disk(&self, backup: &Backup) -> Result<()> {
        let data = self.child()?.data_dir();
        fs::remove_dir_all(&data)?;
        copy(&backup.dir, &data)
    }

    /// Starts an asynchronous streaming standby of this server. `settings` come after the primary's
    /// own. The caller sets `primary_slot_name` and the like. [`Postgres::promote`] promotes it.
    pub async fn standby(&self, settings: &[(&str, &str)]) -> Result<Self> {
        let primary = self.child()?;
        primary.connect("postgres").await?.batch_execute("ALTER SYSTEM SET wal_keep_size = '1GB'").await?;
        primary.connect("postgres").await?.batch_execute("SELECT pg_reload_conf()").await?;
        let backup = self.base_backup().await?;
        let guard = Guarded::new("standby", Account::unprivileged()?)?;
        let data = guard.dir().join("data");
        copy(&backup.dir, &data)?;
        fs::remove_dir_all(&backup.dir)?;
        let mut text = format!(
            "\n# standby\nprimary_conninfo = 'host={} port={} user=postgres dbname=postgres application_name=standby'\n\
             hot_standby_feedback = on\nunix_socket_directories = '{}'\n",
            primary.socket_dir().display(),
            primary.port(),
            guard.dir().display()
        );
        for (name, value) in settings {
            let _ = writeln!(text, "{name} = '{}'", value.replace('\'', "''"));
        }
        super::append(&data.join("postgresql.conf"), &text)?;
        fs::write(data.join("standby.signal"), "")?;
        guard.own(&data.join("standby.signal"))?;
        let (install, certificates) = (primary.install.clone(), primary.certificates.clone());
        let child = Child { guard, install, port: AtomicU16::new(0), certificates };
        child.launch_on_free_port().await?;
        Ok(Self { place: Place::Child(Box::new(child)) })
    }

    /// Starts a standby that synchronises failover slots (Postgres 17). It has a physical slot, for
    /// which the server can wait ([`Postgres::wait_for_standby`]).
    pub async fn failover_standby(&self) -> Result<Self> {
        let client = self.client("postgres").await?;
        client.execute("SELECT pg_create_physical_replication_slot($1, true)", &[&STANDBY_SLOT]).await?;
        self.standby(&[("sync_replication_slots", "on"), ("primary_slot_name", STANDBY_SLOT)]).await
    }

    /// Says whether the server sends to failover slots only what the standby has
    /// (`synchronized_standby_slots`). A server without a standby would wait for ever.
    pub async fn wait_for_standby(&self, waits: bool) -> Result<()> {
        let client = self.client("postgres").await?;
        let slot = if waits { STANDBY_SLOT } else { "" };
        client.batch_execute(&format!("ALTER SYSTEM SET synchronized_standby_slots = '{slot}'")).await?;
        Ok(client.batch_execute("SELECT pg_reload_conf()").await?)
    }

    /// Ends recovery, which begins a new timeline, and waits for that.
    pub async fn promote(&self) -> Result<()> {
        let client = self.child()?.connect("postgres").await?;
        let promoted: bool = client.query_one("SELECT pg_promote(true, 30)", &[]).await?.get(0);
        anyhow::ensure!(promoted, "not promoted within 30 s");
        Ok(())
    }
}

/// Copies a directory that may change at the same time. A file that vanishes is no error in an
/// online backup.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let vanished = |error: &anyhow::Error| {
        let text = error.to_string();
        text.lines().filter(|l| l.starts_with("cp:")).all(|l| l.contains("No such file"))
    };
    match run(Command::new("cp").arg("-a").arg(from).arg(to)) {
        Err(error) if !vanished(&error) => Err(error),
        _ => Ok(()),
    }
}

fn empty(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        fs::remove_dir_all(entry?.path())?;
    }
    Ok(())
}
