//! Free ports, chosen where nobody else takes them by accident.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Result, bail};

/// Below the kernel's ephemeral range (32768 and up on Linux). A port inside it can be taken by any outgoing
/// connection while its server is stopped, and a client that keeps retrying 127.0.0.1 can even connect to itself.
const RANGE: std::ops::Range<u16> = 15_000..32_000;

/// A TCP port of 127.0.0.1 that was free a moment ago. Another process may still win the race for it, so whoever
/// starts a server on it tries again with another one.
pub fn free() -> Result<u16> {
    for _ in 0..1_000 {
        let port = fastrand::u16(RANGE);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port of 127.0.0.1 in {RANGE:?}")
}
