//! The record layer over caller-owned buffers: a connection at rest holds keys and nothing else.

use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus,
};
use rustls::{ClientConfig, Error, HandshakeKind, ProtocolVersion, ServerConfig};

/// The largest TLS record on the wire: header, plaintext, expansion allowed by TLS 1.2 (RFC 5246 section 6.2.3).
pub const MAX_RECORD: usize = 5 + 16_384 + 2048;
/// What sealing adds to each started 16 KiB at most (TLS 1.3: header 5, content type 1, tag 16; TLS 1.2 GCM: 5 + 8 + 16).
pub const RECORD_OVERHEAD: usize = 32;
const FRAGMENT: usize = 16_384;

/// Room that sealing `plain` bytes needs.
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

/// One TLS connection.
pub enum Tls {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

impl Tls {
    pub fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        UnbufferedServerConnection::new(config).map(Self::Server)
    }

    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, Error> {
        UnbufferedClientConnection::new(config, name).map(Self::Client)
    }

    /// Opens all complete records of `cipher`. Plaintext is appended to `plain`, handshake and alert records for the peer
    /// to `out`. On an error `out` may hold the alert that tells the peer why.
    pub fn receive(&mut self, cipher: &mut [u8], plain: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<Received, Error> {
        match self {
            Self::Server(connection) => receive(connection, cipher, plain, out),
            Self::Client(connection) => receive(connection, cipher, plain, out),
        }
    }

    /// Seals `plain` into records at the front of `out`, which has room for `sealed_len(plain.len())`; returns their length.
    ///
    /// `pending` is the ciphertext that `receive` did not consume: the library remembers positions in it (a handshake
    /// message spread over records) and panics when the bytes are not there.
    pub fn seal(&mut self, plain: &[u8], pending: &mut [u8], out: &mut [u8]) -> Result<usize, Error> {
        match self {
            Self::Server(connection) => seal(connection, Some(plain), pending, out),
            Self::Client(connection) => seal(connection, Some(plain), pending, out),
        }
    }

    /// Writes the alert that closes our direction to the front of `out`; returns its length. `pending` as for `seal`.
    pub fn close(&mut self, pending: &mut [u8], out: &mut [u8]) -> Result<usize, Error> {
        match self {
            Self::Server(connection) => seal(connection, None, pending, out),
            Self::Client(connection) => seal(connection, None, pending, out),
        }
    }

    pub fn is_handshaking(&self) -> bool {
        match self {
            Self::Server(connection) => connection.is_handshaking(),
            Self::Client(connection) => connection.is_handshaking(),
        }
    }

    pub fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        match self {
            Self::Server(connection) => connection.peer_certificates(),
            Self::Client(connection) => connection.peer_certificates(),
        }
    }

    pub fn resumed(&self) -> bool {
        let kind = match self {
            Self::Server(connection) => connection.handshake_kind(),
            Self::Client(connection) => connection.handshake_kind(),
        };
        kind == Some(HandshakeKind::Resumed)
    }

    pub fn version(&self) -> &'static str {
        let version = match self {
            Self::Server(connection) => connection.protocol_version(),
            Self::Client(connection) => connection.protocol_version(),
        };
        match version {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1_3",
            Some(ProtocolVersion::TLSv1_2) => "TLSv1_2",
            _ => "",
        }
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tls({})", self.version())
    }
}

/// What both ends have in common.
trait Records {
    type Data;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Records for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

impl Records for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

fn receive<R: Records>(
    connection: &mut R,
    cipher: &mut [u8],
    plain: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<Received, Error> {
    let mut consumed = 0;
    let mut closed = false;
    loop {
        let UnbufferedStatus { discard, state } = connection.process(&mut cipher[consumed..]);
        let mut used = discard;
        let more = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    used += record.discard;
                    plain.extend_from_slice(record.payload);
                }
                true
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                encode(&mut data, out)?;
                true
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                true
            }
            Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                closed = true;
                false
            }
            // Early data is never accepted; everything else waits for more input or is ready to send.
            Ok(_) => false,
            Err(error) => {
                consumed += used;
                if let Ok(ConnectionState::EncodeTlsData(mut data)) = connection.process(&mut cipher[consumed..]).state
                {
                    encode(&mut data, out)?;
                }
                return Err(error);
            }
        };
        consumed += used;
        if !more {
            return Ok(Received { consumed, closed });
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

/// Seals application data, or with None the closing alert, behind whatever the TLS library itself wants to say.
fn seal<R: Records>(
    connection: &mut R,
    plain: Option<&[u8]>,
    pending: &mut [u8],
    out: &mut [u8],
) -> Result<usize, Error> {
    let mut len = 0;
    loop {
        match connection.process(pending).state? {
            ConnectionState::WriteTraffic(mut traffic) => {
                let sealed = match plain {
                    Some(plain) => traffic.encrypt(plain, &mut out[len..]),
                    None => traffic.queue_close_notify(&mut out[len..]),
                };
                return match sealed {
                    Ok(sealed) => Ok(len + sealed),
                    Err(EncryptError::EncryptExhausted) => Err(Error::EncryptError),
                    Err(error) => Err(Error::General(error.to_string())),
                };
            }
            ConnectionState::EncodeTlsData(mut data) => {
                len += data.encode(&mut out[len..]).map_err(|error| Error::General(error.to_string()))?;
            }
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::PeerClosed => {}
            _ => return Err(Error::HandshakeNotComplete),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::config::{Authentication, ClientConfig};
    use crate::io::tls::identity::{RevocationList, identity_json, identity_of};
    use crate::io::tls::setup;
    use parking_lot::RwLock;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

    struct Authority(CertifiedIssuer<'static, KeyPair>);

    impl Authority {
        fn new(name: &str) -> Self {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
        }

        fn issue(&self, name: &str) -> (String, String) {
            let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            let key = KeyPair::generate().unwrap();
            (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
        }
    }

    fn server_config(authority: &Authority, version: &str) -> crate::io::config::Tls {
        let (certificate_chain, private_key) = authority.issue("da.example.net");
        crate::io::config::Tls {
            certificate_chain,
            private_key,
            client_ca: authority.0.pem(),
            ticket_keys: vec!["a".repeat(64)],
            minimum_version: version.to_owned(),
        }
    }

    fn client_config(trust: &Authority, identity: Option<(String, String)>) -> ClientConfig {
        let (certificate_chain, private_key) = identity.unzip();
        ClientConfig {
            url: "https://da.example.net/IPHTTPS".to_owned(),
            addresses: vec![],
            trust: trust.0.pem(),
            certificate_chain,
            private_key,
            proxy: None,
            link_local: "fe80::2".parse().unwrap(),
            segments: true,
            connect_timeout: 1.0,
        }
    }

    /// Shuttles bytes until both are quiet.
    fn shake(client: &mut Tls, server: &mut Tls) -> Result<(), Error> {
        let (mut to_server, mut to_client, mut plain) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..10 {
            let received = client.receive(&mut to_client, &mut plain, &mut to_server)?;
            to_client.drain(..received.consumed);
            let received = server.receive(&mut to_server, &mut plain, &mut to_client)?;
            to_server.drain(..received.consumed);
        }
        assert!(plain.is_empty());
        Ok(())
    }

    fn pair(server: &setup::ServerSetup, client: &Arc<rustls::ClientConfig>) -> (Tls, Tls) {
        let name = ServerName::try_from("da.example.net").unwrap();
        (Tls::client(client.clone(), name).unwrap(), Tls::server(server.rustls.clone()).unwrap())
    }

    #[test]
    fn data_passes_and_a_second_process_resumes() {
        for version in ["1.2", "1.3"] {
            let authority = Authority::new("test");
            let revoked = Arc::new(RwLock::new(RevocationList::default()));
            let config = server_config(&authority, version);
            let client = setup::client(&client_config(&authority, Some(authority.issue("client1")))).unwrap();
            for round in 0..2 {
                // A configuration built anew stands for another server with the same keys.
                let server = setup::server(&config, Authentication::Certificates, &revoked).unwrap();
                let (mut one, mut two) = pair(&server, &client);
                shake(&mut one, &mut two).unwrap();
                assert!(!one.is_handshaking() && !two.is_handshaking());
                assert_eq!((one.resumed(), two.resumed()), (round == 1, round == 1));
                let identity = identity_of(&two.peer_certificates().unwrap()[0]).unwrap();
                assert_eq!(identity.subject, "client1");
                let data = vec![5; 100_000];
                let mut sealed = vec![0; sealed_len(data.len())];
                let len = one.seal(&data, &mut [], &mut sealed).unwrap();
                let (mut plain, mut out) = (Vec::new(), Vec::new());
                let received = two.receive(&mut sealed[..len - 1], &mut plain, &mut out).unwrap();
                assert!(received.consumed < len && plain.len() < data.len());
                let received2 = two.receive(&mut sealed[received.consumed..len], &mut plain, &mut out);
                assert_eq!(received2.unwrap().consumed, len - received.consumed);
                assert_eq!(plain, data);
                let len = one.close(&mut [], &mut sealed).unwrap();
                assert!(two.receive(&mut sealed[..len], &mut plain, &mut out).unwrap().closed);
            }
        }
    }

    #[test]
    fn foreign_and_revoked_certificates_fail_the_handshake() {
        let (authority, foreign) = (Authority::new("ours"), Authority::new("foreign"));
        let revoked = Arc::new(RwLock::new(RevocationList::default()));
        let server = setup::server(&server_config(&authority, "1.2"), Authentication::Certificates, &revoked).unwrap();
        let attempt = |identity: Option<(String, String)>| {
            let client = setup::client(&client_config(&authority, identity)).unwrap();
            let (mut one, mut two) = pair(&server, &client);
            shake(&mut one, &mut two)
        };
        assert!(attempt(None).is_ok());
        assert!(attempt(Some(foreign.issue("client1"))).is_err());
        let identity = authority.issue("client1");
        assert!(attempt(Some(identity.clone())).is_ok());
        let (_, pem) = x509_parser::pem::parse_x509_pem(identity.0.as_bytes()).unwrap();
        let known = identity_of(&pem.contents.into()).unwrap();
        let shown = identity_json(Some(&known));
        let issuer_sha256 = shown["issuer_sha256"].as_str().unwrap().to_owned();
        let entry = crate::io::config::Revoked { issuer_sha256, serial: known.serial };
        *revoked.write() = RevocationList::new(&[entry]);
        assert!(attempt(Some(identity)).is_err());
    }
}
