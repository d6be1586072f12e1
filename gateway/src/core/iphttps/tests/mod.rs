//! Dialogues with the link, and client against server in memory.
//!
//! Frames of foreign messages are written in hex or built here from scratch, so that the code under test does not check
//! itself with its own emitters.

mod addresses;
mod link;
mod model;
mod pair;
mod threads;

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::core::frame::{Frame, HEADROOM, Offload};
use crate::core::time::Now;

pub(super) const SERVER: &str = "fe80::1";
pub(super) const PREFIX: &str = "fd7c:1a2b:3c4d:1000::";

pub(super) fn ip(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// An address of the clients' prefix.
pub(super) fn client(host: u16) -> Ipv6Addr {
    let mut segments = ip(PREFIX).segments();
    (segments[4], segments[7]) = (0xabcd, host);
    Ipv6Addr::from(segments)
}

/// A client's link-local address.
pub(super) fn local(host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0xabcd, 0, 0, host)
}

pub(super) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

pub(super) fn config(authentication: Authentication) -> LinkConfig {
    LinkConfig {
        authentication,
        link_local: ip(SERVER),
        addresses: vec![ip("fd7c:1a2b:3c4d:1000::1"), ip("fd7c:1a2b:3c4d:1000::2"), ip("fd7c:1a2b:3c4d:3333::1")],
        prefix: ip(PREFIX),
        routes: vec![Route { prefix: ip("fd7c:1a2b:3c4d::"), length: 48 }],
        route_lifetime: 1800,
        router_lifetime: 0,
        advertise_interval: Duration::from_secs(600),
        max_sessions: 10,
        max_addresses_per_session: 3,
        idle_probe: Duration::from_secs(30),
    }
}

pub(super) fn identity(name: &str) -> Arc<Identity> {
    Identity { serial: "1".into(), issuer_sha256: [1; 32], subject: name.into(), not_after: 0 }.into()
}

/// An IPv6 packet from scratch.
pub(super) fn packet(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    packet.extend([next_header, hops]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// An ICMPv6 packet with hop limit 255 from scratch, its checksum summed word by word.
pub(super) fn icmp(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let mut packet = packet(source, destination, 58, 255, message);
    let mut sum = message.len() as u32 + 58;
    for pair in packet[8..].chunks(2) {
        sum += u32::from(pair[0]) * 256 + u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = sum % 65_536 + sum / 65_536;
    }
    packet[42..44].copy_from_slice(&(0xffff - sum as u16).to_be_bytes());
    packet
}

pub(super) fn solicitation(source: Ipv6Addr, destination: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    icmp(source, destination, &[&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets()].concat())
}

pub(super) fn group(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// A duplicate address probe.
pub(super) fn probe(target: Ipv6Addr) -> Vec<u8> {
    solicitation(ip("::"), group(target), target)
}

pub(super) fn router_solicitation(source: Ipv6Addr) -> Vec<u8> {
    icmp(source, ip("ff02::2"), &[133, 0, 0, 0, 0, 0, 0, 0])
}

pub(super) fn udp(source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
    packet(source, destination, 17, 64, &[0x12, 0x34, 0, 53, 0, 8, 0, 0])
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    To(u64, Vec<u8>),
    AllBut(u64, Vec<u8>),
    Evict(u64, CloseReason),
    Learned(u64, Ipv6Addr),
}

#[derive(Debug, Default)]
pub(super) struct Recorder(pub(super) Vec<Sent>);

impl LinkSink for Recorder {
    fn send(&mut self, session: SessionId, packet: &[u8]) {
        self.0.push(Sent::To(session.0, packet.to_vec()));
    }

    fn broadcast_except(&mut self, session: SessionId, packet: &[u8]) {
        self.0.push(Sent::AllBut(session.0, packet.to_vec()));
    }

    fn evict(&mut self, session: SessionId, reason: CloseReason) {
        self.0.push(Sent::Evict(session.0, reason));
    }

    fn learned(&mut self, session: SessionId, address: Ipv6Addr) {
        self.0.push(Sent::Learned(session.0, address));
    }
}

/// A link with its sessions 1, 2, 3 ... and a clock.
pub(super) struct Dialogue {
    pub(super) link: Link,
    pub(super) attachments: Vec<Attachment>,
    pub(super) now: Now,
    recorder: Recorder,
}

impl Dialogue {
    /// `sessions` sessions, each of another machine.
    pub(super) fn new(authentication: Authentication, sessions: u64) -> Self {
        let now = Now::from_secs(100);
        let link = Link::new(config(authentication), now).unwrap();
        let machine = |id| identity(&format!("machine{id}"));
        let attachments =
            (1..=sessions).map(|id| link.attach(now, SessionId(id), Some(machine(id))).unwrap()).collect();
        Self { link, attachments, now, recorder: Recorder::default() }
    }

    /// One more session of that machine; returns its id.
    pub(super) fn join(&mut self, name: &str) -> u64 {
        let id = self.attachments.len() as u64 + 1;
        self.attachments.push(self.link.attach(self.now, SessionId(id), Some(identity(name))).unwrap());
        id
    }

    pub(super) fn wait(&mut self, milliseconds: u64) {
        self.now = self.now + Duration::from_millis(milliseconds);
        self.link.handle_timeout(self.now, 0.5, &mut self.recorder);
    }

    /// `>>` a packet from a session.
    pub(super) fn receive(&mut self, session: u64, packet: &[u8]) -> FromClient {
        self.receive_offload(session, packet, Offload::default())
    }

    pub(super) fn receive_offload(&mut self, session: u64, packet: &[u8], offload: Offload) -> FromClient {
        let mut buffer = [&vec![0; HEADROOM][..], packet].concat();
        let end = buffer.len();
        let mut frame = Frame::new(&mut buffer, HEADROOM, end, offload);
        let attachment = &mut self.attachments[session as usize - 1];
        self.link.from_client(self.now, attachment, &mut frame, &mut self.recorder)
    }

    /// `<<` everything sent since the last call.
    pub(super) fn sent(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.recorder.0)
    }

    pub(super) fn configure(&mut self, config: LinkConfig) {
        self.link.configure(config, self.now, &mut self.recorder).unwrap();
    }

    /// Has sessions own addresses, silently.
    pub(super) fn own(&mut self, session: u64, address: Ipv6Addr) {
        assert_eq!(self.receive(session, &udp(address, ip("fd7c:1a2b:3c4d:1000::1"))), FromClient::ToHost);
        self.sent();
    }
}
