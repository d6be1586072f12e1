//! One direction of the record protection (RFC 8446 section 5.2, RFC 5288, RFC 7905): an AEAD key, its nonces, and the
//! header it authenticates. Both ways the cipher reads one buffer and writes another, so nothing is copied beside it.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::{AlertDescription, ConnectionTrafficSecrets, Error, InvalidMessage, PeerMisbehaved};
use zeroize::Zeroize;

use super::failure::Failure;

pub const HEADER: usize = 5;
const TAG: usize = 16;
/// The part of a TLS 1.2 GCM nonce that travels with the record.
const EXPLICIT_NONCE: usize = 8;
/// Plaintext in one record.
pub const FRAGMENT: usize = 16_384;
/// Sequence numbers must not wrap; nobody gets here, because keys wear out long before.
const SEQUENCE_LIMIT: u64 = u64::MAX - 0xffff;

/// How records of a suite are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The content type is encrypted, behind the content; the header says application data.
    Tls13,
    /// Half of the nonce is written in front of the ciphertext.
    Tls12Gcm,
    Tls12ChaCha,
}

impl Layout {
    /// Bytes between header and ciphertext.
    const fn prefix(self) -> usize {
        match self {
            Self::Tls12Gcm => EXPLICIT_NONCE,
            Self::Tls13 | Self::Tls12ChaCha => 0,
        }
    }

    /// What sealing adds to the plaintext, the header included.
    pub const fn overhead(self) -> usize {
        let inner = if matches!(self, Self::Tls13) { 1 } else { 0 };
        HEADER + self.prefix() + inner + TAG
    }
}

/// A record that was authentic: its content type and the length of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    pub content_type: u8,
    pub len: usize,
}

/// The key of one direction. The cipher zeroises its schedule when it is dropped.
pub struct RecordKey {
    aead: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
    layout: Layout,
}

impl Drop for RecordKey {
    fn drop(&mut self) {
        self.iv.zeroize();
    }
}

impl RecordKey {
    /// Takes over secrets of the handshake or of a key update; `tls13` says which protocol they are for.
    pub fn new(sequence: u64, secrets: &ConnectionTrafficSecrets, tls13: bool) -> Result<Self, Error> {
        let (algorithm, key, iv): (&'static Algorithm, _, _) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(Error::General("the TLS library agreed on a cipher unknown here".to_owned())),
        };
        let layout = match (tls13, algorithm == &CHACHA20_POLY1305) {
            (true, _) => Layout::Tls13,
            (false, true) => Layout::Tls12ChaCha,
            (false, false) => Layout::Tls12Gcm,
        };
        let unusable = || Error::General("the TLS library gave a key of the wrong length".to_owned());
        let aead = LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).map_err(|_| unusable())?);
        let iv = iv.as_ref().try_into().map_err(|_| unusable())?;
        Ok(Self { aead, iv, sequence, layout })
    }

    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Records that were protected with this key.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    fn next_sequence(&mut self) -> Result<u64, Error> {
        if self.sequence >= SEQUENCE_LIMIT {
            return Err(Error::EncryptError);
        }
        self.sequence += 1;
        Ok(self.sequence - 1)
    }

    fn nonce(&self, sequence: u64) -> [u8; 12] {
        let mut nonce = self.iv;
        for (byte, part) in nonce[4..].iter_mut().zip(sequence.to_be_bytes()) {
            *byte ^= part;
        }
        nonce
    }

    /// Opens one record into the front of `out`, which is at least as long as `body`.
    ///
    /// # Errors
    /// With the alert that RFC 8446 section 5.2 asks for, when the record is too long, not authentic or without content
    /// type.
    pub fn open(&mut self, header: &[u8; HEADER], body: &[u8], out: &mut [u8]) -> Result<Opened, Failure> {
        let prefix = self.layout.prefix();
        let Some(len) = body.len().checked_sub(prefix + TAG) else {
            return Err(Failure::new(AlertDescription::BadRecordMac, Error::DecryptError));
        };
        let inner = usize::from(self.layout == Layout::Tls13);
        // TLS 1.3 limits the padded content as well as the record.
        if len > FRAGMENT + inner * 256 {
            return Err(Failure::too_long());
        }
        let sequence = self.next_sequence().map_err(|error| Failure::new(AlertDescription::InternalError, error))?;
        let (ciphertext, tag) = body[prefix..].split_at(len);
        let out = &mut out[..len];
        let opened = match self.layout {
            Layout::Tls13 => {
                let nonce = Nonce::assume_unique_for_key(self.nonce(sequence));
                self.aead.open_separate_gather(nonce, Aad::from(*header), ciphertext, tag, out)
            }
            Layout::Tls12Gcm => {
                let mut nonce = self.iv;
                nonce[4..].copy_from_slice(&body[..EXPLICIT_NONCE]);
                let nonce = Nonce::assume_unique_for_key(nonce);
                self.aead.open_separate_gather(nonce, tls12_aad(sequence, header, len), ciphertext, tag, out)
            }
            Layout::Tls12ChaCha => {
                let nonce = Nonce::assume_unique_for_key(self.nonce(sequence));
                self.aead.open_separate_gather(nonce, tls12_aad(sequence, header, len), ciphertext, tag, out)
            }
        };
        opened.map_err(|_| Failure::new(AlertDescription::BadRecordMac, Error::DecryptError))?;
        if self.layout != Layout::Tls13 {
            return Ok(Opened { content_type: header[0], len });
        }
        if len > FRAGMENT + 1 {
            return Err(Failure::too_long());
        }
        let Some(content) = out.iter().rposition(|&byte| byte != 0) else {
            return Err(Failure::new(
                AlertDescription::UnexpectedMessage,
                PeerMisbehaved::IllegalTlsInnerPlaintext.into(),
            ));
        };
        Ok(Opened { content_type: out[content], len: content })
    }

    /// Seals one record of at most [`FRAGMENT`] bytes into the front of `out`; returns its length.
    ///
    /// # Errors
    /// When `out` is too short or the key is used up.
    pub fn seal(&mut self, content_type: u8, content: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let total = content.len() + self.layout.overhead();
        let out = out.get_mut(..total).filter(|_| content.len() <= FRAGMENT).ok_or(Error::EncryptError)?;
        let sequence = self.next_sequence()?;
        let nonce = self.nonce(sequence);
        let (header, body) = out.split_at_mut(HEADER);
        let header: &mut [u8; HEADER] = header.try_into().map_err(|_| Error::EncryptError)?;
        let length = u16::try_from(body.len()).map_err(|_| Error::EncryptError)?.to_be_bytes();
        let outer = if self.layout == Layout::Tls13 { content_type::APPLICATION_DATA } else { content_type };
        *header = [outer, 3, 3, length[0], length[1]];
        let (prefix, body) = body.split_at_mut(self.layout.prefix());
        prefix.copy_from_slice(&nonce[12 - prefix.len()..]);
        let (ciphertext, tag) = body.split_at_mut(content.len());
        let nonce = Nonce::assume_unique_for_key(nonce);
        match self.layout {
            Layout::Tls13 => self.aead.seal_out_of_place_scatter(
                nonce,
                Aad::from(*header),
                content,
                ciphertext,
                &[content_type],
                tag,
            ),
            Layout::Tls12Gcm | Layout::Tls12ChaCha => {
                let aad = tls12_aad(sequence, header, content.len());
                self.aead.seal_out_of_place_scatter(nonce, aad, content, ciphertext, &[], tag)
            }
        }
        .map_err(|_| Error::EncryptError)?;
        Ok(total)
    }
}

/// RFC 5246 section 6.2.3.3.
fn tls12_aad(sequence: u64, header: &[u8; HEADER], len: usize) -> Aad<[u8; 13]> {
    let mut aad = [0; 13];
    aad[..8].copy_from_slice(&sequence.to_be_bytes());
    aad[8..11].copy_from_slice(&header[..3]);
    // Callers have checked the length against the limits of a record.
    aad[11..].copy_from_slice(&(len as u16).to_be_bytes());
    Aad::from(aad)
}

/// RFC 8446 section 5.1.
pub mod content_type {
    pub const CHANGE_CIPHER_SPEC: u8 = 20;
    pub const ALERT: u8 = 21;
    pub const HANDSHAKE: u8 = 22;
    pub const APPLICATION_DATA: u8 = 23;
}

/// Reads a record header: the length of the body.
///
/// # Errors
/// When it is not the header of a record, or announces more than the protocol allows.
pub fn body_len(header: &[u8; HEADER], layout: Layout) -> Result<usize, Failure> {
    let bad = |problem: InvalidMessage| Failure::new(AlertDescription::DecodeError, problem.into());
    if !(content_type::CHANGE_CIPHER_SPEC..=content_type::APPLICATION_DATA).contains(&header[0]) {
        return Err(bad(InvalidMessage::InvalidContentType));
    }
    if header[1] != 3 {
        return Err(bad(InvalidMessage::UnknownProtocolVersion));
    }
    let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
    let most = if layout == Layout::Tls13 { FRAGMENT + 256 } else { FRAGMENT + 2048 };
    if len > most { Err(Failure::too_long()) } else { Ok(len) }
}
