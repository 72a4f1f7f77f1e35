//! TLS over a connected socket, with libpq's meanings of `sslmode`.
//!
//! Pages: "Message Flow" (SSL Session Encryption), libpq's "SSL Support"; RFC 5929 section 4
//! (tls-server-end-point).

use std::{error::Error as _, path::Path, sync::Arc};

use rustls::{
    ClientConfig, InconsistentKeys,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName,
        pem::{self, PemObject},
    },
    sign::{CertifiedKey, SingleCertAndKey},
};
use sha2::{Digest, Sha256, Sha384, Sha512};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use x509_cert::{
    Certificate,
    der::{
        Decode,
        oid::db::rfc5912::{
            ECDSA_WITH_SHA_256, ECDSA_WITH_SHA_384, ECDSA_WITH_SHA_512, SHA_1_WITH_RSA_ENCRYPTION,
            SHA_256_WITH_RSA_ENCRYPTION, SHA_384_WITH_RSA_ENCRYPTION, SHA_512_WITH_RSA_ENCRYPTION,
        },
    },
};

use super::{
    certificates::{Check, Verifier},
    options::{Roots, SslMode, TlsOptions},
    server_error::sqlstate,
    transport::{Stream, Transport, lost},
};
use crate::{Code, Error, Result};

/// SSLRequest: its length and its number.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Asks the server for TLS and, if it is willing, shakes hands.
pub(super) async fn secure(mut stream: TcpStream, host: &str, options: &TlsOptions) -> Result<Transport> {
    let failed = |cause| lost("asking for TLS", cause);
    stream.write_all(&SSL_REQUEST).await.map_err(failed)?;
    // This reads one byte and no more. Otherwise what a stranger slips in before the handshake
    // would pass for the server's.
    match stream.read_u8().await.map_err(failed)? {
        b'S' => {}
        b'N' if options.mode == SslMode::Prefer => {
            return Ok(Transport { stream: Stream::Tcp(stream), endpoint: None });
        }
        b'N' => return Err(refused("the server does not offer TLS, which sslmode demands")),
        // An ErrorResponse here comes from nobody we know, so its text is not shown.
        _ => return Err(refused("the server answered the request for TLS with something else")),
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|cause| refused("the host's name").because(cause))?;
    // This reads the files each time, since certificates are renewed while the daemon runs.
    let connector = TlsConnector::from(Arc::new(configuration(options)?));
    let stream =
        connector.connect(name, stream).await.map_err(|cause| refused("the TLS handshake failed").because(cause))?;
    let endpoint = stream.get_ref().1.peer_certificates().and_then(|chain| endpoint(chain.first()?));
    Ok(Transport { stream: Stream::Tls(Box::new(stream)), endpoint })
}

/// Whether `prefer` goes on in plain text. It does when the handshake failed, or when pg_hba.conf
/// does not let encrypted sessions in.
pub(super) fn may_fall_back(error: &Error) -> bool {
    let handshake = error.source().is_some_and(<dyn std::error::Error>::is::<std::io::Error>);
    error.code() == Code::PostgresTlsFailed && handshake || sqlstate(error) == Some("28000")
}

fn refused(text: &str) -> Error {
    Error::new(Code::PostgresTlsFailed, text)
}

fn configuration(options: &TlsOptions) -> Result<ClientConfig> {
    let check = match options.mode {
        SslMode::Disable | SslMode::Prefer | SslMode::Require => Check::Nothing,
        SslMode::VerifyCa => Check::Chain,
        SslMode::VerifyFull => Check::ChainAndName,
    };
    let roots = match check {
        Check::Nothing => Vec::new(),
        Check::Chain | Check::ChainAndName => trusted(&options.roots)?,
    };
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let verifier = Verifier::new(check, roots, algorithms).map_err(|cause| refused("sslrootcert").because(cause))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|cause| refused("TLS versions").because(cause))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &options.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder.with_client_cert_resolver(Arc::new(identity(certificate, key)?)),
    };
    // libpq does this from 17 on. With it nobody mistakes a server of another protocol for
    // Postgres. Older servers ignore it.
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(config)
}

/// Our own certificate. It is not checked here: the server checks it, and webpki would refuse
/// version 1.
fn identity(certificate: &Path, key: &Path) -> Result<SingleCertAndKey> {
    let failed = |cause: rustls::Error| refused("sslcert and sslkey").because(cause);
    let chain = certificates("sslcert", certificate)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|cause| unreadable("sslkey", key, cause))?;
    let pair = CertifiedKey::new(chain, ring::sign::any_supported_type(&key).map_err(failed)?);
    match pair.keys_match() {
        Err(cause @ rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => Err(failed(cause)),
        _ => Ok(SingleCertAndKey::from(pair)),
    }
}

fn trusted(roots: &Roots) -> Result<Vec<CertificateDer<'static>>> {
    match roots {
        Roots::File(path) => certificates("sslrootcert", path),
        Roots::System => {
            let mut found = rustls_native_certs::load_native_certs();
            match found.errors.pop() {
                Some(cause) if found.certs.is_empty() => {
                    Err(refused("the system's certificate store").because(cause.to_string()))
                }
                None if found.certs.is_empty() => {
                    Err(refused("the system's certificate store is empty: set sslrootcert to a file"))
                }
                _ => Ok(found.certs),
            }
        }
    }
}

fn certificates(what: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = read.map_err(|cause| unreadable(what, path, cause))?;
    if chain.is_empty() {
        return Err(refused(&format!("{what} {}: there is no certificate in it", path.display())));
    }
    Ok(chain)
}

#[expect(clippy::needless_pass_by_value, reason = "made for map_err")]
fn unreadable(what: &str, path: &Path, cause: pem::Error) -> Error {
    refused(&format!("{what} {}", path.display())).because(cause.to_string())
}

/// The hash of the server's certificate. Its signature names the hash function, and SHA-256 takes
/// the place of SHA-1. Signatures that name none (Ed25519, RSASSA-PSS with parameters) have no
/// defined binding, and SCRAM goes without.
fn endpoint(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    match Certificate::from_der(certificate).ok()?.signature_algorithm.oid {
        SHA_1_WITH_RSA_ENCRYPTION | SHA_256_WITH_RSA_ENCRYPTION | ECDSA_WITH_SHA_256 => {
            Some(Sha256::digest(certificate).to_vec())
        }
        SHA_384_WITH_RSA_ENCRYPTION | ECDSA_WITH_SHA_384 => Some(Sha384::digest(certificate).to_vec()),
        SHA_512_WITH_RSA_ENCRYPTION | ECDSA_WITH_SHA_512 => Some(Sha512::digest(certificate).to_vec()),
        _ => None,
    }
}
