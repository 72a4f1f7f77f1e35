//! The other reference: a reader that only reads, and rests as the daemon does.
//!
//! It has a plain socket and no library, so that it does not measure the daemon's code with the
//! daemon's code. It reads what has arrived in large blocks, counts the Inserts, and sleeps after
//! each block that held a backlog (`Stream::rest` in src/relay). It shows what one walsender can
//! send.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::setting::{Setting, say};

/// Longest silence of the server.
const PATIENCE: Duration = Duration::from_secs(60);

const BLOCK: usize = 1 << 20;

/// This many messages in a block are a backlog, after which it rests.
const BACKLOG: usize = 64;
const REST: Duration = Duration::from_millis(1);

/// The number of the protocol's version 3.0.
const PROTOCOL: i32 = 196_608;

/// What the reader reads.
pub(crate) struct Bare<'a> {
    pub(crate) database: &'a str,
    pub(crate) slot: &'a str,
    pub(crate) publication: &'a str,
    /// Whether column values come in binary form.
    pub(crate) binary: bool,
    pub(crate) rows: i64,
}

/// Measures the time from connecting until all the rows have arrived.
pub(crate) async fn drain(setting: &Setting, bare: &Bare<'_>) -> Result<Duration> {
    let Bare { database, slot, publication, binary, rows } = *bare;
    say(if binary { "a bare reader drains, binary" } else { "a bare reader drains" });
    let port = setting.postgres.port()?;
    let startup = ["user", testbed::postgres::ROLE, "database", database, "replication", "database", ""].join("\0");
    let binary = if binary { ", binary 'true'" } else { "" };
    let start = format!(
        "START_REPLICATION SLOT {slot} LOGICAL 0/0 (proto_version '1', publication_names '{publication}'{binary})\0"
    );
    tokio::task::spawn_blocking(move || {
        let started = Instant::now();
        let mut reader = Reader::connect(port)?;
        reader.send(None, &[&PROTOCOL.to_be_bytes(), startup.as_bytes(), b"\0"].concat())?;
        reader.wait_for(b'Z')?;
        reader.send(Some(b'Q'), start.as_bytes())?;
        reader.wait_for(b'W')?;
        reader.count(rows)?;
        Ok(started.elapsed())
    })
    .await?
}

struct Reader {
    socket: TcpStream,
    block: Vec<u8>,
    /// The part of the block that is read from the socket and not taken yet.
    unread: std::ops::Range<usize>,
}

impl Reader {
    fn connect(port: u16) -> Result<Self> {
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket, block: vec![0; BLOCK], unread: 0..0 })
    }

    /// The first message of a connection has no type.
    fn send(&mut self, tag: Option<u8>, body: &[u8]) -> Result<()> {
        let mut message: Vec<u8> = tag.into_iter().collect();
        message.extend(i32::try_from(body.len() + 4)?.to_be_bytes());
        message.extend(body);
        Ok(self.socket.write_all(&message)?)
    }

    /// Takes messages up to the first of this type.
    fn wait_for(&mut self, wanted: u8) -> Result<()> {
        loop {
            while let Some((tag, body)) = self.next()? {
                match tag {
                    _ if tag == wanted => return Ok(()),
                    b'E' => bail!("{}", String::from_utf8_lossy(&self.block[body])),
                    _ => {}
                }
            }
            self.fill()?;
        }
    }

    fn count(&mut self, rows: i64) -> Result<()> {
        let (mut left, mut taken) = (rows, 0);
        while left > 0 {
            while let Some((tag, body)) = self.next()? {
                taken += 1;
                // XLogData has its type, three numbers and a message of pgoutput. A keepalive ends
                // with the request for an answer.
                match (tag, &self.block[body]) {
                    (b'd', [b'w', rest @ ..]) => left -= i64::from(rest.get(24) == Some(&b'I')),
                    (b'd', [b'k', .., 1]) => self.send(Some(b'd'), &[b"r".as_slice(), &[0; 33]].concat())?,
                    (b'd', _) => {}
                    (_, body) => bail!("the stream ended: {}", String::from_utf8_lossy(body)),
                }
            }
            if std::mem::take(&mut taken) >= BACKLOG {
                std::thread::sleep(REST);
            }
            if left > 0 {
                self.fill()?;
            }
        }
        Ok(())
    }

    /// The next message of the block: its type, and where its body is.
    fn next(&mut self) -> Result<Option<(u8, std::ops::Range<usize>)>> {
        let unread = &self.block[self.unread.clone()];
        let Some(([tag], rest)) = unread.split_first_chunk::<1>() else { return Ok(None) };
        let Some(length) = rest.first_chunk::<4>() else { return Ok(None) };
        let end = 1 + usize::try_from(i32::from_be_bytes(*length))?;
        if unread.len() < end {
            return Ok(None);
        }
        let (tag, start) = (*tag, self.unread.start);
        self.unread.start += end;
        Ok(Some((tag, start + 5..start + end)))
    }

    /// Waits for more, and takes all that has arrived, up to a block.
    fn fill(&mut self) -> Result<()> {
        self.block.copy_within(self.unread.clone(), 0);
        self.unread = 0..self.unread.len();
        if self.unread.end == self.block.len() {
            self.block.resize(self.block.len() * 2, 0);
        }
        let read = self.socket.read(&mut self.block[self.unread.end..]).context("reading the stream")?;
        anyhow::ensure!(read > 0, "the server hung up");
        self.unread.end += read;
        Ok(())
    }
}
