//! IPv4 (RFC 791): a parsed header, views for the fields that are changed in place, emitters.

use super::{Malformed, be16, checksum, put16};
use std::net::Ipv4Addr;

/// The header without options.
pub const HEADER_LEN: usize = 20;

/// Protocol numbers used here.
pub const PROTOCOL_ICMP: u8 = 1;
pub const PROTOCOL_IGMP: u8 = 2;
pub const PROTOCOL_TCP: u8 = 6;
pub const PROTOCOL_UDP: u8 = 17;

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_LOOSE_SOURCE_ROUTE: u8 = 131;
const OPTION_STRICT_SOURCE_ROUTE: u8 = 137;

/// The fields of an IPv4 header. Lengths and offsets are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Header {
    /// Header with options.
    pub header_len: usize,
    pub traffic_class: u8,
    /// The Total Length field: header and payload.
    pub total_len: usize,
    pub identification: u16,
    pub dont_fragment: bool,
    pub more_fragments: bool,
    pub fragment_offset: usize,
    pub ttl: u8,
    pub protocol: u8,
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
}

impl Ipv4Header {
    /// Parses the header of a whole packet. Bytes behind Total Length are allowed (link padding).
    ///
    /// # Errors
    /// [`Malformed`] when the header or what it announces is not in `packet`.
    pub fn parse(packet: &[u8]) -> Result<Self, Malformed> {
        let header = Self::parse_embedded(packet)?;
        if header.total_len > packet.len() {
            return Err(Malformed::Length);
        }
        Ok(header)
    }

    /// Parses the header of a packet that may be cut short, as those inside ICMP errors are.
    ///
    /// # Errors
    /// [`Malformed`] when the header itself is not complete or contradicts itself.
    pub fn parse_embedded(packet: &[u8]) -> Result<Self, Malformed> {
        let first = *packet.first().ok_or(Malformed::Truncated)?;
        if first >> 4 != 4 {
            return Err(Malformed::Version);
        }
        let header_len = usize::from(first & 15) * 4;
        if header_len < HEADER_LEN {
            return Err(Malformed::Length);
        }
        if packet.len() < header_len {
            return Err(Malformed::Truncated);
        }
        let total_len = usize::from(be16(packet, 2));
        if total_len < header_len {
            return Err(Malformed::Length);
        }
        let fragment = be16(packet, 6);
        Ok(Self {
            header_len,
            traffic_class: packet[1],
            total_len,
            identification: be16(packet, 4),
            dont_fragment: fragment & 0x4000 != 0,
            more_fragments: fragment & 0x2000 != 0,
            fragment_offset: usize::from(fragment & 0x1fff) * 8,
            ttl: packet[8],
            protocol: packet[9],
            source: source(packet),
            destination: destination(packet),
        })
    }

    pub const fn payload_len(&self) -> usize {
        self.total_len - self.header_len
    }

    pub const fn is_fragment(&self) -> bool {
        self.more_fragments || self.fragment_offset != 0
    }

    /// Writes a header without options (`header_len` is taken as 20) with its checksum into `out[..20]`.
    ///
    /// # Panics
    /// When `out` is shorter than a header.
    pub fn emit(&self, out: &mut [u8]) {
        let out = &mut out[..HEADER_LEN];
        out[0] = 0x45;
        out[1] = self.traffic_class;
        put16(out, 2, self.total_len as u16);
        put16(out, 4, self.identification);
        let flags = u16::from(self.dont_fragment) << 14 | u16::from(self.more_fragments) << 13;
        put16(out, 6, flags | (self.fragment_offset / 8) as u16);
        out[8] = self.ttl;
        out[9] = self.protocol;
        put16(out, 10, 0);
        out[12..16].copy_from_slice(&self.source.octets());
        out[16..20].copy_from_slice(&self.destination.octets());
        put16(out, 10, checksum::finish(checksum::sum(out)));
    }
}

/// The source of a packet with at least a header's length.
pub fn source(packet: &[u8]) -> Ipv4Addr {
    Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15])
}

/// The destination of a packet with at least a header's length.
pub fn destination(packet: &[u8]) -> Ipv4Addr {
    Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19])
}

/// The position of the pointer byte of a source route option that still has hops to visit (RFC 791 section 3.1).
///
/// `header` is a header with its options; malformed options count as none, because they are not copied anyway.
pub fn unexpired_source_route(header: &[u8]) -> Option<usize> {
    let mut at = HEADER_LEN;
    while at < header.len() {
        match header[at] {
            OPTION_END => return None,
            OPTION_NOP => at += 1,
            kind => {
                let length = usize::from(*header.get(at + 1)?);
                if length < 2 || at + length > header.len() {
                    return None;
                }
                if matches!(kind, OPTION_LOOSE_SOURCE_ROUTE | OPTION_STRICT_SOURCE_ROUTE) && length >= 3 {
                    let pointer = usize::from(header[at + 2]);
                    if pointer <= length {
                        return Some(at + 2);
                    }
                }
                at += length;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: [u8; 20] = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01, 0xc0, 0xa8,
        0x00, 0xc7,
    ];

    #[test]
    fn emit_reproduces_a_known_header() {
        let header = Ipv4Header::parse_embedded(&SAMPLE).unwrap();
        assert!(header.dont_fragment && !header.is_fragment());
        let mut out = [0xff; 20];
        header.emit(&mut out);
        assert_eq!(out, SAMPLE);
    }

    #[test]
    fn lengths_are_checked() {
        assert_eq!(Ipv4Header::parse(&SAMPLE), Err(Malformed::Length));
        assert_eq!(Ipv4Header::parse(&SAMPLE[..19]), Err(Malformed::Truncated));
        assert_eq!(Ipv4Header::parse(&[]), Err(Malformed::Truncated));
        let mut short = SAMPLE;
        short[0] = 0x44;
        assert_eq!(Ipv4Header::parse_embedded(&short), Err(Malformed::Length));
    }

    #[test]
    fn a_source_route_counts_while_its_pointer_is_inside() {
        let mut header = [0u8; 32];
        header[20] = OPTION_NOP;
        header[21..24].copy_from_slice(&[OPTION_LOOSE_SOURCE_ROUTE, 7, 4]);
        assert_eq!(unexpired_source_route(&header), Some(23));
        header[23] = 8;
        assert_eq!(unexpired_source_route(&header), None);
        header[22] = 0;
        assert_eq!(unexpired_source_route(&header), None);
    }
}
