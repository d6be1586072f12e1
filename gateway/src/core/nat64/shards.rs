//! The rules that spread work over shards: by the IPv6 host on one side, by the port on the other.

use super::Protocol;
use super::config::StaticBinding;
use crate::wire::ipv4::{self, Ipv4Header};
use crate::wire::ipv6::{self, Ipv6Header};
use crate::wire::{be16, icmpv6};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

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

/// Where IPv4 packets go: the rule of the ports, and the ports of static bindings, which belong to the shard of their
/// client.
#[derive(Clone, Debug, Default)]
pub struct Steering {
    shards: usize,
    fixed: BTreeMap<(Protocol, Ipv4Addr, u16), usize>,
}

impl Steering {
    pub fn new(static_bindings: &[StaticBinding], shards: usize) -> Self {
        let place = |entry: &StaticBinding| {
            ((entry.protocol, entry.address, entry.port), shard_of_client(entry.client, shards))
        };
        Self { shards, fixed: static_bindings.iter().map(place).collect() }
    }

    /// The shard of an IPv4 packet; `None` as in [`shard_of_v4`].
    pub fn shard_of_v4(&self, packet: &[u8]) -> Option<usize> {
        if self.fixed.is_empty() {
            return shard_of_v4(packet, self.shards);
        }
        let (protocol, address, port) = destination(packet)?;
        let fixed = protocol.and_then(|protocol| self.fixed.get(&(protocol, address, port)));
        Some(fixed.copied().unwrap_or_else(|| shard_of_port(port, self.shards)))
    }
}

/// The shard an IPv4 packet belongs to, by its destination port, echo identifier, or that of the packet an error quotes.
///
/// `None` for a fragment other than the first, which has no port: give it to each shard in turn until one does not
/// answer [`super::Verdict::Held`]. What cannot be read belongs to shard 0, which counts why it is dropped.
pub fn shard_of_v4(packet: &[u8], shards: usize) -> Option<usize> {
    destination(packet).map(|(_, _, port)| shard_of_port(port, shards))
}

/// Transport, pool address and port that an IPv4 packet is about. Port zero when there is none to be read, `None` for a
/// fragment other than the first.
fn destination(packet: &[u8]) -> Option<(Option<Protocol>, Ipv4Addr, u16)> {
    let nothing = (None, Ipv4Addr::UNSPECIFIED, 0);
    let Ok(header) = Ipv4Header::parse(packet) else { return Some(nothing) };
    if header.fragment_offset != 0 {
        return None;
    }
    let payload = &packet[header.header_len..header.total_len];
    let protocol = Protocol::from_v4(header.protocol);
    Some(match protocol {
        Some(Protocol::Tcp | Protocol::Udp) if payload.len() >= 4 => (protocol, header.destination, be16(payload, 2)),
        Some(Protocol::Icmp) if payload.len() >= 8 => match crate::wire::icmpv4::is_error(payload[0]) {
            false => (protocol, header.destination, be16(payload, 4)),
            true => quoted_source(&payload[8..]).unwrap_or(nothing),
        },
        _ => nothing,
    })
}

/// The source of the packet that an error quotes.
fn quoted_source(packet: &[u8]) -> Option<(Option<Protocol>, Ipv4Addr, u16)> {
    let header = Ipv4Header::parse_embedded(packet).ok()?;
    let payload = packet.get(header.header_len..)?;
    let at = if header.protocol == ipv4::PROTOCOL_ICMP { 4 } else { 0 };
    let port = payload.get(at..at + 2).map(|bytes| be16(bytes, 0))?;
    Some((Protocol::from_v4(header.protocol), header.source, port))
}
