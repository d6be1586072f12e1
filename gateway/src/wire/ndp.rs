//! Neighbour Discovery messages (RFC 4861), Route Information (RFC 4191) and the MTU option, as whole IPv6 packets.
//!
//! Parsing applies the validity checks of RFC 4861 sections 6.1 and 7.1: a message that fails one does not exist.
//! Link-layer address options are skipped: an IP-HTTPS link has no link-layer addresses and never emits them.

use std::fmt;
use std::net::Ipv6Addr;

const IPV6_HEADER: usize = 40;
pub const ICMPV6: u8 = 58;

pub const ROUTER_SOLICITATION: u8 = 133;
pub const ROUTER_ADVERTISEMENT: u8 = 134;
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
pub const REDIRECT: u8 = 137;

pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
pub const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

const OPTION_SOURCE_LINK_LAYER: u8 = 1;
const OPTION_PREFIX: u8 = 3;
const OPTION_MTU: u8 = 5;
const OPTION_ROUTE: u8 = 24;

/// ff02::1:ffXX:XXXX of an address (RFC 4291 section 2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// Whether an address is some solicited-node group.
pub fn is_solicited_node(address: Ipv6Addr) -> bool {
    address.octets()[..13] == solicited_node(Ipv6Addr::UNSPECIFIED).octets()[..13]
}

/// The validity check that a message fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NdpError {
    /// Not an IPv6 packet with ICMPv6 right behind its header, or its length is not the packet's.
    NotIcmpv6,
    /// Not one of the five discovery messages.
    OtherType,
    HopLimit,
    Checksum,
    Code,
    Length,
    /// An option of length zero or reaching beyond the message.
    Option,
    /// A target that is multicast.
    Target,
    /// A source, a destination, a flag and options that RFC 4861 does not allow together.
    Combination,
}

impl fmt::Display for NdpError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NotIcmpv6 => "not an ICMPv6 packet",
            Self::OtherType => "not a neighbour discovery message",
            Self::HopLimit => "hop limit is not 255",
            Self::Checksum => "wrong checksum",
            Self::Code => "code is not 0",
            Self::Length => "message too short",
            Self::Option => "malformed option",
            Self::Target => "target is a multicast address",
            Self::Combination => "source, destination, flags and options do not go together",
        })
    }
}

impl std::error::Error for NdpError {}

/// A Prefix Information option (RFC 4861 section 4.6.2). Lifetimes in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixInformation {
    pub prefix: Ipv6Addr,
    pub length: u8,
    pub on_link: bool,
    pub autonomous: bool,
    pub valid: u32,
    pub preferred: u32,
}

/// A Route Information option (RFC 4191 section 2.3) of medium preference. Lifetime in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteInformation {
    pub prefix: Ipv6Addr,
    pub length: u8,
    pub lifetime: u32,
}

impl RouteInformation {
    /// The option's length in units of eight bytes: the shortest that holds the prefix.
    fn units(&self) -> u8 {
        match self.length {
            0 => 1,
            1..=64 => 2,
            _ => 3,
        }
    }
}

/// A Router Advertisement. Managed and other flags, reachable time and retransmission timer are always zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouterAdvertisement {
    pub hop_limit: u8,
    /// In seconds; 0: not a default router.
    pub router_lifetime: u16,
    pub prefixes: Vec<PrefixInformation>,
    pub routes: Vec<RouteInformation>,
    pub mtu: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    RouterSolicitation,
    RouterAdvertisement(RouterAdvertisement),
    NeighbourSolicitation { target: Ipv6Addr },
    NeighbourAdvertisement { target: Ipv6Addr, router: bool, solicited: bool, overrides: bool },
    Redirect,
}

/// A valid message and its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    pub source: Ipv6Addr,
    pub destination: Ipv6Addr,
    pub message: Message,
}

fn address(bytes: &[u8]) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[..16]);
    Ipv6Addr::from(octets)
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// The options of a message: type and whole option, each a multiple of eight bytes.
fn options(mut bytes: &[u8]) -> Result<Vec<(u8, &[u8])>, NdpError> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let length = 8 * usize::from(*bytes.get(1).ok_or(NdpError::Option)?);
        if length == 0 || length > bytes.len() {
            return Err(NdpError::Option);
        }
        let (option, rest) = bytes.split_at(length);
        found.push((option[0], option));
        bytes = rest;
    }
    Ok(found)
}

/// Parses and validates a whole IPv6 packet whose next header is ICMPv6.
///
/// # Errors
/// The first validity check that fails.
pub fn parse(packet: &[u8]) -> Result<Discovery, NdpError> {
    if packet.len() < IPV6_HEADER + 4 || packet[0] >> 4 != 6 || packet[6] != ICMPV6 {
        return Err(NdpError::NotIcmpv6);
    }
    let message = &packet[IPV6_HEADER..];
    if usize::from(u16::from_be_bytes([packet[4], packet[5]])) != message.len() {
        return Err(NdpError::NotIcmpv6);
    }
    let kind = message[0];
    let header = match kind {
        ROUTER_SOLICITATION => 8,
        ROUTER_ADVERTISEMENT => 16,
        NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT => 24,
        REDIRECT => 40,
        _ => return Err(NdpError::OtherType),
    };
    if packet[7] != 255 {
        return Err(NdpError::HopLimit);
    }
    if checksum(packet) != 0 {
        return Err(NdpError::Checksum);
    }
    if message[1] != 0 {
        return Err(NdpError::Code);
    }
    if message.len() < header {
        return Err(NdpError::Length);
    }
    let (source, destination) = (address(&packet[8..]), address(&packet[24..]));
    let options = options(&message[header..])?;
    let has_source_link_layer = options.iter().any(|&(kind, _)| kind == OPTION_SOURCE_LINK_LAYER);
    let target = || Some(address(&message[8..])).filter(|target| !target.is_multicast()).ok_or(NdpError::Target);
    let message = match kind {
        ROUTER_SOLICITATION => {
            if source.is_unspecified() && has_source_link_layer {
                return Err(NdpError::Combination);
            }
            Message::RouterSolicitation
        }
        NEIGHBOUR_SOLICITATION => {
            let target = target()?;
            if source.is_unspecified() && (has_source_link_layer || !is_solicited_node(destination)) {
                return Err(NdpError::Combination);
            }
            Message::NeighbourSolicitation { target }
        }
        NEIGHBOUR_ADVERTISEMENT => {
            let (target, flags) = (target()?, message[4]);
            let solicited = flags & 0x40 != 0;
            if destination.is_multicast() && solicited {
                return Err(NdpError::Combination);
            }
            let (router, overrides) = (flags & 0x80 != 0, flags & 0x20 != 0);
            Message::NeighbourAdvertisement { target, router, solicited, overrides }
        }
        ROUTER_ADVERTISEMENT => {
            if !source.is_unicast_link_local() {
                return Err(NdpError::Combination);
            }
            Message::RouterAdvertisement(parse_advertisement(message, &options)?)
        }
        _ => {
            if !source.is_unicast_link_local() {
                return Err(NdpError::Combination);
            }
            Message::Redirect
        }
    };
    Ok(Discovery { source, destination, message })
}

fn parse_advertisement(message: &[u8], options: &[(u8, &[u8])]) -> Result<RouterAdvertisement, NdpError> {
    let mut advertisement = RouterAdvertisement {
        hop_limit: message[4],
        router_lifetime: u16::from_be_bytes([message[6], message[7]]),
        ..RouterAdvertisement::default()
    };
    for &(kind, option) in options {
        match (kind, option.len()) {
            (OPTION_PREFIX, 32) => advertisement.prefixes.push(PrefixInformation {
                prefix: address(&option[16..]),
                length: option[2],
                on_link: option[3] & 0x80 != 0,
                autonomous: option[3] & 0x40 != 0,
                valid: word(&option[4..]),
                preferred: word(&option[8..]),
            }),
            (OPTION_ROUTE, length @ (8 | 16 | 24)) => {
                let bits = option[2];
                if bits > 128 || usize::from(bits) > (length - 8) * 8 {
                    return Err(NdpError::Option);
                }
                let mut prefix = [0; 16];
                prefix[..length - 8].copy_from_slice(&option[8..]);
                advertisement.routes.push(RouteInformation {
                    prefix: Ipv6Addr::from(prefix),
                    length: bits,
                    lifetime: word(&option[4..]),
                });
            }
            (OPTION_MTU, 8) => advertisement.mtu = Some(word(&option[4..])),
            // Unknown options are skipped (RFC 4861 section 4.6); known ones of a wrong size say nothing.
            _ => {}
        }
    }
    Ok(advertisement)
}

/// An ICMPv6 packet with its checksum; `hop_limit` 255 for neighbour discovery.
pub fn icmpv6(source: Ipv6Addr, destination: Ipv6Addr, hop_limit: u8, message: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(IPV6_HEADER + message.len());
    packet.extend_from_slice(&[0x60, 0, 0, 0]);
    packet.extend_from_slice(&u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes());
    packet.extend_from_slice(&[ICMPV6, hop_limit]);
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&destination.octets());
    packet.extend_from_slice(message);
    packet[IPV6_HEADER + 2..IPV6_HEADER + 4].fill(0);
    let sum = checksum(&packet);
    packet[IPV6_HEADER + 2..IPV6_HEADER + 4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The complement of the one's complement sum over pseudo-header and payload (RFC 8200 section 8.1): the checksum of a
/// message whose field is zero, and zero for one whose field is right.
fn checksum(packet: &[u8]) -> u16 {
    let length = packet.len() - IPV6_HEADER;
    let words = packet[8..].chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)));
    let mut sum = words.sum::<u64>() + length as u64 + u64::from(ICMPV6);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A Router Solicitation to all routers, without options.
pub fn emit_router_solicitation(source: Ipv6Addr) -> Vec<u8> {
    icmpv6(source, ALL_ROUTERS, 255, &[ROUTER_SOLICITATION, 0, 0, 0, 0, 0, 0, 0])
}

/// A Neighbor Solicitation without options. A source of `::` makes it a duplicate address probe.
pub fn emit_neighbour_solicitation(source: Ipv6Addr, destination: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&target.octets());
    icmpv6(source, destination, 255, &message)
}

/// A Neighbor Advertisement with the override flag and without options.
pub fn emit_neighbour_advertisement(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    target: Ipv6Addr,
    router: bool,
    solicited: bool,
) -> Vec<u8> {
    let flags = 0x20 | if router { 0x80 } else { 0 } | if solicited { 0x40 } else { 0 };
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    message.extend_from_slice(&target.octets());
    icmpv6(source, destination, 255, &message)
}

impl RouterAdvertisement {
    /// The length of the packet that [`RouterAdvertisement::emit`] returns.
    pub fn packet_len(&self) -> usize {
        let routes: usize = self.routes.iter().map(|route| 8 * usize::from(route.units())).sum();
        IPV6_HEADER + 16 + 32 * self.prefixes.len() + routes + if self.mtu.is_some() { 8 } else { 0 }
    }

    /// The whole packet.
    pub fn emit(&self, source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
        let mut message = Vec::with_capacity(self.packet_len() - IPV6_HEADER);
        message.extend_from_slice(&[ROUTER_ADVERTISEMENT, 0, 0, 0, self.hop_limit, 0]);
        message.extend_from_slice(&self.router_lifetime.to_be_bytes());
        message.extend_from_slice(&[0; 8]);
        for prefix in &self.prefixes {
            let flags = if prefix.on_link { 0x80 } else { 0 } | if prefix.autonomous { 0x40 } else { 0 };
            message.extend_from_slice(&[OPTION_PREFIX, 4, prefix.length, flags]);
            message.extend_from_slice(&prefix.valid.to_be_bytes());
            message.extend_from_slice(&prefix.preferred.to_be_bytes());
            message.extend_from_slice(&[0; 4]);
            message.extend_from_slice(&prefix.prefix.octets());
        }
        for route in &self.routes {
            let units = route.units();
            message.extend_from_slice(&[OPTION_ROUTE, units, route.length, 0]);
            message.extend_from_slice(&route.lifetime.to_be_bytes());
            message.extend_from_slice(&route.prefix.octets()[..8 * (usize::from(units) - 1)]);
        }
        if let Some(mtu) = self.mtu {
            message.extend_from_slice(&[OPTION_MTU, 1, 0, 0]);
            message.extend_from_slice(&mtu.to_be_bytes());
        }
        icmpv6(source, destination, 255, &message)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    /// A duplicate address probe for fe80::1, written and summed by hand: destination, length 18, protocol 3a, message
    /// and target add up to 383d7, folded 83da, complement 7c25.
    const PROBE: &str = "60000000 0018 3a ff 00000000000000000000000000000000 ff0200000000000000000001ff000001
         87 00 7c25 00000000 fe800000000000000000000000000001";

    #[test]
    fn a_probe_written_by_hand() {
        let packet = hex(PROBE);
        let expected = Discovery {
            source: Ipv6Addr::UNSPECIFIED,
            destination: ip("ff02::1:ff00:1"),
            message: Message::NeighbourSolicitation { target: ip("fe80::1") },
        };
        assert_eq!(parse(&packet), Ok(expected));
        let target = ip("fe80::1");
        assert_eq!(emit_neighbour_solicitation(Ipv6Addr::UNSPECIFIED, solicited_node(target), target), packet);
    }

    #[test]
    fn an_advertisement_written_by_hand() {
        // Addresses, length 18, protocol 3a, message and target add up to 3a2df, folded a2e2, complement 5d1d.
        let packet = emit_neighbour_advertisement(ip("fe80::1"), ALL_NODES, ip("fd00:2:3::4"), false, false);
        let expected = "60000000 0018 3a ff fe800000000000000000000000000001 ff020000000000000000000000000001
             88 00 5d1d 20000000 fd000002000300000000000000000004";
        assert_eq!(packet, hex(expected));
    }

    #[test]
    fn a_router_advertisement_written_by_hand() {
        let advertisement = RouterAdvertisement {
            hop_limit: 64,
            router_lifetime: 0,
            prefixes: vec![PrefixInformation {
                prefix: ip("fd00:0:0:1000::"),
                length: 64,
                on_link: true,
                autonomous: true,
                valid: 0x15180,
                preferred: 0x3840,
            }],
            routes: vec![
                RouteInformation { prefix: ip("fd00::"), length: 48, lifetime: 1800 },
                RouteInformation { prefix: ip("fd00:0:0:7777::"), length: 96, lifetime: 1800 },
                RouteInformation { prefix: ip("::"), length: 0, lifetime: 1 },
            ],
            mtu: Some(1280),
        };
        let packet = advertisement.emit(ip("fe80::1"), ALL_NODES);
        assert_eq!(packet.len(), advertisement.packet_len());
        let body = hex("40 00 0000 00000000 00000000
             03 04 40 c0 00015180 00003840 00000000 fd000000000010000000000000000000
             18 02 30 00 00000708 fd00000000000000
             18 03 60 00 00000708 fd000000000077770000000000000000
             18 01 00 00 00000001
             05 01 0000 00000500");
        assert_eq!(&packet[44..], body);
        assert_eq!((&packet[40..42], packet[7]), (&[134, 0][..], 255));
        assert_eq!(parse(&packet).unwrap().message, Message::RouterAdvertisement(advertisement));
    }

    #[test]
    fn each_validity_check_has_a_name() {
        let good = hex(PROBE);
        let changed = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut packet = good.clone();
            change(&mut packet);
            // Sums again unless the length no longer allows it.
            let message = packet[IPV6_HEADER..].to_vec();
            let mut summed = icmpv6(address(&packet[8..]), address(&packet[24..]), packet[7], &message);
            summed[6] = packet[6];
            parse(&summed)
        };
        assert_eq!(changed(&|packet| packet[7] = 254), Err(NdpError::HopLimit));
        assert_eq!(changed(&|packet| packet[41] = 1), Err(NdpError::Code));
        assert_eq!(changed(&|packet| packet[40] = 128), Err(NdpError::OtherType));
        assert_eq!(changed(&|packet| packet[48] = 0xff), Err(NdpError::Target));
        assert_eq!(changed(&|packet| packet.truncate(60)), Err(NdpError::Length));
        assert_eq!(changed(&|packet| packet.extend([14, 0, 0, 0, 0, 0, 0, 0])), Err(NdpError::Option));
        assert_eq!(changed(&|packet| packet.extend([14, 2, 0, 0, 0, 0, 0, 0])), Err(NdpError::Option));
        assert_eq!(changed(&|packet| packet.extend([1, 1, 0, 0, 0, 0, 0, 0])), Err(NdpError::Combination));
        assert_eq!(changed(&|packet| packet[36] = 0), Err(NdpError::Combination));
        assert_eq!(changed(&|packet| packet[6] = 6), Err(NdpError::NotIcmpv6));
        // A nonce (RFC 7527) is an option like any other.
        assert!(changed(&|packet| packet.extend([14, 1, 1, 2, 3, 4, 5, 6])).is_ok());
        let mut sum = good.clone();
        sum[43] ^= 1;
        assert_eq!(parse(&sum), Err(NdpError::Checksum));
        let solicited = emit_neighbour_advertisement(ip("fe80::1"), ALL_NODES, ip("fe80::1"), true, true);
        assert_eq!(parse(&solicited), Err(NdpError::Combination));
        let advertisement = RouterAdvertisement::default().emit(ip("fd00::1"), ALL_NODES);
        assert_eq!(parse(&advertisement), Err(NdpError::Combination));
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn any_message_with_a_right_checksum_never_panics(
            kind in 133u8..138, body in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let message = [&[kind, 0, 0, 0][..], &body].concat();
            let _ = parse(&icmpv6(ip("fe80::1"), ALL_NODES, 255, &message));
        }
    }
}
