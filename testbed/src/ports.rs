//! Finds free ports where nobody else takes them by accident.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Result, bail};

/// These ports are below the kernel's ephemeral range (32768 and up on Linux). While its server is
/// stopped, any outgoing connection can take a port inside that range, and a client that keeps
/// retrying 127.0.0.1 can even connect to itself.
const RANGE: std::ops::Range<u16> = 15_000..32_000;

/// A TCP port of 127.0.0.1 that was free a moment ago. Another process may still take it first, so
/// a caller who starts a server on it has to try again with another port.
pub fn free() -> Result<u16> {
    for _ in 0..1_000 {
        let port = fastrand::u16(RANGE);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port of 127.0.0.1 in {RANGE:?}")
}
