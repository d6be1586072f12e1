//! Packets quoted in ICMP errors: found in the session table and translated like packets, except that TTL and hop limit
//! stay, and that they may be cut short (RFC 7915 sections 4.3 and 5.3). Multi-part extensions (RFC 4884) are kept.

use super::Protocol;
use super::transport::{self, Port, Transport};
use crate::wire::checksum::{self, Delta};
use crate::wire::ipv4::{self, Ipv4Header};
use crate::wire::ipv6::{self, FragmentHeader, Ipv6Header, UpperLayer};
use crate::wire::{icmpv4, icmpv6};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The smallest original datagram before an extension (RFC 4884 section 4).
const MIN_EXTENDED: usize = 128;

/// Both ends of a quoted packet, read without requiring the whole transport header.
///
/// Returns source and destination port, both the identifier for an echo message.
pub fn ports(protocol: Protocol, payload: &[u8]) -> Option<(u16, u16)> {
    match protocol {
        Protocol::Tcp | Protocol::Udp => {
            (payload.len() >= 4).then(|| (crate::wire::be16(payload, 0), crate::wire::be16(payload, 2)))
        }
        // No error is about an error: translation stops at the first quoted packet (RFC 7915 sections 4.3 and 5.3).
        Protocol::Icmp => match payload.first() {
            Some(&(icmpv4::ECHO_REQUEST | icmpv4::ECHO_REPLY | icmpv6::ECHO_REQUEST | icmpv6::ECHO_REPLY)) => {
                Transport::parse(protocol, payload).ok().map(|echo| (echo.source_port, echo.destination_port))
            }
            _ => None,
        },
    }
}

/// Divides the part of an error behind its first eight bytes into quoted packet and extension. `length` is the
/// message's length attribute in bytes, zero when there is none.
pub fn split_extension(body: &[u8], length: usize) -> (&[u8], &[u8]) {
    if length == 0 || length >= body.len() { (body, &[]) } else { body.split_at(length) }
}

/// Puts `extension` behind a quoted packet of `quoted` bytes in `body`, padded to a multiple of `unit` and to 128 bytes.
///
/// Returns the bytes used in `body` and the length attribute in units: zero when there is no extension or no room.
pub fn put_extension(body: &mut [u8], quoted: usize, extension: &[u8], unit: usize) -> (usize, u8) {
    let Some(room) = body.len().checked_sub(extension.len()) else { return (quoted, 0) };
    // The end of the packet gives way to the extension, the first 128 bytes do not (RFC 4884 section 4).
    let most = (room / unit).min(255) * unit;
    let padded = quoted.next_multiple_of(unit).max(MIN_EXTENDED).min(most);
    if extension.is_empty() || padded < MIN_EXTENDED {
        return (quoted, 0);
    }
    if padded > quoted {
        body[quoted..padded].fill(0);
    }
    body[padded..padded + extension.len()].copy_from_slice(extension);
    (padded + extension.len(), (padded / unit) as u8)
}

/// The addresses a quoted packet has on the other side, and the client's or the pool's port.
#[derive(Clone, Copy, Debug)]
pub struct Ends<A> {
    pub source: A,
    pub destination: A,
    pub port: u16,
}

/// Translates a quoted IPv6 packet (from an IPv4 host to a client) back to IPv4. Returns the bytes written.
pub fn to_v4(
    out: &mut [u8],
    packet: &[u8],
    header: &Ipv6Header,
    upper: &UpperLayer,
    protocol: Protocol,
    ends: Ends<Ipv4Addr>,
) -> usize {
    let transport_len = (ipv6::HEADER_LEN + header.payload_len).saturating_sub(upper.offset);
    let total_len = (ipv4::HEADER_LEN + transport_len).min(65_535);
    let fragment = upper.fragment;
    Ipv4Header {
        header_len: ipv4::HEADER_LEN,
        traffic_class: header.traffic_class,
        total_len,
        identification: fragment.map_or(0, |fragment| fragment.identification as u16),
        dont_fragment: fragment.is_none() && total_len > 1260,
        more_fragments: fragment.is_some_and(|fragment| fragment.more),
        fragment_offset: 0,
        ttl: header.hop_limit,
        protocol: protocol.v4_number(),
        source: ends.source,
        destination: ends.destination,
    }
    .emit(out);
    let payload = copy_payload(&mut out[ipv4::HEADER_LEN..], &packet[upper.offset..], transport_len);
    let len = ipv4::HEADER_LEN + payload.len();
    if protocol == Protocol::Icmp {
        let pseudo = checksum::pseudo_v6(header.source, header.destination, ipv6::ICMPV6, transport_len as u32);
        transport::echo_to_v4(payload, ends.port, pseudo);
    } else {
        let old = checksum::pseudo_v6(header.source, header.destination, 0, 0);
        let new = checksum::pseudo_v4(ends.source, ends.destination, 0, 0);
        let addresses = Delta::NONE.replace(old, new);
        transport::rewrite(payload, protocol, Port::Destination, ends.port, addresses, false);
    }
    len
}

/// Translates a quoted IPv4 packet (from the pool to an IPv4 host) back to IPv6. Returns the bytes written.
pub fn to_v6(out: &mut [u8], packet: &[u8], header: &Ipv4Header, protocol: Protocol, ends: Ends<Ipv6Addr>) -> usize {
    let transport_len = header.payload_len();
    let fragmented = header.is_fragment();
    let extra = if fragmented { ipv6::FRAGMENT_HEADER_LEN } else { 0 };
    let next_header = protocol.v6_number();
    Ipv6Header {
        traffic_class: header.traffic_class,
        flow_label: 0,
        payload_len: (transport_len + extra).min(65_535),
        next_header: if fragmented { ipv6::FRAGMENT } else { next_header },
        hop_limit: header.ttl,
        source: ends.source,
        destination: ends.destination,
    }
    .emit(out);
    let mut at = ipv6::HEADER_LEN;
    if fragmented {
        let identification = u32::from(header.identification);
        FragmentHeader { next_header, offset: 0, more: header.more_fragments, identification }.emit(&mut out[at..]);
        at += ipv6::FRAGMENT_HEADER_LEN;
    }
    let payload = copy_payload(&mut out[at..], &packet[header.header_len..], transport_len);
    let len = at + payload.len();
    if protocol == Protocol::Icmp {
        let pseudo = checksum::pseudo_v6(ends.source, ends.destination, ipv6::ICMPV6, transport_len as u32);
        transport::echo_to_v6(payload, ends.port, pseudo);
    } else {
        let old = checksum::pseudo_v4(header.source, header.destination, 0, 0);
        let new = checksum::pseudo_v6(ends.source, ends.destination, 0, 0);
        let addresses = Delta::NONE.replace(old, new);
        transport::rewrite(payload, protocol, Port::Source, ends.port, addresses, false);
    }
    len
}

/// Copies what there is and fits, and returns the copy.
fn copy_payload<'a>(out: &'a mut [u8], payload: &[u8], len: usize) -> &'a mut [u8] {
    let count = payload.len().min(len).min(out.len());
    out[..count].copy_from_slice(&payload[..count]);
    &mut out[..count]
}
