//! The byte stream under a session: TCP or a unix socket, with or without TLS.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream, lookup_host},
    time::timeout,
};

use super::options::{ConnectOptions, Host, Keepalive};
use crate::{Code, Error, Result};

/// An open byte stream, and what SCRAM binds itself to when it is a TLS one.
pub(super) struct Transport {
    pub(super) stream: Stream,
    /// `tls-server-end-point` (RFC 5929): a hash of the server's certificate.
    pub(super) endpoint: Option<Vec<u8>>,
}

impl Transport {
    /// How many bytes the other side may write before it has to wait for us, where that does not
    /// grow with the traffic. The sender's buffer bounds a Unix socket, and both sides have the
    /// system's default (unix(7), `SO_SNDBUF`).
    pub(super) fn room(&self) -> Option<usize> {
        match &self.stream {
            Stream::Unix(stream) => SockRef::from(stream).send_buffer_size().ok(),
            Stream::Tcp(_) | Stream::Tls(_) => None,
        }
    }
}

/// What the bytes travel on.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

/// The error about a connection that broke. TLS reports its own reasons in the same way.
pub(super) fn lost(doing: &str, cause: io::Error) -> Error {
    let code = if is_tls(&cause) { Code::PostgresTlsFailed } else { Code::PostgresUnavailable };
    Error::new(code, doing).because(cause)
}

/// Whether an I/O error is TLS's: a certificate refused, an alert from the other side.
pub(super) fn is_tls(error: &io::Error) -> bool {
    error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).is_some()
}

/// Opens a plain stream to one host. It tries each of the host's addresses within the bound for one
/// attempt.
pub(super) async fn dial(host: &Host, options: &ConnectOptions) -> Result<Stream> {
    let unreachable = |cause: io::Error| Error::new(Code::PostgresUnreachable, host.to_string()).because(cause);
    let bound = options.connect_timeout;
    let (name, port) = match host {
        Host::Unix(path) => {
            let open = timeout(bound, UnixStream::connect(path)).await.map_err(|_| late("connecting", host))?;
            return open.map(Stream::Unix).map_err(unreachable);
        }
        Host::Tcp(name, port) => (name.as_str(), *port),
    };
    let addresses = timeout(bound, lookup_host((name, port))).await.map_err(|_| late("looking up the name", host))?;
    let mut last = Error::new(Code::PostgresUnreachable, format!("{host}: the name has no address"));
    for address in addresses.map_err(unreachable)? {
        last = match timeout(bound, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                prepare(&stream, options.keepalive).map_err(unreachable)?;
                return Ok(Stream::Tcp(stream));
            }
            Ok(Err(cause)) => unreachable(cause),
            Err(_) => late("connecting", host),
        };
    }
    Err(last)
}

fn late(what: &str, host: &Host) -> Error {
    Error::new(Code::PostgresUnreachable, format!("{host}: {what} took too long"))
}

/// Lets small messages leave at once, and notices a peer that is gone without a goodbye (fault 67).
fn prepare(stream: &TcpStream, keepalive: Option<Keepalive>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let Some(keepalive) = keepalive else { return Ok(()) };
    let socket = SockRef::from(stream);
    let times =
        TcpKeepalive::new().with_time(keepalive.idle).with_interval(keepalive.interval).with_retries(keepalive.count);
    socket.set_tcp_keepalive(&times)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(keepalive.user_timeout))?;
    Ok(())
}

macro_rules! each {
    ($this:expr, $stream:ident => $call:expr) => {
        match &mut $this.get_mut().stream {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
            Stream::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
