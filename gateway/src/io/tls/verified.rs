//! Chains of client certificates that were found good and whose they are, so that a machine that comes back costs a hash
//! where it would cost the signatures of its chain: a server that restarted has all its clients back within seconds.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::digest;
use parking_lot::Mutex;
use rustls::pki_types::{CertificateDer, UnixTime};

use super::identity::{identity_in, parsed};
use crate::core::iphttps::Identity;

/// Chains kept; when there are more, it begins anew. An entry takes about 250 bytes.
const CAPACITY: usize = 16_384;

#[derive(Clone, Debug)]
struct Verified {
    /// Validity of the whole chain, seconds since the epoch.
    from: i64,
    until: i64,
    identity: Arc<Identity>,
}

/// Good under one set of trust anchors: belongs to the verifier that has them. What else decides is in the bytes that are
/// hashed, and time, which is looked at again.
#[derive(Debug, Default)]
pub struct VerifiedChains(Mutex<HashMap<[u8; 32], Verified>>);

impl VerifiedChains {
    /// Whose this chain is, if it was verified and no certificate of it has expired since.
    pub fn find(&self, chain: &Chain, now: UnixTime) -> Option<Arc<Identity>> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let chains = self.0.lock();
        let verified = chains.get(&chain.hash).filter(|verified| (verified.from..=verified.until).contains(&now));
        verified.map(|verified| verified.identity.clone())
    }

    /// Remembers a chain that was just verified, and says whose it is. None when the certificate does not tell.
    pub fn insert(
        &self,
        chain: &Chain,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
    ) -> Option<Arc<Identity>> {
        let own = parsed(own)?;
        let identity = Arc::new(identity_in(&own)?);
        let others: Option<Vec<_>> = others.iter().map(parsed).collect();
        // One that cannot be read was of no use for the verification, and leaves this without an answer about time.
        let Some(others) = others else { return Some(identity) };
        let mut verified = Verified { from: i64::MIN, until: i64::MAX, identity: identity.clone() };
        for certificate in std::iter::once(&own).chain(&others) {
            verified.from = verified.from.max(certificate.validity().not_before.timestamp());
            verified.until = verified.until.min(certificate.validity().not_after.timestamp());
        }
        let mut chains = self.0.lock();
        if chains.len() >= CAPACITY {
            chains.clear();
        }
        chains.insert(chain.hash, verified);
        Some(identity)
    }
}

/// What names a chain.
pub struct Chain {
    hash: [u8; 32],
}

impl Chain {
    pub fn of(own: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for certificate in std::iter::once(own).chain(others) {
            // DER says itself where it ends, but these bytes come from the peer and nobody has looked at them yet.
            context.update(&(certificate.len() as u64).to_be_bytes());
            context.update(certificate);
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        Self { hash }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use std::time::Duration;

    use super::*;

    fn certificate(years: std::ops::Range<i32>) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["client1".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "client1");
        params.not_before = date_time_ymd(years.start, 1, 1);
        params.not_after = date_time_ymd(years.end, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn year(year: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs((year - 1970) * 31_557_600))
    }

    #[test]
    fn time_is_that_of_the_whole_chain() {
        let (own, other) = (certificate(2020..2040), certificate(2024..2030));
        let verified = VerifiedChains::default();
        let alone = Chain::of(&own, &[]);
        assert!(verified.find(&alone, year(2026)).is_none());
        verified.insert(&alone, &own, &[]);
        let both = Chain::of(&own, std::slice::from_ref(&other));
        verified.insert(&both, &own, std::slice::from_ref(&other));
        let during = |chain| [2019, 2022, 2026, 2035, 2045].map(|at| verified.find(chain, year(at)).is_some());
        assert_eq!(during(&alone), [false, true, true, true, false]);
        assert_eq!(during(&both), [false, false, true, false, false]);
    }

    #[test]
    fn one_byte_more_or_less_is_another_chain() {
        let bytes = |bytes: &'static [u8]| CertificateDer::from(bytes);
        let verified = VerifiedChains::default();
        let own = certificate(2020..2040);
        verified.insert(&Chain::of(&own, &[]), &own, &[]);
        let mut changed = own.to_vec();
        *changed.last_mut().unwrap() ^= 1;
        assert!(verified.find(&Chain::of(&changed.into(), &[]), year(2026)).is_none());
        assert_ne!(Chain::of(&bytes(b"ab"), &[bytes(b"c")]).hash, Chain::of(&bytes(b"a"), &[bytes(b"bc")]).hash);
    }

    #[test]
    fn memory_is_bounded() {
        let verified = VerifiedChains::default();
        let own = certificate(2020..2040);
        for index in 0..2 * CAPACITY as u64 {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&index.to_be_bytes());
            verified.insert(&Chain { hash }, &own, &[]);
        }
        assert!(verified.0.lock().len() <= CAPACITY);
    }
}
