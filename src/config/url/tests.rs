//! What a URL means, and that no error or debug output shows a password.

use super::*;

fn parse(url: &str) -> PostgresUrl {
    url.parse().unwrap()
}

fn refused(url: &str) -> String {
    url.parse::<PostgresUrl>().unwrap_err()
}

#[test]
fn the_full_form() {
    let url = parse(
        "postgresql://us%40er:p%3A%2F%40w@db1,[::1]:5433/or%20der?sslmode=verify-full&sslrootcert=/ca.pem\
         &connect_timeout=3&application_name=x&options=-c%20geqo%3Doff&channel_binding=require&keepalives_idle=7",
    );
    assert_eq!(url.hosts, [Host::Tcp("db1".into(), 5432), Host::Tcp("::1".into(), 5433)]);
    assert_eq!(url.hosts[1].to_string(), "[::1]:5433");
    assert_eq!((url.user.as_str(), url.database()), ("us@er", "or der"));
    assert_eq!(url.password, Some(Secret::new("p:/@w".into())));
    assert_eq!(url.tls.mode, SslMode::VerifyFull);
    assert_eq!(url.tls.roots, Roots::File("/ca.pem".into()));
    assert_eq!(url.options.as_deref(), Some("-c geqo=off"));
    assert_eq!(url.channel_binding, ChannelBinding::Require);
    assert_eq!(url.keepalive.unwrap().idle, Duration::from_secs(7));
    assert_eq!(url.connect_timeout, Some(Duration::from_secs(3)));
    assert!(url.read_write, "several hosts look for the one that can be written");
}

#[test]
fn the_short_form_has_libpqs_defaults() {
    let url = parse("postgres://me@h");
    assert_eq!(url.hosts, [Host::Tcp("h".into(), 5432)]);
    assert_eq!(url.database(), "me");
    assert_eq!(url.tls.mode, SslMode::Prefer);
    assert!(!url.read_write);
    assert_eq!(url.connect_timeout, None);
    assert_eq!(parse("postgres://me@h?connect_timeout=0").connect_timeout, None);
}

#[test]
fn sockets() {
    let path = Host::Unix("/run/pg/.s.PGSQL.5433".into());
    assert_eq!(parse("postgres://me@%2Frun%2Fpg:5433/db").hosts, std::slice::from_ref(&path));
    assert_eq!(parse("postgres://me@/db?host=/run/pg&port=5433").hosts, std::slice::from_ref(&path));
    assert_eq!(parse("postgres://me@127.0.0.1:5433/db?host=/run/pg").hosts, std::slice::from_ref(&path));
    assert_eq!(parse("postgres:///db?host=/run/pg&port=5433&user=me").hosts, [path]);
}

#[test]
fn sslmode_and_sslrootcert_mean_what_they_mean_to_libpq() {
    let mode = |params: &str| parse(&format!("postgres://me@h/db?{params}")).tls.mode;
    assert_eq!(mode("sslmode=allow"), SslMode::Prefer);
    assert_eq!(mode("sslmode=require"), SslMode::Require);
    assert_eq!(mode("sslmode=require&sslrootcert=/ca.pem"), SslMode::VerifyCa);
    assert_eq!(mode("sslrootcert=system"), SslMode::VerifyFull);
    assert!(refused("postgres://me@h/db?sslmode=require&sslrootcert=system").contains("verify-full"));
}

#[test]
fn what_is_not_understood_is_named() {
    assert!(refused("postgres://me@h/db?gssmode=x").contains("\"gssmode\""));
    assert!(refused("postgres://me@h/db?sslmode=maybe").contains("sslmode must be one of disable, allow"));
    assert!(refused("postgres://me@h/db?target_session_attrs=standby").contains("any, read-write"));
    assert!(refused("postgres://me@h/db?sslcert=/c").contains("sslkey"));
    assert!(refused("postgres://me@/db").contains("no host"));
    assert!(refused("postgres://h/db").contains("no user"));
    assert!(refused("postgres://me@a,,b/db").contains("empty"));
    assert!(refused("postgres://me@a,b/db?port=1,2,3").contains("3 ports for 2 hosts"));
    assert!(refused("postgres://me@h%00/db").contains("zero byte"));
    assert!(refused("host=h user=me").contains("postgres://"));
}

#[test]
fn no_error_and_no_debug_shows_the_password() {
    for url in [
        "postgres://me:hunter2/x@h/db",
        "postgres://me:hun/ter2@h/db",
        "postgres://me:hun?ter2@h/db",
        "postgres://me:12/hunter2@h/db",
        "postgres://me@h/db?password=a&Hunter2",
        "postgres://me:hunter2@h:port/db",
        "postgres://me:hunter2%FF@h/db",
        "postgres://me:hunter2@h/db?sslmode=hunter2",
        "mysql://me:hunter2@h/db",
        "db:hunter2",
        "postgres://me:hunter2%zz@h/db",
        "postgres://me:hunter2@x@h/db",
        "postgres://me:hunter2@h/db?a",
        "postgres://me@h/db?password=hunter2&sslpassword=hunter3",
    ] {
        let text = refused(url).to_lowercase();
        assert!(!text.contains("hun") && !text.contains("ter2"), "{url} gave {text}");
    }
    let url = parse("postgres://me:hunter2@h/db?password=hunter3");
    assert_eq!(url.password, Some(Secret::new("hunter3".into())));
    assert!(!format!("{url:?} {url}").contains("hunter"));
}

#[test]
fn the_password_is_taken_out_wherever_libpq_allows_it() {
    let taken = |text: &str| {
        let url = parse(text);
        let password = url.password.as_ref().map(|password| password.expose().to_owned());
        (url.to_string(), password, url.named_database().map(str::to_owned))
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(
        taken("postgres://outboxd:p%40ss:w@db:5432/shop?sslmode=require"),
        ("postgres://outboxd@db:5432/shop?sslmode=require".to_owned(), some("p@ss:w"), some("shop"))
    );
    assert_eq!(
        taken("postgresql://db1:5432,db2:5433/shop?user=u&password=pw"),
        ("postgresql://db1:5432,db2:5433/shop?user=u".to_owned(), some("pw"), some("shop"))
    );
    assert_eq!(taken("postgres://u:@db"), ("postgres://u@db".to_owned(), None, None));
    assert_eq!(
        taken("postgres://u@/?dbname=shop&host=%2Frun%2Fpostgresql"),
        ("postgres://u@/?dbname=shop&host=%2Frun%2Fpostgresql".to_owned(), None, some("shop"))
    );
}

/// libpq has a parameter for the passphrase of a key. outboxd has none, so that no passphrase gets
/// into the log.
#[test]
fn the_passphrase_of_a_key_is_refused_and_not_shown() {
    let text = refused("postgres://u@db/x?sslcert=c&sslkey=a&sslpassword=hunter2");
    assert!(text.contains("sslpassword") && !text.contains("hunter2"), "{text}");
}

#[test]
fn what_libpq_knows_is_passed_over_where_it_changes_nothing() {
    for params in [
        "gssencmode=disable",
        "gssencmode=prefer&krbsrvname=postgres",
        "client_encoding=UTF8&fallback_application_name=x",
        "sslsni=1&sslcompression=0&sslnegotiation=postgres&sslcertmode=allow",
        "load_balance_hosts=disable&ssl_min_protocol_version=TLSv1.2",
    ] {
        assert_eq!(parse(&format!("postgres://me@h/db?{params}")).database(), "db", "{params}");
    }
}

#[test]
fn what_libpq_knows_and_outboxd_cannot_do_is_refused_with_the_reason() {
    for (params, reason) in [
        ("gssencmode=require", "no GSSAPI"),
        ("client_encoding=LATIN1", "UTF-8"),
        ("sslcrl=/crl.pem", "revocation"),
        ("ssl_min_protocol_version=TLSv1.3", "TLS 1.2"),
        ("sslnegotiation=direct", "asks the server for TLS first"),
        ("require_auth=scram-sha-256", "channel_binding"),
        ("service=shop", "service file"),
        ("hostaddr=10.0.0.1", "as the host"),
        ("load_balance_hosts=random", "in their order"),
        ("replication=database", "sets it itself"),
        ("oauth_issuer=x", "no OAuth"),
    ] {
        let text = refused(&format!("postgres://me@h/db?{params}"));
        let name = params.split('=').next().unwrap();
        assert!(text.contains(name) && text.contains(reason), "{params} gave {text}");
    }
}

#[test]
fn outboxd_needs_the_server_that_can_be_written() {
    for target in ["read-write", "primary"] {
        assert!(parse(&format!("postgres://me@a,b/db?target_session_attrs={target}")).read_write, "{target}");
    }
    for target in ["standby", "prefer-standby", "read-only"] {
        let text = refused(&format!("postgres://me@a,b/db?target_session_attrs={target}"));
        assert!(text.contains("cannot be written"), "{target} gave {text}");
    }
    assert!(refused("postgres://me@h/db?target_session_attrs=x").contains("one of any, read-write, primary"));
}
