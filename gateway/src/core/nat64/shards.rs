//! The rules that spread work over shards: by the IPv6 host on one side, by the port on the other.

use crate::wire::ipv4::{self, Ipv4Header};
use crate::wire::ipv6::{self, Ipv6Header};
use crate::wire::{be16, icmpv6};
use std::net::Ipv6Addr;

/// The shard that translates for an IPv6 host: all its mappings are in one instance.
pub fn shard_of_client(client: Ipv6Addr, shards: usize) -> usize {
    let bits = u128::from(client);
    let mixed = ((bits >> 64) as u64 ^ bits as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> 32) as usize) % shards.max(1)
}

/// The shard an IPv6 packet belongs to: that of its source, or of the host that sent what an error quotes, since errors
/// come from routers too. What cannot be read belongs to its source, whose shard counts why it is dropped.
///
/// # Panics
/// When `packet` is shorter than an IPv6 header.
pub fn shard_of_v6(packet: &[u8], shards: usize) -> usize {
    shard_of_client(quoted_client(packet).unwrap_or_else(|| ipv6::source(packet)), shards)
}

fn quoted_client(packet: &[u8]) -> Option<Ipv6Addr> {
    // Most packets need no more than this look.
    if matches!(packet[6], ipv6::TCP | ipv6::UDP) {
        return None;
    }
    let header = Ipv6Header::parse(packet).ok()?;
    let upper = ipv6::upper_layer(packet, &header).ok()?;
    let message = packet.get(upper.offset..)?;
    // All fragments go where the later ones go, which show no type.
    let whole = upper.fragment.is_none_or(|fragment| fragment.is_atomic());
    if upper.protocol != ipv6::ICMPV6 || !whole || !icmpv6::is_error(*message.first()?) {
        return None;
    }
    Ipv6Header::parse_embedded(message.get(icmpv6::HEADER_LEN..)?).ok().map(|quoted| quoted.destination)
}

/// The shard that hands out a port or ICMP identifier.
pub fn shard_of_port(port: u16, shards: usize) -> usize {
    usize::from(port / 2) % shards.max(1)
}

/// The shard an IPv4 packet belongs to, by its destination port, echo identifier, or that of the packet an error quotes.
///
/// `None` for a fragment other than the first, which has no port: give it to each shard in turn until one does not
/// answer [`super::Verdict::Held`]. What cannot be read belongs to shard 0, which counts why it is dropped.
pub fn shard_of_v4(packet: &[u8], shards: usize) -> Option<usize> {
    let Ok(header) = Ipv4Header::parse(packet) else { return Some(0) };
    if header.fragment_offset != 0 {
        return None;
    }
    let payload = &packet[header.header_len..header.total_len];
    let port = match header.protocol {
        ipv4::PROTOCOL_TCP | ipv4::PROTOCOL_UDP if payload.len() >= 4 => be16(payload, 2),
        ipv4::PROTOCOL_ICMP if payload.len() >= 8 => match crate::wire::icmpv4::is_error(payload[0]) {
            false => be16(payload, 4),
            true => quoted_port(&payload[8..]).unwrap_or(0),
        },
        _ => 0,
    };
    Some(shard_of_port(port, shards))
}

fn quoted_port(packet: &[u8]) -> Option<u16> {
    let header = Ipv4Header::parse_embedded(packet).ok()?;
    let payload = packet.get(header.header_len..)?;
    let at = if header.protocol == ipv4::PROTOCOL_ICMP { 4 } else { 0 };
    payload.get(at..at + 2).map(|bytes| be16(bytes, 0))
}
