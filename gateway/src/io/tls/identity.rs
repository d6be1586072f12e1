//! Who a client is: what its certificate says, and whether it was revoked.

use std::collections::HashSet;
use std::net::SocketAddr;

use aws_lc_rs::digest;
use rustls::pki_types::CertificateDer;
use serde::Serialize;
use x509_parser::nom::Parser;
use x509_parser::prelude::{X509Certificate, X509CertificateParser};

use crate::core::iphttps::Identity;
use crate::io::config::Revoked;

/// Reads a certificate of which extensions are of no interest: they make half of the work.
pub(super) fn parsed<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    let mut parser = X509CertificateParser::new().with_deep_parse_extensions(false);
    Some(parser.parse(certificate).ok()?.1)
}

/// Reads a certificate that the TLS library has verified. None when it cannot be read or has no common name.
pub fn identity_of(certificate: &CertificateDer<'_>) -> Option<Identity> {
    identity_in(&parsed(certificate)?)
}

pub(super) fn identity_in(parsed: &X509Certificate<'_>) -> Option<Identity> {
    let subject = parsed.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    let issuer = digest::digest(&digest::SHA256, parsed.issuer().as_raw());
    Some(Identity {
        serial: serial(parsed.raw_serial()),
        issuer_sha256: issuer.as_ref().try_into().ok()?,
        subject,
        not_after: parsed.validity().not_after.timestamp(),
    })
}

/// As events and session lists show it.
#[derive(Debug, Serialize)]
pub struct IdentityJson<'a> {
    serial: &'a str,
    issuer_sha256: String,
    subject: &'a str,
    not_after: i64,
}

impl<'a> From<&'a Identity> for IdentityJson<'a> {
    fn from(identity: &'a Identity) -> Self {
        Self {
            serial: &identity.serial,
            issuer_sha256: hex(&identity.issuer_sha256),
            subject: &identity.subject,
            not_after: identity.not_after,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
    bytes.iter().flat_map(|&byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn serial(raw: &[u8]) -> String {
    let digits = hex(raw);
    let trimmed = digits.trim_start_matches('0');
    if trimmed.is_empty() { "0".to_owned() } else { trimmed.to_owned() }
}

/// The certificates that must not be used.
#[derive(Debug, Default)]
pub struct RevocationList(HashSet<(String, String)>);

impl RevocationList {
    pub fn new(revoked: &[Revoked]) -> Self {
        let normal = |entry: &Revoked| {
            let digits = entry.serial.to_ascii_lowercase();
            let trimmed = digits.trim_start_matches('0');
            let serial = if trimmed.is_empty() { "0" } else { trimmed };
            (entry.issuer_sha256.to_ascii_lowercase(), serial.to_owned())
        };
        Self(revoked.iter().map(normal).collect())
    }

    pub fn contains(&self, identity: &Identity) -> bool {
        !self.0.is_empty() && self.0.contains(&(hex(&identity.issuer_sha256), identity.serial.clone()))
    }
}

/// `ip:port`, IPv4 addresses without the mapping a dual-stack socket gives them.
pub fn peer_text(peer: SocketAddr) -> String {
    SocketAddr::new(peer.ip().to_canonical(), peer.port()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_have_no_leading_zeros() {
        assert_eq!(serial(&[0, 0x0a, 0xbc]), "abc");
        assert_eq!(serial(&[0]), "0");
    }

    #[test]
    fn revocation_ignores_case_and_leading_zeros() {
        let list = RevocationList::new(&[Revoked { issuer_sha256: "AA".repeat(32), serial: "0ABC".into() }]);
        let identity = |serial: &str| Identity {
            serial: serial.into(),
            issuer_sha256: [0xaa; 32],
            subject: "x".into(),
            not_after: 0,
        };
        assert!(list.contains(&identity("abc")));
        assert!(!list.contains(&identity("abd")));
    }
}
