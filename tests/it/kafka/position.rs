//! Reading the position: rule 2, whatever else is in its topic.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_position_topic_has_no_position() {
    let source = Source::new().await;
    assert_eq!(source.read().await.unwrap(), None);
    source.producer();
    assert_eq!(source.read().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_far_behind_the_tail_is_found_and_another_source_s_is_not() {
    let source = Source::new().await;
    let mut other = Source::on(&source.config.brokers);
    other.config.position_topic.clone_from(&source.config.position_topic);
    source.producer().publish(&Rows::default(), source.position("mine")).unwrap();
    let mut busy = other.producer();
    for n in 0..400 {
        busy.publish(&Rows::default(), other.position(&format!("{n:04}"))).unwrap();
    }
    assert_eq!(source.read().await.unwrap().as_deref(), Some("mine"));
    assert_eq!(other.read().await.unwrap().as_deref(), Some("0399"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_goes_back_is_refused() {
    let source = Source::new().await;
    let mut producer = source.producer();
    producer.publish(&Rows::default(), source.position("5")).unwrap();
    producer.publish(&Rows::default(), source.position("4")).unwrap();
    assert_eq!(source.read().await.unwrap_err().code(), Code::PositionRegressed);
}

#[tokio::test(flavor = "multi_thread")]
async fn aborted_transactions_at_the_end_do_not_hide_the_position() {
    let source = Source::new().await;
    source.producer().publish(&Rows::default(), source.position("1")).unwrap();
    let stranger = foreign(&source.config.brokers, &source.config.position_topic);
    stranger.abort_transaction(SOON).unwrap();
    for _ in 0..20 {
        begin(&stranger, &source.config.position_topic);
        stranger.abort_transaction(SOON).unwrap();
    }
    assert_eq!(source.read().await.unwrap().as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_open_transaction_is_waited_for_and_never_guessed_around() {
    let source = Source::new().await;
    source.producer().publish(&Rows::default(), source.position("1")).unwrap();
    let stranger = foreign(&source.config.brokers, &source.config.position_topic);
    source.producer().publish(&Rows::default(), source.position("2")).unwrap();

    let started = Instant::now();
    let error = source.read_within(Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(error.code(), Code::PositionUnstable, "{error}");
    assert!(started.elapsed() < Duration::from_secs(3));

    stranger.abort_transaction(SOON).unwrap();
    assert_eq!(source.read().await.unwrap().as_deref(), Some("2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_predecessor_s_open_transaction_ends_with_init() {
    let source = Source::new().await;
    let id = format!("outboxd-{}-0", source.name);
    let predecessor: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &source.config.brokers)
        .set("transactional.id", id)
        .create()
        .unwrap();
    predecessor.init_transactions(SOON).unwrap();
    begin(&predecessor, &source.config.position_topic);
    source.producer();
    assert_eq!(source.read().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_position_topic_is_read_across_its_gaps() {
    let kafka = Kafka::builder(1)
        .setting("log.cleaner.backoff.ms", "100")
        .setting("log.retention.check.interval.ms", "100")
        .start()
        .await
        .unwrap();
    let source = Source::on(&kafka.brokers());
    let compacting = [
        ("cleanup.policy", "compact"),
        ("segment.bytes", "1048576"),
        ("segment.ms", "200"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("max.compaction.lag.ms", "100"),
        ("delete.retention.ms", "100"),
    ];
    kafka.create_topic(&source.config.position_topic, 1, &compacting).await.unwrap();
    let mut producer = source.producer();
    for n in 0..200 {
        producer.publish(&Rows::default(), source.position(&format!("{n:04}"))).unwrap();
    }
    let compacted = async || {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let mut producer = source.producer();
        producer.publish(&Rows::default(), source.position("9999")).unwrap();
        let left = reader::count_committed(&kafka.brokers(), &[&source.config.position_topic]).await?;
        anyhow::ensure!(left < 150, "{left} records are left");
        Ok(())
    };
    testbed::eventually(Duration::from_secs(60), compacted).await;
    assert_eq!(source.read().await.unwrap().as_deref(), Some("9999"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_position_is_passed_over_and_an_earlier_one_refused() {
    let source = Source::new().await;
    let mut producer = source.producer();
    for value in ["3", "4", "1 late", "2 late"] {
        producer.publish(&Rows::default(), source.position(value)).unwrap();
    }
    assert_eq!(source.read().await.unwrap().as_deref(), Some("4"));
    producer.publish(&Rows::default(), source.position("3")).unwrap();
    assert_eq!(source.read().await.unwrap_err().code(), Code::PositionRegressed);
}

/// Others have written so much meanwhile that the position that holds is far behind the tail.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_position_that_stands_alone_at_the_end_is_passed_over() {
    let source = Source::new().await;
    let mut other = Source::on(&source.config.brokers);
    other.config.position_topic.clone_from(&source.config.position_topic);
    let mut producer = source.producer();
    producer.publish(&Rows::default(), source.position("5 late")).unwrap();
    let mut busy = other.producer();
    for n in 0..400 {
        busy.publish(&Rows::default(), other.position(&format!("{n:04}"))).unwrap();
    }
    producer.publish(&Rows::default(), source.position("1 late")).unwrap();
    assert_eq!(source.read().await.unwrap().as_deref(), Some("5 late"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tombstone_is_no_position() {
    let source = Source::new().await;
    source.producer().publish(&Rows::default(), source.position("1")).unwrap();
    let eraser: BaseProducer = ClientConfig::new().set("bootstrap.servers", &source.config.brokers).create().unwrap();
    eraser.send(BaseRecord::<_, [u8]>::to(&source.config.position_topic).key(&source.name)).unwrap();
    eraser.flush(SOON).unwrap();
    assert_eq!(source.read().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_topic_is_created_compacted_and_checked() {
    let kafka = Kafka::shared().await.unwrap();
    let mut source = Source::on(&kafka.brokers());
    assert!(!position_topic::exists(&source.config).await.unwrap());
    assert_eq!(source.read().await.unwrap_err().code(), Code::TopicMissing);
    position_topic::ensure(&source.config).await.unwrap();
    position_topic::ensure(&source.config).await.unwrap();
    assert!(position_topic::exists(&source.config).await.unwrap());
    let settings = topics::configuration(&source.config, &source.config.position_topic).await.unwrap();
    assert_eq!(settings["cleanup.policy"], "compact");

    source.config.position_topic = kafka.fresh_topic("two", 2).await.unwrap();
    let error = position_topic::ensure(&source.config).await.unwrap_err();
    assert_eq!(error.code(), Code::PositionInvalid, "{error}");
    assert_eq!(source.read().await.unwrap_err().code(), Code::PositionInvalid);

    source.config.position_topic = kafka.fresh_topic("deleting", 1).await.unwrap();
    let error = position_topic::ensure(&source.config).await.unwrap_err();
    assert!(error.detail().contains("cleanup.policy = delete"), "{error}");
}
