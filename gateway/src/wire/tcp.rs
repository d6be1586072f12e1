//! TCP (RFC 9293): the fields a translator and a segmenter need, read and written in place.

use super::{Malformed, be16, be32, put16};

pub const HEADER_LEN: usize = 20;
/// Offset of the checksum field.
pub const CHECKSUM: usize = 16;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;

/// The fields of a TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpHeader {
    pub source_port: u16,
    pub destination_port: u16,
    pub sequence: u32,
    pub acknowledgement: u32,
    /// Header with options, in bytes.
    pub header_len: usize,
    pub flags: u8,
    pub window: u16,
    pub checksum: u16,
}

impl TcpHeader {
    /// Parses the header at the start of `segment`.
    ///
    /// # Errors
    /// [`Malformed`] when it is cut short or its data offset lies outside the segment.
    pub fn parse(segment: &[u8]) -> Result<Self, Malformed> {
        if segment.len() < HEADER_LEN {
            return Err(Malformed::Truncated);
        }
        let header_len = usize::from(segment[12] >> 4) * 4;
        if header_len < HEADER_LEN || header_len > segment.len() {
            return Err(Malformed::Length);
        }
        Ok(Self {
            source_port: be16(segment, 0),
            destination_port: be16(segment, 2),
            sequence: be32(segment, 4),
            acknowledgement: be32(segment, 8),
            header_len,
            flags: segment[13],
            window: be16(segment, 14),
            checksum: be16(segment, CHECKSUM),
        })
    }
}

/// Writes the checksum field of the header at the start of `segment`.
///
/// # Panics
/// When the field is not in `segment`.
pub fn set_checksum(segment: &mut [u8], value: u16) {
    put16(segment, CHECKSUM, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_and_lengths_checked() {
        let mut segment = [0u8; 24];
        segment[..4].copy_from_slice(&[0x12, 0x34, 0x00, 0x50]);
        segment[12] = 0x60;
        segment[13] = SYN | ACK;
        let header = TcpHeader::parse(&segment).unwrap();
        assert_eq!((header.source_port, header.destination_port, header.header_len), (0x1234, 80, 24));
        assert_eq!(header.flags, SYN | ACK);
        assert_eq!(TcpHeader::parse(&segment[..20]), Err(Malformed::Length));
        assert_eq!(TcpHeader::parse(&segment[..19]), Err(Malformed::Truncated));
        segment[12] = 0x40;
        assert_eq!(TcpHeader::parse(&segment), Err(Malformed::Length));
    }
}
