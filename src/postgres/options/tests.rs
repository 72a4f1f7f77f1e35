//! What a URL means, and that no error or debug output shows a password.

use super::*;
use crate::Code;

fn parse(url: &str) -> ConnectOptions {
    ConnectOptions::parse(url, None).unwrap()
}

fn refused(url: &str) -> String {
    let error = ConnectOptions::parse(url, None).unwrap_err();
    assert_eq!(error.code(), Code::ConfigInvalid);
    error.to_string()
}

#[test]
fn the_full_form() {
    let options = parse(
        "postgresql://us%40er:p%3A%2F%40w@db1,[::1]:5433/or%20der?sslmode=verify-full&sslrootcert=/ca.pem\
         &connect_timeout=3&application_name=x&options=-c%20geqo%3Doff&channel_binding=require&keepalives_idle=7",
    );
    assert_eq!(options.hosts, [Host::Tcp("db1".into(), 5432), Host::Tcp("::1".into(), 5433)]);
    assert_eq!(options.hosts[1].to_string(), "[::1]:5433");
    assert_eq!((options.user(), options.database()), ("us@er", "or der"));
    assert_eq!(options.password, Some(Secret::new("p:/@w".into())));
    assert_eq!(options.tls.mode, SslMode::VerifyFull);
    assert_eq!(options.tls.roots, Roots::File("/ca.pem".into()));
    assert_eq!(options.options.as_deref(), Some("-c geqo=off"));
    assert_eq!(options.channel_binding, ChannelBinding::Require);
    assert_eq!(options.keepalive.unwrap().idle, Duration::from_secs(7));
    assert_eq!(options.clone().connect_timeout(Duration::from_secs(9)).attempt_timeout(), Duration::from_secs(3));
    assert!(options.read_write, "several hosts look for the one that can be written");
}

#[test]
fn the_short_form_has_libpqs_defaults() {
    let options = parse("postgres://me@h");
    assert_eq!(options.hosts, [Host::Tcp("h".into(), 5432)]);
    assert_eq!(options.database(), "me");
    assert_eq!(options.tls.mode, SslMode::Prefer);
    assert!(!options.read_write);
    assert_eq!(options.attempt_timeout(), Duration::from_secs(10));
    assert_eq!(options.connect_timeout(Duration::from_secs(9)).attempt_timeout(), Duration::from_secs(9));
}

#[test]
fn sockets() {
    let path = Host::Unix("/run/pg/.s.PGSQL.5433".into());
    assert_eq!(parse("postgres://me@%2Frun%2Fpg:5433/db").hosts, std::slice::from_ref(&path));
    assert_eq!(parse("postgres://me@/db?host=/run/pg&port=5433").hosts, std::slice::from_ref(&path));
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
    assert!(refused("postgres://me@h/db?gssencmode=x").contains("\"gssencmode\""));
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
    ] {
        let text = refused(url).to_lowercase();
        assert!(!text.contains("hun") && !text.contains("ter2"), "{url} gave {text}");
    }
    let secret = Secret::new("hunter3".into());
    let options = ConnectOptions::parse("postgres://me:hunter2@h/db", Some(&secret)).unwrap();
    assert_eq!(options.password, Some(secret));
    assert!(!format!("{options:?}").contains("hunter"));
}
