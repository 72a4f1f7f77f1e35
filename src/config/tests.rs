//! The literal messages for what a person wrote wrong, and the defaults.

mod sidecar;

use super::*;
use crate::Class;

/// Reads the smallest possible file, with `more` of `[[source]]` from line 5 on.
fn source_with(more: &str) -> Result<Config> {
    let head = "[[source]]\nname = \"order\"\nurl = \"postgres://u@db/shop\"\ntables = [\"order_outbox\"]\n";
    parse(&format!("{head}{more}\n[kafka]\nbrokers = \"k:9092\"\n"))
}

/// Reads the same file with `more` of `[kafka]` from line 7 on.
fn kafka_with(more: &str) -> Result<Config> {
    let head = "[[source]]\nname = \"order\"\nurl = \"postgres://u@db/shop\"\ntables = [\"order_outbox\"]\n";
    parse(&format!("{head}[kafka]\nbrokers = \"k:9092\"\n{more}\n"))
}

fn parse(text: &str) -> Result<Config> {
    Config::from_text(text, &Flags::default(), &environment)
}

fn environment(name: &str) -> Option<String> {
    (name == "DB_PASSWORD").then(|| "p@ss".to_owned())
}

#[track_caller]
fn refuses(config: Result<Config>, expected: &str) {
    let error = config.expect_err("it was accepted");
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.class(), Class::Config);
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_one() {
    let text = "# seven lines\n\n[[source]]\nname = \"order\"\nurl = \"postgres://u@db/shop\"\ntables = [\"o\"]\ntopc = \"x\"\n";
    refuses(
        parse(text),
        "config-unknown-key: outboxd.toml:7: unknown key \"topc\" in [[source]]; did you mean \"topic\"?",
    );
    refuses(
        source_with("[source.limits]\nbatch_row = 1"),
        "config-unknown-key: outboxd.toml:6: unknown key \"batch_row\" in [source.limits]; did you mean \"batch_rows\"?",
    );
    refuses(
        source_with("[source.columns]\nfoo = \"x\""),
        "config-unknown-key: outboxd.toml:6: unknown key \"foo\" in [source.columns]; allowed: id, aggregate_type, \
         aggregate_id, event_type, payload, created_at, published_at",
    );
    refuses(
        parse("[kafak]\nbrokers = \"x\"\n"),
        "config-unknown-key: outboxd.toml:1: unknown key \"kafak\" at the top level; did you mean \"kafka\"?",
    );
    refuses(
        source_with("[source.retries]\nafter = \"7d\""),
        &format!(
            "config-unknown-key: outboxd.toml:5: unknown key \"retries\" in [[source]]; allowed: {}",
            source::KEYS.join(", ")
        ),
    );
}

#[test]
fn retention_says_how_long_and_how() {
    let retention = |lines: &str| source_with(lines).map(|config| config.sources[0].retention);
    assert_eq!(retention("").unwrap(), None);
    let week = Duration::from_secs(7 * 86_400);
    let by = RetentionBy::Delete;
    assert_eq!(retention("[source.retention]\nkeep = \"7d\"").unwrap(), Some(Retention { keep: week, by }));
    let by = RetentionBy::Partition { width: Duration::from_secs(3600), ahead: 5 };
    let lines = "[source.retention]\nkeep = \"7d\"\nby = \"partition\"\npartition = \"1h\"\nahead = 5";
    assert_eq!(retention(lines).unwrap(), Some(Retention { keep: week, by }));
    refuses(
        source_with("[source.retention]\nby = \"partition\""),
        "config-invalid: outboxd.toml:5: [source.retention] lacks the key \"keep\"",
    );
    refuses(
        source_with("mark = \"delete\"\n[source.retention]\nkeep = \"7d\""),
        "config-invalid: outboxd.toml:6: [source.retention]: mark = \"delete\" deletes each row once it is published",
    );
    let none = "mark = \"none\"\nbackfill = \"none\"\n[source.retention]\nkeep = \"7d\"\nby = \"delete\"";
    refuses(
        source_with(none),
        "config-invalid: outboxd.toml:9: by in [source.retention]: rows without marks do not tell which of them are \
         published; use by = \"partition\"",
    );
}

#[test]
fn a_missing_key_is_named_with_its_section() {
    refuses(
        parse("\n[[source]]\nname = \"a\"\ntables = [\"o\"]\n[kafka]\nbrokers = \"k\"\n"),
        "config-invalid: outboxd.toml:2: [[source]] lacks the key \"url\"",
    );
    refuses(
        parse("[[source]]\nname = \"a\"\nurl = \"postgres://u@db/x\"\ntables = [\"o\"]\n[kafka]\n"),
        "config-invalid: outboxd.toml:5: [kafka] lacks the key \"brokers\"",
    );
    refuses(
        parse("[kafka]\nbrokers = \"k\"\n"),
        "config-invalid: outboxd.toml: no [[source]]; write one for each database",
    );
    refuses(
        parse("[source]\nname = \"a\"\n[kafka]\nbrokers = \"k\"\n"),
        "config-invalid: outboxd.toml:1: source: expected [[source]], in double brackets, since there may be several",
    );
}

#[test]
fn a_wrong_value_is_named_with_what_is_allowed() {
    for (line, expected) in [
        ("mark = \"updte\"", "mark in [[source]]: found \"updte\"; allowed: \"update\", \"delete\", \"none\""),
        ("mark = 3", "mark in [[source]]: found a number; expected a string, in quotes"),
        ("failover = \"yes\"", "failover in [[source]]: found \"yes\"; allowed: true, false"),
        ("slot = \"Order\"", "slot in [[source]]: found \"Order\"; allowed: 1 to 63 characters of a-z, 0-9 and _"),
        (
            "mark = \"none\"",
            "mark in [[source]]: found \"none\" with backfill = \"unpublished\"; rows that are never marked cannot be \
             told apart, so write backfill = \"none\" too",
        ),
        (
            "envelope = \"cloudevents\"",
            "envelope in [[source]]: CloudEvents need cloudevents_source, a URI reference such as \"/orders\"",
        ),
        (
            "topic = \"{aggregate_type.events\"",
            "topic in [[source]]: found \"{aggregate_type.events\": \"{\" without \"}\"; write \"{{\" for the character itself",
        ),
        (
            "topic = \"outboxd.positions\"",
            "topic in [[source]]: found \"outboxd.positions\", which is the position topic; allowed: any other topic",
        ),
        (
            "dead_letter_topic = \"{topic}/dead\"",
            "dead_letter_topic in [[source]]: found \"{topic}/dead\": '/' cannot stand in a topic's name; allowed: a-z, \
             A-Z, 0-9, '.', '_' and '-'",
        ),
        ("limits = 5", "limits in [[source]]: found 5; expected the table [source.limits]"),
        ("limits.batch_rows = 0", "batch_rows in [source.limits]: found 0; allowed: a number from 1 to 1000000"),
        (
            "limits.batch_bytes = \"16MB\"",
            "batch_bytes in [source.limits]: found \"16MB\"; allowed: bytes, as a number or such as \"16MiB\", from 1KiB to 1GiB",
        ),
        (
            "limits.in_flight_bytes = \"1MiB\"",
            "in_flight_bytes in [source.limits] is 1MiB, below batch_bytes, which is 16MiB; allowed: at least as much",
        ),
        (
            "timeouts.connect = 5",
            "connect in [source.timeouts]: found 5; allowed: a duration such as \"5s\" or \"500ms\", from 100ms to 1h",
        ),
        (
            "headers.event_id = \"id\"",
            "event_id in [source.headers]: every record carries this header already; allowed: any other name",
        ),
        (
            "password_file = \"/nonexistent/pw\"",
            "password_file in [[source]]: cannot read /nonexistent/pw: No such file or directory (os error 2)",
        ),
        ("password = \"${NOPE}\"", "password: the environment variable NOPE is not set"),
    ] {
        refuses(source_with(line), &format!("config-invalid: outboxd.toml:5: {expected}"));
    }
}

#[test]
fn a_wrong_source_is_refused() {
    let with = |name: &str, url: &str, tables: &str| {
        parse(&format!("[[source]]\nname = \"{name}\"\nurl = \"{url}\"\ntables = {tables}\n[kafka]\nbrokers = \"k\"\n"))
    };
    refuses(
        with("Order", "postgres://u@db/x", "[\"o\"]"),
        "config-invalid: outboxd.toml:2: name in [[source]]: found \"Order\"; allowed: 1 to 54 characters of a-z, 0-9 and _",
    );
    refuses(
        with("a", "mysql://u:pw@db/x", "[\"o\"]"),
        "config-invalid: outboxd.toml:3: url in [[source]]: not a URL of the form \
         postgres://user@host:5432/database?sslmode=verify-full",
    );
    refuses(
        with("a", "postgres://u@db/x", "[]"),
        "config-invalid: outboxd.toml:4: tables in [[source]]: found an empty list; allowed: one table or more",
    );
    refuses(
        with("a", "postgres://u@db/x", "[\"o\", \"o\"]"),
        "config-invalid: outboxd.toml:4: tables in [[source]]: o stands twice",
    );
    refuses(
        with("a", "postgres://u@db/x", "\"o\""),
        "config-invalid: outboxd.toml:4: tables in [[source]]: expected a list of strings, such as [\"order_outbox\"]",
    );
    let source = "[[source]]\nname = \"a\"\nurl = \"postgres://u@db/x\"\ntables = [\"o\"]\n";
    refuses(
        parse(&format!("{source}{source}[kafka]\nbrokers = \"k\"\n")),
        "config-invalid: outboxd.toml:5: name in [[source]]: \"a\" stands twice",
    );
}

#[test]
fn kafka_http_and_log_are_checked_too() {
    for (text, expected) in [
        (
            "position_topic = \"a b\"",
            "config-invalid: outboxd.toml:7: position_topic in [kafka]: found \"a b\"; allowed: 1 to 249 characters of a-z, A-Z, 0-9, '.', '_' and '-'",
        ),
        (
            "topic_replication = -1",
            "config-invalid: outboxd.toml:7: topic_replication in [kafka]: found -1; allowed: a number from 0 to 32767",
        ),
        (
            "[http]\nlisten = \"localhost\"",
            "config-invalid: outboxd.toml:8: listen in [http]: found \"localhost\"; allowed: \"off\", or IP:port such as \"0.0.0.0:9464\"",
        ),
        (
            "[log]\nformat = \"xml\"",
            "config-invalid: outboxd.toml:8: format in [log]: found \"xml\"; allowed: \"auto\", \"json\", \"text\"",
        ),
        (
            "[log]\nlevel = \"inof\"",
            "config-invalid: outboxd.toml:8: level in [log]: found \"inof\"; allowed: off, error, warn, info, debug, trace, or a filter such as \"info,outboxd::relay=debug\"",
        ),
    ] {
        refuses(kafka_with(text), expected);
    }
    for brokers in ["", "k:", "k:0", "k:99999", "a,,b", "a b"] {
        let text = format!(
            "[[source]]\nname = \"a\"\nurl = \"postgres://u@db/x\"\ntables = [\"o\"]\n[kafka]\nbrokers = \"{brokers}\"\n"
        );
        refuses(
            parse(&text),
            &format!(
                "config-invalid: outboxd.toml:6: brokers in [kafka]: found {brokers:?}; allowed: host:port, several with commas"
            ),
        );
    }
}

/// Rule 25.
#[test]
fn a_delivery_may_not_outlast_its_transaction() {
    refuses(
        kafka_with("delivery_timeout = \"1m\""),
        "config-invalid: outboxd.toml:5: delivery_timeout in [kafka] is 1m, not below transaction_timeout, which is 1m; \
         allowed: less",
    );
    assert!(kafka_with("delivery_timeout = \"59s\"").is_ok());
}

#[test]
fn an_option_that_outboxd_owns_names_the_key_to_use() {
    for (line, expected) in [
        (
            "\"bootstrap.servers\" = \"k\"",
            "\"bootstrap.servers\": outboxd sets this option itself; use brokers in [kafka]",
        ),
        (
            "transaction.timeout.ms = 5",
            "\"transaction.timeout.ms\": outboxd sets this option itself; use transaction_timeout in [kafka]",
        ),
        (
            "\"partitioner\" = \"random\"",
            "\"partitioner\": outboxd sets this option itself; outboxd partitions as Java's producers do (murmur2_random); remove it",
        ),
        (
            "\"securty.protocol\" = \"ssl\"",
            "\"securty.protocol\": No such configuration property: \"securty.protocol\"",
        ),
        (
            "\"security.protocol\" = \"tls\"",
            "\"security.protocol\": Invalid value \"tls\" for configuration property \"security.protocol\"",
        ),
        ("\"client.id\" = [1]", "\"client.id\": found a list; expected a string, with commas where it is one"),
    ] {
        let expected = format!("kafka-option-invalid: outboxd.toml:8: [kafka.options]: {expected}");
        refuses(kafka_with(&format!("[kafka.options]\n{line}")), &expected);
    }
}

#[test]
fn a_token_comes_from_a_file_or_from_a_program_and_fits_the_options_of_the_login() {
    let token = |lines: &str| kafka_with(lines).map(|config| config.kafka.token);
    let file = token("token_file = \"token\"").unwrap();
    assert!(matches!(file, Some(TokenSource::File(path)) if path.ends_with("token")));
    let program = token("token_command = [\"print\", \"it\"]\n[kafka.options]\nsasl.mechanism = \"oauthbearer\"");
    assert_eq!(program.unwrap(), Some(TokenSource::Command(vec!["print".to_owned(), "it".to_owned()])));
    for (lines, says) in [
        ("token_command = []", "found no program"),
        ("token_file = \"a\"\ntoken_command = [\"b\"]", "token_file is there as well"),
        ("token_file = \"a\"\n[kafka.options]\nsasl.mechanisms = \"PLAIN\"", "a token needs \"OAUTHBEARER\""),
        ("token_file = \"a\"\n[kafka.options]\nsecurity.protocol = \"ssl\"", "a token needs \"sasl_ssl\""),
        ("[kafka.options]\nsasl.mechanism = \"OAUTHBEARER\"", "needs token_file or token_command in [kafka]"),
    ] {
        let error = kafka_with(lines).unwrap_err();
        assert_eq!(error.code(), Code::ConfigInvalid, "{lines}");
        assert!(error.detail().contains(says), "{lines}: {error}");
    }
}

#[test]
fn options_may_be_quoted_or_dotted_and_are_never_shown() {
    let config =
        kafka_with("[kafka.options]\nsasl.password = \"a${DB_PASSWORD}\"\n\"linger.ms\" = 5\nsasl.username = \"u\"")
            .unwrap();
    let options: Vec<_> = config.kafka.options.iter().map(|(key, value)| (key.as_str(), value.expose())).collect();
    assert_eq!(options, [("sasl.password", "ap@ss"), ("sasl.username", "u"), ("linger.ms", "5")]);
    assert!(!format!("{config:?} {:?}", config.shown()).contains("ap@ss"));
}

#[test]
fn the_reference_file_says_the_defaults() {
    let reference = include_str!("../../config/outboxd.toml");
    let least = "[[source]]\nname = \"order\"\nurl = \"postgres://outboxd@db/order_service?sslmode=verify-full\"\n\
                 tables = [\"order_outbox\"]\n[kafka]\nbrokers = \"127.0.0.1:9092\"\n";
    // Debug shows everything except secrets, and these files have none.
    assert_eq!(format!("{:#?}", parse(reference).unwrap()), format!("{:#?}", parse(least).unwrap()));
}

#[test]
fn every_key_is_in_the_reference_file_and_in_the_documentation() {
    let reference = include_str!("../../config/outboxd.toml");
    let documentation = include_str!("../../docs/configuration.md");
    let tables = ["columns", "headers", "limits", "timeouts", "retention", "options"];
    let keys =
        [source::KEYS, source::COLUMN_KEYS, source::LIMIT_KEYS, source::TIMEOUT_KEYS, retention::KEYS, kafka::KEYS];
    for key in keys.into_iter().chain([load::HTTP_KEYS, load::LOG_KEYS, tracing::KEYS]).flatten() {
        let written = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} = "));
        let known =
            if tables.contains(key) { reference.contains(&format!(".{key}]")) } else { reference.lines().any(written) };
        assert!(known, "{key} is not in config/outboxd.toml");
        let row = if tables.contains(key) { format!(".{key}]") } else { format!("| `{key}` |") };
        assert!(documentation.contains(&row), "{key} is not in docs/configuration.md");
    }
}

#[test]
fn the_defaults_are_those_of_the_design() {
    let config = source_with("").unwrap();
    let source = &config.sources[0];
    assert_eq!((source.slot.as_str(), source.publication.as_str()), ("outboxd_order", "outboxd_order"));
    assert_eq!((source.mark, source.backfill, source.on_poison), (Mark::Update, Backfill::Unpublished, OnPoison::Stop));
    assert_eq!(source.mapping.topic.to_string(), "{aggregate_type}.events");
    assert_eq!(source.mapping.key.to_string(), "{aggregate_id}");
    assert_eq!(source.mapping.dead_letter_topic.to_string(), "{topic}.dead-letter");
    assert_eq!(source.limits.batch_bytes, 16 << 20);
    assert_eq!(source.timeouts.shutdown, Duration::from_secs(20));
    assert_eq!(config.kafka.position_topic, "outboxd.positions");
    assert_eq!(config.http.listen, Some(SocketAddr::from(([127, 0, 0, 1], 9464))));
    assert_eq!((config.log.format, &config.log.level), (None, &LogFilter::default()));
    let shown = ShownSource {
        source: "order".into(),
        tables: "order_outbox".into(),
        url: "postgres://u@db/shop".into(),
        slot: "outboxd_order".into(),
        publication: "outboxd_order".into(),
        topic: "{aggregate_type}.events".into(),
        brokers: "k:9092".into(),
        delivery: "exactly-once",
        mark: "update",
        kafka_options: String::new(),
    };
    assert_eq!(config.shown(), [shown]);
}

#[test]
fn default_templates_follow_renamed_columns_and_headers_keep_their_order() {
    let config =
        source_with("[source.columns]\naggregate_type = \"kind\"\n[source.headers]\nz = \"a\"\na = \"b\"").unwrap();
    let mapping = &config.sources[0].mapping;
    assert_eq!(mapping.topic.to_string(), "{kind}.events");
    assert_eq!(mapping.headers, [("z".to_owned(), "a".to_owned()), ("a".to_owned(), "b".to_owned())]);
}

#[test]
fn a_header_that_is_no_extension_of_cloudevents_is_refused() {
    let with = |header: &str, envelope: &str| {
        source_with(&format!(
            "headers.{header} = \"aggregate_id\"\nenvelope = \"{envelope}\"\ncloudevents_source = \"/orders\""
        ))
    };
    for header in ["ce_", "ce_aggregate_type", "ce_Seq", "ce_id", "ce_data"] {
        for envelope in ["cloudevents", "cloudevents-structured"] {
            let expected = "an extension's name has only a-z and 0-9 and is not that of a core attribute";
            refuses(
                with(header, envelope),
                &format!("config-invalid: outboxd.toml:5: {header} in [source.headers]: {expected}"),
            );
        }
        assert!(with(header, "event").is_ok(), "{header} means nothing to the other envelopes");
    }
    assert!(with("ce_partitionkey", "cloudevents").is_ok());
}

/// The protocol ends a password at its first zero byte.
#[test]
fn a_zero_byte_in_a_password_is_refused_wherever_it_was_written() {
    refuses(
        source_with("password = \"hun\\u0000ter2\""),
        "config-invalid: outboxd.toml:5: password in [[source]]: found a zero byte; allowed: any other character",
    );

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pw");
    std::fs::write(&file, "hun\0ter2\n").unwrap();
    refuses(
        source_with(&format!("password_file = {:?}", file.to_str().unwrap())),
        &format!(
            "config-invalid: outboxd.toml:5: password_file in [[source]]: {} holds a zero byte; expected a password",
            file.display()
        ),
    );

    let text = "[[source]]\nname = \"a\"\nurl = \"postgres://u:hun%00ter2@db/x\"\ntables = [\"o\"]\n[kafka]\nbrokers = \"k\"\n";
    refuses(parse(text), "config-invalid: outboxd.toml:3: url in [[source]]: password holds a zero byte");
}

#[test]
fn the_password_comes_from_one_place_and_is_never_shown() {
    let from_key = source_with("password = \"${DB_PASSWORD}\"").unwrap();
    assert_eq!(from_key.sources[0].password, Some(Password::Written(Secret::new("p@ss".to_owned()))));
    assert!(!format!("{from_key:?} {:?}", from_key.shown()).contains("p@ss"));

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pw"), "s3cret\n").unwrap();
    let file = folder.path().join("outboxd.toml");
    let text = "[[source]]\nname = \"a\"\nurl = \"postgres://u@db/x\"\npassword_file = \"pw\"\ntables = [\"o\"]\n[kafka]\nbrokers = \"k\"\n";
    std::fs::write(&file, text).unwrap();
    let flags = Flags { config: Some(file), ..Flags::default() };
    let config = Config::load_with(&flags, &environment).unwrap();
    assert_eq!(config.sources[0].password, Some(Password::File(folder.path().join("pw"))));
    assert_eq!(password::in_file(&folder.path().join("pw")).unwrap().expose(), "s3cret");

    let command =
        text.replace("password_file = \"pw\"", "password_command = [\"aws\", \"token\"]\npassword_ttl = \"5m\"");
    let expected = Password::Command { line: vec!["aws".into(), "token".into()], ttl: Duration::from_secs(300) };
    assert_eq!(parse(&command).unwrap().sources[0].password, Some(expected));
    refuses(
        parse(&command.replace("u@db", "u:pw@db")),
        "config-invalid: outboxd.toml:4: password_command in [[source]]: the password is given twice, here and in the URL",
    );
    refuses(
        parse(&text.replace("password_file = \"pw\"", "password_command = []")),
        "config-invalid: outboxd.toml:4: password_command in [[source]]: found no program; allowed: a program and its arguments, each a string of its own",
    );

    refuses(
        parse(&text.replace("u@db", "u:pw@db")),
        "config-invalid: outboxd.toml:4: password_file in [[source]]: the password is given twice, here and in the URL",
    );
}
