//! A gateway with something that stands for its TUN queue, for tests of whole programs.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

/// One end of what stands for a TUN queue, and the other for the gateway.
pub fn tun() -> (Socket, OwnedFd) {
    let (ours, theirs) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    for end in [&ours, &theirs] {
        end.set_send_buffer_size(4 << 20).unwrap();
    }
    ours.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (ours, theirs.into())
}

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "test");
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

/// The configuration of a gateway with one worker.
pub fn server(authority: &Authority, authentication: &str, max_sessions: usize) -> Value {
    let (chain, key) = authority.issue("da.example.net");
    json!({
        "workers": 1,
        "iphttps": {
            "authentication": authentication, "link_local": "fe80::1", "addresses": ["fd00:1000::1"],
            "prefix": "fd00:1000::/64", "routes": [], "route_lifetime": 1800, "router_lifetime": 0,
            "advertise_interval": 600, "max_sessions": max_sessions, "max_addresses_per_session": 8,
            "max_handshakes": 8, "handshake_timeout": 15.0, "request_timeout": 15.0, "idle_probe": 30.0,
            "segments": true, "queue_bytes": 1 << 20,
        },
        "http": {"paths": [], "max_body": 0, "max_pending": 1, "timeout": 1.0},
        "tls": {"certificate_chain": chain, "private_key": key, "client_ca": authority.pem(),
            "ticket_keys": ["a".repeat(64)], "minimum_version": "1.2"},
    })
}
