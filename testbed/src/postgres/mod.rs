//! A real Postgres: one data directory and one postmaster on one port. A test can stop and start
//! it.

mod builder;
mod standby;
mod tls;
mod version;

pub use builder::Builder;
pub use standby::Backup;
pub use tls::Certificates;
pub use version::Version;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

use crate::{
    artifacts, ports,
    process::{Account, Guarded},
};

/// The role of [`Postgres::url`]: `LOGIN REPLICATION`, and all rights on the tables that `postgres`
/// creates.
pub const ROLE: &str = "outboxd";

const START_WITHIN: Duration = Duration::from_secs(60);

/// A server. Dropping it stops it and removes its directory. The death of the process that started
/// it does the same.
#[derive(Debug)]
pub struct Postgres {
    place: Place,
}

#[derive(Debug)]
enum Place {
    Child(Box<Child>),
    /// From `TESTBED_POSTGRES_URL`: the superuser's URL up to its database, and what came after the
    /// database.
    Elsewhere {
        base: String,
        query: String,
    },
}

#[derive(Debug)]
struct Child {
    guard: Guarded,
    install: PathBuf,
    port: AtomicU16,
    certificates: Option<Certificates>,
}

impl Postgres {
    /// A server of this major with the testbed's defaults: `wal_level=logical`, `fsync=off`, trust
    /// on 127.0.0.1.
    pub async fn start(version: Version) -> Result<Self> {
        Self::builder(version).start().await
    }

    /// A server of this major with settings of its own.
    #[must_use]
    pub fn builder(version: Version) -> Builder {
        Builder::new(version)
    }

    /// One server of this major for all tests of the process, unless `TESTBED_POSTGRES_URL` names
    /// another one. A test must never stop or pause it: such a test needs its own. A test works in
    /// a database of its own ([`crate::unique`]).
    pub async fn shared(version: Version) -> Result<&'static Self> {
        static SHARED: [OnceCell<Postgres>; 4] = [const { OnceCell::const_new() }; 4];
        SHARED[version as usize]
            .get_or_try_init(|| async {
                match std::env::var("TESTBED_POSTGRES_URL") {
                    Ok(url) => Self::elsewhere(&url),
                    Err(_) => Self::start(version).await,
                }
            })
            .await
    }

    fn elsewhere(url: &str) -> Result<Self> {
        let after_scheme = url.find("://").context("TESTBED_POSTGRES_URL is no URL")? + 3;
        let (front, query) = url.find('?').map_or((url, ""), |at| url.split_at(at));
        let end = front[after_scheme..].find('/').map_or(front.len(), |at| after_scheme + at);
        Ok(Self { place: Place::Elsewhere { base: front[..end].to_owned(), query: query.to_owned() } })
    }

    async fn start_with(builder: Builder) -> Result<Self> {
        let install = blocking(move || builder.version.install()).await?;
        let guard = Guarded::new(&format!("pg{}", builder.version.major()), Account::unprivileged()?)?;
        let certificates = if builder.ssl { Some(tls::generate(&guard)?) } else { None };
        let child = Child { guard, install, port: AtomicU16::new(0), certificates };
        child.initdb(&builder).await?;
        child.launch_on_free_port().await?;
        let server = Self { place: Place::Child(Box::new(child)) };
        server.client("postgres").await?.batch_execute(&format!("CREATE ROLE {ROLE} LOGIN REPLICATION")).await?;
        // Default privileges belong to a database. So they are set in the first one and in the
        // template of all others.
        for database in ["postgres", "template1"] {
            let rights = format!(
                "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {ROLE}; \
                 ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO {ROLE};"
            );
            server.client(database).await?.batch_execute(&rights).await?;
        }
        Ok(server)
    }

    /// `postgres://outboxd@127.0.0.1:…/<db>`, as the daemon connects. See [`ROLE`].
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.role_url(ROLE, database)
    }

    /// The same URL for a role that the test has made. `name:password` is possible.
    #[must_use]
    pub fn role_url(&self, role: &str, database: &str) -> String {
        match &self.place {
            Place::Child(child) => format!("postgres://{role}@127.0.0.1:{}/{database}", child.port()),
            // We do not know what other roles that server has.
            Place::Elsewhere { .. } => self.superuser_url(database),
        }
    }

    /// `postgres://postgres@127.0.0.1:…/<db>`.
    #[must_use]
    pub fn superuser_url(&self, database: &str) -> String {
        match &self.place {
            Place::Child(_) => self.role_url("postgres", database),
            Place::Elsewhere { base, query } => format!("{base}/{database}{query}"),
        }
    }

    /// The port on 127.0.0.1. It is an error for a server that is not ours.
    pub fn port(&self) -> Result<u16> {
        Ok(self.child()?.port())
    }

    /// The directory of the Unix socket. No `hba` line, TLS setting or proxy concerns this way in.
    pub fn socket_dir(&self) -> Result<PathBuf> {
        Ok(self.child()?.socket_dir())
    }

    /// The data directory.
    pub fn data_dir(&self) -> Result<PathBuf> {
        Ok(self.child()?.data_dir())
    }

    /// The server's log.
    pub fn log_path(&self) -> Result<PathBuf> {
        Ok(self.child()?.log_path())
    }

    /// The authority and certificates of a server built with [`Builder::ssl`].
    pub fn certificates(&self) -> Result<&Certificates> {
        self.child()?.certificates.as_ref().context("the server was built without ssl(true)")
    }

    /// The process id of the postmaster.
    pub fn pid(&self) -> Result<u32> {
        Ok(u32::try_from(self.child()?.guard.pid()?.as_raw())?)
    }

    /// A superuser's session. Its connection is a task of the current runtime, and ends when the
    /// client is dropped.
    pub async fn client(&self, database: &str) -> Result<Client> {
        match &self.place {
            Place::Child(child) => child.connect(database).await,
            Place::Elsewhere { .. } => connect(&self.superuser_url(database)).await,
        }
    }

    /// `CREATE DATABASE`.
    pub async fn create_database(&self, name: &str) -> Result<()> {
        self.create_database_with(name, "").await
    }

    /// `CREATE DATABASE … <options>`, with options such as
    /// `"ENCODING 'LATIN1' TEMPLATE template0"`.
    pub async fn create_database_with(&self, name: &str, options: &str) -> Result<()> {
        let client = self.client("postgres").await?;
        client.batch_execute(&format!("CREATE DATABASE \"{name}\" {options}")).await?;
        Ok(())
    }

    /// Makes a database with a name of its own, and returns the name.
    pub async fn fresh_database(&self, prefix: &str) -> Result<String> {
        let name = crate::unique(prefix);
        self.create_database(&name).await?;
        Ok(name)
    }

    /// `pg_ctl stop -m fast`: the server ends sessions and waits for walsenders. Returns how long
    /// it took, up to a minute.
    pub async fn stop_fast(&self) -> Result<Duration> {
        self.begin_stop_fast()?;
        self.wait_stopped(Duration::from_secs(60)).await
    }

    /// Asks for a fast shutdown and returns at once.
    pub fn begin_stop_fast(&self) -> Result<()> {
        self.child()?.guard.signal(Signal::SIGINT)
    }

    /// `pg_ctl stop -m immediate`: no checkpoint, recovery at the next start.
    pub async fn stop_immediate(&self) -> Result<Duration> {
        self.child()?.guard.signal(Signal::SIGQUIT)?;
        self.wait_stopped(Duration::from_secs(30)).await
    }

    /// Waits until the postmaster has ended. Returns how long it took.
    pub async fn wait_stopped(&self, within: Duration) -> Result<Duration> {
        let started = Instant::now();
        self.child()?.guard.wait_exit(within).await?;
        Ok(started.elapsed())
    }

    /// Sends SIGKILL to every process of the server, as if the machine had died. (The disk keeps
    /// what the kernel had.)
    pub fn kill9(&self) -> Result<()> {
        self.child()?.guard.kill9()
    }

    /// Sends SIGSTOP to every process of the server: connections stay open and nothing answers.
    pub fn pause(&self) -> Result<()> {
        self.child()?.guard.signal_tree(Signal::SIGSTOP)
    }

    /// Sends SIGCONT after [`Postgres::pause`].
    pub fn resume(&self) -> Result<()> {
        self.child()?.guard.signal_tree(Signal::SIGCONT)
    }

    /// Starts the server again on the same port, with the data that it had.
    pub async fn start_again(&self) -> Result<()> {
        let child = self.child()?;
        if let Launched::PortTaken = child.launch().await? {
            bail!("port {} was taken while the server was down", child.port());
        }
        Ok(())
    }

    /// Changes the size of the file system of a server that was built with
    /// [`Builder::wal_megabytes`].
    pub fn resize_wal(&self, megabytes: u32) -> Result<()> {
        self.child()?.guard.resize_tmpfs(megabytes)
    }

    fn child(&self) -> Result<&Child> {
        match &self.place {
            Place::Child(child) => Ok(child),
            Place::Elsewhere { .. } => bail!("the server of TESTBED_POSTGRES_URL is not ours to control"),
        }
    }
}

enum Launched {
    Ready,
    PortTaken,
}

impl Child {
    fn port(&self) -> u16 {
        self.port.load(Ordering::Relaxed)
    }

    fn data_dir(&self) -> PathBuf {
        self.guard.dir().join("data")
    }

    fn socket_dir(&self) -> PathBuf {
        self.guard.dir().to_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.guard.dir().join("postgres.log")
    }

    fn bin(&self, name: &str) -> PathBuf {
        self.install.join("bin").join(name)
    }

    async fn initdb(&self, builder: &Builder) -> Result<()> {
        let mut initdb = self.guard.tool(self.bin("initdb"));
        if let Some(megabytes) = builder.wal_megabytes {
            initdb.arg("--wal-segsize=1").arg("--waldir").arg(self.guard.mount_tmpfs(megabytes)?.join("pg_wal"));
        }
        initdb.arg("--pgdata").arg(self.data_dir()).args([
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            "--no-instructions",
        ]);
        blocking(move || artifacts::run(&mut initdb)).await?;
        append(&self.data_dir().join("postgresql.conf"), &builder.postgresql_conf(&self.socket_dir()))?;
        fs::write(self.data_dir().join("pg_hba.conf"), builder.pg_hba_conf())?;
        Ok(())
    }

    async fn launch_on_free_port(&self) -> Result<()> {
        for _ in 0..10 {
            self.port.store(ports::free()?, Ordering::Relaxed);
            if let Launched::Ready = self.launch().await? {
                return Ok(());
            }
        }
        bail!("ten ports in a row were taken while Postgres started")
    }

    async fn launch(&self) -> Result<Launched> {
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut server = self.guard.server(self.bin("postgres"));
        server.arg("-D").arg(self.data_dir()).arg("-p").arg(self.port().to_string());
        server.stdout(log.try_clone()?).stderr(log);
        let log_before = fs::metadata(self.log_path())?.len();
        self.guard.launch(&mut server)?;
        let started = Instant::now();
        while self.connect("postgres").await.is_err() {
            if let Some(status) = self.guard.exited()? {
                let log = fs::read(self.log_path())?.split_off(usize::try_from(log_before)?);
                let log = String::from_utf8_lossy(&log).into_owned();
                if log.contains("Address already in use") {
                    return Ok(Launched::PortTaken);
                }
                bail!("Postgres ended while starting ({status}):\n{log}");
            }
            if started.elapsed() > START_WITHIN {
                bail!("Postgres does not answer; its log is {}", self.log_path().display());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Launched::Ready)
    }

    async fn connect(&self, database: &str) -> Result<Client> {
        let socket = self.socket_dir();
        connect(&format!("host={} port={} user=postgres dbname={database}", socket.display(), self.port())).await
    }
}

async fn connect(config: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(config, NoTls).await?;
    // The connection ends with the client or the server. The next call of the client then fails.
    tokio::spawn(connection);
    Ok(client)
}

fn append(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    Ok(File::options().append(true).open(path)?.write_all(text.as_bytes())?)
}

pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}
