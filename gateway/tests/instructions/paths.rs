//! The main paths, each from the bytes that one side gives to the bytes that the other side gets, without system calls.

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use portico_gateway::core::frame::{Frame, HEADROOM, Offload, SegmentKind};
use portico_gateway::core::iphttps::{
    Attachment, Authentication, CloseReason, Deframer, Format, FromClient, FromHost, Link, LinkConfig, LinkSink,
    Plaintext, SessionId,
};
use portico_gateway::core::segments::coalesce::Coalescer;
use portico_gateway::core::time::Now;
use portico_gateway::io::config::Authentication::Certificates;
use portico_gateway::io::outgoing::Run;
use portico_gateway::io::tls::connection::Tls;
use portico_gateway::io::tls::identity::RevocationList;
use portico_gateway::io::tls::plain::PlainBuffer;
use portico_gateway::io::tls::records::sealed_len;
use portico_gateway::io::tls::setup;
use portico_gateway::wire::segment_header::SegmentHeader;
use portico_gateway::wire::tcp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::json;

use crate::common::{Authority, server};
use crate::packets::{HOST, client, tcp6, udp6};
use crate::{ROUNDS, WARM_UP};

pub const NOW: Now = Now::from_secs(5000);
const SMALL: usize = 152;
/// Payload of a full packet of 1280 bytes.
const FULL: usize = 1220;
pub const SUPER: usize = 60_000;
pub const TCP_SUPER: Offload = Offload { kind: SegmentKind::Tcp, segment_size: FULL as u16, partial_checksum: true };
const PLAIN: Offload = Offload { kind: SegmentKind::None, segment_size: 0, partial_checksum: false };

/// The link asks for nothing on these paths.
struct Nobody;

impl LinkSink for Nobody {
    fn send(&mut self, _: SessionId, _: &[u8]) {}
    fn broadcast_except(&mut self, _: SessionId, _: &[u8]) {}
    fn evict(&mut self, _: SessionId, _: CloseReason) {}
    fn learned(&mut self, _: SessionId, _: Ipv6Addr) {}
}

/// A link with sessions that own an address each.
fn link(sessions: usize) -> (Link, Vec<Attachment>) {
    let config = LinkConfig {
        authentication: Authentication::None,
        link_local: "fe80::1".parse().unwrap(),
        addresses: vec!["fd00:1000::1".parse().unwrap()],
        prefix: "fd00:1000::".parse().unwrap(),
        routes: Vec::new(),
        route_lifetime: 1800,
        router_lifetime: 0,
        advertise_interval: Duration::from_secs(600),
        max_sessions: sessions,
        max_addresses_per_session: 8,
        idle_probe: Duration::from_secs(30),
    };
    let link = Link::new(config, NOW).unwrap();
    let attachments = (0..sessions)
        .map(|number| {
            let mut attachment = link.attach(NOW, SessionId(number as u64), None).unwrap();
            let mut packet = udp6((client(number), HOST), (1, 9), 0);
            let len = packet.len();
            let taken =
                link.from_client(NOW, &mut attachment, &mut Frame::new(&mut packet, 0, len, PLAIN), &mut Nobody);
            assert_eq!(taken, FromClient::ToHost);
            attachment
        })
        .collect();
    (link, attachments)
}

/// Both ends of an established connection of TLS 1.3.
fn tls() -> (Tls, Tls) {
    let authority = Authority::new();
    let config = server(&authority, "none", 1);
    let revoked = Arc::new(RwLock::new(RevocationList::default()));
    let tls = serde_json::from_value(config["tls"].clone()).unwrap();
    let setup = setup::server(&tls, portico_gateway::io::config::Authentication::None, &revoked).unwrap();
    let config = json!({"url": "https://da.example.net/IPHTTPS", "addresses": [], "trust": authority.pem(),
        "link_local": "fe80::2"});
    let config = portico_gateway::io::config::ClientConfig::parse(&config.to_string()).unwrap();
    let name = ServerName::try_from("da.example.net").unwrap();
    let mut here = Tls::client(setup::client(&config).unwrap(), name).unwrap();
    let mut there = Tls::server(setup.rustls).unwrap();
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let mut plain = PlainBuffer::new(1 << 16);
    for _ in 0..6 {
        let received = here.receive(&mut down, &mut plain, &mut up).unwrap();
        down.drain(..received.consumed);
        let received = there.receive(&mut up, &mut plain, &mut down).unwrap();
        up.drain(..received.consumed);
    }
    assert!(!here.is_handshaking() && !there.is_handshaking());
    (here, there)
}

fn framed(format: Format, packet: &[u8], offload: Offload) -> Vec<u8> {
    let mut run = Run::default();
    run.append(packet, offload, format).unwrap();
    run.bytes().to_vec()
}

/// What a worker does with the plaintext of one read.
fn deliver(
    link: &Link,
    attachment: &mut Attachment,
    deframer: &mut Deframer,
    coalescer: &mut Coalescer,
    input: Plaintext<'_>,
) {
    let mut input = input;
    let mut written = 0;
    while let Some(mut frame) = deframer.next(&mut input).unwrap() {
        assert_eq!(link.from_client(NOW, attachment, &mut frame, &mut Nobody), FromClient::ToHost);
        coalescer.push(&mut frame, &mut |merged| written += merged.len());
    }
    coalescer.flush(&mut |merged| written += merged.len());
    std::hint::black_box(written);
}

/// A path: its name, the packets that one call carries, and the call.
pub type Path<'a> = (&'static str, u64, Box<dyn FnMut() + 'a>);

/// What the certificate of a new client costs beside its signatures.
pub fn certificates() -> Vec<Path<'static>> {
    let authority = Authority::new();
    let tls = serde_json::from_value(server(&authority, "certificates", 1)["tls"].clone()).unwrap();
    let setup = setup::server(&tls, Certificates, &Arc::default()).unwrap();
    let verifier = setup.verifier.unwrap();
    let issue = || CertificateDer::from_pem_slice(authority.issue("client1").0.as_bytes()).unwrap();
    let mut fresh: Vec<_> = (0..ROUNDS + WARM_UP).map(|_| issue()).collect();
    let (known, other) = (issue(), verifier.clone());
    vec![
        (
            "a certificate never seen",
            1,
            Box::new(move || {
                verifier.admit(&fresh.pop().unwrap(), &[], UnixTime::now()).unwrap();
            }),
        ),
        (
            "a certificate seen before",
            1,
            Box::new(move || {
                other.admit(&known, &[], UnixTime::now()).unwrap();
            }),
        ),
    ]
}

/// From a client to the host.
pub fn from_client() -> Vec<Path<'static>> {
    let ends = (client(0), HOST);
    let super_segment = tcp6(ends, (40_000, 80), 1, tcp::ACK, SUPER);
    let large = framed(Format::Segments, &super_segment, TCP_SUPER);
    let coalesced: Vec<u8> =
        (0..32u32).flat_map(|index| tcp6(ends, (40_000, 80), index * FULL as u32, tcp::ACK, FULL)).collect();
    let plaintext = |name, packets, format, bytes: Vec<u8>| -> Path<'static> {
        let (link, mut attachments) = link(1);
        let (mut deframer, mut coalescer) = (Deframer::new(format), Coalescer::default());
        let mut buffer = vec![0; HEADROOM + bytes.len() + (1 << 16)];
        let call = move || {
            let end = HEADROOM + bytes.len();
            buffer[HEADROOM..end].copy_from_slice(&bytes);
            let input = Plaintext { buffer: &mut buffer, start: HEADROOM, end };
            deliver(&link, &mut attachments[0], &mut deframer, &mut coalescer, input);
        };
        (name, packets, Box::new(call))
    };
    vec![
        plaintext("from a client: super-segment", 1, Format::Segments, large),
        plaintext("from a client: 1280-byte packets of a flow", 32, Format::Packets, coalesced),
        small_records(),
    ]
}

/// The hardest case: a foreign client that seals each packet on its own.
fn small_records() -> Path<'static> {
    let (link, mut attachments) = link(1);
    let (mut here, mut there) = tls();
    let (mut deframer, mut coalescer) = (Deframer::new(Format::Packets), Coalescer::default());
    let packets: Vec<_> = (0..32).map(|port| udp6((client(0), HOST), (1000 + port, 9), SMALL)).collect();
    // Sealed beforehand: the client's work is not the gateway's.
    let mut rounds: Vec<Vec<u8>> = (0..crate::ROUNDS + crate::WARM_UP)
        .map(|_| {
            let mut sealed = Vec::new();
            let mut record = vec![0; sealed_len(2000)];
            for packet in &packets {
                let len = here.seal(packet, &mut record).unwrap();
                sealed.extend_from_slice(&record[..len]);
            }
            sealed
        })
        .collect();
    rounds.reverse();
    let mut plain = PlainBuffer::new(1 << 16);
    let mut out = Vec::new();
    let call = move || {
        let mut cipher = rounds.pop().unwrap();
        plain.clear();
        there.receive(&mut cipher, &mut plain, &mut out).unwrap();
        deliver(&link, &mut attachments[0], &mut deframer, &mut coalescer, plain.input());
    };
    ("from a client: small packets, each a record", 32, Box::new(call))
}

/// From the host to a client.
pub fn from_host() -> Vec<Path<'static>> {
    let ends = (HOST, client(0));
    let super_segment = tcp6(ends, (80, 40_000), 1, tcp::ACK, SUPER);
    let small: Vec<_> = (0..32).map(|port| udp6(ends, (1000 + port, 9), SMALL)).collect();
    let sealed = |name, packets, format, vector: Vec<Vec<u8>>, offload: Offload| -> Path<'static> {
        let (link, _attachments) = link(1);
        let (_, mut there) = tls();
        let mut run = Run::default();
        let mut cipher = vec![0; sealed_len(1 << 18)];
        let call = move || {
            run.clear();
            for packet in &vector {
                assert_eq!(link.from_host(NOW, packet, 1280.min(packet.len())), FromHost::To(SessionId(0)));
                run.append(packet, offload, format).unwrap();
            }
            there.seal(run.bytes(), &mut cipher).unwrap();
        };
        (name, packets, Box::new(call))
    };
    vec![
        sealed("to a client: super-segment", 1, Format::Segments, vec![super_segment.clone()], TCP_SUPER),
        sealed(
            "to a client: super-segment cut for a foreign client",
            50,
            Format::Packets,
            vec![super_segment],
            TCP_SUPER,
        ),
        sealed("to a client: small packets", 32, Format::Packets, small, PLAIN),
    ]
}

/// Small packets that come from and go to so many sessions in turn.
pub fn of_many(names: (&'static str, &'static str), sessions: usize) -> Vec<Path<'static>> {
    const VECTOR: usize = 32;
    let (link, mut attachments) = link(sessions);
    let link = Arc::new(link);
    let up: Vec<_> = (0..sessions).map(|number| udp6((client(number), HOST), (1000, 9), SMALL)).collect();
    let down: Vec<_> = (0..sessions).map(|number| udp6((HOST, client(number)), (9, 1000), SMALL)).collect();
    let shared = Arc::clone(&link);
    let mut next = 0;
    // A stride that visits every session, far from the one before.
    let stride = move |next: &mut usize| {
        *next = (*next + 7919) % sessions;
        *next
    };
    let mut buffer = vec![0; HEADROOM + 2000];
    let (mut deframer, mut coalescer) = (Deframer::new(Format::Packets), Coalescer::default());
    let from = move || {
        for _ in 0..VECTOR {
            let number = stride(&mut next);
            let end = HEADROOM + up[number].len();
            buffer[HEADROOM..end].copy_from_slice(&up[number]);
            let input = Plaintext { buffer: &mut buffer, start: HEADROOM, end };
            deliver(&shared, &mut attachments[number], &mut deframer, &mut coalescer, input);
        }
    };
    let mut run = Run::default();
    let mut next = 0;
    let to = move || {
        for _ in 0..VECTOR {
            let number = stride(&mut next);
            assert_eq!(link.from_host(NOW, &down[number], 192), FromHost::To(SessionId(number as u64)));
            run.clear();
            run.append(&down[number], PLAIN, Format::Packets).unwrap();
        }
    };
    vec![(names.0, VECTOR as u64, Box::new(from)), (names.1, VECTOR as u64, Box::new(to))]
}

/// Keeps the size of the header in view of those who read the figures: a framed packet is larger by it.
const _: () = assert!(SegmentHeader::LEN == 4);
