//! The replication slot.

use super::Findings;
use crate::{
    Code,
    config::Source,
    postgres::catalog::{ServerInfo, SlotInfo},
    source::verdict::require_own,
};

pub(super) fn check(slot: Option<&SlotInfo>, server: &ServerInfo, source: &Source, findings: &mut Findings) {
    let about = format!("slot {}", source.slot);
    let Some(slot) = slot else {
        if source.auto_setup {
            findings.ok(&about, "does not exist yet: `run` makes it");
        } else {
            findings.failed(&about, Code::SetupMissing, "it does not exist, and auto_setup is off");
        }
        return;
    };
    if let Err(error) = require_own(&source.slot, slot, &server.database) {
        findings.failed_with(&about, error.code(), error.detail(), "choose another name with `slot`");
        return;
    }
    if let Some(reason) = slot.lost() {
        findings.failed(&about, Code::SlotLost, format!("the server invalidated it: {reason}"));
        return;
    }
    let status = slot.wal_status.as_deref().unwrap_or("unknown");
    if status == "unreserved" {
        findings.warning(
            &about,
            "it is past max_slot_wal_keep_size: the next checkpoint may take its WAL away",
            "start the daemon now, or raise max_slot_wal_keep_size",
        );
    }
    let user = match slot.active_pid {
        Some(pid) => format!("an instance streams from it (pid {pid})"),
        None => "nobody streams from it".to_owned(),
    };
    findings.ok(&about, format!("confirmed {}, wal_status {status}; {user}", slot.confirmed_flush));
    if source.failover && !slot.failover && server.major() >= 17 {
        findings.warning(
            &about,
            "failover = true, and the slot is not a failover slot",
            "it was made before: see the runbook of `recover` for how to make it anew",
        );
    }
}
