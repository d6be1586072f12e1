//! The TLS connection against itself and against rustls at the other end.

mod against_rustls;
mod boundaries;
mod hostile;
mod keys;
mod sessions;

use std::io::{Read, Write};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, Error, RootCertStore, ServerConfig, SupportedCipherSuite, version};

use super::Tls;
use super::plain::PlainBuffer;
use super::records::sealed_len;

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Certificate and key as PEM.
    pub fn issue(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}

pub fn name() -> ServerName<'static> {
    ServerName::try_from("da.example.net").unwrap()
}

/// Every suite that a P-256 certificate can be used with: three ciphers, two versions.
pub fn suites() -> Vec<SupportedCipherSuite> {
    let ecdsa = |suite: &&SupportedCipherSuite| {
        let name = format!("{:?}", suite.suite());
        name.starts_with("TLS13") || name.contains("ECDSA")
    };
    let suites: Vec<_> = aws_lc_rs::ALL_CIPHER_SUITES.iter().filter(ecdsa).copied().collect();
    assert_eq!(suites.len(), 6);
    suites
}

/// Configurations of both ends that agree on `suite` and nothing else.
pub fn configs(suite: SupportedCipherSuite) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let authority = Authority::new("test");
    let (chain, key) = authority.issue("da.example.net");
    let provider = Arc::new(CryptoProvider { cipher_suites: vec![suite], ..aws_lc_rs::default_provider() });
    let versions: &[_] = if suite.tls13().is_some() { &[&version::TLS13] } else { &[&version::TLS12] };
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let server = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).unwrap();
    let mut server = server.with_no_client_auth().with_single_cert(chain, key).unwrap();
    server.enable_secret_extraction = true;
    let client = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let mut client = client.with_root_certificates(roots).with_no_client_auth();
    client.enable_secret_extraction = true;
    (Arc::new(server), Arc::new(client))
}

/// Our end of a connection with buffers.
pub struct End {
    pub tls: Tls,
    /// What arrived and could not be used yet.
    pub pending: Vec<u8>,
    pub plain: Vec<u8>,
    /// What is to be sent.
    pub out: Vec<u8>,
    pub closed: bool,
}

impl End {
    pub fn new(tls: Tls) -> Self {
        Self { tls, pending: Vec::new(), plain: Vec::new(), out: Vec::new(), closed: false }
    }

    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.pending.extend_from_slice(bytes);
        let mut plain = PlainBuffer::new(self.pending.len());
        let received = self.tls.receive(&mut self.pending, &mut plain, &mut self.out)?;
        self.closed |= received.closed;
        self.pending.drain(..received.consumed);
        self.plain.extend_from_slice(plain.bytes());
        Ok(())
    }

    pub fn send(&mut self, plain: &[u8]) -> Result<(), Error> {
        let start = self.out.len();
        self.out.resize(start + 2 * sealed_len(plain.len()), 0);
        let sealed = self.tls.seal(plain, &mut self.out[start..]);
        self.out.truncate(start + *sealed.as_ref().unwrap_or(&0));
        sealed.map(drop)
    }

    /// Sends one record of any kind.
    pub fn send_as(&mut self, kind: u8, content: &[u8]) {
        let start = self.out.len();
        self.out.resize(start + sealed_len(content.len()), 0);
        let len = self.tls.established().seal_as(kind, content, &mut self.out[start..]).unwrap();
        self.out.truncate(start + len);
    }

    pub fn close(&mut self) {
        let start = self.out.len();
        self.out.resize(start + 64, 0);
        let len = self.tls.close(&mut self.out[start..]).unwrap();
        self.out.truncate(start + len);
    }

    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }
}

/// Carries bytes between our two ends until both are quiet.
pub fn shuttle(one: &mut End, two: &mut End) -> Result<(), Error> {
    // Starts a client.
    one.feed(&[])?;
    two.feed(&[])?;
    while !(one.out.is_empty() && two.out.is_empty()) {
        let bytes = one.take();
        two.feed(&bytes)?;
        let bytes = two.take();
        one.feed(&bytes)?;
    }
    Ok(())
}

/// A client and a server of ours, established.
pub fn pair(suite: SupportedCipherSuite) -> (End, End) {
    let (server, client) = configs(suite);
    pair_of(&server, &client)
}

pub fn pair_of(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> (End, End) {
    let mut client = End::new(Tls::client(client.clone(), name()).unwrap());
    let mut server = End::new(Tls::server(server.clone()).unwrap());
    shuttle(&mut client, &mut server).unwrap();
    assert!(!client.tls.is_handshaking() && !server.tls.is_handshaking());
    (client, server)
}

/// Lets rustls read all of `bytes`; returns the plaintext.
pub fn rustls_reads(peer: &mut rustls::Connection, mut bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let mut plain = Vec::new();
    while !bytes.is_empty() && peer.read_tls(&mut bytes).unwrap() > 0 {
        peer.process_new_packets()?;
        let mut piece = [0; 65_536];
        while let Ok(count @ 1..) = peer.reader().read(&mut piece) {
            plain.extend_from_slice(&piece[..count]);
        }
    }
    Ok(plain)
}

/// Seals `plain` with rustls, behind whatever it wants to say itself.
pub fn rustls_writes(peer: &mut rustls::Connection, plain: &[u8]) -> Vec<u8> {
    peer.set_buffer_limit(None);
    peer.writer().write_all(plain).unwrap();
    let mut bytes = Vec::new();
    while peer.wants_write() {
        peer.write_tls(&mut bytes).unwrap();
    }
    bytes
}
