//! The record layer of an established connection: opens what came, seals what goes, and deals with everything that is not
//! data (RFC 8446 sections 4.6, 5 and 6; RFC 5246 sections 6.2 and 7.2). A connection at rest holds two keys and, for
//! TLS 1.3, what later keys and tickets are made from.

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{AlertDescription, ConnectionTrafficSecrets, Error, PeerMisbehaved};

use super::failure::Failure;
use super::messages::{Allowances, KeyUpdate, Message, next_message};
use super::plain::PlainBuffer;
use super::record_key::{FRAGMENT, HEADER, Layout, RecordKey, body_len, content_type};

/// The largest TLS record on the wire: header, plaintext, expansion allowed by TLS 1.2 (RFC 5246 section 6.2.3).
pub const MAX_RECORD: usize = HEADER + FRAGMENT + 2048;
/// What sealing adds to each started 16 KiB at most (TLS 1.3: header 5, content type 1, tag 16; TLS 1.2 GCM: 5 + 8 + 16).
pub const RECORD_OVERHEAD: usize = 32;

/// Room that sealing `plain` bytes needs, a key update in front included.
pub const fn sealed_len(plain: usize) -> usize {
    plain + plain.div_ceil(FRAGMENT) * RECORD_OVERHEAD + RECORD_OVERHEAD
}

/// What feeding ciphertext brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes to forget from the front of the ciphertext; what remains is the start of a record.
    pub consumed: usize,
    /// The peer said it sends nothing more.
    pub closed: bool,
}

/// What the TLS library keeps of a TLS 1.3 connection.
pub enum Secrets {
    Server(KernelConnection<ServerConnectionData>),
    Client(KernelConnection<ClientConnectionData>),
}

impl Secrets {
    fn next_open(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Self::Server(kernel) => kernel.update_rx_secret(),
            Self::Client(kernel) => kernel.update_rx_secret(),
        }
    }

    fn next_seal(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Self::Server(kernel) => kernel.update_tx_secret(),
            Self::Client(kernel) => kernel.update_tx_secret(),
        }
    }
}

pub struct Records {
    open: RecordKey,
    seal: RecordKey,
    /// None with TLS 1.2, whose keys and tickets are what they are.
    secrets: Option<Box<Secrets>>,
    is_client: bool,
    /// Records that one key may protect.
    limit: u64,
    /// The start of a handshake message; no memory when there is none.
    partial: Vec<u8>,
    allowances: Allowances,
    /// The peer was asked for new keys of its own.
    asked: bool,
    closed_by_peer: bool,
}

impl Records {
    pub fn new(open: RecordKey, seal: RecordKey, secrets: Secrets, limit: u64) -> Self {
        let is_client = matches!(secrets, Secrets::Client(_));
        let secrets = (seal.layout() == Layout::Tls13).then(|| Box::new(secrets));
        Self {
            open,
            seal,
            secrets,
            is_client,
            limit,
            partial: Vec::new(),
            allowances: Allowances::default(),
            asked: false,
            closed_by_peer: false,
        }
    }

    pub fn is_client(&self) -> bool {
        self.is_client
    }

    pub fn is_tls13(&self) -> bool {
        self.seal.layout() == Layout::Tls13
    }

    /// Opens all complete records of `cipher` into `plain`. Answers for the peer are appended to `out`; on an error the
    /// alert that tells it why.
    pub fn receive(&mut self, cipher: &[u8], plain: &mut PlainBuffer, out: &mut Vec<u8>) -> Result<Received, Error> {
        match self.open_all(cipher, plain, out) {
            Ok(consumed) => Ok(Received { consumed, closed: self.closed_by_peer }),
            Err(Failure { alert, error }) => {
                if let Some(alert) = alert {
                    self.alert(FATAL, alert, out)?;
                }
                Err(error)
            }
        }
    }

    fn open_all(&mut self, cipher: &[u8], plain: &mut PlainBuffer, out: &mut Vec<u8>) -> Result<usize, Failure> {
        let layout = self.open.layout();
        let mut update_wanted = false;
        let mut rest = cipher;
        // What follows the peer's goodbye is to be ignored (RFC 8446 section 6.1).
        while !self.closed_by_peer {
            let Some((header, behind)) = rest.split_first_chunk::<HEADER>() else { break };
            let len = body_len(header, layout)?;
            let Some((body, behind)) = behind.split_at_checked(len) else { break };
            rest = behind;
            if layout == Layout::Tls13 && header[0] != content_type::APPLICATION_DATA {
                return Err(Failure::unexpected("a record in the clear"));
            }
            let opened = self.open.open(header, body, plain.free())?;
            if opened.content_type == content_type::APPLICATION_DATA {
                if !self.partial.is_empty() {
                    return Err(interleaved());
                }
                self.allowances.data(opened.len)?;
                plain.commit(opened.len);
            } else {
                let content = &plain.free()[..opened.len];
                self.not_data(opened.content_type, content, &mut update_wanted, out)?;
            }
        }
        let internal = |error| Failure::new(AlertDescription::InternalError, error);
        if !self.asked && self.open.sequence() >= self.limit && self.secrets.is_some() {
            self.asked = true;
            self.update_seal(KeyUpdate::Requested, out).map_err(internal)?;
        } else if update_wanted {
            self.update_seal(KeyUpdate::NotRequested, out).map_err(internal)?;
        }
        Ok(if self.closed_by_peer { cipher.len() } else { cipher.len() - rest.len() })
    }

    fn not_data(
        &mut self,
        kind: u8,
        content: &[u8],
        update_wanted: &mut bool,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        match kind {
            content_type::HANDSHAKE => return self.handshake(content, update_wanted, out),
            _ if !self.partial.is_empty() => return Err(interleaved()),
            content_type::ALERT => {}
            content_type::CHANGE_CIPHER_SPEC => return Err(Failure::unexpected("a change of the cipher")),
            _ => return Err(Failure::unexpected("a content type that does not exist")),
        }
        let &[level, description] = content else {
            return Err(Failure::new(AlertDescription::DecodeError, Error::DecryptError));
        };
        let description = AlertDescription::from(description);
        match level {
            _ if description == AlertDescription::CloseNotify => self.closed_by_peer = true,
            // TLS 1.3 has no other warning left (RFC 8446 section 6).
            WARNING if !self.is_tls13() || description == AlertDescription::UserCanceled => {
                self.allowances.warning()?;
            }
            WARNING => {
                return Err(Failure::new(AlertDescription::DecodeError, Error::AlertReceived(description)));
            }
            FATAL => return Err(Failure { alert: None, error: Error::AlertReceived(description) }),
            _ => return Err(Failure::new(AlertDescription::IllegalParameter, Error::AlertReceived(description))),
        }
        Ok(())
    }

    /// Handshake messages after the handshake, which may share records and be spread over several.
    fn handshake(&mut self, content: &[u8], update_wanted: &mut bool, out: &mut Vec<u8>) -> Result<(), Failure> {
        if content.is_empty() {
            return Err(Failure::unexpected("an empty record of a handshake"));
        }
        let mut held = std::mem::take(&mut self.partial);
        if !held.is_empty() {
            held.extend_from_slice(content);
        }
        let mut rest = if held.is_empty() { content } else { &held };
        while let Some(message) = next_message(&mut rest, self.is_client, self.is_tls13())? {
            self.allowances.message()?;
            match message {
                Message::KeyUpdate(update) => {
                    // The next byte would be under another key (RFC 8446 section 5.1).
                    if !rest.is_empty() {
                        return Err(Failure::new(
                            AlertDescription::UnexpectedMessage,
                            PeerMisbehaved::KeyEpochWithPendingFragment.into(),
                        ));
                    }
                    self.update_open().map_err(|error| Failure::new(AlertDescription::InternalError, error))?;
                    *update_wanted |= update == KeyUpdate::Requested;
                }
                Message::NewSessionTicket(ticket) => {
                    if let Some(Secrets::Client(kernel)) = self.secrets.as_deref_mut() {
                        kernel
                            .handle_new_session_ticket(ticket)
                            .map_err(|error| Failure::new(AlertDescription::DecodeError, error))?;
                    }
                }
                Message::Renegotiation => {
                    self.allowances.renegotiation()?;
                    self.alert(WARNING, AlertDescription::NoRenegotiation, out)
                        .map_err(|error| Failure::new(AlertDescription::InternalError, error))?;
                }
            }
        }
        self.partial = match held.len() {
            // The usual case, in which there is neither a rest nor memory for it.
            0 => rest.to_vec(),
            len if rest.len() == len => held,
            _ => rest.to_vec(),
        };
        Ok(())
    }

    fn update_open(&mut self) -> Result<(), Error> {
        let secrets = self.secrets.as_deref_mut().ok_or(Error::DecryptError)?;
        let (sequence, next) = secrets.next_open()?;
        self.open = RecordKey::new(sequence, &next, true)?;
        self.asked = false;
        Ok(())
    }

    /// Tells the peer under the old key that a new one follows.
    fn update_seal(&mut self, update: KeyUpdate, out: &mut Vec<u8>) -> Result<(), Error> {
        let start = out.len();
        out.resize(start + HEADER + update.bytes().len() + RECORD_OVERHEAD, 0);
        let len = self.write_key_update(update, &mut out[start..])?;
        out.truncate(start + len);
        Ok(())
    }

    fn write_key_update(&mut self, update: KeyUpdate, out: &mut [u8]) -> Result<usize, Error> {
        let secrets = self.secrets.as_deref_mut().ok_or(Error::EncryptError)?;
        let len = self.seal.seal(content_type::HANDSHAKE, &update.bytes(), out)?;
        let (sequence, next) = secrets.next_seal()?;
        self.seal = RecordKey::new(sequence, &next, true)?;
        Ok(len)
    }

    fn alert(&mut self, level: u8, description: AlertDescription, out: &mut Vec<u8>) -> Result<(), Error> {
        let start = out.len();
        out.resize(start + HEADER + 2 + RECORD_OVERHEAD, 0);
        let len = self.seal.seal(content_type::ALERT, &[level, description.into()], &mut out[start..])?;
        out.truncate(start + len);
        Ok(())
    }

    /// A key that protected as many records as it may is replaced, or with TLS 1.2 refuses more.
    fn fresh_key(&mut self, out: &mut [u8]) -> Result<usize, Error> {
        if self.seal.sequence() < self.limit {
            return Ok(0);
        }
        self.write_key_update(KeyUpdate::NotRequested, out)
    }

    /// Seals `plain` into records at the front of `out`, which has room for `sealed_len(plain.len())`; returns their length.
    ///
    /// # Errors
    /// When the room does not suffice, or with TLS 1.2 when the key is used up: the connection must be closed then.
    pub fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let mut len = 0;
        for fragment in plain.chunks(FRAGMENT) {
            len += self.fresh_key(&mut out[len..])?;
            len += self.seal.seal(content_type::APPLICATION_DATA, fragment, &mut out[len..])?;
        }
        Ok(len)
    }

    /// Writes the alert that closes our direction to the front of `out`; returns its length.
    pub fn close(&mut self, out: &mut [u8]) -> Result<usize, Error> {
        self.seal.seal(content_type::ALERT, &[WARNING, AlertDescription::CloseNotify.into()], out)
    }

    #[cfg(test)]
    pub(super) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    #[cfg(test)]
    pub(super) fn update_key(&mut self, out: &mut Vec<u8>) {
        self.update_seal(KeyUpdate::Requested, out).unwrap();
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn seal_as(&mut self, kind: u8, content: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        self.seal.seal(kind, content, out)
    }
}

const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// "There MUST NOT be any other records between them" (RFC 8446 section 5.1).
fn interleaved() -> Failure {
    Failure::new(AlertDescription::UnexpectedMessage, PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into())
}
