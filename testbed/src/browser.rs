//! A headless Chromium, by its DevTools protocol.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

use crate::{
    daemon::{Daemon, http_get},
    eventually, ports,
};

const WITHIN: Duration = Duration::from_secs(60);

/// One page in a browser of its own. Dropping it ends the browser.
#[derive(Debug)]
pub struct Browser {
    _process: Daemon,
    _profile: tempfile::TempDir,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    calls: u64,
}

impl Browser {
    /// Opens a page.
    pub async fn open(url: &str) -> Result<Self> {
        let port = ports::free()?;
        let profile = tempfile::tempdir()?;
        let process = Daemon::builder("chromium")?
            .args(&["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1000,1000"])
            .arg(&format!("--remote-debugging-port={port}"))
            .arg(&format!("--user-data-dir={}", profile.path().display()))
            .arg(url)
            .start()
            .context("chromium is needed: make browser")?;
        let address = eventually(WITHIN, || async {
            let (_, list) = http_get(port, "/json").await?;
            let pages: Value = serde_json::from_str(&list)?;
            let page = pages.as_array().into_iter().flatten().find(|page| page["type"] == "page");
            let address = page.and_then(|page| page["webSocketDebuggerUrl"].as_str());
            address.map(str::to_owned).with_context(|| format!("no page yet: {pages}"))
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
    pub async fn text(&mut self, expression: &str) -> Result<String> {
        let result = self.call("Runtime.evaluate", json!({ "expression": expression, "returnByValue": true })).await?;
        let value = &result["result"]["value"];
        Ok(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }

    /// Clicks what the selector finds.
    pub async fn click(&mut self, selector: &str) -> Result<()> {
        let clicked =
            self.text(&format!("(e => {{ e?.click(); return !!e }})(document.querySelector({selector:?}))")).await?;
        if clicked == "true" { Ok(()) } else { bail!("there is no {selector}") }
    }

    /// Waits until the text of what the selector finds is as wanted.
    pub async fn wait(&mut self, selector: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
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

    /// Makes the window so large, in CSS pixels.
    pub async fn resize(&mut self, width: u32, height: u32) -> Result<()> {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size).await.map(drop)
    }

    /// Prefers dark pages, or light ones.
    pub async fn prefer_dark(&mut self, dark: bool) -> Result<()> {
        let scheme = if dark { "dark" } else { "light" };
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", features).await.map(drop)
    }

    /// A picture, as PNG.
    pub async fn screenshot(&mut self) -> Result<Vec<u8>> {
        let shot = self.call("Page.captureScreenshot", json!({ "format": "png" })).await?;
        Ok(STANDARD.decode(shot["data"].as_str().context("no picture")?)?)
    }
}
