//! Topics, and a cluster that does not answer.

use outboxd::config::Secret;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_described_and_created_once() {
    let kafka = Kafka::shared().await.unwrap();
    let source = Source::on(&kafka.brokers());
    let wanted = topics::NewTopic {
        name: source.topic.clone(),
        partitions: 3,
        replication: 0,
        configs: vec![("max.message.bytes".to_owned(), "20000".to_owned())],
    };
    topics::create(&source.config, vec![wanted.clone()]).await.unwrap();
    topics::create(&source.config, vec![wanted]).await.unwrap();
    let found = topics::describe(&source.config, &[&source.topic, "no-such-topic"], SOON).await.unwrap();
    assert_eq!(found[&source.topic], Some(topics::TopicInfo { partitions: 3, replication: 1 }));
    assert_eq!(found["no-such-topic"], None);
    let refused = topics::NewTopic {
        name: unique("refused"),
        partitions: 1,
        replication: 1,
        configs: vec![("no.such.setting".to_owned(), "1".to_owned())],
    };
    assert_eq!(topics::create(&source.config, vec![refused]).await.unwrap_err().code(), Code::ConfigInvalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_does_not_answer_is_told_within_the_bound() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = Source::on(&format!("127.0.0.1:{}", unused.local_addr().unwrap().port()));
    drop(unused);
    let started = Instant::now();
    let error = topics::ping(&nobody.config, Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(error.code(), Code::KafkaUnreachable);
    assert!(error.detail().contains("refused"), "{error}");
    let error = nobody.idle_producer(Batching::Normal).init_transactions(Duration::from_secs(1)).unwrap_err();
    assert_eq!(error.code(), Code::KafkaUnreachable, "{error}");
    assert_eq!(nobody.read_within(Duration::from_secs(1)).await.unwrap_err().code(), Code::KafkaUnreachable);
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());

    let kafka = Kafka::shared().await.unwrap();
    let info = topics::ping(&Source::on(&kafka.brokers()).config, SOON).await.unwrap();
    assert!(info.cluster_id.is_some() && info.brokers >= 1, "{info:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_is_told_apart_from_silence() {
    let mut config = Source::on(&Kafka::shared().await.unwrap().brokers()).config;
    let login = |key: &str, value: &str| (key.to_owned(), Secret::new(value.to_owned()));
    // A plain listener refuses every login.
    config.options = vec![
        login("security.protocol", "sasl_plaintext"),
        login("sasl.mechanisms", "PLAIN"),
        login("sasl.username", "outboxd"),
        login("sasl.password", "wrong"),
    ];
    let started = Instant::now();
    let error = topics::ping(&config, SOON).await.unwrap_err();
    assert_eq!(error.code(), Code::KafkaAuthFailed, "{error}");
    assert!(started.elapsed() < Duration::from_secs(5), "a refused login is told at once");
    let producer = Producer::create(&config, "outboxd-x-0", Batching::Normal, Arc::default()).unwrap();
    let error = producer.init_transactions(Duration::from_secs(2)).unwrap_err();
    assert_eq!(error.code(), Code::KafkaAuthFailed, "{error}");
}
