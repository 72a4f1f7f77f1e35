//! A configuration that was read again: what of it can change while the daemon runs, and what
//! cannot.
//!
//! What can change is what a session of a source reads when it begins, so that its next session may
//! have it. Everything that says which rows go where stays as it was at the start.

use super::{Config, Http, Kafka, Limits, Log, Mapping, Retention, Source, Timeouts};

/// What came of reading the configuration again.
#[derive(Debug)]
pub(crate) struct Reloaded {
    /// The configuration from now on: the new values of what can change, the old ones of the rest.
    pub(crate) config: Config,
    /// The keys that have changed.
    pub(crate) changed: Vec<String>,
    /// The keys that stand otherwise in the file, and need a restart.
    pub(crate) needs_restart: Vec<String>,
}

impl Config {
    /// Takes over from `new` what can change.
    pub(crate) fn reload(&self, new: &Self) -> Reloaded {
        // A key that is added here has to say whether it can change.
        let Self { sources, kafka, http, log, tracing } = new;
        let mut config = self.clone();
        let mut found = Found::default();
        found.log(&mut config.log, log);
        found.http(&config.http, http);
        found.within.clear();
        found.keeps("tracing", &config.tracing, tracing);
        found.kafka(&mut config.kafka, kafka);
        for source in &mut config.sources {
            match sources.iter().find(|new| new.name == source.name) {
                Some(new) => found.source(source, new),
                None => found.needs_restart.push(format!("{} is no source any more", source.name)),
            }
        }
        for new in sources.iter().filter(|new| !config.sources.iter().any(|source| source.name == new.name)) {
            found.needs_restart.push(format!("{} is a new source", new.name));
        }
        Reloaded { config, changed: found.changed, needs_restart: found.needs_restart }
    }
}

/// The keys that differ.
#[derive(Default)]
struct Found {
    changed: Vec<String>,
    needs_restart: Vec<String>,
    /// The table of the keys that are being compared, such as `order.limits.`.
    within: String,
}

impl Found {
    /// A key that can change.
    fn takes<T: PartialEq + Clone>(&mut self, key: &str, value: &mut T, new: &T) {
        if value != new {
            value.clone_from(new);
            self.changed.push(format!("{}{key}", self.within));
        }
    }

    /// A key that needs a restart.
    fn keeps<T: PartialEq>(&mut self, key: &str, value: &T, new: &T) {
        if value != new {
            self.needs_restart.push(format!("{}{key}", self.within));
        }
    }

    fn log(&mut self, log: &mut Log, new: &Log) {
        let Log { format, level } = new;
        "log.".clone_into(&mut self.within);
        self.keeps("format", &log.format, format);
        self.takes("level", &mut log.level, level);
    }

    fn http(&mut self, http: &Http, new: &Http) {
        let Http { listen } = new;
        "http.".clone_into(&mut self.within);
        self.keeps("listen", &http.listen, listen);
    }

    fn kafka(&mut self, kafka: &mut Kafka, new: &Kafka) {
        let Kafka {
            brokers,
            delivery,
            position_topic,
            topic_partitions,
            topic_replication,
            transaction_timeout,
            delivery_timeout,
            token,
            options,
            files,
        } = new;
        "kafka.".clone_into(&mut self.within);
        self.keeps("brokers", &kafka.brokers, brokers);
        self.keeps("delivery", &kafka.delivery, delivery);
        self.keeps("position_topic", &kafka.position_topic, position_topic);
        self.takes("topic_partitions", &mut kafka.topic_partitions, topic_partitions);
        self.takes("topic_replication", &mut kafka.topic_replication, topic_replication);
        self.takes("transaction_timeout", &mut kafka.transaction_timeout, transaction_timeout);
        self.takes("delivery_timeout", &mut kafka.delivery_timeout, delivery_timeout);
        self.takes("token_file or token_command", &mut kafka.token, token);
        self.takes("options", &mut kafka.options, options);
        // A client of librdkafka reads its certificates once, so what they are signed with is as good
        // as a key of ours.
        self.takes("options (a file that they name)", &mut kafka.files, files);
    }

    fn source(&mut self, source: &mut Source, new: &Source) {
        let Source {
            name,
            url,
            password,
            tables,
            slot,
            publication,
            failover,
            auto_setup,
            mark,
            backfill,
            backfill_order_by,
            mapping,
            on_poison,
            limits,
            timeouts,
            retention,
        } = new;
        self.within = format!("{name}.");
        self.keeps("url", &source.url, url);
        self.takes("password", &mut source.password, password);
        self.keeps("tables", &source.tables, tables);
        self.keeps("slot", &source.slot, slot);
        self.keeps("publication", &source.publication, publication);
        self.keeps("failover", &source.failover, failover);
        self.keeps("auto_setup", &source.auto_setup, auto_setup);
        self.keeps("mark", &source.mark, mark);
        self.keeps("backfill", &source.backfill, backfill);
        self.keeps("backfill_order_by", &source.backfill_order_by, backfill_order_by);
        self.mapping(&source.mapping, mapping);
        self.keeps("on_poison", &source.on_poison, on_poison);
        self.retention(source, *retention);
        self.within = format!("{name}.limits.");
        self.limits(&mut source.limits, limits);
        self.within = format!("{name}.timeouts.");
        self.timeouts(&mut source.timeouts, timeouts);
    }

    fn mapping(&mut self, mapping: &Mapping, new: &Mapping) {
        let Mapping { topic, key, envelope, columns, headers, dead_letter_topic } = new;
        self.keeps("topic", &mapping.topic, topic);
        self.keeps("key", &mapping.key, key);
        self.keeps("envelope", &mapping.envelope, envelope);
        self.keeps("columns", &mapping.columns, columns);
        self.keeps("headers", &mapping.headers, headers);
        self.keeps("dead_letter_topic", &mapping.dead_letter_topic, dead_letter_topic);
    }

    /// The new retention was checked with the new `mark`, which needs a restart.
    fn retention(&mut self, source: &mut Source, new: Option<Retention>) {
        if new.is_none_or(|new| new.fits(source.mark).is_ok()) {
            self.takes("retention", &mut source.retention, &new);
        } else {
            self.keeps("retention", &source.retention, &new);
        }
    }

    fn limits(&mut self, limits: &mut Limits, new: &Limits) {
        let Limits {
            batch_rows,
            batch_bytes,
            linger,
            in_flight_bytes,
            unmarked_rows,
            backfill_chunk_rows,
            marker_connections,
            message_bytes,
        } = new;
        self.takes("batch_rows", &mut limits.batch_rows, batch_rows);
        self.takes("batch_bytes", &mut limits.batch_bytes, batch_bytes);
        self.takes("linger", &mut limits.linger, linger);
        self.takes("in_flight_bytes", &mut limits.in_flight_bytes, in_flight_bytes);
        self.takes("unmarked_rows", &mut limits.unmarked_rows, unmarked_rows);
        self.takes("backfill_chunk_rows", &mut limits.backfill_chunk_rows, backfill_chunk_rows);
        self.takes("marker_connections", &mut limits.marker_connections, marker_connections);
        self.takes("message_bytes", &mut limits.message_bytes, message_bytes);
    }

    fn timeouts(&mut self, timeouts: &mut Timeouts, new: &Timeouts) {
        let Timeouts { connect, statement, lock, status, idle_advance, shutdown, backoff_max } = new;
        self.takes("connect", &mut timeouts.connect, connect);
        self.takes("statement", &mut timeouts.statement, statement);
        self.takes("lock", &mut timeouts.lock, lock);
        self.takes("status", &mut timeouts.status, status);
        self.takes("idle_advance", &mut timeouts.idle_advance, idle_advance);
        self.takes("shutdown", &mut timeouts.shutdown, shutdown);
        self.takes("backoff_max", &mut timeouts.backoff_max, backoff_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flags;

    const HEAD: &str = "[[source]]\nname = \"order\"\nurl = \"postgres://u@db/shop\"\ntables = [\"order_outbox\"]\n";

    fn parse(text: &str) -> Config {
        Config::from_text(text, &Flags::default(), &|_| None).unwrap()
    }

    /// A file with one source.
    fn file(source: &str, rest: &str) -> Config {
        parse(&format!("{HEAD}{source}\n[kafka]\nbrokers = \"k\"\n{rest}\n"))
    }

    #[test]
    fn limits_timeouts_passwords_retention_and_the_log_level_change() {
        let old = file("", "");
        let new = file(
            "password = \"secret\"\n[source.limits]\nbatch_rows = 7\n[source.timeouts]\nstatus = \"1s\"\n\
             [source.retention]\nkeep = \"7d\"",
            "delivery_timeout = \"9s\"\noptions.\"linger.ms\" = 3\n[log]\nlevel = \"debug\"",
        );
        let reloaded = old.reload(&new);
        let expected = "log.level, kafka.delivery_timeout, kafka.options, order.password, order.retention, \
                        order.limits.batch_rows, order.timeouts.status";
        assert_eq!(reloaded.changed.join(", "), expected);
        assert_eq!(reloaded.needs_restart, [""; 0]);
        let source = &reloaded.config.sources[0];
        assert_eq!((source, &reloaded.config.kafka), (&new.sources[0], &new.kafka));
        assert_eq!(reloaded.config.log.level, new.log.level);
        let again = reloaded.config.reload(&new);
        assert_eq!((again.changed, again.needs_restart), (Vec::new(), Vec::new()));
    }

    #[test]
    fn what_says_which_rows_go_where_stays_and_is_named_each_time() {
        let old = file("", "");
        let new = file(
            "mark = \"delete\"\nbackfill = \"none\"\ntopic = \"events\"\n[source.columns]\nid = \"event_id\"",
            "delivery = \"at-least-once\"\n[http]\nlisten = \"off\"\n[log]\nformat = \"json\"",
        );
        let reloaded = old.reload(&new);
        let expected =
            "log.format, http.listen, kafka.delivery, order.mark, order.backfill, order.topic, order.columns";
        assert_eq!(reloaded.needs_restart.join(", "), expected);
        assert_eq!(reloaded.changed, [""; 0]);
        assert_eq!((&reloaded.config.sources, &reloaded.config.kafka), (&old.sources, &old.kafka));
        assert_eq!(reloaded.config.reload(&new).needs_restart, reloaded.needs_restart);
    }

    #[test]
    fn sources_neither_come_nor_go() {
        let old = Config::of_names(&["order", "user"]);
        let reloaded = old.reload(&Config::of_names(&["order", "stock"]));
        assert_eq!(reloaded.needs_restart, ["user is no source any more", "stock is a new source"]);
        assert_eq!(reloaded.config.sources, old.sources);
    }

    #[test]
    fn a_retention_that_the_mark_of_now_does_not_allow_waits_for_the_restart() {
        let old = file("mark = \"delete\"", "");
        let reloaded = old.reload(&file("[source.retention]\nkeep = \"7d\"", ""));
        assert_eq!(reloaded.needs_restart, ["order.mark", "order.retention"]);
        assert_eq!(reloaded.config.sources[0].retention, None);
    }

    #[test]
    fn a_certificate_that_was_replaced_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let options = format!("options.\"ssl.ca.location\" = {path:?}");
        let missing = file("", &options);
        std::fs::write(&path, "a certificate").unwrap();
        let there = file("", &options);
        assert_eq!(there.reload(&file("", &options)).changed, [""; 0]);
        assert_eq!(missing.reload(&there).changed, ["kafka.options (a file that they name)"]);
    }
}
