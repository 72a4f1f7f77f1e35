//! A real Kafka in KRaft mode: one broker or several, and each is a controller, too.

mod admin;
mod broker;
pub mod rights;
pub mod wire;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use broker::{Broker, Node, Role};
use tokio::sync::OnceCell;
use wire::Wire;

use crate::{artifacts, postgres::blocking, proxy::Proxy};

/// A cluster. Dropping it stops its brokers and removes their directories. The death of our process
/// does the same.
#[derive(Debug)]
pub struct Kafka {
    brokers: Vec<Broker>,
    /// A controller that is not a broker, if the builder asked for one.
    _controller: Option<Broker>,
    wire: Option<Wire>,
    /// `TESTBED_KAFKA_BROKERS`.
    elsewhere: Option<String>,
}

/// Settings of a future cluster.
#[derive(Debug, Clone)]
pub struct Builder {
    brokers: usize,
    settings: Vec<(String, String)>,
    jvm: Vec<String>,
    proxied: bool,
    wired: bool,
    disk: Option<std::path::PathBuf>,
    separate_controller: bool,
}

impl Builder {
    /// A line of every broker's server.properties, after ours.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds an argument of the JVM after ours, such as `-Xmx1g`. Ours are for tests (small heap,
    /// only the first compiler). A bench wants `-XX:TieredStopAtLevel=4`.
    #[must_use]
    pub fn jvm(mut self, argument: &str) -> Self {
        self.jvm.push(argument.to_owned());
        self
    }

    /// Gives every broker a second listener behind a [`Proxy`] of its own. Clients of
    /// [`Kafka::proxied_brokers`] stay behind the proxies, since the brokers tell them only those
    /// addresses.
    #[must_use]
    pub fn proxied(mut self) -> Self {
        self.proxied = true;
        self
    }

    /// Does the same with proxies that know Kafka's frames; see [`Kafka::wire`].
    #[must_use]
    pub fn wired(mut self) -> Self {
        self.wired = true;
        self
    }

    /// Makes the brokers keep their logs below this directory. A separate controller does not.
    #[must_use]
    pub fn disk(mut self, path: &std::path::Path) -> Self {
        self.disk = Some(path.to_owned());
        self
    }

    /// Runs the controller in a process of its own, which is never stopped. A broker that is its
    /// own controller comes back from SIGKILL with stale metadata, and can then skip the markers of
    /// a transaction (Kafka 4.4: "Couldn't find leader endpoint … likely deleted"). A live
    /// controller fences the broker first.
    #[must_use]
    pub fn separate_controller(mut self) -> Self {
        self.separate_controller = true;
        self
    }

    /// Lets a broker that stands still keep its partitions, for a sole broker that is paused or that
    /// a stalled machine must not fence. While its partitions have no leader, the coordinator would
    /// skip the markers of a transaction (KAFKA-20734). After a kill a broker would have to wait for
    /// as long before it may come back.
    #[must_use]
    pub fn never_fenced(self) -> Self {
        self.setting("broker.session.timeout.ms", "30000")
    }

    /// Starts the brokers and waits until they all answer.
    pub async fn start(self) -> Result<Kafka> {
        let jars = blocking(artifacts::kafka).await?;
        for _ in 0..5 {
            if let Some(kafka) = self.try_start(&jars).await? {
                return Ok(kafka);
            }
        }
        bail!("five times a port was taken while Kafka started")
    }

    async fn try_start(&self, jars: &std::path::Path) -> Result<Option<Kafka>> {
        let role = if self.separate_controller { Role::Broker } else { Role::Both };
        let proxied = self.proxied || self.wired;
        let mut nodes = (1..=self.brokers).map(|id| Node::new(id, role, proxied)).collect::<Result<Vec<_>>>()?;
        let pairs: Vec<_> = nodes.iter().filter_map(Node::proxied).collect();
        let wire = self.wired.then(|| Wire::listen(&pairs)).transpose()?;
        if self.separate_controller {
            nodes.push(Node::new(100, Role::Controller, false)?);
        }
        let mut brokers = Vec::new();
        for &node in &nodes {
            let broker = Broker::prepare(jars, node, &nodes, self)?;
            broker.launch()?;
            brokers.push(broker);
        }
        let controller = if self.separate_controller { brokers.pop() } else { None };
        let kafka = Kafka { brokers, _controller: controller, wire, elsewhere: None };
        match kafka.wait_ready().await {
            Ok(()) => Ok(Some(kafka)),
            Err(_) if kafka.brokers.iter().any(Broker::found_its_port_taken) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Kafka {
    /// Starts one broker that creates no topic by itself.
    pub async fn start() -> Result<Self> {
        Self::builder(1).start().await
    }

    /// A cluster of this many brokers. With three, the internal topics have three replicas (min.isr
    /// 2).
    #[must_use]
    pub fn builder(brokers: usize) -> Builder {
        let (settings, jvm) = (Vec::new(), Vec::new());
        Builder { brokers, settings, jvm, proxied: false, wired: false, disk: None, separate_controller: false }
    }

    /// One broker for all tests of the process, unless `TESTBED_KAFKA_BROKERS` names another one. A
    /// test must never stop or pause it: such a test needs its own. A test uses topic names of its
    /// own ([`crate::unique`]).
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<Kafka> = OnceCell::const_new();
        SHARED
            .get_or_try_init(|| async {
                match std::env::var("TESTBED_KAFKA_BROKERS") {
                    Ok(brokers) => {
                        Ok(Self { brokers: Vec::new(), _controller: None, wire: None, elsewhere: Some(brokers) })
                    }
                    Err(_) => Self::builder(1).never_fenced().start().await,
                }
            })
            .await
    }

    /// One broker behind a [`Wire`] for all tests of the process. A trap has to name something of
    /// its test. A test must never stop or pause the broker.
    pub async fn shared_wired() -> Result<&'static Self> {
        static SHARED: OnceCell<Kafka> = OnceCell::const_new();
        SHARED.get_or_try_init(|| Self::builder(1).never_fenced().wired().start()).await
    }

    /// `bootstrap.servers`.
    #[must_use]
    pub fn brokers(&self) -> String {
        self.elsewhere.clone().unwrap_or_else(|| {
            self.brokers.iter().map(|b| format!("127.0.0.1:{}", b.port())).collect::<Vec<_>>().join(",")
        })
    }

    /// `bootstrap.servers` of clients that go through the proxies; see [`Builder::proxied`].
    pub fn proxied_brokers(&self) -> Result<String> {
        let addresses = (0..self.len()).map(|i| Ok(self.proxy(i)?.address())).collect::<Result<Vec<_>>>()?;
        Ok(addresses.join(","))
    }

    /// The proxy in front of broker `i`.
    pub fn proxy(&self, i: usize) -> Result<&Proxy> {
        self.broker(i)?.proxy().context("the cluster was built without proxied()")
    }

    /// The proxies that know Kafka's frames, in front of all brokers; see [`Builder::wired`].
    pub fn wire(&self) -> Result<&Wire> {
        self.wire.as_ref().context("the cluster was built without wired()")
    }

    /// How many brokers are ours.
    #[must_use]
    pub fn len(&self) -> usize {
        self.brokers.len()
    }

    /// Whether the cluster is somebody else's, so that we cannot stop or pause its brokers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.brokers.is_empty()
    }

    /// The log of broker `i` (from 0).
    pub fn log_path(&self, i: usize) -> Result<std::path::PathBuf> {
        Ok(self.broker(i)?.log_path())
    }

    /// The process id of broker `i`.
    pub fn pid(&self, i: usize) -> Result<u32> {
        self.broker(i)?.pid()
    }

    /// Whether broker `i` has ended, by itself or otherwise.
    pub fn has_ended(&self, i: usize) -> Result<bool> {
        self.broker(i)?.has_ended()
    }

    /// Shuts broker `i` down in a controlled way (SIGTERM) and waits for its end. After 30 s it
    /// kills the broker.
    pub async fn stop(&self, i: usize) -> Result<()> {
        self.broker(i)?.stop(Duration::from_secs(30)).await
    }

    /// Sends SIGKILL.
    pub fn kill9(&self, i: usize) -> Result<()> {
        self.broker(i)?.kill9()
    }

    /// Sends SIGSTOP: connections stay open and nothing answers.
    pub fn pause(&self, i: usize) -> Result<()> {
        self.broker(i)?.pause()
    }

    /// Sends SIGCONT after [`Kafka::pause`].
    pub fn resume(&self, i: usize) -> Result<()> {
        self.broker(i)?.resume()
    }

    /// Starts a stopped or killed broker again, with its data and on its port, and waits until the
    /// cluster is whole.
    pub async fn restart(&self, i: usize) -> Result<()> {
        self.start_again(i)?;
        self.wait_ready().await
    }

    /// Does the same without waiting, for a time when several brokers are down.
    pub fn start_again(&self, i: usize) -> Result<()> {
        self.broker(i)?.launch()
    }

    fn broker(&self, i: usize) -> Result<&Broker> {
        self.brokers.get(i).with_context(|| format!("no broker {i} of ours"))
    }
}
