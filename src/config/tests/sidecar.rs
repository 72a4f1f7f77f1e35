//! A source described by flags, and flags beside a file.

use super::*;

fn sidecar() -> Flags {
    let mut flags = Flags { brokers: Some("k:9092".to_owned()), ..Flags::default() };
    flags.source.source_url = Some("postgres://u:pw$1@db/Order-Service".to_owned());
    flags.source.tables = vec!["order_outbox".to_owned(), "app.other".to_owned()];
    flags
}

#[test]
fn a_sidecar_needs_no_file() {
    let config = Config::load_with(&sidecar(), &environment).unwrap();
    let source = &config.sources[0];
    assert_eq!(source.name, "order_service");
    assert_eq!(source.url.to_string(), "postgres://u@db/Order-Service");
    // A flag's text is taken as it is: the shell or the pod has replaced its variables already.
    assert_eq!(source.password, Some(Password::Written(Secret::new("pw$1".to_owned()))));
    assert_eq!(source.tables.len(), 2);
    assert_eq!(config.kafka.brokers, "k:9092");
}

#[test]
fn a_command_without_kafka_asks_for_no_brokers_and_judges_nothing_of_them() {
    let mut flags = sidecar();
    (flags.brokers, flags.kafka_options) = (None, vec!["acks".to_owned()]);
    let sources = Config::load_sources(&flags).unwrap();
    assert_eq!(
        (sources.sources[0].name.as_str(), sources.position_topic.as_str()),
        ("order_service", "outboxd.positions")
    );
    flags.position_topic = Some("positions".to_owned());
    flags.source.topic = Some("positions".to_owned());
    let refused = Config::load_sources(&flags).unwrap_err().to_string();
    assert!(refused.contains("positions"), "{refused}");
}

#[test]
fn what_a_sidecar_lacks_or_has_wrong_is_named_by_its_flag() {
    let with = |change: fn(&mut Flags)| {
        let mut flags = sidecar();
        change(&mut flags);
        Config::load_with(&flags, &environment)
    };
    refuses(
        with(|flags| *flags = Flags::default()),
        "config-invalid: nothing says what to publish; give --config FILE, or --source-url, --table and --brokers",
    );
    refuses(
        with(|flags| flags.source.tables.clear()),
        "config-invalid: --table (OUTBOXD_TABLES) is missing; without --config a source needs it",
    );
    refuses(
        with(|flags| flags.brokers = Some(String::new())),
        "config-invalid: --brokers (OUTBOXD_BROKERS) is missing; without --config a source needs it",
    );
    refuses(
        with(|flags| flags.source.source_url = Some("postgres://u@db".to_owned())),
        "config-invalid: --source-name (OUTBOXD_SOURCE_NAME), or a database in --source-url, is missing; without \
         --config a source needs it",
    );
    refuses(
        with(|flags| flags.source.source_url = Some("db".to_owned())),
        "config-invalid: --source-url (OUTBOXD_SOURCE_URL): not a URL of the form \
         postgres://user@host:5432/database?sslmode=verify-full",
    );
    refuses(
        with(|flags| flags.source.mark = Some("no".to_owned())),
        "config-invalid: --mark (OUTBOXD_MARK): found \"no\"; allowed: \"update\", \"delete\", \"none\"",
    );
    refuses(
        with(|flags| flags.kafka_options = vec!["acks=1".to_owned()]),
        "kafka-option-invalid: --kafka-option (OUTBOXD_KAFKA_OPTIONS): [kafka.options]: \"acks\": outboxd sets this \
         option itself; outboxd always waits for all in-sync replicas; remove it",
    );
    refuses(
        with(|flags| flags.config = Some("x.toml".into())),
        "config-invalid: --source-url (OUTBOXD_SOURCE_URL) and --config exclude each other; the file's [[source]] \
         describes the source",
    );
    refuses(
        with(|flags| *flags = Flags { config: Some("/nonexistent.toml".into()), ..Flags::default() }),
        "config-invalid: --config: cannot read /nonexistent.toml: No such file or directory (os error 2)",
    );
}

#[test]
fn a_sidecar_maps_its_columns_as_a_file_does() {
    let with = |columns: &[&str]| {
        let mut flags = sidecar();
        flags.source.columns = columns.iter().map(|&column| column.to_owned()).collect();
        Config::load_with(&flags, &environment)
    };
    let config = with(&["id=event_id", " payload = body ", "aggregate_type=kind", ""]).unwrap();
    let mapping = &config.sources[0].mapping;
    assert_eq!(
        mapping.columns,
        Columns { id: "event_id".into(), payload: "body".into(), aggregate_type: "kind".into(), ..Columns::default() }
    );
    assert_eq!(mapping.topic.to_string(), "{kind}.events");
    assert_eq!(with(&[""]).unwrap().sources[0].mapping.columns, Columns::default());
    refuses(
        with(&["paylod=body"]),
        "config-unknown-key: --column (OUTBOXD_COLUMNS): unknown key \"paylod\" in [source.columns]; did you mean \
         \"payload\"?",
    );
    refuses(
        with(&["id"]),
        "config-invalid: --column (OUTBOXD_COLUMNS): found \"id\"; expected KEY=COLUMN, such as id=event_id",
    );
    refuses(
        with(&["id=a", "id=b"]),
        "config-invalid: --column (OUTBOXD_COLUMNS): found \"id=b\"; this key stands twice",
    );
    let refused = with(&["id="]).unwrap_err().to_string();
    assert!(refused.starts_with("config-invalid: --column (OUTBOXD_COLUMNS): found \"\""), "{refused}");
    let mut flags = Flags { config: Some("x.toml".into()), ..Flags::default() };
    flags.source.columns = vec!["id=event_id".to_owned()];
    let refused = Config::load_with(&flags, &environment).unwrap_err().to_string();
    assert!(refused.contains("--column (OUTBOXD_COLUMNS) and --config exclude each other"), "{refused}");
}

#[test]
fn a_zero_byte_in_the_variable_of_the_password_is_refused() {
    let environment = |name: &str| (name == "OUTBOXD_PASSWORD").then(|| "hun\0ter2".to_owned());
    let mut flags = sidecar();
    flags.source.source_url = Some("postgres://u@db/shop".to_owned());
    refuses(
        Config::load_with(&flags, &environment),
        "config-invalid: OUTBOXD_PASSWORD: found a zero byte; allowed: any other character",
    );
}

#[test]
fn flags_go_before_the_file() {
    let text = include_str!("../../../config/outboxd.toml");
    let flags = Flags {
        brokers: Some("other:9092".to_owned()),
        http_listen: Some("off".to_owned()),
        log_level: Some("debug".to_owned()),
        log_format: Some(String::new()),
        kafka_options: vec!["client.id=me".to_owned(), String::new()],
        ..Flags::default()
    };
    let config = Config::from_text(text, &flags, &environment).unwrap();
    assert_eq!(config.kafka.brokers, "other:9092");
    assert_eq!((config.http.listen, config.log.level), (None, "debug".parse().unwrap()));
    assert_eq!(config.kafka.options[0].0, "client.id");
}
