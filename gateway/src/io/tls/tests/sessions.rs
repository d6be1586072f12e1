//! What the rest of the gateway relies on: identities, resumption, refusal, leaving the handshake behind.

use std::sync::Arc;

use parking_lot::RwLock;
use rustls::Error;

use super::{Authority, End, name, shuttle};
use crate::io::config::{Authentication, Cipher, ClientConfig};
use crate::io::tls::identity::{IdentityJson, RevocationList, identity_of};
use crate::io::tls::{Tls, setup};

fn server_config(authority: &Authority, version: &str) -> crate::io::config::Tls {
    let (certificate_chain, private_key) = authority.issue("da.example.net");
    crate::io::config::Tls {
        certificate_chain,
        private_key,
        client_ca: authority.pem(),
        ticket_keys: vec!["a".repeat(64)],
        minimum_version: version.to_owned(),
        ciphers: Cipher::PREFERRED.to_vec(),
    }
}

fn client_config(trust: &Authority, identity: Option<(String, String)>) -> ClientConfig {
    let (certificate_chain, private_key) = identity.unzip();
    ClientConfig {
        url: "https://da.example.net/IPHTTPS".to_owned(),
        addresses: vec![],
        trust: trust.pem(),
        certificate_chain,
        private_key,
        proxy: None,
        link_local: "fe80::2".parse().unwrap(),
        segments: true,
        connect_timeout: 1.0,
    }
}

fn pair(server: &setup::ServerSetup, client: &Arc<rustls::ClientConfig>) -> (End, End) {
    let client = Tls::client(client.clone(), name()).unwrap();
    (End::new(client), End::new(Tls::server(server.rustls.clone()).unwrap()))
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
            shuttle(&mut one, &mut two).unwrap();
            assert!(!one.tls.is_handshaking() && !two.tls.is_handshaking());
            assert_eq!((one.tls.resumed(), two.tls.resumed()), (round == 1, round == 1));
            assert_eq!((one.tls.version(), two.tls.version()), ("TLSv1_3", "TLSv1_3"));
            let identity = identity_of(&two.tls.peer_certificates().unwrap()[0]).unwrap();
            assert_eq!(identity.subject, "client1");
            let data = vec![5; 100_000];
            one.send(&data).unwrap();
            let sealed = one.take();
            let (most, last) = sealed.split_at(sealed.len() - 1);
            two.feed(most).unwrap();
            assert!(!two.pending.is_empty() && two.plain.len() < data.len());
            two.feed(last).unwrap();
            assert!(two.pending.is_empty() && two.plain == data);
            one.close();
            two.feed(&one.take()).unwrap();
            assert!(two.closed);
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
        shuttle(&mut one, &mut two)
    };
    assert!(attempt(None).is_ok());
    assert!(attempt(Some(foreign.issue("client1"))).is_err());
    let identity = authority.issue("client1");
    assert!(attempt(Some(identity.clone())).is_ok());
    let (_, pem) = x509_parser::pem::parse_x509_pem(identity.0.as_bytes()).unwrap();
    let known = identity_of(&pem.contents.into()).unwrap();
    let shown = serde_json::json!(IdentityJson::from(&known));
    let issuer_sha256 = shown["issuer_sha256"].as_str().unwrap().to_owned();
    let entry = crate::io::config::Revoked { issuer_sha256, serial: known.serial };
    *revoked.write() = RevocationList::new(&[entry]);
    assert!(attempt(Some(identity)).is_err());
}

#[test]
fn a_failed_connection_stays_failed() {
    let (mut one, mut two) = super::pair(super::suites()[0]);
    assert!(two.feed(&[23, 3, 3, 0, 30, 0]).is_ok());
    assert_eq!(two.feed(&[0; 40]), Err(Error::DecryptError));
    one.send(b"late").unwrap();
    assert_eq!(two.feed(&one.take()), Err(Error::HandshakeNotComplete));
    assert_eq!(two.send(b"late"), Err(Error::HandshakeNotComplete));
}

#[test]
fn what_is_not_tls_is_noticed_at_its_first_bytes() {
    let (server, _) = super::configs(super::suites()[0]);
    for bytes in
        [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x02\x01\x00\x05", b"\x16\x03\x01\xff\xff", b"\x17\x03\x03\x00\x05hello"]
    {
        let mut end = End::new(Tls::server(server.clone()).unwrap());
        assert!(end.feed(bytes).is_err(), "{bytes:?}");
    }
}
