//! Who may do what, and what the coordinator knows. These requests are written by hand, since the
//! Rust binding of librdkafka does not have them.
//!
//! Format: <https://kafka.apache.org/protocol>, in a version with a fixed layout where there is
//! one.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Builder, Kafka};

const CREATE_ACLS: i16 = 30;
const DELETE_ACLS: i16 = 31;
const DESCRIBE_TRANSACTIONS: i16 = 65;
const TRANSACTIONAL_ID_NOT_FOUND: i16 = 105;

/// What a right is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource<'a> {
    /// One topic.
    Topic(&'a str),
    /// All transactional ids that begin with this text.
    TransactionalIds(&'a str),
}

/// What a user may do, with the numbers of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Right {
    Read = 3,
    Write = 4,
    Create = 5,
    Describe = 8,
    DescribeConfigs = 10,
}

#[derive(Clone, Copy)]
enum Permission {
    Deny = 2,
    Allow = 3,
}

impl Builder {
    /// Makes clients of [`Kafka::proxied_brokers`] log in by SASL/PLAIN. This is the only user, and
    /// it may do what [`Kafka::allow`] allows. Clients of [`Kafka::brokers`] need no login and may
    /// do everything.
    #[must_use]
    pub fn authorized(self, user: &str, password: &str) -> Self {
        let module = "org.apache.kafka.common.security.plain.PlainLoginModule";
        self.proxied()
            .setting(
                "listener.security.protocol.map",
                "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:SASL_PLAINTEXT",
            )
            .setting("listener.name.proxied.sasl.enabled.mechanisms", "PLAIN")
            .setting(
                "listener.name.proxied.plain.sasl.jaas.config",
                &format!("{module} required user_{user}=\"{password}\";"),
            )
            .setting("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer")
            .setting("super.users", "User:ANONYMOUS")
    }

    /// Makes clients of [`Kafka::proxied_brokers`] log in by SASL/OAUTHBEARER, with a JWT that
    /// nobody signed: Kafka's own validator for tests takes what names its subject (`sub`) and when
    /// it expires (`exp`). With the token the connection ends. Clients of [`Kafka::brokers`] need no
    /// login.
    #[must_use]
    pub fn tokens(self) -> Self {
        let module = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule";
        self.proxied()
            .setting(
                "listener.security.protocol.map",
                "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:SASL_PLAINTEXT",
            )
            .setting("listener.name.proxied.sasl.enabled.mechanisms", "OAUTHBEARER")
            .setting(
                "listener.name.proxied.oauthbearer.sasl.jaas.config",
                &format!("{module} required unsecuredLoginStringClaim_sub=\"broker\";"),
            )
            .setting("listener.name.proxied.oauthbearer.connections.max.reauth.ms", "60000")
    }
}

impl Kafka {
    /// Allows rights.
    pub async fn allow(&self, user: &str, resource: Resource<'_>, rights: &[Right]) -> Result<()> {
        for &right in rights {
            self.change(CREATE_ACLS, &rule(user, resource, right, Permission::Allow)).await?;
        }
        Ok(())
    }

    /// Denies a right, whatever is allowed.
    pub async fn deny(&self, user: &str, resource: Resource<'_>, right: Right) -> Result<()> {
        self.change(CREATE_ACLS, &rule(user, resource, right, Permission::Deny)).await
    }

    /// Takes a denial back.
    pub async fn no_longer_deny(&self, user: &str, resource: Resource<'_>, right: Right) -> Result<()> {
        self.change(DELETE_ACLS, &rule(user, resource, right, Permission::Deny)).await
    }

    /// Both requests carry an array of rules of the same layout (version 1), and answer with an
    /// error code for each.
    async fn change(&self, api_key: i16, rule: &[u8]) -> Result<()> {
        let answer = self.call(api_key, 1, &[], &[&1_i32.to_be_bytes(), rule].concat()).await?;
        // Throttle time, number of results.
        match answer.get(8..10) {
            Some([0, 0]) => Ok(()),
            other => bail!("the brokers answered with error {other:?} to request {api_key}"),
        }
    }

    /// Whether the transaction coordinator has forgotten this transactional id. This works only in
    /// a cluster of one broker.
    pub async fn has_forgotten(&self, transactional_id: &str) -> Result<bool> {
        let size = u8::try_from(transactional_id.len() + 1).context("a long transactional id")?;
        // The body is an array of one compact string. A compact size is the number plus one, and
        // empty tags end the body.
        let body = [&[2, size], transactional_id.as_bytes(), &[0]].concat();
        let answer = self.call(DESCRIBE_TRANSACTIONS, 0, &[0], &body).await?;
        // Tags, the throttle time and the array's size come first.
        let code = answer.get(6..).and_then(|rest| rest.first_chunk()).context("a short answer")?;
        Ok(i16::from_be_bytes(*code) == TRANSACTIONAL_ID_NOT_FOUND)
    }

    /// The answer to a request, after the correlation id.
    async fn call(&self, api_key: i16, version: i16, header_tags: &[u8], body: &[u8]) -> Result<Vec<u8>> {
        let port = self.broker(0)?.port();
        let mut frame = [api_key.to_be_bytes(), version.to_be_bytes()].concat();
        frame.extend(1_i32.to_be_bytes()); // Correlation id.
        frame.extend(text("testbed"));
        frame.extend(header_tags);
        frame.extend(body);
        let mut broker = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        broker.write_i32(i32::try_from(frame.len())?).await?;
        broker.write_all(&frame).await?;
        let mut answer = vec![0; usize::try_from(broker.read_i32().await?)?];
        broker.read_exact(&mut answer).await?;
        Ok(answer.split_off(4))
    }
}

fn rule(user: &str, resource: Resource<'_>, right: Right, permission: Permission) -> Vec<u8> {
    let (kind, name, literal_or_prefixed) = match resource {
        Resource::Topic(name) => (2, name, 3),
        Resource::TransactionalIds(prefix) => (5, prefix, 4),
    };
    let mut rule = vec![kind];
    rule.extend(text(name));
    rule.push(literal_or_prefixed);
    rule.extend(text(&format!("User:{user}")));
    rule.extend(text("*"));
    rule.extend([right as u8, permission as u8]);
    rule
}

/// Writes the size in 16 bits, and then the text.
fn text(text: &str) -> Vec<u8> {
    // The names here are short. The broker would refuse a longer one.
    let size = i16::try_from(text.len()).unwrap_or(i16::MAX);
    [&size.to_be_bytes()[..], text.as_bytes()].concat()
}
