//! `struct virtio_net_hdr_v1` (12 bytes, include/uapi/linux/virtio_net.h): what precedes every packet of a TUN device
//! opened with IFF_VNET_HDR after TUNSETVNETHDRSZ 12. Fields are in the machine's byte order (no TUNSETVNETLE).

use super::checksum;
use super::offload::{Offload, SegmentKind};

/// Bytes of the header.
pub const HEADER_LEN: usize = 12;

const FLAG_NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// The CWR bit is to appear on the first segment only; never asked for, because TUN_F_TSO_ECN is not set.
const GSO_ECN: u8 = 0x80;

/// Next header and protocol numbers the offloads know.
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// Why a header or the packet behind it cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// Shorter than its own headers.
    Short,
    /// Neither IPv4 nor IPv6.
    Version,
    /// A segmentation type nobody asked the kernel for.
    SegmentationType(u8),
    /// A segmentation type that does not fit the transport protocol found in the packet (extension headers included).
    Transport,
    /// Checksum or segment positions outside the packet.
    Position,
}

/// Where the transport header of a packet without extension headers starts, and its protocol number.
///
/// None for fragments, extension headers and anything that is not IP.
pub fn transport(packet: &[u8]) -> Option<(usize, u8)> {
    match packet.first()? >> 4 {
        6 if packet.len() >= 40 => Some((40, packet[6])),
        4 if packet.len() >= 20 => {
            let header = usize::from(packet[0] & 15) * 4;
            let fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff;
            (header >= 20 && packet.len() >= header && fragment == 0).then_some((header, packet[9]))
        }
        _ => None,
    }
}

/// Bytes of IP and transport headers together, for TCP and UDP packets without extension headers.
pub fn headers_len(packet: &[u8]) -> Option<usize> {
    let (offset, protocol) = transport(packet)?;
    let transport_len = match protocol {
        TCP => usize::from(*packet.get(offset + 12)? >> 4) * 4,
        UDP => 8,
        _ => return None,
    };
    let minimum = if protocol == TCP { 20 } else { 8 };
    (transport_len >= minimum && packet.len() >= offset + transport_len).then_some(offset + transport_len)
}

/// Reads the header of a packet that came from the kernel.
///
/// A checksum left undone at a position our `Offload` cannot express (behind extension headers, another protocol) is
/// computed here, so that afterwards `partial_checksum` always means "TCP or UDP right behind the IP header".
pub fn parse(header: &[u8; HEADER_LEN], packet: &mut [u8]) -> Result<Offload, Unusable> {
    let version = packet.first().ok_or(Unusable::Short)? >> 4;
    if version != 4 && version != 6 {
        return Err(Unusable::Version);
    }
    let needs_checksum = header[0] & FLAG_NEEDS_CSUM != 0;
    let field = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let (segment_size, csum_start, csum_offset) = (field(4), usize::from(field(6)), usize::from(field(8)));
    let kind = match (header[1] & !GSO_ECN, version) {
        (GSO_NONE, _) => SegmentKind::None,
        (GSO_TCPV4, 4) | (GSO_TCPV6, 6) => SegmentKind::Tcp,
        (GSO_UDP_L4, _) => SegmentKind::Udp,
        (other, _) => return Err(Unusable::SegmentationType(other)),
    };
    let found = transport(packet);
    if kind != SegmentKind::None {
        let wanted = if kind == SegmentKind::Tcp { TCP } else { UDP };
        let headers = headers_len(packet).ok_or(Unusable::Transport)?;
        if found.is_none_or(|(_, protocol)| protocol != wanted) {
            return Err(Unusable::Transport);
        }
        if segment_size == 0 || packet.len() <= headers {
            return Err(Unusable::Position);
        }
        return Ok(Offload { kind, segment_size, partial_checksum: true });
    }
    if !needs_checksum {
        return Ok(Offload::default());
    }
    let expected = match found {
        Some((offset, TCP)) => Some((offset, 16)),
        Some((offset, UDP)) => Some((offset, 6)),
        _ => None,
    };
    if expected == Some((csum_start, csum_offset)) && csum_start + csum_offset + 2 <= packet.len() {
        return Ok(Offload { kind, segment_size: 0, partial_checksum: true });
    }
    let position = csum_start + csum_offset;
    if position + 2 > packet.len() {
        return Err(Unusable::Position);
    }
    let sum = checksum::finish(checksum::sum(&packet[csum_start..]));
    packet[position..position + 2].copy_from_slice(&sum.to_be_bytes());
    Ok(Offload::default())
}

/// Writes the header for a packet on its way to the kernel.
pub fn emit(packet: &[u8], offload: Offload) -> Result<[u8; HEADER_LEN], Unusable> {
    let mut header = [0; HEADER_LEN];
    if !offload.partial_checksum && offload.kind == SegmentKind::None {
        return Ok(header);
    }
    let (offset, protocol) = transport(packet).ok_or(Unusable::Transport)?;
    let headers = headers_len(packet).ok_or(Unusable::Transport)?;
    let csum_offset: u16 = if protocol == TCP { 16 } else { 6 };
    header[0] = FLAG_NEEDS_CSUM;
    header[1] = match (offload.kind, protocol, packet[0] >> 4) {
        (SegmentKind::None, ..) => GSO_NONE,
        (SegmentKind::Tcp, TCP, 4) => GSO_TCPV4,
        (SegmentKind::Tcp, TCP, 6) => GSO_TCPV6,
        (SegmentKind::Udp, UDP, _) => GSO_UDP_L4,
        _ => return Err(Unusable::Transport),
    };
    if offload.kind != SegmentKind::None {
        header[4..6].copy_from_slice(&offload.segment_size.to_ne_bytes());
    }
    // At most 60 + 60, so both casts are exact.
    header[2..4].copy_from_slice(&(headers as u16).to_ne_bytes());
    header[6..8].copy_from_slice(&(offset as u16).to_ne_bytes());
    header[8..10].copy_from_slice(&csum_offset.to_ne_bytes());
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::segments::samples::{tcp6, udp6};

    #[test]
    fn super_segment_survives_both_ways() {
        let mut packet = tcp6(1, &[7; 3000], 0x10);
        let offload = Offload { kind: SegmentKind::Tcp, segment_size: 1220, partial_checksum: true };
        let header = emit(&packet, offload).unwrap();
        assert_eq!(header[1], GSO_TCPV6);
        assert_eq!(u16::from_ne_bytes([header[6], header[7]]), 40);
        assert_eq!(parse(&header, &mut packet), Ok(offload));
    }

    #[test]
    fn plain_packet_has_a_zero_header() {
        let packet = udp6(&[1, 2, 3]);
        assert_eq!(emit(&packet, Offload::default()).unwrap(), [0; HEADER_LEN]);
    }

    #[test]
    fn checksum_behind_an_extension_header_is_completed() {
        let udp = udp6(&[1, 2, 3, 4]);
        let mut packet = udp[..40].to_vec();
        packet[6] = 60;
        packet.extend([UDP, 0, 1, 4, 0, 0, 0, 0]);
        packet.extend(&udp[40..]);
        let expected = packet.clone();
        packet[54..56].copy_from_slice(&checksum::pseudo_of(&udp, 12, UDP).to_be_bytes());
        let mut header = [0; HEADER_LEN];
        header[0] = FLAG_NEEDS_CSUM;
        header[6..8].copy_from_slice(&48u16.to_ne_bytes());
        header[8..10].copy_from_slice(&6u16.to_ne_bytes());
        assert_eq!(parse(&header, &mut packet), Ok(Offload::default()));
        assert_eq!(packet, expected);
    }

    #[test]
    fn nonsense_is_refused() {
        let mut packet = udp6(&[1, 2, 3]);
        let mut header = [0; HEADER_LEN];
        header[1] = GSO_TCPV6;
        assert_eq!(parse(&header, &mut packet), Err(Unusable::Transport));
        header[1] = 3;
        assert_eq!(parse(&header, &mut packet), Err(Unusable::SegmentationType(3)));
        assert_eq!(parse(&header, &mut []), Err(Unusable::Short));
        header = [0; HEADER_LEN];
        header[0] = FLAG_NEEDS_CSUM;
        header[6..8].copy_from_slice(&4000u16.to_ne_bytes());
        assert_eq!(parse(&header, &mut packet), Err(Unusable::Position));
    }
}
