//! The page in a browser: orders move, things break, and nothing is lost.

use std::{path::Path, sync::Arc};

use anyhow::{Result, ensure};
use shop::load::Ledger;
use testbed::{Browser, ports};

use crate::scene;

#[tokio::test]
async fn orders_come_to_their_ends_in_the_browser_while_everything_breaks() -> Result<()> {
    let stage = Arc::new(scene::stage_at(5).await?);
    let ledger = Arc::new(Ledger::default());
    let address = format!("127.0.0.1:{}", ports::free()?);
    let (served, remembered, listen) = (stage.clone(), ledger.clone(), address.clone());
    let server = tokio::spawn(async move { shop::page::serve(served, remembered, &listen).await });
    let mut browser = Browser::open(&format!("http://{address}/")).await?;
    browser.wait("h1", |text| text == "The shop").await?;

    browser.click("[data-post='/order/delivered']").await?;
    browser
        .wait("#orders", |text| text.contains("COMPLETED") && text.contains("completed") && text.contains("DELIVERED"))
        .await?;
    browser.wait("#events", |text| text.contains("ShipmentDelivered")).await?;

    for (number, fault) in (1..).zip(["logistics", "outboxd", "kafka", "postgres"]) {
        browser.click(&format!("[data-post='/break/{fault}']")).await?;
        for kind in ["delivered", "back", "declined"] {
            browser.click(&format!("[data-post='/order/{kind}']")).await?;
        }
        let over = format!("{number} faults are over");
        browser.wait("#faults-over", |text| text == over).await?;
    }
    browser.wait("#now", |text| text == "all is well").await?;
    let whole = "13 orders placed here, 13 followed to their end, 0 failed requests";
    let ended = |text: &str| text == whole || !text.ends_with(" 0 failed requests");
    browser.wait("#tally", ended).await?;
    // A panic, so that every process shows what it said last.
    assert!(ledger.failures().is_empty(), "{:?}", ledger.failures());
    browser.wait("#waiting", |text| text == "0 events wait for outboxd").await?;
    browser.wait("#orders", |text| text.contains("CANCELLED") && text.contains("RETURNED")).await?;
    let picture = browser.screenshot().await?;
    ensure!(picture.starts_with(b"\x89PNG"), "no PNG");
    if std::env::var_os("SHOP_WRITE_DOCS").is_some() {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/migration/shop.png"), picture)?;
    }
    server.abort();
    scene::settled(&stage).await?;
    scene::assert_sound(&stage, &ledger).await
}
