//! The client core against the server core, in memory, over byte streams cut at will.

use proptest::prelude::*;

use super::*;
use crate::wire::ndp::{self, Message};
use crate::wire::segment_header::SegmentHeader;

const UNIX: u64 = 1_700_000_000;

fn session_config(authentication: Authentication) -> SessionConfig {
    SessionConfig {
        authentication,
        handshake_timeout: Duration::from_secs(15),
        request_timeout: Duration::from_secs(10),
        answer_timeout: Duration::from_secs(10),
        paths: Vec::new(),
        max_body: 0,
        segments: true,
    }
}

/// One client, one server session and the link, with two byte pipes between them.
struct Pair {
    link: Link,
    config: SessionConfig,
    client: ClientSession,
    session: Session,
    attachment: Option<Attachment>,
    server_deframer: Deframer,
    client_deframer: Option<Deframer>,
    server_segments: bool,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    client_packets: Vec<Vec<u8>>,
    host_packets: Vec<Vec<u8>>,
    now: Now,
}

impl Pair {
    fn new(authentication: Authentication, admission: Admission, segments: bool) -> Self {
        let now = Now::from_secs(1);
        let mut client = ClientSession::new(ClientConfig {
            host: "da.example.net".into(),
            port: 443,
            path: "/IPHTTPS".into(),
            proxy: None,
            link_local: local(7),
            segments,
            connect_timeout: Duration::from_secs(10),
        });
        client.enable(now).unwrap();
        assert_eq!(client.handle_timeout(now, 0.0), Some(ClientAction::Dial));
        let config = session_config(authentication);
        let mut session = Session::new(now, &config);
        session.handshake_done(now, &config, admission).unwrap();
        let mut pair = Self {
            link: Link::new(super::config(authentication), now).unwrap(),
            config,
            client,
            session,
            attachment: None,
            server_deframer: Deframer::default(),
            client_deframer: None,
            server_segments: false,
            to_server: Vec::new(),
            to_client: Vec::new(),
            client_packets: Vec::new(),
            host_packets: Vec::new(),
            now,
        };
        pair.client.connected(&mut pair.to_server);
        pair.client.tls_established(&mut pair.to_server).unwrap();
        pair
    }

    /// Moves everything in both pipes, `cut` bytes at a time. A reason when the server disconnected.
    fn run(&mut self, cut: usize) -> Option<CloseReason> {
        while !(self.to_server.is_empty() && self.to_client.is_empty()) {
            for piece in std::mem::take(&mut self.to_server).chunks(cut) {
                if let Some(reason) = self.server(piece) {
                    return Some(reason);
                }
            }
            for piece in std::mem::take(&mut self.to_client).chunks(cut) {
                self.client(piece);
            }
        }
        None
    }

    fn server(&mut self, mut piece: &[u8]) -> Option<CloseReason> {
        while self.session.state() != SessionState::Up {
            if piece.is_empty() {
                return None;
            }
            let Received { used, action } =
                self.session.receive(self.now, &self.config, piece, UNIX, &mut self.to_client).unwrap();
            piece = &piece[used..];
            match action {
                Action::NeedMore => {}
                Action::Close(reason) => return Some(reason),
                Action::Request(request) => panic!("{request:?}"),
                Action::Tunnel { segments } => {
                    let identity = self.session.identity().cloned();
                    self.attachment = Some(self.link.attach(self.now, SessionId(1), identity).unwrap());
                    self.server_segments = segments;
                    self.server_deframer = Deframer::new(if segments { Format::Segments } else { Format::Packets });
                    self.session.up(UNIX, &mut self.to_client).unwrap();
                }
            }
        }
        let mut buffer = [&[0; HEADROOM][..], piece].concat();
        let end = buffer.len();
        let mut input = Plaintext { buffer: &mut buffer, start: HEADROOM, end };
        let mut sink = Recorder::default();
        loop {
            match self.server_deframer.next(&mut input) {
                Ok(Some(mut frame)) => {
                    let attachment = self.attachment.as_mut().unwrap();
                    if self.link.from_client(self.now, attachment, &mut frame, &mut sink) == FromClient::ToHost {
                        self.host_packets.push(frame.bytes().to_vec());
                    }
                }
                Ok(None) => break,
                Err(error) => return Some(error.close_reason()),
            }
        }
        for sent in sink.0 {
            if let Sent::To(_, packet) = sent {
                self.send_to_client(&packet);
            }
        }
        None
    }

    fn send_to_client(&mut self, packet: &[u8]) {
        frame(&mut self.to_client, self.server_segments, packet);
    }

    fn send_to_server(&mut self, packet: &[u8]) {
        let segments = self.client_deframer.as_ref().is_some_and(|deframer| deframer.format() == Format::Segments);
        frame(&mut self.to_server, segments, packet);
    }

    fn client(&mut self, mut piece: &[u8]) {
        if self.client_deframer.is_none() {
            match self.client.received(self.now, piece, &mut self.to_server).unwrap() {
                ClientStep::NeedMore => return,
                ClientStep::LinkUp { used, format } => {
                    piece = &piece[used..];
                    self.client_deframer = Some(Deframer::new(format));
                }
                step => panic!("{step:?}"),
            }
        }
        let mut buffer = [&[0; HEADROOM][..], piece].concat();
        let end = buffer.len();
        let mut input = Plaintext { buffer: &mut buffer, start: HEADROOM, end };
        while let Some(frame) = self.client_deframer.as_mut().unwrap().next(&mut input).unwrap() {
            self.client_packets.push(frame.bytes().to_vec());
        }
    }
}

fn frame(out: &mut Vec<u8>, segments: bool, packet: &[u8]) {
    if segments {
        let mut header = [0; SegmentHeader::LEN];
        SegmentHeader::from_offload(&Offload::default()).emit(&mut header);
        out.extend_from_slice(&header);
    }
    out.extend_from_slice(packet);
}

/// From nothing to a packet in each direction.
fn exchange(mut pair: Pair, cut: usize) {
    assert_eq!(pair.run(cut), None);
    assert_eq!(pair.client.state(), ClientState::LinkUp);
    // The client solicited and was answered.
    let packet = pair.client_packets.pop().unwrap();
    let discovery = ndp::parse(&packet).unwrap();
    assert_eq!((discovery.source, discovery.destination), (ip(SERVER), local(7)));
    let Message::RouterAdvertisement(advertisement) = discovery.message else { panic!("an advertisement") };
    assert_eq!((advertisement.router_lifetime, advertisement.mtu), (0, Some(1280)));
    assert_eq!((advertisement.prefixes[0].prefix, advertisement.routes[0].length), (ip(PREFIX), 48));
    // One packet each way.
    let there = udp(client(7), ip("fd7c:1a2b:3c4d:1::6"));
    pair.send_to_server(&there);
    assert_eq!(pair.run(cut), None);
    assert_eq!(pair.host_packets, [there]);
    let back = udp(ip("fd7c:1a2b:3c4d:1::6"), client(7));
    assert_eq!(pair.link.from_host(pair.now, &back, back.len()), FromHost::To(SessionId(1)));
    pair.send_to_client(&back);
    assert_eq!(pair.run(cut), None);
    assert_eq!(pair.client_packets, [back]);
}

#[test]
fn without_an_identity_the_client_sees_a_disconnect() {
    let mut pair = Pair::new(Authentication::Certificates, Admission::Anonymous, false);
    assert_eq!(pair.run(1000), Some(CloseReason::NoIdentity));
    assert!(pair.to_client.is_empty());
    let wait = pair.client.failed(pair.now, ClientError::Disconnected, 0.0);
    assert_eq!((wait, pair.client.state()), (Duration::from_secs(30), ClientState::LinkDown));
}

#[test]
fn garbage_closes_its_own_session_only() {
    let mut pair = Pair::new(Authentication::None, Admission::Anonymous, false);
    pair.run(1000);
    let other = pair.link.attach(pair.now, SessionId(2), None).unwrap();
    pair.to_server.extend_from_slice(&[0x45; 100]);
    assert_eq!(pair.run(1000), Some(CloseReason::NotIpv6));
    pair.link.detach(pair.attachment.take().unwrap());
    assert_eq!((pair.link.sessions(), other.session()), (1, SessionId(2)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_cut_brings_the_link_up(cut in 1usize..400, segments in any::<bool>(), certificates in any::<bool>()) {
        let pair = if certificates {
            Pair::new(Authentication::Certificates, Admission::Admitted(identity("client1")), segments)
        } else {
            Pair::new(Authentication::None, Admission::Anonymous, segments)
        };
        exchange(pair, cut);
    }

    #[test]
    fn arbitrary_packets_never_panic(
        packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..20),
        certificates in any::<bool>(),
    ) {
        let mode = if certificates { Authentication::Certificates } else { Authentication::None };
        let mut dialogue = Dialogue::new(mode, 2);
        for mut packet in packets {
            dialogue.receive(1, &packet);
            let _ = dialogue.link.from_host(dialogue.now, &packet, packet.len());
            if packet.len() >= 40 {
                // Once more as an IPv6 packet of the right length, and with an address that passes.
                packet[0] = 0x60;
                let length = u16::try_from(packet.len() - 40).unwrap();
                packet[4..6].copy_from_slice(&length.to_be_bytes());
                dialogue.receive(1, &packet);
                let _ = dialogue.link.from_host(dialogue.now, &packet, packet.len());
                packet[8..24].copy_from_slice(&local(7).octets());
                packet[6] = [0, 43, 44, 58, 60][usize::from(packet[1]) % 5];
                dialogue.receive(1, &packet);
            }
        }
    }

    #[test]
    fn arbitrary_discovery_with_a_right_checksum_never_panics(
        messages in prop::collection::vec((127u8..145, prop::collection::vec(any::<u8>(), 0..80)), 1..20),
        own in any::<bool>(),
    ) {
        let mut dialogue = Dialogue::new(Authentication::Certificates, 2);
        for (kind, body) in messages {
            let message = [&[kind, 0, 0, 0][..], &body].concat();
            let destination = if own { ip(SERVER) } else { ip("ff02::1") };
            dialogue.receive(1, &icmp(local(7), destination, &message));
            dialogue.wait(300);
        }
    }
}
