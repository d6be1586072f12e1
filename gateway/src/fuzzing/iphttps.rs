//! Histories of the server's side: connections, requests in pieces, packets of clients and of the host, time.
//!
//! Each connection is a session, a deframer and, once it is up, a place on the one link, wired as the shell wires them.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::time::Duration;

use super::Outcomes;
use super::input::Input;
use super::oracle::{self, Sum};
use super::packets::{self, Packet};
use crate::core::frame::{Frame, HEADROOM, Offload, SegmentKind};
use crate::core::iphttps::{
    Action, Admission, Attachment, Authentication, CloseReason, Deframer, DropReason, Format, FromClient, FromHost,
    Identity, Link, LinkConfig, LinkSink, Plaintext, Route, Session, SessionConfig, SessionId, SessionState,
};
use crate::core::time::Now;
use crate::wire::iphttps_http::ResponseParser;
use crate::wire::ndp;
use crate::wire::segment_header::SegmentHeader;

const CONNECTIONS: usize = 6;
const STEPS: usize = 160;
const MAX_SESSIONS: usize = 4;
const MAX_ADDRESSES: usize = 3;

fn local() -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)
}

fn server(host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd7c, 0x1a2b, 0x3c4d, 0x1000, 0, 0, 0, host)
}

fn address(input: &mut Input<'_>) -> Ipv6Addr {
    let host = u16::from(input.byte());
    match host >> 4 {
        0..=7 => Ipv6Addr::new(0xfd7c, 0x1a2b, 0x3c4d, 0x1000, 0xabcd, 0, 0, host & 7),
        8 | 9 => Ipv6Addr::new(0xfe80, 0, 0, 0, 0xabcd, 0, 0, host & 7),
        10 => server(host & 3),
        11 => local(),
        12 => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, host & 3),
        13 => ndp::solicited_node(server(host & 7)),
        14 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host),
        _ => Ipv6Addr::UNSPECIFIED,
    }
}

fn link_config(input: &mut Input<'_>) -> LinkConfig {
    let flags = input.byte();
    LinkConfig {
        authentication: if flags & 1 == 0 { Authentication::Certificates } else { Authentication::None },
        link_local: local(),
        addresses: vec![server(1), server(2)],
        prefix: server(0),
        routes: vec![Route { prefix: Ipv6Addr::new(0xfd7c, 0x1a2b, 0x3c4d, 0, 0, 0, 0, 0), length: 48 }],
        route_lifetime: 1800,
        router_lifetime: u16::from(flags >> 1),
        advertise_interval: Duration::from_secs(600),
        max_sessions: MAX_SESSIONS,
        max_addresses_per_session: MAX_ADDRESSES,
        idle_probe: Duration::from_secs(30),
    }
}

fn session_config(link: &LinkConfig) -> SessionConfig {
    SessionConfig {
        authentication: link.authentication,
        handshake_timeout: Duration::from_secs(15),
        request_timeout: Duration::from_secs(10),
        answer_timeout: Duration::from_secs(15),
        paths: vec!["/portico/v1/enrol".into()],
        max_body: 4096,
        segments: true,
    }
}

/// What the link asks of the shell.
#[derive(Default)]
struct Sink {
    sent: Vec<(Option<SessionId>, Vec<u8>)>,
    evicted: Vec<(SessionId, CloseReason)>,
    learned: Vec<(SessionId, Ipv6Addr)>,
}

impl LinkSink for Sink {
    fn send(&mut self, session: SessionId, packet: &[u8]) {
        self.sent.push((Some(session), packet.to_vec()));
    }

    fn broadcast_except(&mut self, _: SessionId, packet: &[u8]) {
        self.sent.push((None, packet.to_vec()));
    }

    fn evict(&mut self, session: SessionId, reason: CloseReason) {
        self.evicted.push((session, reason));
    }

    fn learned(&mut self, session: SessionId, address: Ipv6Addr) {
        self.learned.push((session, address));
    }
}

struct Connection {
    session: Session,
    id: SessionId,
    deframer: Option<Deframer>,
    attachment: Option<Attachment>,
}

struct Run<'s> {
    link: Link,
    config: LinkConfig,
    connections: Vec<Option<Connection>>,
    /// Sessions that are on the link.
    on_link: BTreeSet<SessionId>,
    last_id: u64,
    now: Now,
    sink: Sink,
    seen: &'s mut Outcomes,
}

pub fn iphttps(input: &mut Input<'_>, seen: &mut Outcomes) {
    let config = link_config(input);
    let now = Now::from_secs(100);
    let link = Link::new(config.clone(), now).expect("a good configuration");
    let connections = (0..CONNECTIONS).map(|_| None).collect();
    let (on_link, sink) = (BTreeSet::new(), Sink::default());
    let mut run = Run { link, config, connections, on_link, last_id: 0, now, sink, seen };
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        run.step(input);
        run.settle();
        run.check();
    }
    for index in 0..CONNECTIONS {
        run.hang_up(index, CloseReason::PeerClosed);
    }
    assert_eq!(run.link.sessions(), 0);
    for reason in DropReason::ALL.iter().filter(|reason| run.link.counters().dropped(**reason) > 0) {
        run.seen.note("drop", reason);
    }
}

impl Run<'_> {
    fn step(&mut self, input: &mut Input<'_>) {
        let index = input.choice(CONNECTIONS);
        match input.choice(10) {
            0 => self.connect(index, input),
            1 => self.request(index, input),
            2 => {
                let bytes = input.piece().to_vec();
                self.plaintext(index, &bytes);
            }
            3..=6 => self.packet(index, input),
            7 => self.host_sends(input),
            8 => self.time(input),
            _ => match input.choice(6) {
                0 => self.configure(input),
                1 => self.answer(index, input),
                2 => self.hang_up(index, CloseReason::PeerClosed),
                _ => self.packet(index, input),
            },
        }
    }

    /// A connection whose handshake is done, in the place of the one before.
    fn connect(&mut self, index: usize, input: &mut Input<'_>) {
        self.hang_up(index, CloseReason::PeerClosed);
        let config = session_config(&self.config);
        let mut session = Session::new(self.now, &config);
        let machine = input.byte();
        let identity = Identity {
            serial: "1".into(),
            issuer_sha256: [1; 32],
            subject: format!("machine{}", machine & 3),
            not_after: 0,
        };
        let admission = match machine >> 5 {
            6 => Admission::Anonymous,
            7 => Admission::Refused,
            _ => Admission::Admitted(identity.into()),
        };
        session.handshake_done(self.now, &config, admission).expect("the first time");
        assert!(session.handshake_done(self.now, &config, Admission::Anonymous).is_err());
        self.last_id += 1;
        let id = SessionId(self.last_id);
        self.connections[index] = Some(Connection { session, id, deframer: None, attachment: None });
    }

    fn request(&mut self, index: usize, input: &mut Input<'_>) {
        let head: &[u8] = match input.byte() & 7 {
            0..=3 => b"POST /IPHTTPS HTTP/1.1\r\nContent-Length: 18446744073709551615\r\nHost: a\r\n\r\n",
            4 => b"POST /iptls HTTP/1.1\r\nPortico-Segments: 1\r\n\r\n",
            5 => b"POST /portico/v1/enrol HTTP/1.1\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
            6 => b"POST /portico/v1/enrol HTTP/1.1\r\nContent-Length: 5000\r\n\r\n",
            _ => b"GET / HTTP/1.0\r\n\r\n",
        };
        let cut = usize::from(input.byte()) % (head.len() + 1);
        self.plaintext(index, &head[..cut]);
        if input.byte() & 7 != 7 {
            self.plaintext(index, &head[cut..]);
        }
    }

    /// Plaintext for a connection, as the shell hands it on: to the session, then to the deframer.
    fn plaintext(&mut self, index: usize, bytes: &[u8]) {
        let Some(mut connection) = self.connections[index].take() else { return };
        let mut rest = bytes;
        while connection.deframer.is_none() && !rest.is_empty() {
            let mut out = Vec::new();
            let config = session_config(&self.config);
            let received = connection.session.receive(self.now, &config, rest, 1_700_000_000, &mut out);
            let received = received.expect("the table allows plaintext until the session is up");
            assert!(received.used <= rest.len());
            rest = &rest[received.used..];
            if !out.is_empty() {
                assert!(ResponseParser::new().push(&out).expect("an answer is HTTP").is_some());
            }
            self.seen.note("action", &received.action);
            match received.action {
                Action::NeedMore if rest.is_empty() => break,
                Action::NeedMore | Action::Request(_) => {}
                Action::Tunnel { segments } => self.join(&mut connection, segments),
                Action::Close(reason) => {
                    self.seen.note("close", &reason);
                    assert_eq!(connection.session.close_reason(), Some(reason));
                    self.leave(connection, reason);
                    return;
                }
            }
        }
        if let Err(reason) = self.stream(&mut connection, rest) {
            self.seen.note("close", &reason);
            self.leave(connection, reason);
            return;
        }
        self.connections[index] = Some(connection);
    }

    fn join(&mut self, connection: &mut Connection, segments: bool) {
        let full = self.link.sessions() >= MAX_SESSIONS;
        match self.link.attach(self.now, connection.id, connection.session.identity().cloned()) {
            Ok(attachment) => {
                assert!(!full);
                let mut out = Vec::new();
                connection.session.up(1_700_000_000, &mut out).expect("a tunnel was requested");
                let response = ResponseParser::new().push(&out).expect("HTTP").expect("whole").head;
                assert!(response.is_success() && response.agrees_segments() == segments);
                let format = if segments { Format::Segments } else { Format::Packets };
                connection.deframer = Some(Deframer::new(format));
                connection.attachment = Some(attachment);
                self.on_link.insert(connection.id);
            }
            Err(reason) => {
                self.seen.note("refused", &reason);
                connection.session.close(reason);
            }
        }
    }

    fn stream(&mut self, connection: &mut Connection, bytes: &[u8]) -> Result<(), CloseReason> {
        let (Some(deframer), Some(attachment)) = (&mut connection.deframer, &mut connection.attachment) else {
            return Ok(());
        };
        let mut buffer = [&[0; HEADROOM][..], bytes].concat();
        let end = buffer.len();
        let mut plaintext = Plaintext { buffer: &mut buffer, start: HEADROOM, end };
        loop {
            let frame = deframer.next(&mut plaintext).map_err(|error| error.close_reason())?;
            let Some(mut frame) = frame else { return Ok(()) };
            deliver(&self.link, self.now, attachment, &mut frame, &mut self.sink, self.seen);
        }
    }

    /// A whole packet of a client, framed as its session has it.
    fn packet(&mut self, index: usize, input: &mut Input<'_>) {
        let Some(connection) = &self.connections[index] else { return };
        let Some(format) = connection.deframer.as_ref().map(Deframer::format) else { return };
        let mut packet = client_packet(input);
        let offload =
            if format == Format::Segments { packets::offload(input, &mut packet) } else { Offload::default() };
        let mut framed = Vec::new();
        if format == Format::Segments {
            let mut header = [0; SegmentHeader::LEN];
            SegmentHeader::from_offload(&offload).emit(&mut header);
            framed.extend(header);
        }
        framed.extend(packet);
        let cut = if input.bit() { usize::from(input.byte()) % (framed.len() + 1) } else { framed.len() };
        self.plaintext(index, &framed[..cut]);
        if input.byte() & 15 != 15 {
            self.plaintext(index, &framed[cut..]);
        }
    }

    fn host_sends(&mut self, input: &mut Input<'_>) {
        let (source, destination) = (address(input), address(input));
        let packet = Packet::new(&source.octets(), &destination.octets(), 17).vary(input);
        let mut packet = packet.build(&packets::udp(1, 2, &packets::data(input)));
        if input.byte() & 7 == 7 {
            packets::damage(input, &mut packet);
        }
        let outcome = self.link.from_host(self.now, &packet, packet.len());
        self.seen.note("from_host", &outcome);
        match outcome {
            FromHost::To(session) => assert_eq!(self.link.owner(destination_of(&packet)), Some(session)),
            FromHost::ToAll => assert_eq!(packet[24], 0xff),
            FromHost::Undeliverable(error) => {
                let error = oracle::well_formed(&error, "an error to the host");
                assert_eq!((error.sum, error.protocol), (Sum::Good, 58));
            }
            FromHost::Drop(reason) => self.seen.note("host_drop", &reason),
        }
    }

    fn time(&mut self, input: &mut Input<'_>) {
        let wait = match input.byte() {
            short @ 0..=127 => u64::from(short) * 20,
            long => u64::from(long - 127) * 10_000,
        };
        self.now = self.now + Duration::from_millis(wait);
        for index in 0..CONNECTIONS {
            let Some(connection) = &mut self.connections[index] else { continue };
            if connection.session.next_timeout().is_some_and(|due| due <= self.now) {
                let reason = connection.session.handle_timeout(self.now).expect("a deadline that passed closes");
                self.seen.note("timeout", &reason);
                self.hang_up(index, reason);
            }
        }
        for _ in 0..64 {
            if self.link.next_timeout().is_none_or(|due| due > self.now) {
                return;
            }
            self.link.handle_timeout(self.now, f64::from(input.byte()) / 256.0, &mut self.sink);
            self.settle();
        }
        panic!("handling timeouts brings no end of them");
    }

    fn configure(&mut self, input: &mut Input<'_>) {
        self.config = link_config(input);
        self.link.configure(self.config.clone(), self.now, &mut self.sink).expect("a good configuration");
    }

    fn answer(&mut self, index: usize, input: &mut Input<'_>) {
        let Some(connection) = &mut self.connections[index] else { return };
        let before = connection.session.state();
        let mut out = Vec::new();
        let answered = connection.session.answer(200, "text/plain", input.piece(), 1_700_000_000, &mut out);
        assert_eq!(answered.is_ok(), before == SessionState::Answering);
        assert_eq!(answered.is_ok(), !out.is_empty());
        if answered.is_ok() {
            self.seen.note("answered", &SessionState::Answering);
            self.hang_up(index, CloseReason::Answered);
        }
    }

    fn hang_up(&mut self, index: usize, reason: CloseReason) {
        if let Some(mut connection) = self.connections[index].take() {
            connection.session.close(reason);
            self.leave(connection, reason);
        }
    }

    fn leave(&mut self, mut connection: Connection, reason: CloseReason) {
        connection.session.close(reason);
        assert_eq!(connection.session.state(), SessionState::Closed);
        assert_eq!(connection.session.next_timeout(), None);
        self.on_link.remove(&connection.id);
        // What waited for it goes with it.
        self.sink.sent.retain(|(session, _)| *session != Some(connection.id));
        if let Some(attachment) = connection.attachment {
            self.link.detach(attachment);
        }
    }

    /// Does what the link asked for, and looks at it.
    fn settle(&mut self) {
        let sink = std::mem::take(&mut self.sink);
        for (session, packet) in sink.sent {
            if let Some(session) = session {
                assert!(self.on_link.contains(&session), "nothing is sent to a session that is gone");
            }
            let packet = oracle::look(&packet).expect("lengths are right");
            // Others' multicast passes with the sum it came with.
            let made_here = session.is_some() && packet.protocol == 58 && packet.source == local().octets();
            assert!(!made_here || packet.sum == Sum::Good);
        }
        for (session, address) in sink.learned {
            self.seen.note_text("link", "Learned");
            assert!(!self.config.addresses.contains(&address) && address != local());
            assert!(self.link.owner(address).is_none_or(|owner| owner == session) || !self.on_link.contains(&session));
        }
        for (session, reason) in sink.evicted {
            self.seen.note("evicted", &reason);
            assert!(self.on_link.contains(&session));
            let place = self
                .connections
                .iter()
                .position(|connection| connection.as_ref().is_some_and(|connection| connection.id == session));
            self.hang_up(place.expect("a session on the link has a connection"), reason);
        }
    }

    fn check(&self) {
        assert_eq!(self.link.sessions(), self.on_link.len());
        assert!(self.link.sessions() <= MAX_SESSIONS);
        let mut owned = BTreeSet::new();
        for connection in self.connections.iter().flatten() {
            let Some(attachment) = &connection.attachment else { continue };
            let addresses = attachment.addresses();
            assert!(addresses.len() <= MAX_ADDRESSES);
            for address in addresses {
                assert!(owned.insert(address), "an address has one owner");
                assert_eq!(self.link.owner(address), Some(connection.id));
            }
        }
    }
}

fn destination_of(packet: &[u8]) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&packet[24..40]);
    Ipv6Addr::from(octets)
}

fn deliver(
    link: &Link,
    now: Now,
    attachment: &mut Attachment,
    frame: &mut Frame<'_>,
    sink: &mut Sink,
    seen: &mut Outcomes,
) {
    let outcome = link.from_client(now, attachment, frame, sink);
    seen.note("from_client", &outcome);
    if outcome == FromClient::ToHost {
        let packet = oracle::look(frame.bytes()).expect("the host gets right lengths");
        assert!(frame.offload.kind != SegmentKind::None || frame.len() <= 1280);
        let source = Ipv6Addr::from(<[u8; 16]>::try_from(packet.source).expect("sixteen bytes"));
        if !source.is_unspecified() {
            assert_eq!(link.owner(source), Some(attachment.session()), "no packet with another's source");
        }
    }
}

fn client_packet(input: &mut Input<'_>) -> Vec<u8> {
    let kind = input.byte();
    let (source, destination, target) = (address(input), address(input), address(input));
    let mut packet = match kind % 8 {
        0 | 1 => Packet::new(&source.octets(), &server(1).octets(), 17).build(&packets::udp(9, 53, b"data")),
        2 => {
            let packet = Packet::new(&source.octets(), &destination.octets(), input.of(&[6, 17, 59])).vary(input);
            packet.build(&packets::tcp(9, 80, 16, &packets::data(input)))
        }
        3 => ndp::emit_neighbour_solicitation(Ipv6Addr::UNSPECIFIED, ndp::solicited_node(target), target),
        4 => ndp::emit_neighbour_solicitation(source, input.of(&[destination, ndp::solicited_node(target)]), target),
        5 => ndp::emit_neighbour_advertisement(source, destination, target, input.bit(), input.bit()),
        6 => match input.choice(3) {
            0 => ndp::emit_router_solicitation(source),
            1 => ndp::RouterAdvertisement::default().emit(source, destination),
            _ => ndp::icmpv6(source, destination, 255, &[input.byte(), 0, 0, 0, 0, 0, 0, 0]),
        },
        _ => {
            let message = packets::icmp(input.byte(), input.byte() & 1, 0, &packets::data(input));
            Packet::new(&source.octets(), &destination.octets(), 58).vary(input).build(&message)
        }
    };
    if kind >> 5 == 7 {
        packets::damage(input, &mut packet);
    }
    packet
}
