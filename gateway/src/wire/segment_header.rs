//! The four bytes in front of each packet between two Portico ends that agreed on them.
//!
//! Byte 0: kind (0 packet, 1 TCP super-segment, 2 UDP super-segment), with 0x80 set when the transport checksum is
//! partial. Byte 1: zero. Bytes 2-3: payload bytes per segment, big endian, 0 for a plain packet.

use std::fmt;

use super::offload::{Offload, SegmentKind};

const PARTIAL: u8 = 0x80;
const IPV6_HEADER: usize = 40;
const TCP: u8 = 6;
const UDP: u8 = 17;
const UDP_HEADER: usize = 8;

/// The largest payload of one segment: a 1500-byte link less the IPv6 and TCP headers.
pub const MAX_SEGMENT_SIZE: u16 = 1440;

/// What a peer can get wrong in a segment header or in the packet behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentError {
    UnknownKind,
    ReservedByte,
    /// A plain packet with a segment size.
    SizeOfPlainPacket,
    /// A super-segment whose segment size is not within 1..=1440.
    SizeOutOfRange,
    /// A super-segment whose checksum is not marked partial.
    CompleteChecksum,
    /// A super-segment that fits one segment.
    SingleSegment,
    /// The kind or a partial checksum does not fit the transport header behind the IPv6 header.
    WrongTransport,
    /// The transport header does not lie inside the packet.
    TruncatedTransport,
}

impl fmt::Display for SegmentError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::UnknownKind => "unknown segment kind",
            Self::ReservedByte => "reserved byte of the segment header is not zero",
            Self::SizeOfPlainPacket => "segment size on a plain packet",
            Self::SizeOutOfRange => "segment size out of range",
            Self::CompleteChecksum => "super-segment with a complete checksum",
            Self::SingleSegment => "super-segment of a single segment",
            Self::WrongTransport => "segment kind does not fit the transport protocol",
            Self::TruncatedTransport => "transport header reaches beyond the packet",
        })
    }
}

impl std::error::Error for SegmentError {}

/// A segment header, checked for itself; [`SegmentHeader::check`] compares it with its packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentHeader {
    offload: Offload,
}

impl SegmentHeader {
    pub const LEN: usize = 4;

    pub fn from_offload(offload: &Offload) -> Self {
        Self { offload: *offload }
    }

    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// # Errors
    /// Any [`SegmentError`] that shows without the packet.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, SegmentError> {
        let segment_size = u16::from_be_bytes([bytes[2], bytes[3]]);
        let partial_checksum = bytes[0] & PARTIAL != 0;
        let kind = match bytes[0] & !PARTIAL {
            0 => SegmentKind::None,
            1 => SegmentKind::Tcp,
            2 => SegmentKind::Udp,
            _ => return Err(SegmentError::UnknownKind),
        };
        if bytes[1] != 0 {
            return Err(SegmentError::ReservedByte);
        }
        match kind {
            SegmentKind::None if segment_size != 0 => Err(SegmentError::SizeOfPlainPacket),
            SegmentKind::None => Ok(()),
            _ if !(1..=MAX_SEGMENT_SIZE).contains(&segment_size) => Err(SegmentError::SizeOutOfRange),
            _ if !partial_checksum => Err(SegmentError::CompleteChecksum),
            _ => Ok(()),
        }?;
        Ok(Self { offload: Offload { kind, segment_size, partial_checksum } })
    }

    pub fn emit(&self, out: &mut [u8; Self::LEN]) {
        let kind = match self.offload.kind {
            SegmentKind::None => 0,
            SegmentKind::Tcp => 1,
            SegmentKind::Udp => 2,
        };
        out[0] = kind | if self.offload.partial_checksum { PARTIAL } else { 0 };
        out[1] = 0;
        out[2..].copy_from_slice(&self.offload.segment_size.to_be_bytes());
    }

    /// Checks that the packet (a whole IPv6 packet of at least 40 bytes) is what the header says, so that the kernel
    /// can be told the same: the transport header follows the IPv6 header and lies inside, and a super-segment has
    /// more than one segment.
    ///
    /// # Errors
    /// `WrongTransport`, `TruncatedTransport` or `SingleSegment`.
    pub fn check(&self, packet: &[u8]) -> Result<(), SegmentError> {
        let offload = &self.offload;
        if offload.kind == SegmentKind::None && !offload.partial_checksum {
            return Ok(());
        }
        let transport = packet.get(IPV6_HEADER..).ok_or(SegmentError::TruncatedTransport)?;
        let protocol = packet[6];
        let wanted = match offload.kind {
            SegmentKind::Tcp => TCP,
            SegmentKind::Udp => UDP,
            SegmentKind::None => protocol,
        };
        let header = match protocol {
            _ if protocol != wanted => return Err(SegmentError::WrongTransport),
            TCP => {
                let offset = *transport.get(12).ok_or(SegmentError::TruncatedTransport)?;
                usize::from(offset >> 4) * 4
            }
            UDP => UDP_HEADER,
            _ => return Err(SegmentError::WrongTransport),
        };
        let shortest = if protocol == TCP { 20 } else { UDP_HEADER };
        if header < shortest || transport.len() < header {
            return Err(SegmentError::TruncatedTransport);
        }
        if offload.kind != SegmentKind::None && transport.len() - header <= usize::from(offload.segment_size) {
            return Err(SegmentError::SingleSegment);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(protocol: u8, transport: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
        packet.resize(IPV6_HEADER, 0);
        packet.extend_from_slice(transport);
        packet
    }

    fn tcp(payload: usize) -> Vec<u8> {
        let mut segment = vec![0; 20 + payload];
        segment[12] = 5 << 4;
        segment
    }

    #[test]
    fn headers_survive_a_round_trip() {
        for bytes in [[0, 0, 0, 0], [0x80, 0, 0, 0], [0x81, 0, 4, 0xc4], [0x82, 0, 0, 1]] {
            let header = SegmentHeader::parse(&bytes).unwrap();
            let mut out = [0xff; 4];
            header.emit(&mut out);
            assert_eq!(out, bytes);
            assert_eq!(SegmentHeader::from_offload(&header.offload()), header);
        }
    }

    #[test]
    fn nonsense_has_a_name() {
        for (bytes, error) in [
            ([3, 0, 0, 0], SegmentError::UnknownKind),
            ([0, 1, 0, 0], SegmentError::ReservedByte),
            ([0, 0, 0, 1], SegmentError::SizeOfPlainPacket),
            ([0x81, 0, 0, 0], SegmentError::SizeOutOfRange),
            ([0x81, 0, 5, 0xa1], SegmentError::SizeOutOfRange),
            ([1, 0, 1, 0], SegmentError::CompleteChecksum),
        ] {
            assert_eq!(SegmentHeader::parse(&bytes), Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn the_packet_must_fit_its_header() {
        let tcp_header = SegmentHeader::parse(&[0x81, 0, 0, 100]).unwrap();
        assert_eq!(tcp_header.check(&packet(TCP, &tcp(101))), Ok(()));
        assert_eq!(tcp_header.check(&packet(TCP, &tcp(100))), Err(SegmentError::SingleSegment));
        assert_eq!(tcp_header.check(&packet(UDP, &tcp(500))), Err(SegmentError::WrongTransport));
        assert_eq!(tcp_header.check(&packet(TCP, &[0; 12])), Err(SegmentError::TruncatedTransport));
        let mut short = tcp(500);
        short[12] = 4 << 4;
        assert_eq!(tcp_header.check(&packet(TCP, &short)), Err(SegmentError::TruncatedTransport));
        let partial = SegmentHeader::parse(&[0x80, 0, 0, 0]).unwrap();
        assert_eq!(partial.check(&packet(58, &[0; 30])), Err(SegmentError::WrongTransport));
        assert_eq!(partial.check(&packet(UDP, &[0; 8])), Ok(()));
        assert_eq!(SegmentHeader::default().check(&packet(58, &[])), Ok(()));
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(header in any::<[u8; 4]>(), tail in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(header) = SegmentHeader::parse(&header) {
                let _ = header.check(&packet(tail.first().copied().unwrap_or(6), &tail));
            }
        }
    }
}
