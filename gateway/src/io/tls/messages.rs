//! Handshake messages that may follow a handshake (RFC 8446 section 4.6; RFC 5246 section 7.4.1), and how many of what
//! carries no data a peer may send.

use rustls::{AlertDescription, InvalidMessage, PeerMisbehaved};

use super::failure::Failure;

const HELLO_REQUEST: u8 = 0;
const CLIENT_HELLO: u8 = 1;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
/// A message is longer than this in a handshake only.
const MAX_MESSAGE: usize = 0xffff;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyUpdate {
    NotRequested,
    Requested,
}

impl KeyUpdate {
    /// The whole message.
    pub fn bytes(self) -> [u8; 5] {
        [KEY_UPDATE, 0, 0, 1, u8::from(self == Self::Requested)]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    KeyUpdate(KeyUpdate),
    /// The body.
    NewSessionTicket(&'a [u8]),
    /// The peer would like to negotiate anew, with TLS 1.2.
    Renegotiation,
}

/// Takes one message off the front of `bytes`; None when it is not complete.
///
/// # Errors
/// When it has no business after a handshake, which its first byte tells, or is malformed.
pub fn next_message<'a>(bytes: &mut &'a [u8], is_client: bool, tls13: bool) -> Result<Option<Message<'a>>, Failure> {
    let Some(&kind) = bytes.first() else { return Ok(None) };
    let most = match (kind, is_client, tls13) {
        (KEY_UPDATE, _, true) => 1,
        (NEW_SESSION_TICKET, true, true) | (CLIENT_HELLO, false, false) => MAX_MESSAGE,
        (HELLO_REQUEST, true, false) => 0,
        _ => return Err(Failure::unexpected("a handshake message after the handshake")),
    };
    let Some((&[_, a, b, c], behind)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_be_bytes([0, a, b, c]) as usize;
    if len > most {
        return Err(Failure::new(AlertDescription::DecodeError, InvalidMessage::HandshakePayloadTooLarge.into()));
    }
    let Some((body, behind)) = behind.split_at_checked(len) else { return Ok(None) };
    *bytes = behind;
    match (kind, body) {
        (KEY_UPDATE, [0]) => Ok(Some(Message::KeyUpdate(KeyUpdate::NotRequested))),
        (KEY_UPDATE, [1]) => Ok(Some(Message::KeyUpdate(KeyUpdate::Requested))),
        (KEY_UPDATE, []) => {
            Err(Failure::new(AlertDescription::DecodeError, InvalidMessage::MissingData("KeyUpdate").into()))
        }
        (KEY_UPDATE, _) => {
            Err(Failure::new(AlertDescription::IllegalParameter, InvalidMessage::InvalidKeyUpdate.into()))
        }
        (NEW_SESSION_TICKET, _) => Ok(Some(Message::NewSessionTicket(body))),
        _ => Ok(Some(Message::Renegotiation)),
    }
}

/// What a peer may still send that costs us work and carries nothing: the limits are those of rustls and BoringSSL.
#[derive(Debug)]
pub struct Allowances {
    /// Records without content, one after the other.
    empty: u8,
    /// Handshake messages without data between them.
    messages: u8,
    warnings: u8,
    renegotiations: u8,
}

impl Default for Allowances {
    fn default() -> Self {
        Self { empty: 32, messages: 32, warnings: 4, renegotiations: 1 }
    }
}

impl Allowances {
    /// A record of application data with so many bytes.
    pub fn data(&mut self, len: usize) -> Result<(), Failure> {
        if len == 0 {
            return spend(&mut self.empty, PeerMisbehaved::TooManyEmptyFragments);
        }
        (self.empty, self.messages) = (32, 32);
        Ok(())
    }

    pub fn message(&mut self) -> Result<(), Failure> {
        spend(&mut self.messages, PeerMisbehaved::TooManyKeyUpdateRequests)
    }

    pub fn warning(&mut self) -> Result<(), Failure> {
        spend(&mut self.warnings, PeerMisbehaved::TooManyWarningAlertsReceived)
    }

    pub fn renegotiation(&mut self) -> Result<(), Failure> {
        spend(&mut self.renegotiations, PeerMisbehaved::TooManyRenegotiationRequests)
    }
}

fn spend(allowance: &mut u8, flood: PeerMisbehaved) -> Result<(), Failure> {
    match allowance.checked_sub(1) {
        Some(left) => {
            *allowance = left;
            Ok(())
        }
        None => Err(Failure::flood(flood)),
    }
}
