//! A TCP proxy that does to a connection what networks do.
//!
//! It has a thread and a runtime of its own, so it goes on when a test's runtime blocks or ends.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{oneshot, watch},
};

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
    /// Both ways.
    Both,
}

/// What happens to bytes that arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flow {
    /// They go on.
    #[default]
    Pass,
    /// They stay unread, and the sender's window fills up. Afterwards all bytes go on, and none is
    /// lost.
    Hold,
    /// They are read and thrown away. The test should cut the connection afterwards: later bytes
    /// would make no sense.
    Drop,
}

#[derive(Debug, Clone, Copy, Default)]
struct Way {
    flow: Flow,
    delay: Duration,
    slice: Option<usize>,
    bytes_per_second: Option<u64>,
}

impl Way {
    /// How many bytes may be written at once. Under a limit this is what it allows in a tenth of a
    /// second.
    fn piece(self) -> usize {
        let limited =
            self.bytes_per_second.map_or(usize::MAX, |b| usize::try_from(b / 10).unwrap_or(usize::MAX).max(1));
        self.slice.unwrap_or(usize::MAX).min(limited)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Faults {
    to_server: Way,
    to_client: Way,
    refuse: bool,
    /// Connections of an older generation are cut.
    generation: u64,
    /// Whether connections are cut by a reset (RST) and not by an orderly end.
    reset: bool,
}

/// Listens on a port of 127.0.0.1 and carries every connection to the target, with the faults that
/// are set at the time.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    faults: watch::Sender<Faults>,
    target: watch::Sender<SocketAddr>,
    _stop: oneshot::Sender<()>,
}

impl Proxy {
    /// Starts a proxy to a port of 127.0.0.1.
    pub fn start(target: u16) -> Result<Self> {
        Self::listen(crate::ports::free()?, target)
    }

    /// Starts a proxy on a port that the caller chooses.
    pub fn listen(port: u16, target: u16) -> Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).context("proxy")?;
        listener.set_nonblocking(true)?;
        let (faults, seen) = watch::channel(Faults::default());
        let (target, targets) = watch::channel(SocketAddr::from((Ipv4Addr::LOCALHOST, target)));
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("proxy".into()).spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    _ = stopped => {}
                    result = accept(listener, targets, seen) => {
                        if let Err(error) = result { eprintln!("testbed: proxy: {error:#}"); }
                    }
                }
            });
        })?;
        Ok(Self { port, faults, target, _stop: stop })
    }

    /// Where clients connect.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:<port>`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Makes the proxy wait this long before each chunk goes on.
    pub fn delay(&self, direction: Direction, delay: Duration) {
        self.change(direction, |way| way.delay = delay);
    }

    /// Writes at most this many bytes at a time; with `None` as many as come.
    pub fn slice(&self, direction: Direction, bytes: Option<usize>) {
        self.change(direction, |way| way.slice = bytes.map(|n| n.max(1)));
    }

    /// Carries at most this many bytes a second on each connection.
    pub fn bandwidth(&self, direction: Direction, bytes_per_second: Option<u64>) {
        self.change(direction, |way| way.bytes_per_second = bytes_per_second.map(|n| n.max(1)));
    }

    /// Lets bytes pass, holds them back or drops them.
    pub fn flow(&self, direction: Direction, flow: Flow) {
        self.change(direction, |way| way.flow = flow);
    }

    /// Sets [`Flow::Hold`]: no byte passes, as after somebody pulled a cable.
    pub fn blackhole(&self, direction: Direction) {
        self.flow(direction, Flow::Hold);
    }

    /// Closes new connections at once, when `on`.
    pub fn refuse(&self, on: bool) {
        self.faults.send_modify(|f| f.refuse = on);
    }

    /// Ends every open connection in order (FIN).
    pub fn cut(&self) {
        self.faults.send_modify(|f| (f.reset, f.generation) = (false, f.generation + 1));
    }

    /// Ends every open connection by a reset (RST).
    pub fn reset(&self) {
        self.faults.send_modify(|f| (f.reset, f.generation) = (true, f.generation + 1));
    }

    /// Sends new connections to another port.
    pub fn retarget(&self, port: u16) {
        self.target.send_replace(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }

    /// Ends all faults, also for open connections.
    pub fn heal(&self) {
        self.faults.send_modify(|f| *f = Faults { generation: f.generation, ..Faults::default() });
    }

    fn change(&self, direction: Direction, change: impl Fn(&mut Way)) {
        self.faults.send_modify(|f| {
            if direction != Direction::ToClient {
                change(&mut f.to_server);
            }
            if direction != Direction::ToServer {
                change(&mut f.to_client);
            }
        });
    }
}

async fn accept(
    listener: std::net::TcpListener,
    target: watch::Receiver<SocketAddr>,
    faults: watch::Receiver<Faults>,
) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (client, _) = listener.accept().await?;
        if faults.borrow().refuse {
            continue;
        }
        let (address, faults) = (*target.borrow(), faults.clone());
        tokio::spawn(async move {
            // A target that refuses looks like a proxy that closes.
            let Ok(server) = TcpStream::connect(address).await else { return };
            carry(client, server, faults).await;
        });
    }
}

async fn carry(mut client: TcpStream, mut server: TcpStream, faults: watch::Receiver<Faults>) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let generation = faults.borrow().generation;
    // The halves are borrowed: an owned one sends FIN when it is dropped, before any reset.
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let mut watching = faults.clone();
    let up = pump(&mut from_client, &mut to_server, faults.clone(), |f| f.to_server);
    let down = pump(&mut from_server, &mut to_client, faults, |f| f.to_client);
    // When one end closes, both end: the databases and brokers here use no half-open connections.
    let reset = tokio::select! {
        _ = up => false,
        _ = down => false,
        changed = watching.wait_for(|f| f.generation != generation) => changed.is_ok_and(|f| f.reset),
    };
    if reset {
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    }
}

async fn pump(
    from: &mut ReadHalf<'_>,
    to: &mut WriteHalf<'_>,
    mut faults: watch::Receiver<Faults>,
    way: fn(&Faults) -> Way,
) -> Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        // Held bytes stay in the kernel, so that the sender's window fills up.
        passing(&mut faults, way).await?;
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        // A fault may have been set while we waited for bytes.
        let now = passing(&mut faults, way).await?;
        if now.flow == Flow::Drop {
            continue;
        }
        tokio::time::sleep(now.delay).await;
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            // This is read for every piece, so that a change of the limits works soon.
            let now = way(&faults.borrow());
            let (piece, after) = rest.split_at(now.piece().min(rest.len()));
            if let Some(limit) = now.bytes_per_second {
                tokio::time::sleep(Duration::from_secs_f64(piece.len() as f64 / limit as f64)).await;
            }
            to.write_all(piece).await?;
            // The receiver gets a chance to read this piece alone.
            tokio::task::yield_now().await;
            rest = after;
        }
    }
}

async fn passing(faults: &mut watch::Receiver<Faults>, way: fn(&Faults) -> Way) -> Result<Way> {
    Ok(way(&*faults.wait_for(|f| way(f).flow != Flow::Hold).await?))
}
