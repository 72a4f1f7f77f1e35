//! One broker: its properties, its JVM.

use std::{
    fmt::Write as _,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::Builder;
use crate::{artifacts, ports, process::Guarded, proxy::Proxy};

/// The cluster's id: any 16 bytes in base64url.
const CLUSTER_ID: &str = "dGVzdGJlZC1jbHVzdGVyMQ";

/// The directory of the cluster's metadata log.
const METADATA: &str = "__cluster_metadata-0";

/// What a node of the cluster does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Both,
    Broker,
    Controller,
}

/// A node of the future cluster.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    id: usize,
    role: Role,
    clients: u16,
    controller: u16,
    /// The port of the listener behind the proxy, and the port of the proxy.
    proxied: Option<(u16, u16)>,
}

impl Node {
    pub(super) fn new(id: usize, role: Role, proxied: bool) -> Result<Self> {
        let proxied = if proxied { Some((ports::free()?, ports::free()?)) } else { None };
        Ok(Self { id, role, clients: ports::free()?, controller: ports::free()?, proxied })
    }

    pub(super) fn proxied(&self) -> Option<(u16, u16)> {
        self.proxied
    }
}

#[derive(Debug)]
pub(super) struct Broker {
    guard: Guarded,
    jars: PathBuf,
    jvm: Vec<String>,
    node: Node,
    proxy: Option<Proxy>,
}

impl Broker {
    /// Formats the node's directory, so that the node can be launched.
    pub(super) fn prepare(jars: &Path, node: Node, cluster: &[Node], builder: &Builder) -> Result<Self> {
        let guard = Guarded::new("kafka", None)?;
        let logs = match &builder.disk {
            Some(disk) if node.role != Role::Controller => {
                let logs = disk.join(format!("logs-{}", node.id));
                fs::create_dir(&logs)?;
                logs
            }
            _ => guard.subdir("logs")?,
        };
        let pair = node.proxied.filter(|_| !builder.wired);
        let proxy = pair.map(|(behind, port)| Proxy::listen(port, behind)).transpose()?;
        let broker = Self { guard, jars: jars.to_owned(), jvm: builder.jvm.clone(), node, proxy };
        let mut text = properties(node, cluster, &logs);
        for (name, value) in &builder.settings {
            let _ = writeln!(text, "{name}={value}");
        }
        fs::write(broker.properties_path(), text)?;
        format(&broker, &logs)?;
        Ok(broker)
    }

    pub(super) fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    pub(super) fn port(&self) -> u16 {
        self.node.clients
    }

    pub(super) fn pid(&self) -> Result<u32> {
        Ok(u32::try_from(self.guard.pid()?.as_raw())?)
    }

    pub(super) fn log_path(&self) -> PathBuf {
        self.guard.dir().join("kafka.log")
    }

    fn properties_path(&self) -> PathBuf {
        self.guard.dir().join("server.properties")
    }

    pub(super) fn found_its_port_taken(&self) -> bool {
        fs::read_to_string(self.log_path()).is_ok_and(|log| log.contains("Address already in use"))
    }

    pub(super) fn launch(&self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut java = self.guard.server("java");
        java.args(["-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"])
            .args(["-Djava.awt.headless=true", "-XX:-UsePerfData", "-Dorg.slf4j.simpleLogger.showDateTime=true"])
            .arg("-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS")
            .args(&self.jvm)
            .arg("-cp")
            .arg(classpath(&self.jars))
            .arg("kafka.Kafka")
            .arg(self.properties_path())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.guard.launch(&mut java)
    }

    pub(super) fn has_ended(&self) -> Result<bool> {
        Ok(self.guard.exited()?.is_some())
    }

    /// Fails when the broker has ended by itself.
    pub(super) fn check_running(&self) -> Result<()> {
        if let Some(status) = self.guard.exited()? {
            let log = fs::read_to_string(self.log_path()).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            anyhow::bail!("the broker ended ({status}):\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        Ok(())
    }

    pub(super) async fn stop(&self, within: Duration) -> Result<()> {
        self.guard.signal(Signal::SIGTERM)?;
        if self.guard.wait_exit(within).await.is_err() {
            self.kill9()?;
        }
        Ok(())
    }

    pub(super) fn kill9(&self) -> Result<()> {
        self.guard.kill9()
    }

    pub(super) fn pause(&self) -> Result<()> {
        self.guard.signal(Signal::SIGSTOP)
    }

    pub(super) fn resume(&self) -> Result<()> {
        self.guard.signal(Signal::SIGCONT)
    }
}

fn classpath(jars: &Path) -> String {
    format!("{}/*", jars.display())
}

fn properties(node: Node, cluster: &[Node], logs: &Path) -> String {
    let voters: Vec<String> = cluster
        .iter()
        .filter(|n| n.role != Role::Broker)
        .map(|n| format!("{}@127.0.0.1:{}", n.id, n.controller))
        .collect();
    let mut advertised = Vec::new();
    let mut listeners = Vec::new();
    if node.role != Role::Controller {
        listeners.push(format!("PLAINTEXT://127.0.0.1:{}", node.clients));
        advertised.push(format!("PLAINTEXT://127.0.0.1:{}", node.clients));
        if let Some((behind, proxy)) = node.proxied {
            listeners.push(format!("PROXIED://127.0.0.1:{behind}"));
            advertised.push(format!("PROXIED://127.0.0.1:{proxy}"));
        }
    }
    if node.role != Role::Broker {
        listeners.push(format!("CONTROLLER://127.0.0.1:{}", node.controller));
    }
    let roles = match node.role {
        Role::Both => "broker,controller",
        Role::Broker => "broker",
        Role::Controller => "controller",
    };
    let replicas = cluster.iter().filter(|n| n.role != Role::Controller).count().min(3);
    let in_sync = replicas.div_ceil(2);
    // Records carry the times of their rows, and a test may set these to any year. So Kafka must
    // not remove a record because of its age.
    let mut text = format!(
        "process.roles={roles}
node.id={id}
controller.quorum.voters={voters}
listeners={listeners}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT
log.dirs={logs}
auto.create.topics.enable=false
offsets.topic.num.partitions=4
offsets.topic.replication.factor={replicas}
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={in_sync}
share.coordinator.state.topic.replication.factor={replicas}
share.coordinator.state.topic.min.isr={in_sync}
default.replication.factor={replicas}
transaction.abort.timed.out.transaction.cleanup.interval.ms=500
group.initial.rebalance.delay.ms=0
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
num.network.threads=2
num.io.threads=4
background.threads=2
log.cleaner.dedupe.buffer.size=4194304
log.index.size.max.bytes=1048576
log.retention.ms=-1
",
        id = node.id,
        voters = voters.join(","),
        listeners = listeners.join(","),
        logs = logs.display(),
    );
    if node.role != Role::Controller {
        let _ = writeln!(text, "advertised.listeners={}\ninter.broker.listener.name=PLAINTEXT", advertised.join(","));
    }
    text
}

/// Does what `kafka.tools.StorageTool format` does. The first snapshot that the tool writes (the
/// feature levels) depends only on Kafka's version. So the tool, which takes a second of JVM, runs
/// once for each version and not for every broker.
fn format(broker: &Broker, logs: &Path) -> Result<()> {
    let version = artifacts::KAFKA;
    let formatted = artifacts::once(&format!("kafka-{version}-formatted"), "Kafka's storage format", |dir| {
        let conf = dir.join("format.properties");
        let any = Node { id: 1, role: Role::Both, clients: 1, controller: 2, proxied: None };
        fs::write(&conf, properties(any, &[any], &dir.join("logs")))?;
        artifacts::run(
            Command::new("java")
                .arg("-cp")
                .arg(classpath(&broker.jars))
                .args(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"])
                .arg(conf),
        )
    })?;
    let (snapshot, copy) = (formatted.join("logs").join(METADATA), logs.join(METADATA));
    fs::create_dir(&copy)?;
    for file in fs::read_dir(&snapshot).with_context(|| format!("no first snapshot in {}", snapshot.display()))? {
        let file = file?;
        fs::copy(file.path(), copy.join(file.file_name()))?;
    }
    // A directory id is 16 random bytes in base64url. Random letters and digits are good enough.
    let directory: String = (0..21).map(|_| fastrand::alphanumeric()).collect();
    let meta = format!("version=1\ncluster.id={CLUSTER_ID}\nnode.id={}\ndirectory.id={directory}A\n", broker.node.id);
    fs::write(logs.join("meta.properties"), meta)?;
    Ok(())
}
