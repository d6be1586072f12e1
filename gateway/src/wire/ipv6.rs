//! IPv6 (RFC 8200): a parsed header, the walk over extension headers, the Fragment header, emitters.

use super::{Malformed, be16, be32, put16, put32};
use std::net::Ipv6Addr;

pub const HEADER_LEN: usize = 40;
pub const FRAGMENT_HEADER_LEN: usize = 8;
/// Every link carries packets of this size (RFC 8200 section 5).
pub const MIN_MTU: usize = 1280;

pub const HOP_BY_HOP: u8 = 0;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const ICMPV6: u8 = 58;
pub const NO_NEXT_HEADER: u8 = 59;
pub const DESTINATION_OPTIONS: u8 = 60;

/// More extension headers than any honest sender uses: the walk stays cheap on hostile input.
const MAX_EXTENSION_HEADERS: usize = 8;

/// The fields of an IPv6 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Header {
    pub traffic_class: u8,
    pub flow_label: u32,
    /// The Payload Length field, in bytes.
    pub payload_len: usize,
    pub next_header: u8,
    pub hop_limit: u8,
    pub source: Ipv6Addr,
    pub destination: Ipv6Addr,
}

impl Ipv6Header {
    /// Parses the header of a whole packet. Bytes behind Payload Length are allowed.
    ///
    /// # Errors
    /// [`Malformed`] when the header or what it announces is not in `packet`.
    pub fn parse(packet: &[u8]) -> Result<Self, Malformed> {
        let header = Self::parse_embedded(packet)?;
        if HEADER_LEN + header.payload_len > packet.len() {
            return Err(Malformed::Length);
        }
        Ok(header)
    }

    /// Parses the header of a packet that may be cut short, as those inside ICMP errors are.
    ///
    /// # Errors
    /// [`Malformed`] when the header itself is not complete.
    pub fn parse_embedded(packet: &[u8]) -> Result<Self, Malformed> {
        let first = *packet.first().ok_or(Malformed::Truncated)?;
        if first >> 4 != 6 {
            return Err(Malformed::Version);
        }
        if packet.len() < HEADER_LEN {
            return Err(Malformed::Truncated);
        }
        let word = be32(packet, 0);
        Ok(Self {
            traffic_class: (word >> 20) as u8,
            flow_label: word & 0xf_ffff,
            payload_len: usize::from(be16(packet, 4)),
            next_header: packet[6],
            hop_limit: packet[7],
            source: source(packet),
            destination: destination(packet),
        })
    }

    /// Writes the header into `out[..40]`.
    ///
    /// # Panics
    /// When `out` is shorter than a header.
    pub fn emit(&self, out: &mut [u8]) {
        let out = &mut out[..HEADER_LEN];
        put32(out, 0, 6 << 28 | u32::from(self.traffic_class) << 20 | self.flow_label & 0xf_ffff);
        put16(out, 4, self.payload_len as u16);
        out[6] = self.next_header;
        out[7] = self.hop_limit;
        out[8..24].copy_from_slice(&self.source.octets());
        out[24..40].copy_from_slice(&self.destination.octets());
    }
}

/// The source of a packet with at least a header's length.
pub fn source(packet: &[u8]) -> Ipv6Addr {
    address_at(packet, 8)
}

/// The destination of a packet with at least a header's length.
pub fn destination(packet: &[u8]) -> Ipv6Addr {
    address_at(packet, 24)
}

/// The address whose 16 bytes begin at `at`.
///
/// # Panics
/// When they are not in `bytes`.
pub fn address_at(bytes: &[u8], at: usize) -> Ipv6Addr {
    let mut octets = [0u8; 16];
    octets.copy_from_slice(&bytes[at..at + 16]);
    Ipv6Addr::from(octets)
}

/// Says "congestion experienced" on a packet with at least a header's length, if its sender can be told so (RFC 3168
/// section 5, RFC 8200 section 7). False, with nothing changed, if it cannot.
pub fn mark_congestion(packet: &mut [u8]) -> bool {
    let congestible = packet[1] & 0x30 != 0;
    if congestible {
        packet[1] |= 0x30;
    }
    congestible
}

/// A Fragment header (RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentHeader {
    pub next_header: u8,
    /// In bytes, a multiple of 8.
    pub offset: usize,
    pub more: bool,
    pub identification: u32,
}

impl FragmentHeader {
    fn parse(bytes: &[u8]) -> Self {
        let field = be16(bytes, 2);
        Self {
            next_header: bytes[0],
            offset: usize::from(field & 0xfff8),
            more: field & 1 != 0,
            identification: be32(bytes, 4),
        }
    }

    /// Writes the header into `out[..8]`.
    ///
    /// # Panics
    /// When `out` is shorter.
    pub fn emit(&self, out: &mut [u8]) {
        out[0] = self.next_header;
        out[1] = 0;
        put16(out, 2, (self.offset as u16 & 0xfff8) | u16::from(self.more));
        put32(out, 4, self.identification);
    }

    /// Neither offset nor more fragments: a whole packet that carries a Fragment header (RFC 6946).
    pub const fn is_atomic(&self) -> bool {
        self.offset == 0 && !self.more
    }
}

/// Whether this Next Header value names an extension header, not an upper layer. ESP counts as an upper layer, because
/// nothing behind it can be read (RFC 7915 section 5.1.1); Authentication, Mobility, HIP and Shim6 are 51, 135, 139, 140.
pub const fn is_extension(next_header: u8) -> bool {
    matches!(next_header, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS | 51 | 135 | 139 | 140)
}

/// Where the upper-layer header of a packet is, and what was met on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpperLayer {
    pub protocol: u8,
    /// Byte offset of the upper-layer header (or of the fragment's data) in the packet.
    pub offset: usize,
    pub fragment: Option<FragmentHeader>,
    /// Offset of the Segments Left byte of a Routing header that still has segments to visit.
    pub unvisited_segments: Option<usize>,
}

/// Walks the extension headers that a middlebox may skip: Hop-by-Hop, Routing, Destination Options, Fragment.
///
/// In a fragment other than the first, the walk ends at the Fragment header.
///
/// # Errors
/// [`Malformed`] when a header is not inside the packet or there are too many.
pub fn upper_layer(packet: &[u8], header: &Ipv6Header) -> Result<UpperLayer, Malformed> {
    let end = packet.len().min(HEADER_LEN + header.payload_len);
    let mut found =
        UpperLayer { protocol: header.next_header, offset: HEADER_LEN, fragment: None, unvisited_segments: None };
    for _ in 0..=MAX_EXTENSION_HEADERS {
        let at = found.offset;
        match found.protocol {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                if at + 8 > end {
                    return Err(Malformed::Truncated);
                }
                if found.protocol == ROUTING && packet[at + 3] != 0 && found.unvisited_segments.is_none() {
                    found.unvisited_segments = Some(at + 3);
                }
                found.protocol = packet[at];
                found.offset = at + 8 + usize::from(packet[at + 1]) * 8;
                if found.offset > end {
                    return Err(Malformed::Length);
                }
            }
            FRAGMENT => {
                if at + FRAGMENT_HEADER_LEN > end {
                    return Err(Malformed::Truncated);
                }
                if found.fragment.is_some() {
                    return Err(Malformed::ExtensionHeaders);
                }
                let fragment = FragmentHeader::parse(&packet[at..]);
                found.protocol = fragment.next_header;
                found.offset = at + FRAGMENT_HEADER_LEN;
                found.fragment = Some(fragment);
                if fragment.offset != 0 {
                    return Ok(found);
                }
            }
            _ => return Ok(found),
        }
    }
    Err(Malformed::ExtensionHeaders)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(next_header: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0; HEADER_LEN];
        Ipv6Header {
            traffic_class: 0xb8,
            flow_label: 0x12345,
            payload_len: payload.len(),
            next_header,
            hop_limit: 64,
            source: "2001:db8::1".parse().unwrap(),
            destination: "2001:db8::2".parse().unwrap(),
        }
        .emit(&mut out);
        out.extend_from_slice(payload);
        out
    }

    fn walk(packet: &[u8]) -> Result<UpperLayer, Malformed> {
        upper_layer(packet, &Ipv6Header::parse(packet)?)
    }

    #[test]
    fn the_first_bytes_are_where_the_rfc_puts_them() {
        let bytes = packet(UDP, &[0; 8]);
        assert_eq!(&bytes[..8], &[0x6b, 0x81, 0x23, 0x45, 0, 8, 17, 64]);
        let header = Ipv6Header::parse(&bytes).unwrap();
        assert_eq!((header.traffic_class, header.flow_label), (0xb8, 0x12345));
    }

    #[test]
    fn extension_headers_are_walked_to_the_upper_layer() {
        let mut payload = vec![ROUTING, 0, 1, 4, 0, 0, 0, 0];
        payload.extend([DESTINATION_OPTIONS, 0, 0, 3, 0, 0, 0, 0]);
        payload.extend([FRAGMENT, 1]);
        payload.extend([0; 14]);
        payload.extend([TCP, 0, 0x00, 0x01, 1, 2, 3, 4]);
        payload.extend([0; 20]);
        let found = walk(&packet(HOP_BY_HOP, &payload)).unwrap();
        assert_eq!((found.protocol, found.offset, found.unvisited_segments), (TCP, 80, Some(51)));
        let fragment = found.fragment.unwrap();
        assert_eq!((fragment.offset, fragment.more, fragment.identification), (0, true, 0x0102_0304));
    }

    #[test]
    fn a_header_longer_than_the_packet_is_refused() {
        assert_eq!(walk(&packet(HOP_BY_HOP, &[TCP, 9, 0, 0, 0, 0, 0, 0])), Err(Malformed::Length));
        assert_eq!(walk(&packet(FRAGMENT, &[TCP, 0, 0])), Err(Malformed::Truncated));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = walk(&bytes);
            if let Ok(header) = Ipv6Header::parse_embedded(&bytes) {
                let _ = upper_layer(&bytes, &header);
            }
        }
    }
}
