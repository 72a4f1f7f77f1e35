//! What the configuration has to know of a connection URL: its password, which is taken out so that the rest can be
//! logged, and its database, which names a source that has no other name. No message here repeats the URL.

use percent_encoding::percent_decode_str;

/// A URL without its password.
#[derive(Debug)]
pub(super) struct Parted {
    pub(super) url: String,
    pub(super) password: Option<String>,
    pub(super) database: Option<String>,
}

/// Source: PostgreSQL documentation, "Connection URIs".
pub(super) fn part(url: &str) -> Result<Parted, String> {
    let after_scheme = ["postgres://", "postgresql://"].iter().find_map(|scheme| url.strip_prefix(scheme));
    let Some(rest) = after_scheme else {
        return Err("not a URL of the form postgres://user@host:5432/database?sslmode=verify-full".to_owned());
    };
    let scheme = &url[..url.len() - rest.len()];
    let (before_query, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    // As libpq reads it: credentials end at an @ that comes before any slash.
    let (authority, path) =
        before_query.split_once('/').map_or((before_query, None), |(host, path)| (host, Some(path)));
    let (credentials, hosts) =
        authority.rsplit_once('@').map_or((None, authority), |(credentials, hosts)| (Some(credentials), hosts));
    if credentials.is_some_and(|credentials| credentials.contains('@')) {
        return Err("an \"@\" within the user or the password has to be written %40".to_owned());
    }
    let (user, mut password) = match credentials.map(|text| text.split_once(':').unwrap_or((text, ""))) {
        Some((user, password)) => (Some(user), Some(decode(password)?)),
        None => (None, None),
    };
    let mut database = path.filter(|path| !path.is_empty()).map(decode).transpose()?;
    let mut parameters = Vec::new();
    for parameter in query.into_iter().flat_map(|query| query.split('&')).filter(|parameter| !parameter.is_empty()) {
        let (key, value) =
            parameter.split_once('=').ok_or("a parameter after the \"?\" has no value (expected key=value)")?;
        match key {
            "password" => password = Some(decode(value)?),
            "dbname" => {
                database = Some(decode(value)?);
                parameters.push(parameter);
            }
            _ => parameters.push(parameter),
        }
    }

    let user = user.map(|user| format!("{user}@")).unwrap_or_default();
    let path = path.map(|path| format!("/{path}")).unwrap_or_default();
    let query = if parameters.is_empty() { String::new() } else { format!("?{}", parameters.join("&")) };
    let password = password.filter(|password| !password.is_empty());
    Ok(Parted { url: format!("{scheme}{user}{hosts}{path}{query}"), password, database })
}

fn decode(text: &str) -> Result<String, String> {
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        let digits = rest.as_bytes().get(at + 1..at + 3);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            return Err(
                "a \"%\" is not followed by two hexadecimal digits; write %25 for the character itself".to_owned()
            );
        }
        rest = &rest[at + 3..];
    }
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(std::borrow::Cow::into_owned).map_err(|_| "what it percent-encodes is not UTF-8".to_owned())
}

/// The URL as it may be logged: without the passphrase of a client key.
pub(super) fn loggable(url: &str) -> String {
    let Some((head, query)) = url.split_once('?') else { return url.to_owned() };
    let shown = query.split('&').map(|parameter| match parameter.split_once('=') {
        Some((key, _)) if key.contains("password") => format!("{key}=***"),
        _ => parameter.to_owned(),
    });
    format!("{head}?{}", shown.collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn parted(url: &str) -> (String, Option<String>, Option<String>) {
        let Parted { url, password, database } = part(url).unwrap();
        (url, password, database)
    }

    #[test]
    fn the_password_is_taken_out_wherever_libpq_allows_it() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            parted("postgres://outboxd:p%40ss:w@db:5432/shop?sslmode=require"),
            ("postgres://outboxd@db:5432/shop?sslmode=require".to_owned(), some("p@ss:w"), some("shop"))
        );
        assert_eq!(
            parted("postgresql://db1:5432,db2:5433/shop?user=u&password=pw"),
            ("postgresql://db1:5432,db2:5433/shop?user=u".to_owned(), some("pw"), some("shop"))
        );
        assert_eq!(parted("postgres://u:@db"), ("postgres://u@db".to_owned(), None, None));
        assert_eq!(
            parted("postgres:///?dbname=shop&host=%2Frun%2Fpostgresql"),
            ("postgres:///?dbname=shop&host=%2Frun%2Fpostgresql".to_owned(), None, some("shop"))
        );
    }

    #[test]
    fn no_message_repeats_the_password() {
        for url in
            ["db:hunter2", "postgres://u:hunter2%zz@db/x", "postgres://u:hunter2@x@db/x", "postgres://u:hunter2@db/x?a"]
        {
            let message = part(url).unwrap_err();
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn the_passphrase_of_a_key_is_not_logged() {
        assert_eq!(loggable("postgres://u@db/x?sslkey=a&sslpassword=pw"), "postgres://u@db/x?sslkey=a&sslpassword=***");
        assert_eq!(loggable("postgres://u@db/x"), "postgres://u@db/x");
    }
}
