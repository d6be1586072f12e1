//! The handshake, by rustls, one record at a time: what comes behind the last record of it belongs to the record layer,
//! which takes the keys over as soon as they are agreed and lets the handshake's memory go.

use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, InsufficientSizeError, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, Error, HandshakeKind, ProtocolVersion, ServerConfig, SupportedCipherSuite};

use super::failure::Failure;
use super::record_key::{HEADER, RecordKey};
use super::records::{Records, Secrets};

/// A handshake under way.
pub struct Handshake {
    connection: Connection,
    /// Bytes at the front of the ciphertext that the library has seen and refers to by position: the first records of a
    /// message that is spread over several.
    seen: usize,
}

enum Connection {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// What the handshake agreed on.
pub struct Established {
    pub records: Records,
    pub resumed: bool,
    /// At a server: what the client showed, its own certificate first.
    pub peer_certificates: Option<Box<[CertificateDer<'static>]>>,
}

/// How far some bytes brought it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes to forget from the front of the ciphertext.
    pub consumed: usize,
    pub done: bool,
}

impl Handshake {
    pub fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        UnbufferedServerConnection::new(config)
            .map(|connection| Self { connection: Connection::Server(connection), seen: 0 })
    }

    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, Error> {
        UnbufferedClientConnection::new(config, name)
            .map(|connection| Self { connection: Connection::Client(connection), seen: 0 })
    }

    /// Reads records up to the end of the handshake and appends what the peer is to be told to `out`, which on an error
    /// may be an alert.
    pub fn receive(&mut self, cipher: &mut [u8], out: &mut Vec<u8>) -> Result<Step, Error> {
        match &mut self.connection {
            Connection::Server(connection) => receive(connection, &mut self.seen, cipher, out),
            Connection::Client(connection) => receive(connection, &mut self.seen, cipher, out),
        }
    }

    /// The keys, once [`Step::done`].
    pub fn finish(self) -> Result<Established, Error> {
        match self.connection {
            Connection::Server(connection) => {
                let facts = Facts::of(&connection)?;
                let peer_certificates = connection.peer_certificates().map(Into::into);
                let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
                facts.established(&secrets, Secrets::Server(kernel), peer_certificates)
            }
            Connection::Client(connection) => {
                let facts = Facts::of(&connection)?;
                let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
                facts.established(&secrets, Secrets::Client(kernel), None)
            }
        }
    }
}

/// What the library tells of a connection as long as it exists.
struct Facts {
    tls13: bool,
    resumed: bool,
    /// Records that one key may protect.
    limit: u64,
}

impl Facts {
    fn of(connection: &CommonState) -> Result<Self, Error> {
        let suite = connection.negotiated_cipher_suite().ok_or(Error::HandshakeNotComplete)?;
        let limit = match suite {
            SupportedCipherSuite::Tls12(suite) => suite.common.confidentiality_limit,
            SupportedCipherSuite::Tls13(suite) => suite.common.confidentiality_limit,
        };
        Ok(Self {
            tls13: connection.protocol_version() == Some(ProtocolVersion::TLSv1_3),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            limit,
        })
    }

    fn established(
        self,
        extracted: &rustls::ExtractedSecrets,
        secrets: Secrets,
        peer_certificates: Option<Box<[CertificateDer<'static>]>>,
    ) -> Result<Established, Error> {
        let open = RecordKey::new(extracted.rx.0, &extracted.rx.1, self.tls13)?;
        let seal = RecordKey::new(extracted.tx.0, &extracted.tx.1, self.tls13)?;
        let records = Records::new(open, seal, secrets, self.limit);
        Ok(Established { records, resumed: self.resumed, peer_certificates })
    }
}

/// What both ends have in common.
trait Process {
    type Data;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    fn is_under_way(&self) -> bool;
}

impl Process for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn is_under_way(&self) -> bool {
        self.is_handshaking()
    }
}

impl Process for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn is_under_way(&self) -> bool {
        self.is_handshaking()
    }
}

/// The end of the next complete record behind `start`.
fn record_end(cipher: &[u8], start: usize) -> Option<usize> {
    let header = cipher[start..].first_chunk::<HEADER>()?;
    let end = start + HEADER + usize::from(u16::from_be_bytes([header[3], header[4]]));
    (end <= cipher.len()).then_some(end)
}

fn receive<P: Process>(
    connection: &mut P,
    seen: &mut usize,
    cipher: &mut [u8],
    out: &mut Vec<u8>,
) -> Result<Step, Error> {
    let mut consumed = 0;
    // Complete records end here that the library may look at.
    let mut end = *seen;
    let mut partial = false;
    loop {
        let window = if partial { cipher.len() } else { end };
        let UnbufferedStatus { discard, state } = connection.process(&mut cipher[consumed..window]);
        let waits = match state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                encode(&mut data, out)?;
                false
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                false
            }
            Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => true,
            Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => return Err(Error::HandshakeNotComplete),
            // Application data is not shown to the library, and early data is never accepted.
            Ok(_) => return Err(Error::General("data in the handshake".to_owned())),
            Err(error) => {
                consumed += discard;
                if let Ok(ConnectionState::EncodeTlsData(mut data)) =
                    connection.process(&mut cipher[consumed..window]).state
                {
                    encode(&mut data, out)?;
                }
                return Err(error);
            }
        };
        consumed += discard;
        if !waits {
            continue;
        }
        if !connection.is_under_way() {
            // Part of a message behind the last one of the handshake would get lost. No peer has a reason to begin one
            // in the same record, and where keys change the protocol forbids it.
            return match consumed == end {
                true => Ok(Step { consumed, done: true }),
                false => Err(Failure::unexpected("behind the handshake").error),
            };
        }
        match record_end(cipher, end) {
            Some(next) => end = next,
            // Shown once more, with what follows: a beginning that cannot become a record is an error at once.
            None if !partial && end < cipher.len() => partial = true,
            None => {
                *seen = end - consumed;
                return Ok(Step { consumed, done: false });
            }
        }
    }
}

fn encode<Data>(data: &mut EncodeTlsData<'_, Data>, out: &mut Vec<u8>) -> Result<(), Error> {
    let start = out.len();
    let required = match data.encode(&mut []) {
        Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => required_size,
        Ok(_) => 0,
        Err(error) => return Err(Error::General(error.to_string())),
    };
    out.resize(start + required, 0);
    data.encode(&mut out[start..]).map(|_| ()).map_err(|error| Error::General(error.to_string()))
}
