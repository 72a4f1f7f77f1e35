//! How far a server's certificate is checked: libpq's `require`, `verify-ca`, `verify-full`.
//!
//! Page: libpq's "Client Verification of Server Certificates".

use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{
        WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use x509_cert::{
    Certificate,
    der::{
        Decode, Encode,
        oid::db::{rfc4519::COMMON_NAME, rfc5280::ID_CE_SUBJECT_ALT_NAME},
    },
};

/// What of the certificate is checked. It is always checked that the server holds the certificate's
/// key: channel binding rests on that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// prefer, require
    Nothing,
    /// verify-ca
    Chain,
    /// verify-full
    ChainAndName,
}

/// The check, with what is trusted.
#[derive(Debug)]
pub(super) struct Verifier {
    check: Check,
    trusted: Vec<CertificateDer<'static>>,
    roots: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    /// Fails when none of `trusted` can serve as a root.
    pub(super) fn new(
        check: Check,
        trusted: Vec<CertificateDer<'static>>,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(trusted.iter().cloned());
        if added == 0 && check != Check::Nothing {
            return Err(Error::General("no certificate in it can be used as a root".to_owned()));
        }
        Ok(Self { check, trusted, roots, algorithms })
    }

    fn check_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        // Many a Postgres has a self-signed certificate, which is its own root. webpki refuses it
        // as a "CA used as end entity". Here it passes if one of the trusted certificates equals it
        // byte for byte, as with OpenSSL.
        if self.trusted.iter().any(|root| root == end_entity) {
            return check_dates(end_entity, now);
        }
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, self.algorithms.all)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.check != Check::Nothing {
            self.check_chain(end_entity, intermediates, now)?;
        }
        if self.check == Check::ChainAndName {
            check_name(end_entity, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if ParsedCertificate::try_from(certificate).is_ok() {
            return verify_tls13_signature(message, certificate, signature, &self.algorithms);
        }
        // webpki does not read version 1 certificates, and `openssl x509 -req` makes those when it
        // gets no extension file.
        let key = decode(certificate)?.tbs_certificate.subject_public_key_info.to_der();
        let key = key.map_err(|_| CertificateError::BadEncoding)?;
        verify_tls13_signature_with_raw_key(message, &key.into(), signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn decode(certificate: &CertificateDer<'_>) -> Result<Certificate, Error> {
    Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding.into())
}

fn check_dates(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let validity = decode(certificate)?.tbs_certificate.validity;
    if now.as_secs() < validity.not_before.to_unix_duration().as_secs() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now.as_secs() > validity.not_after.to_unix_duration().as_secs() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// Checks the host's name against the alternative names. Where there are none at all, the common
/// name counts, as in libpq (the PostgreSQL manual shows how to make such a certificate).
fn check_name(end_entity: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
    let outcome = ParsedCertificate::try_from(end_entity).and_then(|parsed| verify_server_name(&parsed, name));
    match outcome {
        Err(error) => {
            let by_common_name =
                common_name(&decode(end_entity)?).is_some_and(|common| matches(&common, &name.to_str()));
            if by_common_name { Ok(()) } else { Err(error) }
        }
        Ok(()) => Ok(()),
    }
}

/// The first common name of a certificate without alternative names.
fn common_name(certificate: &Certificate) -> Option<String> {
    let certificate = &certificate.tbs_certificate;
    let mut extensions = certificate.extensions.iter().flatten();
    if extensions.any(|extension| extension.extn_id == ID_CE_SUBJECT_ALT_NAME) {
        return None;
    }
    let mut attributes = certificate.subject.0.iter().flat_map(|names| names.0.iter());
    let common = attributes.find(|attribute| attribute.oid == COMMON_NAME)?;
    String::from_utf8(common.value.value().to_vec()).ok()
}

/// Whether `pattern` names `host`. A leading `*.` stands for one label.
fn matches(pattern: &str, host: &str) -> bool {
    let rest = pattern.strip_prefix("*.").zip(host.split_once('.'));
    match rest {
        Some((domain, (label, rest))) => !label.is_empty() && domain.contains('.') && domain.eq_ignore_ascii_case(rest),
        None => pattern.eq_ignore_ascii_case(host),
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_wildcard_stands_for_one_label() {
        for (pattern, host, expected) in [
            ("db.test", "DB.test", true),
            ("db.test", "db2.test", false),
            ("*.db.test", "a.db.test", true),
            ("*.db.test", "a.b.db.test", false),
            ("*.db.test", "db.test", false),
            ("*.test", "a.test", false),
            ("*", "a", false),
            ("10.0.0.1", "10.0.0.1", true),
        ] {
            assert_eq!(matches(pattern, host), expected, "{pattern} {host}");
        }
    }
}
