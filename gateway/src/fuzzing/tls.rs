//! The record layer: handshakes and streams of records, cut, repeated and damaged on their way.

use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::ServerName;

use super::Outcomes;
use super::input::Input;
use crate::io::config::{Authentication, ClientConfig};
use crate::io::tls::failure::is_flood;
use crate::io::tls::identity::RevocationList;
use crate::io::tls::messages::{KeyUpdate, next_message};
use crate::io::tls::plain::PlainBuffer;
use crate::io::tls::records::sealed_len;
use crate::io::tls::{Tls, setup};

struct Ends {
    server: [Arc<rustls::ServerConfig>; 2],
    client: Arc<rustls::ClientConfig>,
}

/// Configurations of both ends, made once: what is secret in them differs from run to run, what happens does not.
fn ends() -> &'static Ends {
    static ENDS: OnceLock<Ends> = OnceLock::new();
    ENDS.get_or_init(|| {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["da.example.net".to_owned()]).expect("a name");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        let revoked = Arc::new(RwLock::new(RevocationList::default()));
        let server = |version: &str| {
            let tls = crate::io::config::Tls {
                certificate_chain: pem.clone(),
                private_key: key.serialize_pem(),
                client_ca: pem.clone(),
                ticket_keys: vec!["a".repeat(64)],
                minimum_version: version.to_owned(),
                ciphers: crate::io::config::Cipher::PREFERRED.to_vec(),
            };
            setup::server(&tls, Authentication::Certificates, &revoked).expect("a good configuration").rustls
        };
        let client = ClientConfig {
            url: "https://da.example.net/IPHTTPS".to_owned(),
            addresses: Vec::new(),
            trust: pem.clone(),
            certificate_chain: None,
            private_key: None,
            proxy: None,
            link_local: std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2),
            segments: true,
            connect_timeout: 1.0,
        };
        let client = setup::client(&client).expect("a good configuration");
        Ends { server: [server("1.2"), server("1.3")], client }
    })
}

/// One direction: what was sent and has not been taken.
#[derive(Default)]
struct Wire(Vec<u8>);

/// Damages what is on its way, now and then. Returns whether it did.
fn tamper(input: &mut Input<'_>, wire: &mut Vec<u8>) -> bool {
    if wire.is_empty() || input.byte() & 7 != 7 {
        return false;
    }
    let at = usize::from(input.word()) % wire.len();
    match input.choice(4) {
        0 => wire[at] ^= input.byte() | 1,
        1 => wire.truncate(at),
        2 => {
            let inserted = input.piece();
            wire.splice(at..at, inserted.iter().copied());
            return !inserted.is_empty();
        }
        _ => {
            let copy = wire[at..].to_vec();
            wire.extend(copy);
        }
    }
    true
}

/// Seals records of any kind and content, which are authentic and mostly have no place. Returns whether it did.
fn odd_record(
    input: &mut Input<'_>,
    client: &mut Tls,
    wire: &mut Vec<u8>,
    sent: &mut Vec<u8>,
    seen: &mut Outcomes,
) -> bool {
    let kind = input.byte();
    if kind & 7 != 7 {
        return false;
    }
    let content_type = input.of(&[20, 21, 22, 23, 22]);
    let content = match content_type {
        22 if kind & 8 != 0 => KeyUpdate::Requested.bytes().to_vec(),
        _ => input.piece().to_vec(),
    };
    if content_type == 22 {
        for (is_client, tls13) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut rest = &content[..];
            let message = next_message(&mut rest, is_client, tls13).map_err(|failure| failure.error);
            seen.note_result("message", &message);
            assert!(rest.len() <= content.len());
        }
    }
    for _ in 0..=(kind >> 4) * 3 {
        let mut out = vec![0; sealed_len(content.len())];
        let Ok(len) = client.seal_as(content_type, &content, &mut out) else { return true };
        wire.extend(&out[..len]);
        if content_type == 23 {
            sent.extend(&content);
        }
    }
    true
}

pub fn records(input: &mut Input<'_>, seen: &mut Outcomes) {
    let ends = ends();
    let flags = input.byte();
    let mut server = Tls::server(ends.server[usize::from(flags & 1)].clone()).expect("a server");
    if flags & 2 != 0 {
        // A stranger's bytes, in pieces.
        let mut wire = Wire::default();
        while !input.is_empty() {
            wire.0.extend(input.piece());
            let (mut plain, mut out) = (PlainBuffer::new(wire.0.len()), Vec::new());
            let received = server.receive(&mut wire.0, &mut plain, &mut out);
            seen.note_result("stranger", &received);
            assert!(plain.is_empty(), "no data before a handshake");
            let Ok(received) = received else { return };
            wire.0.drain(..received.consumed);
        }
        return;
    }
    let name = ServerName::try_from("da.example.net").expect("a name");
    let mut client = Tls::client(ends.client.clone(), name).expect("a client");
    let (mut up, mut down) = (Wire::default(), Wire::default());
    let (mut sent, mut received) = (Vec::new(), Vec::new());
    let (mut tampered, mut odd, mut over) = (false, false, false);
    for round in 0..60u8 {
        if round > 8 && input.is_empty() {
            break;
        }
        for is_server in [false, true] {
            let (end, from, to) =
                if is_server { (&mut server, &mut up, &mut down) } else { (&mut client, &mut down, &mut up) };
            tampered |= tamper(input, &mut from.0);
            let cut = if input.byte() & 3 == 3 { usize::from(input.word()) } else { from.0.len() };
            let mut piece: Vec<u8> = from.0[..cut.min(from.0.len())].to_vec();
            let mut plain = PlainBuffer::new(piece.len());
            let outcome = end.receive(&mut piece, &mut plain, &mut to.0);
            if is_server {
                received.extend(plain.bytes());
            }
            // What arrives is what was sent, as far as it has come: records are authentic or an error.
            assert!(sent.starts_with(&received));
            match outcome {
                Ok(done) => {
                    assert!(done.consumed <= piece.len());
                    from.0.drain(..done.consumed);
                    if done.closed {
                        seen.note_text("records", "closed");
                        assert!(tampered || odd || !is_server || sent == received);
                        return;
                    }
                }
                Err(error) => {
                    seen.note("error", &error);
                    seen.note("flood", &is_flood(&error));
                    assert!(tampered || odd, "an untouched stream is good: {error}");
                    return;
                }
            }
        }
        if !client.is_handshaking() && down.0.is_empty() && !over {
            seen.note_text("records", client.version());
            let data = vec![round; usize::from(input.word())];
            let mut out = vec![0; sealed_len(data.len())];
            let len = client.seal(&data, &mut out).expect("a stream that is up");
            up.0.extend(&out[..len]);
            sent.extend(data);
            odd |= odd_record(input, &mut client, &mut up.0, &mut sent, seen);
            if input.byte() == 255 {
                let len = client.close(&mut out).expect("a stream that is up");
                up.0.extend(&out[..len]);
                over = true;
            }
        }
    }
}
