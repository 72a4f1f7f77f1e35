//! Publishing a batch: all of it or nothing, and which row was at fault.

use testbed::proxy::Direction;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_published_batch_is_visible_with_its_headers_and_its_position() {
    let source = Source::new().await;
    let mut producer = source.producer();
    producer.publish(&Rows::of(&source.topic, &["a", "b"]), source.position("1")).unwrap();
    producer.publish(&Rows::default(), source.position("2")).unwrap();

    let records = reader::read_committed(&source.config.brokers, &[&source.topic]).await.unwrap();
    assert_eq!(records.len(), 2);
    assert_eq!(records[1].key.as_deref(), Some(&b"k1"[..]));
    assert_eq!(records[1].headers.len(), 3);
    assert_eq!(records[1].header_str("event_type"), Some("Tested"));
    assert_eq!(records[1].header("trace"), None);
    assert_eq!(source.read().await.unwrap().as_deref(), Some("2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_fails_half_way_shows_nothing_and_spends_its_producer() {
    let source = Source::new().await;
    let mut producer = source.producer();
    producer.publish(&Rows::of(&source.topic, &["before"]), source.position("1")).unwrap();
    let mut rows = Rows::of(&source.topic, &["half", "other half"]);
    rows.0[1].partition = Some(7);

    let failure = producer.publish(&rows, source.position("2")).unwrap_err();

    let PublishFailure::Rejected { rows, error } = failure else { panic!("{failure:?}") };
    assert_eq!((rows, error.code()), (vec![1], Code::RowInvalid));
    let again = producer.publish(&Rows::default(), source.position("3")).unwrap_err();
    assert_eq!(again.error().code(), Code::Internal);
    assert_eq!(source.values().await, ["before"]);
    assert_eq!(source.read().await.unwrap().as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_producer_fences_the_first() {
    let source = Source::new().await;
    let mut first = source.producer();
    first.publish(&Rows::of(&source.topic, &["first"]), source.position("1")).unwrap();
    let mut second = source.producer();

    let failure = first.publish(&Rows::of(&source.topic, &["zombie"]), source.position("2")).unwrap_err();

    assert!(matches!(failure, PublishFailure::Fenced(_)), "{failure:?}");
    assert_eq!(failure.error().code(), Code::KafkaFenced);
    second.publish(&Rows::of(&source.topic, &["second"]), source.position("2")).unwrap();
    assert_eq!(source.values().await, ["first", "second"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_goes_to_the_position_topic() {
    let source = Source::new().await;
    let rows = Rows::of(&source.config.position_topic, &["a"]);
    let failure = source.producer().publish(&rows, source.position("1")).unwrap_err();
    assert!(matches!(failure, PublishFailure::Rejected { .. }), "{failure:?}");
    assert_eq!(source.read().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_is_not_the_row_s_fault() {
    let source = Source::new().await;
    let mut producer = source.producer();
    let failure = producer.publish(&Rows::of("no-such-topic", &["a"]), source.position("1")).unwrap_err();
    assert!(matches!(failure, PublishFailure::Aborted(_)), "{failure:?}");
    assert_eq!(failure.error().code(), Code::TopicMissing, "{failure:?}");
    assert!(failure.error().detail().contains("no-such-topic"));
}

/// Rows 1 and 3 are too large for the broker, the others are not.
async fn with_too_large_rows() -> (Source, Rows) {
    let mut source = Source::new().await;
    source.topic = unique("small");
    let kafka = Kafka::shared().await.unwrap();
    kafka.create_topic(&source.topic, 1, &[("max.message.bytes", "5000")]).await.unwrap();
    let large: Vec<u8> = (0..20_000_u32).map(|n| b'a' + u8::try_from(n % 26).unwrap()).collect();
    let small = b"small".to_vec();
    let rows = Rows::sized(&source.topic, &[small.clone(), large.clone(), small.clone(), large, small]);
    (source, rows)
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_the_broker_finds_too_large_are_found_among_others() {
    let (source, mut rows) = with_too_large_rows().await;
    let failure = source.producer().publish(&rows, source.position("1")).unwrap_err();
    let PublishFailure::Rejected { rows: refused, error } = failure else { panic!("{failure:?}") };
    assert_eq!((&refused[..], error.code()), (&[1, 3][..], Code::RowTooLarge));
    // The search left nothing that a reader of committed records sees.
    assert_eq!(source.values().await, Vec::<String>::new());
    for row in refused.into_iter().rev() {
        rows.0.remove(row);
    }
    source.producer().publish(&rows, source.position("2")).unwrap();
    assert!(source.values().await.iter().all(|value| value == "small"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_beyond_what_a_request_can_hold_is_refused_before_sending() {
    let source = Source::new().await;
    let rows = Rows::sized(&source.topic, &[b"small".to_vec(), vec![b'x'; 105_000_000]]);
    let failure = source.producer().publish(&rows, source.position("1")).unwrap_err();
    let PublishFailure::Rejected { rows, error } = failure else { panic!("{failure:?}") };
    assert_eq!((rows, error.code()), (vec![1], Code::RowTooLarge));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_too_large_only_together_go_in_parts_that_the_broker_takes() {
    let (source, _) = with_too_large_rows().await;
    let rows = Rows::sized(&source.topic, &vec![b"small".repeat(100); 40]);
    let failure = source.producer().publish(&rows, source.position("1")).unwrap_err();
    let PublishFailure::Crowded { bytes, .. } = failure else { panic!("{failure:?}") };
    assert!(bytes < 5_000, "{bytes}");
    source.producer_with(Batching::AtMost(bytes)).publish(&rows, source.position("2")).unwrap();
    assert_eq!(source.values().await.len(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timestamp_that_the_broker_refuses_is_a_clock_s_fault() {
    let source = Source::new().await;
    let mut rows = Rows::of(&source.topic, &["a", "b", "c"]);
    rows.0[1].timestamp = Some(4_102_444_800_000);
    let failure = source.producer().publish(&rows, source.position("1")).unwrap_err();
    let PublishFailure::Rejected { rows: suspected, error } = failure else { panic!("{failure:?}") };
    assert!(suspected.contains(&1) && error.code() == Code::KafkaClock, "{suspected:?} {error}");
    let text = error.detail();
    assert!(text.contains("the broker's clock") && text.contains("message.timestamp.after.max.ms"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_row_passes_where_the_broker_takes_it() {
    let mut source = Source::new().await;
    source.topic = unique("large");
    let kafka = Kafka::shared().await.unwrap();
    kafka.create_topic(&source.topic, 1, &[("max.message.bytes", "60000000")]).await.unwrap();
    let rows = Rows::sized(&source.topic, &[vec![b'x'; 50_000_000]]);
    source.producer().publish(&rows, source.position("1")).unwrap();
    assert_eq!(reader::count_committed(&source.config.brokers, &[&source.topic]).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_publication_ends_soon_after_it_is_cancelled() {
    let kafka = Kafka::start().await.unwrap();
    let source = Source::on(&kafka.brokers());
    position_topic::ensure(&source.config).await.unwrap();
    kafka.create_topic(&source.topic, 1, &[]).await.unwrap();
    let cancel = Arc::new(AtomicBool::new(false));
    let id = format!("outboxd-{}-0", source.name);
    let mut producer = Producer::create(&source.config, &id, Batching::Normal, Arc::clone(&cancel)).unwrap();
    producer.init_transactions(SOON).unwrap();
    kafka.pause(0).unwrap();
    let cancelling = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        cancel.store(true, Ordering::Relaxed);
        Instant::now()
    });
    let failure = producer.publish(&Rows::of(&source.topic, &["a"]), source.position("1")).unwrap_err();
    let cancelled = cancelling.join().unwrap();
    let after = cancelled.elapsed();
    drop(producer);
    let dropped = cancelled.elapsed();
    kafka.resume(0).unwrap();
    assert!(matches!(failure, PublishFailure::Aborted(_) | PublishFailure::Unknown(_)), "{failure:?}");
    assert!(after < Duration::from_millis(400), "returned after {after:?}");
    assert!(dropped < Duration::from_secs(2), "dropped after {dropped:?}");
    source.producer();
    assert_eq!(source.values().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn at_least_once_publishes_without_a_transaction_in_the_same_format() {
    let mut source = Source::new().await;
    source.config.delivery = Delivery::AtLeastOnce;
    let mut producer = source.producer();
    producer.publish(&Rows::of(&source.topic, &["a", "b"]), source.position("1")).unwrap();
    assert_eq!(source.values().await, ["a", "b"]);
    assert_eq!(source.read().await.unwrap().as_deref(), Some("1"));
    source.config.delivery = Delivery::ExactlyOnce;
    source.producer().publish(&Rows::of(&source.topic, &["c"]), source.position("2")).unwrap();
    assert_eq!(source.values().await, ["a", "b", "c"]);
    assert_eq!(source.read().await.unwrap().as_deref(), Some("2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_unknown_and_the_position_tells() {
    let kafka = Kafka::builder(1).proxied().start().await.unwrap();
    let mut source = Source::on(&kafka.proxied_brokers().unwrap());
    source.config.delivery_timeout = Duration::from_secs(25);
    position_topic::ensure(&source.config).await.unwrap();
    kafka.create_topic(&source.topic, 1, &[]).await.unwrap();
    let mut producer = source.producer();
    producer.publish(&Rows::of(&source.topic, &["warm"]), source.position("1")).unwrap();

    // Answers come late, and later than it takes to see the commit from beside: the records are in the log when their
    // acknowledgement and, after it, the commit is on its way.
    let answers = Duration::from_secs(3);
    kafka.proxy(0).unwrap().delay(Direction::ToClient, answers);
    let started = Instant::now();
    let publishing = tokio::task::spawn_blocking({
        let (topic, position_topic, name) =
            (source.topic.clone(), source.config.position_topic.clone(), source.name.clone());
        move || {
            let position = PositionRecord { topic: &position_topic, key: name.as_bytes(), value: b"2" };
            producer.publish(&Rows::of(&topic, &["lost"]), position)
        }
    });
    let direct = Source { config: Config { brokers: kafka.brokers(), ..source.config.clone() }, ..source };
    let committed = async || match direct.read_within(Duration::from_millis(500)).await {
        Ok(Some(position)) if position == "2" => Ok(()),
        other => Err(anyhow::anyhow!("{other:?}")),
    };
    testbed::eventually(SOON, committed).await;
    kafka.proxy(0).unwrap().refuse(true);
    kafka.proxy(0).unwrap().reset();

    let failure = publishing.await.unwrap().unwrap_err();
    assert!(matches!(failure, PublishFailure::Unknown(_)), "{failure:?} after {:?}", started.elapsed());
    assert_eq!(failure.error().code(), Code::KafkaCommitUnknown);
}
