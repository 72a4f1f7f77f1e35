//! A proxy that understands Kafka's frames, so that a fault hits a certain request and not a
//! moment.
//!
//! ```text
//!   Point::Request: the broker has not seen it
//!   client ──▶ size │ api key │ version │ correlation id │ …  ──▶ broker
//!
//!   Point::Answer: the broker has done what was asked
//!   client ◀── size │ correlation id │ …                      ◀── broker
//! ```
//! A [`Trap`] catches the next frame of its kind, at any broker. Then the test lets the frame go
//! on, cuts the client's connection, or does both: a request whose client is gone can still arrive,
//! as late as the test likes. A caught frame whose [`Caught`] is dropped goes on. The proxy
//! rewrites nothing.
//!
//! Format: <https://kafka.apache.org/protocol#protocol_messages>.

mod frames;

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use frames::{Frames, Request};
use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{mpsc, oneshot},
};

/// The api key of a request that ends a transaction.
pub const END_TXN: i16 = 26;

/// Where a frame is caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// On its way to the broker, which has not seen it.
    Request,
    /// The answer on its way back: the broker has done what was asked.
    Answer,
}

/// The proxies in front of all brokers of a cluster.
#[derive(Debug)]
pub struct Wire {
    ports: Vec<u16>,
    shared: Arc<Shared>,
    _stop: oneshot::Sender<()>,
}

#[derive(Debug, Default)]
struct Shared {
    traps: Mutex<Vec<Armed>>,
}

#[derive(Debug)]
struct Armed {
    api_key: i16,
    point: Point,
    /// A text that stands somewhere in the request.
    about: String,
    caught: oneshot::Sender<Caught>,
}

/// Waits for a frame.
#[derive(Debug)]
pub struct Trap(oneshot::Receiver<Caught>);

impl Trap {
    /// Waits for the frame.
    pub async fn caught(self, within: Duration) -> Result<Caught> {
        let caught = tokio::time::timeout(within, self.0).await.context("no such frame passed by")?;
        caught.context("the proxy has ended")
    }
}

/// A frame in the proxy's hands.
#[derive(Debug)]
pub struct Caught {
    /// The broker's number, from 0.
    pub broker: usize,
    /// The request's version.
    pub version: i16,
    orders: mpsc::UnboundedSender<Order>,
}

#[derive(Debug)]
enum Order {
    Cut(oneshot::Sender<()>),
    Deliver(oneshot::Sender<Vec<u8>>),
}

impl Caught {
    /// Ends the client's connection. A caught request may still be delivered. A caught answer is
    /// lost.
    pub async fn cut(&self) -> Result<()> {
        let (done, is_done) = oneshot::channel();
        self.orders.send(Order::Cut(done)).ok().context("the connection has ended by itself")?;
        is_done.await.context("the connection ended meanwhile")
    }

    /// Lets the frame go on, and returns what follows the correlation id in the broker's answer.
    pub async fn deliver(self) -> Result<Vec<u8>> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(Order::Deliver(answer)).ok().context("the connection has ended by itself")?;
        answered.await.context("the broker did not answer")
    }
}

/// The error code of an answer to EndTxn. It follows the throttle time, and from version 3 on also
/// the empty tags.
pub fn end_txn_error(version: i16, answer: &[u8]) -> Result<i16> {
    let at = if version >= 3 { 5 } else { 4 };
    match answer.get(at..at + 2) {
        Some(&[high, low]) => Ok(i16::from_be_bytes([high, low])),
        _ => bail!("no answer to EndTxn: {answer:?}"),
    }
}

impl Wire {
    /// Listens on the second port of each pair for the broker at the first.
    pub(super) fn listen(pairs: &[(u16, u16)]) -> Result<Self> {
        let shared = Arc::<Shared>::default();
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        for (broker, &(behind, port)) in pairs.iter().enumerate() {
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).context("wire proxy")?;
            listener.set_nonblocking(true)?;
            let shared = Arc::clone(&shared);
            runtime.spawn(async move {
                if let Err(error) = accept(listener, broker, behind, shared).await {
                    eprintln!("testbed: wire proxy: {error:#}");
                }
            });
        }
        // The proxy has a thread of its own, so it goes on when the test's runtime blocks or ends.
        std::thread::Builder::new().name("wire-proxy".into()).spawn(move || {
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Self { ports: pairs.iter().map(|&(_, port)| port).collect(), shared, _stop: stop })
    }

    /// `bootstrap.servers` of clients that go through the proxies.
    #[must_use]
    pub fn brokers(&self) -> String {
        self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
    }

    /// Sets a trap for the next request with this api key that holds this text, for instance a
    /// transactional id, or for the answer to it. Traps of one kind catch one frame each, in turn.
    #[must_use]
    pub fn trap(&self, api_key: i16, about: &str, point: Point) -> Trap {
        let (caught, trap) = oneshot::channel();
        lock(&self.shared.traps).push(Armed { api_key, point, about: about.to_owned(), caught });
        Trap(trap)
    }
}

impl Shared {
    /// The trap that is set for a request.
    fn spring(&self, request: Request, frame: &[u8]) -> Option<Armed> {
        let mut traps = lock(&self.traps);
        let first = traps.iter().position(|trap| {
            trap.api_key == request.api_key
                && !trap.caught.is_closed()
                && frame.windows(trap.about.len()).any(|part| part == trap.about.as_bytes())
        })?;
        Some(traps.remove(first))
    }
}

async fn accept(listener: std::net::TcpListener, broker: usize, behind: u16, shared: Arc<Shared>) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (client, _) = listener.accept().await?;
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // A broker that refuses looks like a proxy that closes.
            let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, behind)).await else { return };
            let _ = Connection::new(broker, shared).carry(client, server).await;
        });
    }
}

/// A request that was caught, and what the test says about it.
struct Held {
    frame: Vec<u8>,
    correlation: i32,
    orders: mpsc::UnboundedReceiver<Order>,
}

/// What to do when the answer with a correlation id comes.
enum Awaited {
    /// Catch it.
    Trap(Armed, i16),
    /// Let it go on, and show it to the test.
    Report(oneshot::Sender<Vec<u8>>),
}

struct Connection {
    broker: usize,
    shared: Arc<Shared>,
    awaited: Mutex<HashMap<i32, Awaited>>,
}

impl Connection {
    fn new(broker: usize, shared: Arc<Shared>) -> Self {
        Self { broker, shared, awaited: Mutex::default() }
    }

    async fn carry(self, mut client: TcpStream, mut server: TcpStream) -> Result<()> {
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        // The buffers live outside the futures that fill them, so that a dropped future loses
        // nothing.
        let (mut requests, mut answers) = (Frames::default(), Frames::default());
        let orphan = {
            let (mut from_client, mut to_client) = client.split();
            let (mut from_server, mut to_server) = server.split();
            tokio::select! {
                up = self.upwards(&mut requests, &mut from_client, &mut to_server) => up?,
                down = self.downwards(&mut answers, &mut from_server, &mut to_client) => { down?; None }
            }
        };
        match orphan {
            Some((held, done)) => {
                drop(client);
                let _ = done.send(());
                deliver_late(held, &mut answers, &mut server).await
            }
            None => Ok(()),
        }
    }

    /// Carries requests. It ends with the connection, or with a request whose client has to go.
    async fn upwards(
        &self,
        requests: &mut Frames,
        from: &mut ReadHalf<'_>,
        to: &mut WriteHalf<'_>,
    ) -> Result<Option<(Held, oneshot::Sender<()>)>> {
        while let Some(frame) = requests.next(from).await? {
            let request = Request::parse(&frame)?;
            match self.shared.spring(request, &frame) {
                None => {}
                Some(trap) if trap.point == Point::Answer => {
                    self.expect(request.correlation, Awaited::Trap(trap, request.version));
                }
                Some(trap) => {
                    let mut orders = self.hand_over(trap, request.version);
                    match orders.recv().await {
                        Some(Order::Cut(done)) => {
                            return Ok(Some((Held { frame, correlation: request.correlation, orders }, done)));
                        }
                        Some(Order::Deliver(answer)) => self.expect(request.correlation, Awaited::Report(answer)),
                        None => {} // Forgotten.
                    }
                }
            }
            to.write_all(&frame).await?;
        }
        Ok(None)
    }

    async fn downwards(&self, answers: &mut Frames, from: &mut ReadHalf<'_>, to: &mut WriteHalf<'_>) -> Result<()> {
        while let Some(frame) = answers.next(from).await? {
            let awaited = lock(&self.awaited).remove(&frames::correlation(&frame)?);
            match awaited {
                None => {}
                Some(Awaited::Report(answer)) => {
                    let _ = answer.send(frames::body(&frame));
                }
                Some(Awaited::Trap(trap, version)) => {
                    let mut orders = self.hand_over(trap, version);
                    match orders.recv().await {
                        Some(Order::Cut(done)) => {
                            // Both connections end with this function. The client's ends before the
                            // test goes on.
                            to.shutdown().await?;
                            let _ = done.send(());
                            return Ok(());
                        }
                        Some(Order::Deliver(answer)) => {
                            let _ = answer.send(frames::body(&frame));
                        }
                        None => {}
                    }
                }
            }
            to.write_all(&frame).await?;
        }
        Ok(())
    }

    fn expect(&self, correlation: i32, awaited: Awaited) {
        lock(&self.awaited).insert(correlation, awaited);
    }

    fn hand_over(&self, trap: Armed, version: i16) -> mpsc::UnboundedReceiver<Order> {
        let (orders, received) = mpsc::unbounded_channel();
        // When the test no longer waits for this trap, the frame goes on.
        let _ = trap.caught.send(Caught { broker: self.broker, version, orders });
        received
    }
}

/// A request whose client is gone reaches the broker when the test says so, or never.
async fn deliver_late(mut held: Held, answers: &mut Frames, server: &mut TcpStream) -> Result<()> {
    let mut answer = loop {
        match held.orders.recv().await {
            Some(Order::Cut(done)) => drop(done.send(())),
            Some(Order::Deliver(answer)) => break Some(answer),
            None => return Ok(()),
        }
    };
    let (mut from, mut to) = server.split();
    to.write_all(&held.frame).await?;
    while let Some(frame) = answers.next(&mut from).await? {
        if frames::correlation(&frame)? == held.correlation {
            if let Some(answer) = answer.take() {
                let _ = answer.send(frames::body(&frame));
            }
            break;
        }
    }
    Ok(())
}

/// No code panics while it holds one of these locks, so the value of a poisoned one is complete.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
