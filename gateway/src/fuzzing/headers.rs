//! The parsers of packet headers and of neighbour discovery. What parses must be inside the packet, and what is emitted
//! from a parsed header must parse to the same.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::input::Input;
use super::{Outcomes, oracle};
use crate::wire::icmpv6::may_answer;
use crate::wire::ipv4::{self, Ipv4Header};
use crate::wire::ipv6::{self, Ipv6Header};
use crate::wire::ndp::{self, Message};
use crate::wire::tcp::TcpHeader;
use crate::wire::udp::UdpHeader;
use crate::wire::{icmpv4, icmpv6};

pub fn ipv4(input: &mut Input<'_>, seen: &mut Outcomes) {
    let packet = input.rest();
    let whole = Ipv4Header::parse(packet);
    seen.note_result("whole", &whole);
    let embedded = Ipv4Header::parse_embedded(packet);
    seen.note_result("embedded", &embedded);
    let Ok(header) = embedded else { return assert!(whole.is_err()) };
    assert!(header.header_len >= 20 && header.header_len <= packet.len() && header.header_len <= header.total_len);
    assert_eq!(whole.is_ok(), header.total_len <= packet.len());
    if let Some(at) = ipv4::unexpired_source_route(&packet[..header.header_len]) {
        seen.note_text("route", "Yes");
        assert!((22..header.header_len).contains(&at));
    }
    let plain = Ipv4Header { header_len: 20, total_len: header.payload_len() + 20, ..header };
    let mut out = [0; 20];
    plain.emit(&mut out);
    assert_eq!(Ipv4Header::parse_embedded(&out), Ok(plain));
    assert!(oracle::total(&[&out]).is_multiple_of(65_535));
}

pub fn ipv6(input: &mut Input<'_>, seen: &mut Outcomes) {
    let packet = input.rest();
    let whole = Ipv6Header::parse(packet);
    seen.note_result("whole", &whole);
    let embedded = Ipv6Header::parse_embedded(packet);
    seen.note_result("embedded", &embedded);
    let Ok(header) = embedded else { return assert!(whole.is_err()) };
    assert_eq!(whole.is_ok(), 40 + header.payload_len <= packet.len());
    let mut out = [0; 40];
    header.emit(&mut out);
    assert_eq!(out, packet[..40]);
    let upper = ipv6::upper_layer(packet, &header);
    seen.note_result("upper", &upper);
    let Ok(upper) = upper else { return };
    assert!((40..=packet.len()).contains(&upper.offset));
    if let Some(fragment) = upper.fragment {
        seen.note_text("fragment", "Yes");
        let mut out = [0; 8];
        fragment.emit(&mut out);
        assert_eq!(fragment.is_atomic(), fragment.offset == 0 && !fragment.more);
    }
    if let Some(at) = upper.unvisited_segments {
        seen.note_text("segments_left", "Yes");
        assert!(at < upper.offset && packet[at] > 0);
    }
    // What the code under test walks over, the oracle walks over too.
    if let Some(other) = whole.is_ok().then(|| oracle::look(packet)).flatten() {
        assert_eq!((other.protocol, packet.len() - other.payload.len()), (upper.protocol, upper.offset));
    }
}

pub fn tcp(input: &mut Input<'_>, seen: &mut Outcomes) {
    let segment = input.rest();
    let parsed = TcpHeader::parse(segment);
    seen.note_result("tcp", &parsed);
    if let Ok(header) = parsed {
        assert!((20..=segment.len()).contains(&header.header_len));
    }
}

pub fn udp(input: &mut Input<'_>, seen: &mut Outcomes) {
    let datagram = input.rest();
    let parsed = UdpHeader::parse(datagram);
    seen.note_result("udp", &parsed);
    if let Ok(header) = parsed {
        let mut out = [0; 8];
        header.emit(&mut out);
        assert_eq!(out, datagram[..8]);
    }
}

pub fn icmpv4(input: &mut Input<'_>, seen: &mut Outcomes) {
    let error = input.of(&[
        icmpv4::ErrorMessage::unreachable(3),
        icmpv4::ErrorMessage::fragmentation_needed(1260),
        icmpv4::ErrorMessage::time_exceeded(),
    ]);
    let room = 28 + usize::from(input.word() % 1500);
    let invoking = input.rest();
    let mut out = vec![0; room];
    let (source, destination) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 4));
    let len = error.emit(&mut out, source, destination, invoking);
    assert_eq!(len, (28 + invoking.len()).min(room).min(576));
    let packet = oracle::well_formed(&out[..len], "an ICMP error");
    assert_eq!((packet.sum, &packet.payload[8..]), (oracle::Sum::Good, &invoking[..len - 28]));
    assert!(icmpv4::is_error(packet.payload[0]));
    seen.note("cut", &(len < 28 + invoking.len()));
}

pub fn icmpv6(input: &mut Input<'_>, seen: &mut Outcomes) {
    let error = input.of(&[
        icmpv6::ErrorMessage::unreachable(3),
        icmpv6::ErrorMessage::packet_too_big(1280),
        icmpv6::ErrorMessage::time_exceeded(),
        icmpv6::ErrorMessage::parameter_problem(1, 40),
    ]);
    let room = 48 + usize::from(input.word() % 1500);
    let invoking = input.rest();
    let answerable = may_answer(invoking);
    seen.note("may_answer", &answerable);
    let mut out = vec![0; room];
    let (source, destination) =
        (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2));
    let len = error.emit(&mut out, source, destination, invoking);
    assert_eq!(len, (48 + invoking.len()).min(room).min(1280));
    let packet = oracle::well_formed(&out[..len], "an ICMPv6 error");
    assert_eq!((packet.sum, &packet.payload[8..]), (oracle::Sum::Good, &invoking[..len - 48]));
    assert!(!may_answer(&out[..len]), "errors are not answered with errors");
}

pub fn ndp(input: &mut Input<'_>, seen: &mut Outcomes) {
    let flags = input.byte();
    let mut packet = input.rest().to_vec();
    if flags & 1 != 0 {
        // With right lengths and sums, mutations reach what lies behind those checks.
        if packet.len() >= 40 {
            let length = (packet.len() - 40) as u16;
            packet[4..6].copy_from_slice(&length.to_be_bytes());
        }
        oracle::fill_checksum(&mut packet, false);
    }
    let parsed = ndp::parse(&packet);
    seen.note_result("ndp", &parsed);
    let Ok(discovery) = parsed else { return };
    seen.note("message", &discovery.message);
    let read = oracle::look(&packet).expect("valid discovery has right lengths");
    assert_eq!((read.hops, read.protocol, read.extended), (255, 58, false));
    assert!(matches!(read.sum, oracle::Sum::Good));
    assert_eq!(read.source, discovery.source.octets());
    let (source, destination) = (discovery.source, discovery.destination);
    let again = match discovery.message {
        Message::RouterSolicitation => ndp::emit_router_solicitation(source),
        Message::NeighbourSolicitation { target } => ndp::emit_neighbour_solicitation(source, destination, target),
        Message::NeighbourAdvertisement { target, router, solicited, .. } => {
            ndp::emit_neighbour_advertisement(source, destination, target, router, solicited)
        }
        Message::RouterAdvertisement(ref advertisement) => {
            let emitted = advertisement.emit(source, destination);
            assert_eq!(emitted.len(), advertisement.packet_len());
            emitted
        }
        Message::Redirect => return,
    };
    let again = ndp::parse(&again).expect("what is emitted is valid");
    if let (Message::RouterAdvertisement(one), Message::RouterAdvertisement(two)) = (&discovery.message, &again.message)
    {
        assert_eq!((one.router_lifetime, one.hop_limit, one.mtu), (two.router_lifetime, two.hop_limit, two.mtu));
        assert_eq!((&one.prefixes, one.routes.len()), (&two.prefixes, two.routes.len()));
    }
}
