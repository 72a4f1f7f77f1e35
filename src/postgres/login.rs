//! From an open byte stream to a session that is ready for commands: start-up packet and
//! authentication.
//!
//! Pages: "Message Flow" (Start-up), "SASL Authentication".

use postgres_protocol::{
    authentication::{md5_hash, sasl},
    message::frontend,
};

use super::{
    options::{ChannelBinding, ConnectOptions},
    server_error::ServerError,
    transport::Transport,
    wire::{Wire, c_string, unexpected},
};
use crate::{Code, Error, Result, config::Secret};

/// No message before authentication is longer. So a stranger that answers cannot make us hold more.
const STARTUP_LIMIT: usize = 64 * 1024;

/// What the server tells about a new session.
#[derive(Debug, Default)]
pub(super) struct Greeting {
    pub(super) backend_pid: i32,
    /// As `server_version_num` has it.
    pub(super) server_version: u32,
}

/// Starts a session with `replication=database`.
pub(super) async fn start(transport: Transport, options: &ConnectOptions) -> Result<(Wire, Greeting)> {
    let mut wire = Wire::new(transport, STARTUP_LIMIT.min(options.max_message_bytes));
    let session: Vec<_> = options.session_parameters().collect();
    let mut parameters = vec![
        ("user", options.user.as_str()),
        ("database", &options.database),
        ("replication", "database"),
        ("client_encoding", "UTF8"),
        ("application_name", &options.application_name),
    ];
    parameters.extend(session.iter().map(|(name, value)| (*name, value.as_str())));
    if let Some(options) = &options.options {
        parameters.push(("options", options));
    }
    wire.send(|bytes| frontend::startup_message(parameters, bytes)).await?;
    authenticate(&mut wire, options).await?;
    let greeting = greeting(&mut wire).await?;
    wire.frames.set_limit(options.max_message_bytes);
    Ok((wire, greeting))
}

/// What the server asks for in an Authentication message.
enum Asked {
    Done,
    Cleartext,
    Md5([u8; 4]),
    Sasl(Vec<String>),
    SaslContinue(Vec<u8>),
    SaslFinal(Vec<u8>),
}

async fn asked(wire: &mut Wire) -> Result<Asked> {
    loop {
        let frame = wire.receive().await?;
        match frame.tag {
            b'R' => return read_request(frame.body),
            b'E' => return Err(ServerError::parse(frame.body).during("logging in")),
            // NegotiateProtocolVersion and notices change nothing for us.
            b'v' | b'N' | b'S' => {}
            tag => return Err(unexpected(tag, "while logging in")),
        }
    }
}

fn read_request(body: &[u8]) -> Result<Asked> {
    let Some((kind, rest)) = body.split_first_chunk::<4>() else {
        return Err(Error::new(Code::PostgresProtocol, "an authentication request is cut off"));
    };
    Ok(match (i32::from_be_bytes(*kind), rest) {
        (0, _) => Asked::Done,
        (3, _) => Asked::Cleartext,
        (5, &[a, b, c, d]) => Asked::Md5([a, b, c, d]),
        (10, mut names) => {
            let mut mechanisms = Vec::new();
            while names.first().is_some_and(|byte| *byte != 0) {
                let (name, rest) = c_string(names)?;
                mechanisms.push(name);
                names = rest;
            }
            Asked::Sasl(mechanisms)
        }
        (11, challenge) => Asked::SaslContinue(challenge.to_vec()),
        (12, outcome) => Asked::SaslFinal(outcome.to_vec()),
        (kind, _) => {
            let name = match kind {
                2 => "Kerberos V5",
                7 | 8 => "GSSAPI",
                9 => "SSPI",
                _ => "unknown",
            };
            return Err(refused(format!("the server asks for authentication by {name}, which outboxd does not speak")));
        }
    })
}

fn refused(text: impl Into<String>) -> Error {
    Error::new(Code::PostgresAuthFailed, text)
}

async fn authenticate(wire: &mut Wire, options: &ConnectOptions) -> Result<()> {
    let request = asked(wire).await?;
    if !matches!(request, Asked::Sasl(_)) && options.channel_binding == ChannelBinding::Require {
        return Err(refused("channel_binding=require, and the server did not ask for SCRAM"));
    }
    match request {
        Asked::Done => return Ok(()),
        Asked::Cleartext => {
            let password = password(options)?;
            wire.send(|bytes| frontend::password_message(password.expose().as_bytes(), bytes)).await?;
        }
        Asked::Md5(salt) => {
            let hash = md5_hash(options.user.as_bytes(), password(options)?.expose().as_bytes(), salt);
            wire.send(|bytes| frontend::password_message(hash.as_bytes(), bytes)).await?;
        }
        Asked::Sasl(mechanisms) => scram(wire, options, &mechanisms).await?,
        Asked::SaslContinue(_) | Asked::SaslFinal(_) => return Err(unexpected(b'R', "out of turn")),
    }
    match asked(wire).await? {
        Asked::Done => Ok(()),
        _ => Err(unexpected(b'R', "after the password was sent")),
    }
}

fn password(options: &ConnectOptions) -> Result<&Secret> {
    options.password.as_ref().ok_or_else(|| refused("the server asks for a password and none is configured"))
}

async fn scram(wire: &mut Wire, options: &ConnectOptions, mechanisms: &[String]) -> Result<()> {
    let (mechanism, binding) = scram_mechanism(&wire.transport, options, mechanisms)?;
    let mut exchange = sasl::ScramSha256::new(password(options)?.expose().as_bytes(), binding);
    wire.send(|bytes| frontend::sasl_initial_response(mechanism, exchange.message(), bytes)).await?;
    let Asked::SaslContinue(challenge) = asked(wire).await? else {
        return Err(unexpected(b'R', "instead of a SCRAM challenge"));
    };
    let failed = |cause: std::io::Error| refused("SCRAM").because(cause);
    exchange.update(&challenge).map_err(failed)?;
    wire.send(|bytes| frontend::sasl_response(exchange.message(), bytes)).await?;
    let Asked::SaslFinal(outcome) = asked(wire).await? else {
        return Err(unexpected(b'R', "instead of a SCRAM outcome"));
    };
    // The server has to prove that it knows the password, too.
    exchange.finish(&outcome).map_err(failed)
}

/// The strongest mechanism that both sides can do. "Unrequested" tells the server that we could
/// have bound. A server that could, too, then notices that somebody between us took
/// SCRAM-SHA-256-PLUS off the list.
fn scram_mechanism(
    transport: &Transport,
    options: &ConnectOptions,
    offered: &[String],
) -> Result<(&'static str, sasl::ChannelBinding)> {
    let offers = |name: &str| offered.iter().any(|mechanism| mechanism == name);
    let endpoint = transport.endpoint.clone().filter(|_| options.channel_binding != ChannelBinding::Disable);
    match endpoint {
        Some(hash) if offers(sasl::SCRAM_SHA_256_PLUS) => {
            Ok((sasl::SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(hash)))
        }
        _ if options.channel_binding == ChannelBinding::Require => {
            Err(refused("channel_binding=require, and the connection or the server cannot bind"))
        }
        Some(_) if offers(sasl::SCRAM_SHA_256) => Ok((sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested())),
        None if offers(sasl::SCRAM_SHA_256) => Ok((sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported())),
        _ => Err(refused(format!("the server offers only {}", offered.join(", ")))),
    }
}

async fn greeting(wire: &mut Wire) -> Result<Greeting> {
    let mut greeting = Greeting::default();
    loop {
        let frame = wire.receive().await?;
        match (frame.tag, frame.body) {
            (b'K', &[a, b, c, d, ..]) => greeting.backend_pid = i32::from_be_bytes([a, b, c, d]),
            (b'S', body) => {
                let (name, rest) = c_string(body)?;
                if name == "server_version" {
                    greeting.server_version = version_number(&c_string(rest)?.0);
                }
            }
            (b'N', _) => {}
            (b'E', body) => return Err(ServerError::parse(body).during("starting the session")),
            (b'Z', _) => return Ok(greeting),
            (tag, _) => return Err(unexpected(tag, "while the session started")),
        }
    }
}

/// `15.18 (Debian …)` is 150018, `9.6.3` is 90603, `19beta1` is 190000.
pub(super) fn version_number(text: &str) -> u32 {
    let numbers: Vec<u32> = text
        .split(|c: char| !c.is_ascii_digit() && c != '.')
        .next()
        .unwrap_or_default()
        .split('.')
        .map_while(|part| part.parse().ok())
        .collect();
    let at = |index: usize| numbers.get(index).copied().unwrap_or(0);
    if at(0) >= 10 { at(0) * 10_000 + at(1) } else { at(0) * 10_000 + at(1) * 100 + at(2) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers() {
        for (text, number) in
            [("15.18 (Debian 15.18-0+deb12u1)", 150_018), ("9.6.3", 90_603), ("19beta1", 190_000), ("x", 0)]
        {
            assert_eq!(version_number(text), number, "{text}");
        }
    }

    #[test]
    fn the_mechanisms_of_a_request_are_read_and_a_cut_one_is_refused() {
        let body = b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
        let Asked::Sasl(names) = read_request(body).unwrap() else { panic!("not SASL") };
        assert_eq!(names, ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]);
        assert!(read_request(&body[..10]).is_err());
        assert!(read_request(b"\0\0").is_err());
        let error = read_request(b"\0\0\0\x07").err().unwrap();
        assert!(error.to_string().contains("GSSAPI"), "{error}");
    }
}
