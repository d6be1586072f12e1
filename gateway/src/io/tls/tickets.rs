//! Session tickets under keys from the settings, so that every server opens what another one sealed.
//!
//! A ticket is: key name (8), nonce (12), AES-256-GCM(issue time in seconds (8), session state), tag (16); the key name is
//! authenticated too. The first key seals, all open.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use rustls::server::ProducesTickets;

use crate::io::config::{Authentication, Refused};

/// Seconds after which a ticket is refused. Keys should rotate faster.
const LIFETIME: u32 = 12 * 3600;
const NAME_LEN: usize = 8;
/// Refused before any cryptography: no session state is this long.
const MAX_TICKET: usize = 32 * 1024;

struct Key {
    name: [u8; NAME_LEN],
    aead: LessSafeKey,
}

/// A ticketer over configured keys.
pub struct ConfiguredTickets {
    keys: Vec<Key>,
    random: SystemRandom,
    now: fn() -> u64,
}

impl std::fmt::Debug for ConfiguredTickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ConfiguredTickets({} keys)", self.keys.len())
    }
}

impl ConfiguredTickets {
    /// Reads keys of 64 hexadecimal digits. A ticket is good under the authentication it was made under only: one of a
    /// time without certificates would bring a session without an identity back, where a full handshake shows one.
    pub fn new(keys: &[String], authentication: Authentication) -> Result<Self, Refused> {
        let keys = keys.iter().map(|text| Key::parse(text, authentication)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { keys, random: SystemRandom::new(), now: epoch_seconds })
    }
}

impl Key {
    fn parse(text: &str, authentication: Authentication) -> Result<Self, Refused> {
        let refused = || Refused("tls.ticket_keys: 64 hexadecimal digits each".to_owned());
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(refused());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(pair).map_err(|_| refused())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| refused())?;
        }
        let purpose: &[u8] = match authentication {
            Authentication::Certificates => b"portico ticket key name",
            Authentication::None => b"portico ticket key name without certificates",
        };
        let digest = digest::digest(&digest::SHA256, &[purpose, &bytes].concat());
        let mut name = [0; NAME_LEN];
        name.copy_from_slice(&digest.as_ref()[..NAME_LEN]);
        let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| refused())?;
        Ok(Self { name, aead: LessSafeKey::new(key) })
    }
}

impl ProducesTickets for ConfiguredTickets {
    fn enabled(&self) -> bool {
        !self.keys.is_empty()
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let key = self.keys.first()?;
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let mut sealed = Vec::with_capacity(8 + plain.len() + AES_256_GCM.tag_len());
        sealed.extend((self.now)().to_be_bytes());
        sealed.extend(plain);
        let aad = Aad::from(key.name);
        key.aead.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed).ok()?;
        Some([&key.name, nonce.as_slice(), &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > MAX_TICKET {
            return None;
        }
        let (name, rest) = ticket.split_at_checked(NAME_LEN)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let key = self.keys.iter().find(|key| key.name == name)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut opened = sealed.to_vec();
        let opened = key.aead.open_in_place(nonce, Aad::from(key.name), &mut opened).ok()?;
        let (issued, state) = opened.split_at_checked(8)?;
        let age = (self.now)().saturating_sub(u64::from_be_bytes(issued.try_into().ok()?));
        (age <= u64::from(LIFETIME)).then(|| state.to_vec())
    }
}

fn epoch_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(keys: &[char]) -> ConfiguredTickets {
        under(Authentication::Certificates, keys)
    }

    fn under(authentication: Authentication, keys: &[char]) -> ConfiguredTickets {
        let keys: Vec<_> = keys.iter().map(|digit| digit.to_string().repeat(64)).collect();
        ConfiguredTickets::new(&keys, authentication).unwrap()
    }

    #[test]
    fn another_process_with_the_same_keys_opens_them() {
        let ticket = tickets(&['a']).encrypt(b"state").unwrap();
        assert_eq!(tickets(&['a']).decrypt(&ticket).unwrap(), b"state");
    }

    #[test]
    fn another_mode_of_authentication_does_not_open_them() {
        let ticket = under(Authentication::None, &['a']).encrypt(b"state").unwrap();
        assert!(tickets(&['a']).decrypt(&ticket).is_none());
    }

    #[test]
    fn rotation_first_seals_all_open() {
        let old = tickets(&['a']).encrypt(b"state").unwrap();
        let rotated = tickets(&['b', 'a']);
        assert_eq!(rotated.decrypt(&old).unwrap(), b"state");
        let new = rotated.encrypt(b"state").unwrap();
        assert!(tickets(&['a']).decrypt(&new).is_none());
        assert!(tickets(&['b']).decrypt(&old).is_none());
    }

    #[test]
    fn tampered_and_truncated_tickets_are_refused() {
        let tickets = tickets(&['a']);
        let ticket = tickets.encrypt(b"state").unwrap();
        for len in 0..ticket.len() {
            assert!(tickets.decrypt(&ticket[..len]).is_none());
        }
        for position in 0..ticket.len() {
            let mut bad = ticket.clone();
            bad[position] ^= 1;
            assert!(tickets.decrypt(&bad).is_none());
        }
        assert!(tickets.decrypt(&vec![0; MAX_TICKET + 1]).is_none());
    }

    #[test]
    fn old_tickets_are_refused() {
        let mut tickets = tickets(&['a']);
        tickets.now = || 1000;
        let ticket = tickets.encrypt(b"state").unwrap();
        tickets.now = || 1001 + LIFETIME as u64;
        assert!(tickets.decrypt(&ticket).is_none());
    }

    #[test]
    fn keys_are_checked() {
        assert!(ConfiguredTickets::new(&["ab".to_owned()], Authentication::None).is_err());
        assert!(ConfiguredTickets::new(&["+f".repeat(32)], Authentication::None).is_err());
        assert!(!ConfiguredTickets::new(&[], Authentication::None).unwrap().enabled());
    }
}
