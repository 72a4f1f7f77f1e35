//! What can go wrong, as an operator sees it: a stable code, a class that says what the daemon does
//! about it, the thing that it is about, and the next step. `docs/errors.md` has a section for each
//! code, and a test holds the two together.

use std::{error::Error as StdError, fmt};

/// What the daemon does about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The arguments or the configuration are wrong. The command ends with exit code 2, before it
    /// touches anything.
    Config,
    /// The problem ends by itself or by a repair elsewhere. The daemon tries again with backoff,
    /// for ever.
    Retry,
    /// What is in memory can no longer be trusted. The daemon makes new connections and producers,
    /// and resumes from the position.
    Rebuild,
    /// Going on could lose or repeat rows. The daemon stops this source until a person has acted.
    /// Exit code 3.
    Halt,
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal, $class:ident, $hint:literal;)*) => {
        /// The stable name of an error, kebab-case in logs, metrics, `/status` and
        /// `docs/errors.md`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code { $($(#[doc = $doc])* $name,)* }

        impl Code {
            /// Every code there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code as it is printed.
            #[must_use]
            pub(crate) fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// What the daemon does about it.
            #[must_use]
            pub(crate) fn class(self) -> Class {
                match self { $(Self::$name => Class::$class,)* }
            }

            /// The operator's next step.
            #[must_use]
            pub(crate) fn hint(self) -> &'static str {
                match self { $(Self::$name => $hint,)* }
            }
        }
    };
}

/// What only a daemon does by itself, at the end of a hint.
const DAEMON_ONLY: [&str; 2] = ["; outboxd keeps trying", "; outboxd reconnects"];

impl Code {
    /// The next step of a person who ran a command. A command does not go on by itself.
    #[must_use]
    pub(crate) fn advice(self) -> &'static str {
        let hint = self.hint();
        DAEMON_ONLY.iter().find_map(|end| hint.strip_suffix(end)).unwrap_or(hint)
    }
}

codes! {
    /// A configuration file, flag or variable that cannot be read or does not make sense.
    ConfigInvalid = "config-invalid", Config, "correct the value that the message names; config/outboxd.toml shows every key";
    /// A key that outboxd does not know.
    ConfigUnknownKey = "config-unknown-key", Config, "remove the key or spell it as the message suggests; config/outboxd.toml shows every key";
    /// A librdkafka option that outboxd sets itself, or that librdkafka refuses.
    KafkaOptionInvalid = "kafka-option-invalid", Config, "remove or correct the option under [kafka.options]";

    /// `recover` will not do what was asked, and has changed nothing.
    RecoverRefused = "recover-refused", Config, "nothing was changed; `outboxd status` shows where the source stands, the runbook which strategy fits";

    /// `setup` will not do what was asked, and has changed nothing of slot and position.
    SetupRefused = "setup-refused", Config, "slot and position are as they were; the message says what stands in the way";

    /// `replay` will not do what was asked, and has published nothing.
    ReplayRefused = "replay-refused", Config, "nothing was published; the message says what stands in the way";

    /// `verify` cannot write what it sorts.
    TempDirUnusable = "temp-dir-unusable", Config, "name a directory with room with --temp-dir: about 150 bytes for each row";

    /// No server answered at any host of the URL in time.
    PostgresUnreachable = "postgres-unreachable", Retry, "check host, port and network; outboxd keeps trying";
    /// The server refused the user, the password or the database.
    PostgresAuthFailed = "postgres-auth-failed", Retry, "check user, password, database and pg_hba.conf (replication connections are matched by the database name); outboxd keeps trying";
    /// TLS could not be established as `sslmode` demands.
    PostgresTlsFailed = "postgres-tls-failed", Retry, "check sslmode, sslrootcert and the server's certificate";
    /// The server is starting, stopping, or ended the session.
    PostgresUnavailable = "postgres-unavailable", Retry, "the server is restarting or ended the session; outboxd reconnects";
    /// All connections, walsenders or replication slots of the server are taken.
    PostgresExhausted = "postgres-exhausted", Retry, "raise max_wal_senders, max_replication_slots or max_connections, or drop what is unused";
    /// A connection pooler answers in the server's place.
    PostgresPooler = "postgres-pooler", Halt, "give outboxd the server's own host and port: replication cannot go through a connection pooler";
    /// The server sent what the protocol does not allow, or a message over the size limit.
    PostgresProtocol = "postgres-protocol", Rebuild, "reconnecting; if it repeats, a proxy that does not pass the replication protocol through is the usual cause";
    /// A statement failed for a reason that has no code of its own.
    PostgresQueryFailed = "postgres-query-failed", Retry, "the message carries the server's SQLSTATE and text; outboxd keeps trying";
    /// The role lacks a right.
    PostgresDenied = "postgres-denied", Retry, "run `outboxd setup --admin-url …`, or grant what the message names: LOGIN REPLICATION, SELECT on the table, UPDATE on the mark column";
    /// The server is of a major version that outboxd does not know how to work with.
    PostgresTooOld = "postgres-too-old", Halt, "outboxd needs Postgres 15 or later: upgrade the server";
    /// The server does not write what logical decoding needs.
    WalLevel = "wal-level", Halt, "set wal_level = logical in postgresql.conf and restart the server, then start outboxd again";
    /// A configured table does not exist (yet).
    TableMissing = "table-missing", Retry, "create the table (`outboxd setup` can) or correct `tables`; outboxd keeps trying";
    /// A configured table has children by INHERITS, whose rows the stream does not send.
    TableInherited = "table-inherited", Retry, "take the children from the table (ALTER TABLE … NO INHERIT), and move their rows into it; outboxd keeps trying";
    /// A configured table lacks a column that the mapping needs, or has it with a type that cannot
    /// serve.
    ColumnInvalid = "column-invalid", Retry, "add the column or map it under [source.columns]; outboxd keeps trying";
    /// The publication does not exist, and outboxd may not create it.
    PublicationMissing = "publication-missing", Retry, "run `outboxd setup`, or create the publication with publish = 'insert'";
    /// The publication or one of its tables is not the one whose rows were published so far.
    PublicationChanged = "publication-changed", Halt, "rows may have been passed over: see the runbook, then `outboxd recover`";

    /// Something that `setup` makes is missing, and `auto_setup` is off.
    SetupMissing = "setup-missing", Retry, "run `outboxd setup`, or set auto_setup = true";

    /// Another session streams from the slot: another instance leads.
    SlotInUse = "slot-in-use", Retry, "another instance leads; this one stands by";
    /// A slot does not exist any more, although rows were published through it.
    SlotMissing = "slot-missing", Halt, "the slot was dropped: see the runbook, then `outboxd recover`";
    /// The server removed WAL that the slot still needed, or invalidated the slot.
    SlotLost = "slot-lost", Halt, "the server invalidated the slot (max_slot_wal_keep_size, idle_replication_slot_timeout): see the runbook, then `outboxd recover`";
    /// The slot was advanced past what was published, or dropped and made again.
    SlotAhead = "slot-ahead", Halt, "something else advanced the slot past the published position, or made it anew: see the runbook, then `outboxd recover`";
    /// A slot exists but the position topic has no position for it.
    PositionLost = "position-lost", Halt, "the position topic was deleted or emptied: see the runbook, then `outboxd recover`";
    /// The position topic or a record in it cannot be what outboxd wrote.
    PositionInvalid = "position-invalid", Halt, "see the runbook: the position topic must have one partition and only outboxd may write to it";
    /// A transaction that is still open hides the end of the position topic.
    PositionUnstable = "position-unstable", Retry, "a transaction is open on the position topic: it ends by itself at its transaction.timeout.ms; if it does not, see the runbook before you end it; outboxd keeps trying";
    /// A record at the end of the position topic lies before an earlier one.
    PositionRegressed = "position-regressed", Halt, "two daemons with different slots share a source name, or the topic was restored: see the runbook";
    /// The server is not the one from which rows were published.
    SystemChanged = "system-changed", Halt, "another cluster answers at this URL: see the runbook, then `outboxd recover`";
    /// The server's history branched off before the published position.
    HistoryDiverged = "history-diverged", Halt, "the server lost transactions that were published (failover or restore): see the runbook, then `outboxd recover`";

    /// A row cannot become a record, and `on_poison = "stop"`.
    RowInvalid = "row-invalid", Halt, "repair the cause that the message names, or set on_poison = \"dead-letter\"";
    /// A record is larger than the broker accepts, and `on_poison = "stop"`.
    RowTooLarge = "row-too-large", Halt, "raise max.message.bytes of the topic, or set on_poison = \"dead-letter\"";

    /// A row makes a message of the stream that is larger than `message_bytes`.
    MessageTooLarge = "message-too-large", Halt, "raise message_bytes under [source.limits] above the size that the message names, then start outboxd again";
    /// Kafka refuses the dead letter of a row, and with `mark = "delete"` also one without the row's
    /// content.
    DeadLetterRefused = "dead-letter-refused", Halt, "repair what the message names, such as max.message.bytes of the dead-letter topic; then start outboxd again";

    /// No broker answered in time.
    KafkaUnreachable = "kafka-unreachable", Retry, "check brokers, listeners and network; outboxd keeps trying";
    /// The brokers refused the credentials.
    KafkaAuthFailed = "kafka-auth-failed", Retry, "check the token, or sasl.* and ssl.* under [kafka.options]; outboxd keeps trying";
    /// The brokers refused a right on a topic, on the transactional.id or on the cluster.
    KafkaDenied = "kafka-denied", Retry, "grant WRITE and DESCRIBE on the topic and the transactional.id, and READ on the position topic; outboxd keeps trying";
    /// A topic does not exist and the brokers do not create it.
    TopicMissing = "topic-missing", Retry, "create the topic (`outboxd setup` can); outboxd keeps trying";
    /// Another producer took over the transactional.id.
    KafkaFenced = "kafka-fenced", Rebuild, "another instance took over; this one goes back to standby";
    /// A Kafka transaction failed and was aborted.
    KafkaTransactionFailed = "kafka-transaction-failed", Rebuild, "resuming from the position in Kafka";
    /// The brokers refuse every time that a record could have.
    KafkaClock = "kafka-clock", Retry, "set the clocks of Postgres, the brokers and this host right, or raise message.timestamp.before.max.ms and message.timestamp.after.max.ms of the topic; outboxd keeps trying";
    /// It is not known whether a Kafka transaction was committed.
    KafkaCommitUnknown = "kafka-commit-unknown", Rebuild, "resuming from the position in Kafka, which tells whether it was";

    /// Marking rows failed for a reason that has no code of its own.
    MarkFailed = "mark-failed", Retry, "the rows are published and will be marked after the reconnect";
    /// Published rows or old partitions cannot be let go, or new partitions not be made.
    RetentionFailed = "retention-failed", Retry, "nothing is lost and rows are published: repair what the message names; the daemon tries again with its next round";
    /// The configured bound for closing down was reached with work left.
    ShutdownTimeout = "shutdown-timeout", Rebuild, "nothing is lost: the next start resumes from the position";
    /// A state that the code holds to be impossible.
    Internal = "internal", Halt, "please report it with the log around it";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One error, ready to be shown: `code: what happened (to what): cause`.
#[derive(Debug)]
pub struct Error {
    code: Code,
    message: String,
    cause: Option<Box<dyn StdError + Send + Sync>>,
}

/// The result of anything that can end in an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error. `message` says what happened, and to what.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), cause: None }
    }

    /// Keeps the library's error as the cause.
    #[must_use]
    pub(crate) fn because(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Puts the thing that it is about in front of the message, `about: message`. Code and cause
    /// stay.
    #[must_use]
    pub(crate) fn about(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// What the daemon does about it.
    #[must_use]
    pub fn class(&self) -> Class {
        self.code.class()
    }

    /// The operator's next step.
    #[must_use]
    pub(crate) fn hint(&self) -> &'static str {
        self.code.hint()
    }

    /// What happened and why, without the code and the hint.
    #[must_use]
    pub fn detail(&self) -> String {
        let mut text = self.message.clone();
        let mut cause: Option<&dyn StdError> = self.cause.as_deref().map(|cause| cause as &dyn StdError);
        while let Some(error) = cause {
            let line = error.to_string();
            // Many libraries repeat the text of their source in their own.
            if !text.ends_with(&line) {
                text.push_str(": ");
                text.push_str(&line);
            }
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.as_deref().map(|cause| cause as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_kebab_case_and_unique_and_has_a_next_step() {
        let mut seen = std::collections::HashSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{code} stands twice");
            assert!(code.as_str().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{code}");
            assert!(!code.hint().is_empty(), "{code} has no hint");
        }
    }

    #[test]
    fn what_only_a_daemon_does_is_the_last_part_of_a_hint() {
        for code in Code::ALL {
            for word in ["keeps trying", "reconnects"] {
                assert!(!code.advice().contains(word), "{code}: {}", code.advice());
            }
        }
    }

    #[test]
    fn an_error_shows_its_code_and_its_causes_once() {
        let cause = std::io::Error::other("connection refused");
        let error = Error::new(Code::PostgresUnreachable, "db:5432").because(cause);
        assert_eq!(error.to_string(), "postgres-unreachable: db:5432: connection refused");
        assert_eq!(error.class(), Class::Retry);
    }
}
