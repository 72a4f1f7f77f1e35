//! libpq's parameters that have no effect here. Each is passed over where its value asks for what
//! outboxd does anyway. With another value the URL is refused, and the message says why.
//!
//! Page: "Parameter Key Words" in "Database Connection Control Functions".

use super::{Result, invalid};

/// A parameter of libpq that outboxd does not carry out.
struct Other {
    name: &'static str,
    /// Values that ask for what outboxd does anyway.
    passed_over: Values,
    /// Why any other value is refused. A URL must not seem to do what it does not.
    why: &'static str,
}

enum Values {
    All,
    These(&'static [&'static str]),
}

const NONE: Values = Values::These(&[]);

const OTHERS: &[Other] = &[
    other("client_encoding", Values::These(&["UTF8", "utf8", "UTF-8", "utf-8"]), "outboxd speaks UTF-8; remove it"),
    other("fallback_application_name", Values::All, ""),
    other("gssdelegation", Values::These(&["0"]), "outboxd has no GSSAPI; remove it"),
    other(
        "gssencmode",
        Values::These(&["disable", "prefer"]),
        "outboxd has no GSSAPI: it must be one of disable, prefer; encrypt with sslmode instead",
    ),
    other("gsslib", Values::All, ""),
    other("hostaddr", NONE, "write the address as the host"),
    other("krbsrvname", Values::All, ""),
    other("load_balance_hosts", Values::These(&["disable"]), "outboxd tries the hosts in their order; remove it"),
    other("oauth_client_id", NONE, OAUTH),
    other("oauth_client_secret", NONE, OAUTH),
    other("oauth_issuer", NONE, OAUTH),
    other("oauth_scope", NONE, OAUTH),
    other("replication", NONE, "outboxd opens both kinds of sessions and sets it itself; remove it"),
    other("require_auth", NONE, "outboxd cannot demand a method; use channel_binding=require or sslmode=verify-full"),
    other("requirepeer", NONE, "outboxd does not look who owns the server's socket; remove it"),
    other("service", NONE, "outboxd reads no service file; write its entries into the URL"),
    other("servicefile", NONE, "outboxd reads no service file; write its entries into the URL"),
    other("ssl_max_protocol_version", NONE, "outboxd takes the newest version that both know; remove it"),
    other(
        "ssl_min_protocol_version",
        Values::These(&["TLSv1", "TLSv1.1", "TLSv1.2"]),
        "outboxd takes TLS 1.2 and later: it must be TLSv1.2 or lower",
    ),
    other("sslcertmode", Values::These(&["allow"]), "a certificate is sent where sslcert names one; remove it"),
    other("sslcompression", Values::All, ""),
    other("sslcrl", NONE, REVOCATION),
    other("sslcrldir", NONE, REVOCATION),
    other("sslkeylogfile", NONE, "outboxd writes its session keys nowhere; remove it"),
    other("sslnegotiation", Values::These(&["postgres"]), "outboxd asks the server for TLS first; remove it"),
    other("sslpassword", NONE, "outboxd takes keys without a passphrase, so that none gets into a log"),
    other("sslsni", Values::These(&["1"]), "outboxd sends the host's name; remove it"),
];

const OAUTH: &str = "outboxd has no OAuth; use a password or a certificate";
const REVOCATION: &str = "outboxd reads no revocation lists, and would trust what they revoke; remove it";

const fn other(name: &'static str, passed_over: Values, why: &'static str) -> Other {
    Other { name, passed_over, why }
}

/// Passes a parameter over that changes nothing here.
///
/// # Errors
/// Why it cannot stand in the URL. The text does not repeat the value, which may be a secret.
pub(super) fn pass_over(name: &str, value: &str) -> Result<()> {
    let Some(other) = OTHERS.iter().find(|other| other.name == name) else {
        return invalid(format!("it has a parameter {name:?} that outboxd does not know"));
    };
    match other.passed_over {
        Values::All => Ok(()),
        Values::These(values) if values.contains(&value) => Ok(()),
        Values::These(_) => invalid(format!("{name}: {}", other.why)),
    }
}
