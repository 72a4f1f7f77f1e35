//! The proxy does what its name for the fault says.

use std::time::{Duration, Instant};

use anyhow::Result;
use testbed::{
    Proxy,
    proxy::{Direction, Flow},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const SOON: Duration = Duration::from_secs(5);
const NOT_NOW: Duration = Duration::from_millis(200);

/// A server that answers with what it was sent, behind a proxy.
async fn echo() -> Result<Proxy> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let proxy = Proxy::start(listener.local_addr()?.port())?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    Ok(proxy)
}

async fn say(stream: &mut TcpStream, text: &str) -> Result<String> {
    stream.write_all(text.as_bytes()).await?;
    hear(stream, text.len()).await
}

async fn hear(stream: &mut TcpStream, length: usize) -> Result<String> {
    let mut answer = vec![0; length];
    tokio::time::timeout(SOON, stream.read_exact(&mut answer)).await??;
    Ok(String::from_utf8(answer)?)
}

#[tokio::test]
async fn what_is_held_arrives_once_healed() -> Result<()> {
    let proxy = echo().await?;
    let mut stream = TcpStream::connect(proxy.address()).await?;
    assert_eq!(say(&mut stream, "one").await?, "one");
    proxy.blackhole(Direction::ToClient);
    stream.write_all(b"two").await?;
    assert!(tokio::time::timeout(NOT_NOW, stream.peek(&mut [0])).await.is_err(), "bytes came through the black hole");
    proxy.heal();
    assert_eq!(hear(&mut stream, 3).await?, "two");
    Ok(())
}

#[tokio::test]
async fn what_is_dropped_never_arrives() -> Result<()> {
    let proxy = echo().await?;
    let mut stream = TcpStream::connect(proxy.address()).await?;
    assert_eq!(say(&mut stream, "a").await?, "a");
    proxy.flow(Direction::ToServer, Flow::Drop);
    stream.write_all(b"lost").await?;
    assert!(tokio::time::timeout(NOT_NOW, stream.peek(&mut [0])).await.is_err(), "dropped bytes arrived");
    proxy.heal();
    assert_eq!(say(&mut stream, "b").await?, "b");
    Ok(())
}

#[tokio::test]
async fn a_cut_ends_what_is_open_and_refusal_what_is_new() -> Result<()> {
    let proxy = echo().await?;
    let mut orderly = TcpStream::connect(proxy.address()).await?;
    say(&mut orderly, "x").await?;
    proxy.cut();
    assert_eq!(tokio::time::timeout(SOON, orderly.read(&mut [0])).await??, 0);

    let mut rude = TcpStream::connect(proxy.address()).await?;
    say(&mut rude, "x").await?;
    proxy.reset();
    let error = tokio::time::timeout(SOON, rude.read(&mut [0])).await?.expect_err("no reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    proxy.refuse(true);
    let mut refused = TcpStream::connect(proxy.address()).await?;
    assert!(say(&mut refused, "x").await.is_err());
    proxy.refuse(false);
    let mut accepted = TcpStream::connect(proxy.address()).await?;
    assert_eq!(say(&mut accepted, "x").await?, "x");
    Ok(())
}

#[tokio::test]
async fn delay_and_bandwidth_take_their_time() -> Result<()> {
    let proxy = echo().await?;
    let mut stream = TcpStream::connect(proxy.address()).await?;
    let started = Instant::now();
    say(&mut stream, "x").await?;
    assert!(started.elapsed() < NOT_NOW);
    proxy.delay(Direction::Both, Duration::from_millis(100));
    let started = Instant::now();
    say(&mut stream, "x").await?;
    assert!(started.elapsed() >= NOT_NOW);
    proxy.heal();
    proxy.bandwidth(Direction::ToServer, Some(1_000));
    let started = Instant::now();
    say(&mut stream, &"x".repeat(500)).await?;
    assert!(started.elapsed() >= Duration::from_millis(350), "500 bytes at 1 kB/s in {:?}", started.elapsed());
    Ok(())
}

#[tokio::test]
async fn sliced_bytes_arrive_whole() -> Result<()> {
    let proxy = echo().await?;
    proxy.slice(Direction::Both, Some(1));
    let mut stream = TcpStream::connect(proxy.address()).await?;
    let text = "sliced into single bytes".repeat(20);
    assert_eq!(say(&mut stream, &text).await?, text);
    Ok(())
}
