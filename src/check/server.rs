//! The server as a whole, the role, and whether replication connections reach the server.

use super::Findings;
use crate::{
    Code,
    config::{Mark, Source},
    postgres::{
        ConnectOptions,
        catalog::{ServerInfo, SlotInfo, server::RoleInfo},
    },
};

/// Rule 16: before these minor versions ALTER PUBLICATION with open writers can lose rows.
const PUBLICATION_FIX: &[(u32, u32)] = &[(15, 13), (16, 9), (17, 5)];

pub(super) fn check(server: &ServerInfo, source: &Source, slot: Option<&SlotInfo>, findings: &mut Findings) {
    version(server, findings);
    match server.wal_level.as_str() {
        "logical" => findings.ok("wal_level", "logical"),
        other => findings.failed("wal_level", Code::WalLevel, format!("wal_level is {other}")),
    }
    capacity(server, slot, findings);
    retention(server, findings);
    silence(server, source, findings);
    synchronous(server, findings);
    if server.in_recovery {
        standby(server, source, findings);
    }
    if server.encoding == "SQL_ASCII" {
        findings.warning(
            "encoding",
            "the database is SQL_ASCII: nothing keeps bytes that are not UTF-8 out of it",
            "a row with such bytes cannot become a record; see on_poison",
        );
    }
    if source.failover {
        failover(server, findings);
    }
}

fn version(server: &ServerInfo, findings: &mut Findings) {
    let (major, minor) = (server.major(), server.minor());
    if major < 15 {
        findings.failed("version", Code::PostgresTooOld, format!("the server is Postgres {}", server.version_text));
        return;
    }
    match PUBLICATION_FIX.iter().find(|(of, fixed)| *of == major && minor < *fixed) {
        Some((_, fixed)) => findings.warning(
            "version",
            format!("Postgres {major}.{minor} may pass rows over while ALTER PUBLICATION runs beside open writers"),
            format!("upgrade to {major}.{fixed} or later, or never alter the publication while rows are written"),
        ),
        None => findings.ok("version", format!("Postgres {major}.{minor}")),
    }
}

fn capacity(server: &ServerInfo, slot: Option<&SlotInfo>, findings: &mut Findings) {
    let (max, used) = (i64::from(server.max_replication_slots), server.replication_slots);
    let text = format!("{used} of {max} in use (max_replication_slots)");
    if slot.is_none() && used >= max {
        findings.failed("slots", Code::PostgresExhausted, text);
    } else {
        findings.ok("slots", text);
    }
    let (max, used) = (i64::from(server.max_wal_senders), server.wal_senders);
    let text = format!("{used} of {max} in use (max_wal_senders)");
    if used < max {
        findings.ok("walsenders", text);
    } else if slot.is_some_and(|slot| slot.active) {
        findings.warning("walsenders", text, "one of them is this source's; a second instance cannot stand by");
    } else {
        findings.failed("walsenders", Code::PostgresExhausted, text);
    }
}

fn retention(server: &ServerInfo, findings: &mut Findings) {
    match server.max_slot_wal_keep_mb {
        -1 => {
            let text = "no limit (max_slot_wal_keep_size): while the daemon is down, WAL gathers on disk";
            findings.ok("retention", text);
        }
        limit => findings.ok(
            "retention",
            format!("{limit} MB (max_slot_wal_keep_size): a daemon that falls further behind loses its slot"),
        ),
    }
    if let Some(timeout) = &server.idle_slot_timeout {
        findings.warning(
            "retention",
            format!("idle_replication_slot_timeout is {timeout}: a daemon that is down for longer loses its slot"),
            "set it to 0, or well above the longest time that the daemon may be down",
        );
    }
}

/// Compares `timeouts.status` with the time after which the server ends a silent stream.
fn silence(server: &ServerInfo, source: &Source, findings: &mut Findings) {
    const ABOUT: &str = "wal_sender_timeout";
    let (patience, status) = (server.wal_sender_timeout, source.timeouts.status);
    if patience.is_zero() {
        let hint = "set it: while the walsender of a daemon whose machine vanished lives, no other instance takes over";
        findings.warning(ABOUT, "it is 0: the server waits for ever for a daemon that is gone", hint);
    } else if patience <= status {
        let text =
            format!("it is {patience:?}, and the daemon reports every {status:?}: the server may end the stream");
        findings.warning(ABOUT, text, "lower timeouts.status to a third of it or less, or raise it");
    } else {
        findings.ok(ABOUT, format!("{patience:?}; the daemon reports every {status:?}"));
    }
}

fn synchronous(server: &ServerInfo, findings: &mut Findings) {
    if server.may_wait_for_us() {
        findings.warning(
            "synchronous_standby_names",
            format!(
                "{:?} can take the daemon for a synchronous standby: commits would wait for its marks",
                server.synchronous_standby_names
            ),
            "name the standbys one by one in synchronous_standby_names; the daemon's application_name is outboxd",
        );
    }
}

fn standby(server: &ServerInfo, source: &Source, findings: &mut Findings) {
    let hint = "name the primary in the URL, or several hosts with target_session_attrs=read-write";
    if source.mark != Mark::None {
        findings.failed_with("standby", Code::PostgresUnavailable, "the server is a standby: it takes no marks", hint);
    } else if server.major() < 16 {
        let text = "the server is a standby: before Postgres 16 it cannot decode";
        findings.failed_with("standby", Code::PostgresUnavailable, text, hint);
    } else {
        findings.warning("standby", "the server is a standby: it decodes what it has replayed", hint);
    }
}

/// Rule 18.
fn failover(server: &ServerInfo, findings: &mut Findings) {
    if server.major() < 17 {
        let text = format!("failover slots need Postgres 17, and the server is {}", server.major());
        findings.failed_with("failover", Code::ConfigInvalid, text, "set failover = false");
        return;
    }
    match &server.synchronized_standby_slots {
        Some(slots) => findings.ok("failover", format!("waits for standbys {slots} (synchronized_standby_slots)")),
        None => findings.warning(
            "failover",
            "synchronized_standby_slots is empty: rows may be published that a promoted standby does not have",
            "name the standbys' physical slots in synchronized_standby_slots",
        ),
    }
}

/// pg_hba.conf has lines of its own only for physical replication. But a proxy or a pooler may let
/// ordinary sessions through and refuse a replication connection.
///
/// A session that works has the right, whatever the attributes of `role` say. They are those of the
/// role that the session has taken on (`ALTER ROLE … SET role`), and some clouds give the right to
/// the members of a role of theirs.
pub(super) async fn check_replication(connect: &ConnectOptions, role: &RoleInfo, findings: &mut Findings) {
    let identity = async {
        let mut client = connect.replication().await?;
        let system = client.identify_system().await?;
        client.close().await;
        Ok(system)
    };
    match identity.await {
        Ok(system) => {
            findings.ok("replication", format!("system {}, timeline {}", system.system_id, system.timeline));
            findings.ok("role", format!("{} may replicate", role.name));
        }
        Err(error) => {
            findings.error("replication", &error);
            if !role.replication && !role.superuser {
                findings.failed("role", Code::PostgresDenied, format!("role {} lacks REPLICATION", role.name));
            }
        }
    }
}
