//! A headless Chromium, by its DevTools protocol.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use shop::web::Http;
use testbed::{Daemon, eventually, ports};
use tokio::net::TcpStream;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

const WITHIN: Duration = Duration::from_secs(60);

/// One page in a browser of its own. Dropping it ends the browser.
pub(crate) struct Browser {
    _process: Daemon,
    _profile: tempfile::TempDir,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    calls: u64,
}

impl Browser {
    /// Opens a page.
    pub(crate) async fn open(url: &str) -> Result<Self> {
        let port = ports::free()?;
        let profile = tempfile::tempdir()?;
        let process = Daemon::builder("chromium")?
            .args(&["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1000,1000"])
            .arg(&format!("--remote-debugging-port={port}"))
            .arg(&format!("--user-data-dir={}", profile.path().display()))
            .arg(url)
            .start()
            .context("chromium is needed: make browser")?;
        let http = Http::default();
        let list = format!("http://127.0.0.1:{port}/json");
        let address = eventually(WITHIN, async || {
            let answer = http.get(&list, Duration::from_secs(5)).await.map_err(|error| format!("{error:#}"))?;
            let pages = answer.json();
            let page = pages.as_array().into_iter().flatten().find(|page| page["type"] == "page");
            let address = page.and_then(|page| page["webSocketDebuggerUrl"].as_str());
            address.map(str::to_owned).ok_or_else(|| format!("no page yet: {pages}"))
        })
        .await;
        let (socket, _) = connect_async(address).await?;
        Ok(Self { _process: process, _profile: profile, socket, calls: 0 })
    }

    async fn call(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.calls += 1;
        let id = self.calls;
        let call = json!({ "id": id, "method": method, "params": parameters }).to_string();
        self.socket.send(Message::text(call)).await?;
        loop {
            let message =
                tokio::time::timeout(WITHIN, self.socket.next()).await?.context("the browser has ended")??;
            let Message::Text(text) = message else { continue };
            let answer: Value = serde_json::from_str(&text)?;
            if answer["id"] == id {
                if !answer["error"].is_null() {
                    bail!("{method}: {}", answer["error"]);
                }
                return Ok(answer["result"].clone());
            }
        }
    }

    /// The value of an expression of JavaScript, as text.
    pub(crate) async fn text(&mut self, expression: &str) -> Result<String> {
        let result = self.call("Runtime.evaluate", json!({ "expression": expression, "returnByValue": true })).await?;
        let value = &result["result"]["value"];
        Ok(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }

    /// Clicks what the selector finds.
    pub(crate) async fn click(&mut self, selector: &str) -> Result<()> {
        let clicked =
            self.text(&format!("(e => {{ e?.click(); return !!e }})(document.querySelector({selector:?}))")).await?;
        if clicked == "true" { Ok(()) } else { bail!("there is no {selector}") }
    }

    /// Waits until the text of what the selector finds is as wanted.
    pub(crate) async fn wait(&mut self, selector: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let started = tokio::time::Instant::now();
        loop {
            let text = self.text(&format!("document.querySelector({selector:?})?.innerText ?? ''")).await?;
            if wanted(&text) {
                return Ok(());
            }
            if started.elapsed() > 2 * WITHIN {
                bail!("{selector} stays as it is: {text}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A picture, as PNG.
    pub(crate) async fn screenshot(&mut self) -> Result<Vec<u8>> {
        let shot = self.call("Page.captureScreenshot", json!({ "format": "png" })).await?;
        Ok(STANDARD.decode(shot["data"].as_str().context("no picture")?)?)
    }
}
