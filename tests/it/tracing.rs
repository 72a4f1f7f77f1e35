//! Spans of rows, sent to a collector of the test's own.

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use testbed::{Daemon, eventually};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::scene::{PATIENCE, Scene, metric, start, stop, wait_ready};

/// A collector that keeps every span.
struct Collector {
    port: u16,
    spans: Arc<Mutex<Vec<Value>>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Collector {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (spans, requests) = (Arc::<Mutex<Vec<_>>>::default(), Arc::<Mutex<Vec<_>>>::default());
        let (kept, seen) = (Arc::clone(&spans), Arc::clone(&requests));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (line, body) = take(stream).await.unwrap();
                seen.lock().unwrap().push(line);
                for resource in body["resourceSpans"].as_array().unwrap() {
                    assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "shop");
                    kept.lock().unwrap().extend_from_slice(resource["scopeSpans"][0]["spans"].as_array().unwrap());
                }
            }
        });
        Ok(Self { port, spans, requests })
    }

    /// The lines that turn tracing on.
    fn lines(&self) -> String {
        format!("[tracing]\nendpoint = \"http://127.0.0.1:{}/v1/traces\"\nservice_name = \"shop\"\n", self.port)
    }

    fn spans(&self) -> Vec<Value> {
        self.spans.lock().unwrap().clone()
    }

    /// Waits until it has so many spans.
    async fn wait_spans(&self, spans: usize) -> Vec<Value> {
        eventually(PATIENCE, || async {
            match self.spans().len() {
                found if found >= spans => Ok(()),
                found => bail!("{found} of {spans} spans"),
            }
        })
        .await;
        self.spans()
    }
}

/// Answers one request with 200, and gives back its first line and its body.
async fn take(stream: TcpStream) -> Result<(String, Value)> {
    let mut stream = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    stream.read_line(&mut first).await?;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        if line.trim().is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').context("no header")?;
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}").await?;
    Ok((first.trim().to_owned(), serde_json::from_slice(&body)?))
}

/// A scene whose rows may have a parent.
async fn scene() -> Result<Scene> {
    scene_with("").await
}

/// The same with these lines for `[[source]]`.
async fn scene_with(lines: &str) -> Result<Scene> {
    let scene = Scene::shared().await?.with(lines).with("[source.headers]\ntraceparent = \"trace_context\"");
    scene.client.batch_execute("ALTER TABLE order_outbox ADD trace_context text").await?;
    Ok(scene)
}

/// Starts a daemon with these lines at the end of its configuration.
async fn traced(scene: &Scene, lines: &str) -> Result<Daemon> {
    let daemon = start(&format!("{}{lines}", scene.config()))?;
    wait_ready(&daemon).await;
    Ok(daemon)
}

/// Inserts a row for each of these parents, in one transaction.
async fn insert(scene: &Scene, parents: &[&str]) -> Result<()> {
    let insert = "INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload, trace_context) \
                  SELECT $1, gen_random_uuid(), 'OrderCreated', jsonb_build_object('seq', n), parent \
                  FROM unnest($2::text[]) WITH ORDINALITY parents(parent, n)";
    scene.client.execute(insert, &[&scene.aggregate, &parents]).await?;
    Ok(())
}

fn parent(trace: u64, flags: &str) -> String {
    format!("00-{:032x}-{trace:016x}-{flags}", u128::from(trace) << 64 | u128::from(trace))
}

fn time(span: &Value, key: &str) -> Result<i64> {
    Ok(span[key].as_str().context("no time")?.parse()?)
}

fn attribute<'a>(span: &'a Value, key: &str) -> Option<&'a str> {
    let attributes = span["attributes"].as_array()?;
    attributes.iter().find(|attribute| attribute["key"] == key)?["value"]["stringValue"].as_str()
}

/// A row's two spans: to Kafka, and from there to its mark.
fn spans_of(spans: &[Value], trace: u64) -> Result<(&Value, &Value)> {
    let id = parent(trace, "01")[3..35].to_owned();
    let of_trace: Vec<_> = spans.iter().filter(|span| span["traceId"] == id.as_str()).collect();
    let [publish, mark] = of_trace[..] else { bail!("trace {id} has {of_trace:?}") };
    Ok((publish, mark))
}

#[tokio::test]
async fn a_row_has_spans_in_the_trace_of_its_application() -> Result<()> {
    let (scene, collector) = (scene().await?, Collector::start().await?);
    let daemon = traced(&scene, &collector.lines()).await?;
    let before: f64 = scene.client.query_one("SELECT extract(epoch FROM clock_timestamp())::float8", &[]).await?.get(0);
    let (first, second, unsampled) = (parent(1, "01"), parent(2, "01"), parent(3, "00"));
    insert(&scene, &[&first, &second, &unsampled, "no parent"]).await?;
    scene.client.batch_execute("INSERT INTO order_outbox (aggregate_type, aggregate_id, event_type, payload) \
                                SELECT aggregate_type, aggregate_id, 'Untraced', '{\"seq\": 9}' FROM order_outbox LIMIT 1").await?;
    let spans = collector.wait_spans(4).await;
    scene.oracle().await?.assert_clean();
    for trace in [1, 2] {
        let (publish, mark) = spans_of(&spans, trace)?;
        assert_eq!(publish["parentSpanId"], format!("{trace:016x}").as_str());
        assert_eq!(mark["parentSpanId"], publish["spanId"]);
        let times = [
            time(publish, "startTimeUnixNano")?,
            time(publish, "endTimeUnixNano")?,
            time(mark, "startTimeUnixNano")?,
            time(mark, "endTimeUnixNano")?,
        ];
        ensure!(times.is_sorted() && times[0] as f64 / 1e9 >= before - 0.001, "{times:?} after {before}");
        assert_eq!(attribute(publish, "messaging.destination.name"), Some(scene.topic.as_str()));
        assert_eq!(attribute(publish, "outboxd.event_type"), Some("OrderCreated"));
        assert_eq!(attribute(publish, "outboxd.source"), Some(scene.source.as_str()));
        assert_eq!(attribute(publish, "messaging.kafka.message.key"), None);
        ensure!(attribute(publish, "outboxd.lsn").is_some_and(|lsn| lsn.contains('/')), "{publish}");
        let id = attribute(publish, "messaging.message.id").context("no id")?;
        let query = "SELECT count(*) FROM order_outbox WHERE id::text = $1 AND trace_context LIKE $2";
        let like = format!("%-{trace:016x}-01");
        assert_eq!(scene.client.query_one(query, &[&id, &like]).await?.get::<_, i64>(0), 1);
    }
    // The last ones are sent before the daemon ends.
    insert(&scene, &[&parent(4, "01")]).await?;
    scene.wait_marked("order_outbox").await;
    stop(&daemon).await?;
    let spans = collector.spans();
    spans_of(&spans, 4)?;
    assert_eq!(spans.len(), 6, "a row that nobody traces has a span: {spans:?}");
    ensure!(collector.requests.lock().unwrap().iter().all(|line| line == "POST /v1/traces HTTP/1.1"));
    Ok(())
}

#[tokio::test]
async fn a_share_of_the_traces_is_sampled_and_the_key_is_shown_where_asked_for() -> Result<()> {
    let (scene, collector) = (scene().await?, Collector::start().await?);
    let daemon = traced(&scene, &format!("{}sample = 0.5\nkey = true\n", collector.lines())).await?;
    // The upper half of the traces is left out.
    insert(&scene, &[&parent(u64::MAX, "01"), &parent(7, "01")]).await?;
    let spans = collector.wait_spans(2).await;
    let (publish, _) = spans_of(&spans, 7)?;
    ensure!(attribute(publish, "messaging.kafka.message.key").is_some_and(|key| key.len() == 36), "{publish}");
    stop(&daemon).await?;
    assert_eq!(collector.spans().len(), 2);
    Ok(())
}

#[tokio::test]
async fn a_row_that_is_never_marked_has_the_span_to_kafka_alone() -> Result<()> {
    let scene = scene_with("mark = \"none\"\nbackfill = \"none\"").await?;
    let collector = Collector::start().await?;
    let daemon = traced(&scene, &collector.lines()).await?;
    insert(&scene, &[&parent(1, "01"), &parent(2, "01")]).await?;
    let spans = collector.wait_spans(2).await;
    stop(&daemon).await?;
    assert_eq!(collector.spans().len(), 2);
    for (span, trace) in spans.iter().zip(1_u64..) {
        assert_eq!(span["parentSpanId"], format!("{trace:016x}").as_str());
        assert_eq!(span["name"], format!("publish {}", scene.topic).as_str());
    }
    Ok(())
}

#[tokio::test]
async fn a_large_transaction_is_traced_through_all_its_batches() -> Result<()> {
    let lines = "[source.limits]\nbatch_rows = 7";
    let (scene, collector) = (scene_with(lines).await?, Collector::start().await?);
    let daemon = traced(&scene, &collector.lines()).await?;
    let parents: Vec<_> = (1..=40).map(|trace| parent(trace, "01")).collect();
    insert(&scene, &parents.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    let spans = collector.wait_spans(80).await;
    scene.oracle().await?.assert_clean();
    let (first, _) = spans_of(&spans, 1)?;
    for trace in 1..=40 {
        let (publish, mark) = spans_of(&spans, trace)?;
        assert_eq!(publish["startTimeUnixNano"], first["startTimeUnixNano"]);
        assert_eq!(attribute(publish, "outboxd.lsn"), attribute(first, "outboxd.lsn"));
        assert_eq!(mark["parentSpanId"], publish["spanId"]);
    }
    stop(&daemon).await
}

#[tokio::test]
async fn nothing_is_sent_where_nobody_asks_for_it() -> Result<()> {
    let (scene, collector) = (scene().await?, Collector::start().await?);
    let daemon = traced(&scene, "[tracing]\nsample = 1\n").await?;
    insert(&scene, &[&parent(1, "01")]).await?;
    scene.assert_exactly(1).await?;
    stop(&daemon).await?;
    assert_eq!((collector.spans().len(), collector.requests.lock().unwrap().len()), (0, 0));
    Ok(())
}

#[tokio::test]
async fn rows_flow_without_the_collector_and_lost_spans_are_counted() -> Result<()> {
    let scene = scene().await?;
    let nobody = testbed::ports::free()?;
    let lines = format!("[tracing]\nendpoint = \"http://127.0.0.1:{nobody}\"\n");
    let daemon = traced(&scene, &lines).await?;
    for trace in 1..=20 {
        insert(&scene, &[&parent(trace, "01"), &parent(trace + 100, "01")]).await?;
    }
    scene.assert_exactly(40).await?;
    eventually(PATIENCE, || async {
        let dropped = metric(&daemon, "outboxd_trace_spans_dropped_total").await?;
        ensure!(dropped == 80.0, "{dropped} spans were dropped");
        Ok(())
    })
    .await;
    insert(&scene, &[&parent(50, "01")]).await?;
    scene.assert_exactly(41).await?;
    stop(&daemon).await?;
    let told = daemon.lines().iter().filter(|line| line.contains("takes no spans")).count();
    assert_eq!(told, 1, "it is told once a minute");
    Ok(())
}
