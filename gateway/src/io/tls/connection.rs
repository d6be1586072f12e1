//! One TLS connection over caller-owned buffers, from its first byte on.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, Error, ServerConfig};

use super::handshake::{Established, Handshake};
use super::plain::PlainBuffer;
use super::records::{Received, Records};

pub struct Tls {
    phase: Phase,
    resumed: bool,
    peer_certificates: Option<Box<[CertificateDer<'static>]>>,
}

enum Phase {
    Handshake(Box<Handshake>),
    Established(Records),
    /// An error was reported; nothing more can be done with it.
    Failed,
}

impl Tls {
    pub fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self::new(Handshake::server(config)?))
    }

    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, Error> {
        Ok(Self::new(Handshake::client(config, name)?))
    }

    fn new(handshake: Handshake) -> Self {
        Self { phase: Phase::Handshake(Box::new(handshake)), resumed: false, peer_certificates: None }
    }

    /// Opens all complete records of `cipher`. Plaintext is added to `plain`, which has room for as much as `cipher` is
    /// long; records for the peer (handshake, key updates, alerts) are appended to `out` and must be sent before anything
    /// that is sealed afterwards. On an error `out` may hold the alert that tells the peer why.
    pub fn receive(
        &mut self,
        cipher: &mut [u8],
        plain: &mut PlainBuffer,
        out: &mut Vec<u8>,
    ) -> Result<Received, Error> {
        let result = self.advance(cipher, plain, out);
        if result.is_err() {
            self.phase = Phase::Failed;
        }
        result
    }

    fn advance(&mut self, cipher: &mut [u8], plain: &mut PlainBuffer, out: &mut Vec<u8>) -> Result<Received, Error> {
        let handshake = match &mut self.phase {
            Phase::Established(records) => return records.receive(cipher, plain, out),
            Phase::Handshake(handshake) => handshake,
            Phase::Failed => return Err(Error::HandshakeNotComplete),
        };
        let step = handshake.receive(cipher, out)?;
        if !step.done {
            return Ok(Received { consumed: step.consumed, closed: false });
        }
        if let Phase::Handshake(handshake) = std::mem::replace(&mut self.phase, Phase::Failed) {
            let Established { records, resumed, peer_certificates } = handshake.finish()?;
            (self.resumed, self.peer_certificates) = (resumed, peer_certificates);
            self.phase = Phase::Established(records);
        }
        let mut received = self.advance(&mut cipher[step.consumed..], plain, out)?;
        received.consumed += step.consumed;
        Ok(received)
    }

    /// Seals `plain` into records at the front of `out`, which has room for `sealed_len(plain.len())`; returns their length.
    /// Records must reach the peer in the order in which they were sealed.
    ///
    /// # Errors
    /// When the handshake is not complete, the room does not suffice, or with TLS 1.2 when the key is used up.
    pub fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        self.records()?.seal(plain, out)
    }

    /// Writes the alert that closes our direction to the front of `out`; returns its length.
    pub fn close(&mut self, out: &mut [u8]) -> Result<usize, Error> {
        self.records()?.close(out)
    }

    fn records(&mut self) -> Result<&mut Records, Error> {
        match &mut self.phase {
            Phase::Established(records) => Ok(records),
            Phase::Handshake(_) | Phase::Failed => Err(Error::HandshakeNotComplete),
        }
    }

    /// Whether the peer goes on without what was said at the end of the handshake: a client's request follows it in any
    /// case, and of a server it is, with TLS 1.3, no more than a ticket. With TLS 1.2 the client waits for it.
    pub fn peer_needs_no_answer(&self) -> bool {
        match &self.phase {
            Phase::Established(records) => records.is_client() || records.is_tls13(),
            Phase::Handshake(_) | Phase::Failed => false,
        }
    }

    pub fn is_handshaking(&self) -> bool {
        matches!(self.phase, Phase::Handshake(_))
    }

    /// What a client showed, its own certificate first; at a client None.
    pub fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.peer_certificates.as_deref()
    }

    pub fn resumed(&self) -> bool {
        self.resumed
    }

    pub fn version(&self) -> &'static str {
        match &self.phase {
            Phase::Established(records) if records.is_tls13() => "TLSv1_3",
            Phase::Established(_) => "TLSv1_2",
            Phase::Handshake(_) | Phase::Failed => "",
        }
    }

    /// Seals one record of any kind.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn seal_as(&mut self, kind: u8, content: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        self.records()?.seal_as(kind, content, out)
    }

    #[cfg(test)]
    pub(super) fn established(&mut self) -> &mut Records {
        self.records().unwrap()
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tls({})", self.version())
    }
}
