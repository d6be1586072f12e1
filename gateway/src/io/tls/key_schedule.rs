//! The library's provider of cryptography with another HKDF (RFC 5869) under TLS 1.3: the same HMAC, but a secret is
//! prepared as its key once and not for each of the two to four values that are derived from it (RFC 8446 section 7.1).
//! With SHA-384, for which processors have no instructions, that is a quarter of all hashing in a handshake.

use std::sync::LazyLock;

use aws_lc_rs::hmac::{Algorithm, Context, HMAC_SHA256, HMAC_SHA384, Key};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::hash::HashAlgorithm;
use rustls::crypto::tls13::HkdfUsingHmac;
use rustls::crypto::{CryptoProvider, hmac};
use rustls::{CipherSuite, CipherSuiteCommon, SupportedCipherSuite, Tls13CipherSuite};

use crate::io::config::Cipher;

struct Hmac(Algorithm);

impl hmac::Hmac for Hmac {
    fn with_key(&self, key: &[u8]) -> Box<dyn hmac::Key> {
        Box::new(Prepared(Key::new(self.0, key)))
    }

    fn hash_output_len(&self) -> usize {
        self.0.digest_algorithm().output_len()
    }
}

/// Zeroised by the library when it is dropped.
struct Prepared(Key);

impl hmac::Key for Prepared {
    fn sign_concat(&self, first: &[u8], middle: &[&[u8]], last: &[u8]) -> hmac::Tag {
        let mut context = Context::with_key(&self.0);
        context.update(first);
        for part in middle {
            context.update(part);
        }
        context.update(last);
        hmac::Tag::new(context.sign().as_ref())
    }

    fn tag_len(&self) -> usize {
        self.0.algorithm().digest_algorithm().output_len()
    }
}

static SHA256: HkdfUsingHmac<'_> = HkdfUsingHmac(&Hmac(HMAC_SHA256));
static SHA384: HkdfUsingHmac<'_> = HkdfUsingHmac(&Hmac(HMAC_SHA384));

/// The library's suites in its order of preference. It wants them to live for ever.
static SUITES: LazyLock<Vec<SupportedCipherSuite>> =
    LazyLock::new(|| default_provider().cipher_suites.into_iter().map(suite).collect());

fn suite(known: SupportedCipherSuite) -> SupportedCipherSuite {
    let SupportedCipherSuite::Tls13(known) = known else { return known };
    let CipherSuiteCommon { suite, hash_provider, confidentiality_limit } = known.common;
    let hkdf_provider = match hash_provider.algorithm() {
        HashAlgorithm::SHA256 => &SHA256,
        HashAlgorithm::SHA384 => &SHA384,
        _ => known.hkdf_provider,
    };
    let common = CipherSuiteCommon { suite, hash_provider, confidentiality_limit };
    let ours = Tls13CipherSuite { common, hkdf_provider, aead_alg: known.aead_alg, quic: None };
    SupportedCipherSuite::Tls13(Box::leak(Box::new(ours)))
}

/// Suites with these ciphers only, in their order; within one, in the library's order of preference.
pub fn provider(ciphers: &[Cipher]) -> CryptoProvider {
    let with = |cipher| SUITES.iter().copied().filter(move |known| cipher_of(known.suite()) == Some(cipher));
    CryptoProvider { cipher_suites: ciphers.iter().copied().flat_map(with).collect(), ..default_provider() }
}

fn cipher_of(suite: CipherSuite) -> Option<Cipher> {
    use CipherSuite as S;
    match suite {
        S::TLS13_AES_128_GCM_SHA256
        | S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | S::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => Some(Cipher::Aes128Gcm),
        S::TLS13_AES_256_GCM_SHA384
        | S::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
        | S::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => Some(Cipher::Aes256Gcm),
        S::TLS13_CHACHA20_POLY1305_SHA256
        | S::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        | S::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => Some(Cipher::Chacha20Poly1305),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::tls13::Hkdf;

    use super::*;

    /// For each suite, ours beside the library's.
    fn pairs() -> Vec<(&'static dyn Hkdf, &'static dyn Hkdf, usize)> {
        let theirs = default_provider().cipher_suites;
        let pairs = SUITES.iter().zip(theirs).filter_map(|(ours, theirs)| {
            assert_eq!(ours.suite(), theirs.suite());
            let (ours, theirs) = (ours.tls13()?, theirs.tls13()?);
            Some((ours.hkdf_provider, theirs.hkdf_provider, ours.common.hash_provider.output_len()))
        });
        pairs.collect()
    }

    #[test]
    fn every_suite_of_the_library_has_its_place() {
        let all = provider(&Cipher::PREFERRED).cipher_suites;
        assert_eq!(all.len(), SUITES.len());
        let one = provider(&[Cipher::Chacha20Poly1305, Cipher::Aes256Gcm]).cipher_suites;
        let order: Vec<_> = one.iter().map(|known| cipher_of(known.suite()).unwrap()).collect();
        assert_eq!(order, [[Cipher::Chacha20Poly1305; 3], [Cipher::Aes256Gcm; 3]].concat());
    }

    #[test]
    fn derives_what_the_library_derives() {
        let pairs = pairs();
        assert_eq!(pairs.len(), 3);
        for (ours, theirs, len) in pairs {
            for salt in [None, Some([7; 48].as_slice())] {
                for secret in [&[][..], &[1; 32], &[2; 200]] {
                    let (mine, other) =
                        (ours.extract_from_secret(salt, secret), theirs.extract_from_secret(salt, secret));
                    same(ours, theirs, &*mine, &*other, len);
                }
                same(ours, theirs, &*ours.extract_from_zero_ikm(salt), &*theirs.extract_from_zero_ikm(salt), len);
            }
        }
    }

    fn same(
        ours: &dyn Hkdf,
        theirs: &dyn Hkdf,
        mine: &dyn rustls::crypto::tls13::HkdfExpander,
        other: &dyn rustls::crypto::tls13::HkdfExpander,
        len: usize,
    ) {
        for info in [&[][..], &[b"tls13 key".as_slice()], &[b"a".as_slice(), &[9; 150], b"c"]] {
            let (one, two) = (mine.expand_block(info), other.expand_block(info));
            assert_eq!(one.as_ref(), two.as_ref());
            assert_eq!(one.as_ref().len(), len);
            let (mut short, mut long) = ([0; 12], vec![0; 3 * len + 1]);
            let (mut short_other, mut long_other) = (short, long.clone());
            assert!(mine.expand_slice(info, &mut short).is_ok() && mine.expand_slice(info, &mut long).is_ok());
            assert!(other.expand_slice(info, &mut short_other).is_ok());
            assert!(other.expand_slice(info, &mut long_other).is_ok());
            assert_eq!((short, long), (short_other, long_other));
            assert_eq!(
                ours.expander_for_okm(&one).expand_block(info).as_ref(),
                theirs.expander_for_okm(&two).expand_block(info).as_ref()
            );
            assert_eq!(ours.hmac_sign(&one, b"message").as_ref(), theirs.hmac_sign(&two, b"message").as_ref());
        }
        assert!(mine.expand_slice(&[], &mut vec![0; 255 * len + 1]).is_err());
    }
}
