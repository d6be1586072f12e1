//! UDP (RFC 768): read and written in place.

use super::{Malformed, be16, put16};

pub const HEADER_LEN: usize = 8;
/// Offset of the checksum field.
pub const CHECKSUM: usize = 6;

/// The fields of a UDP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpHeader {
    pub source_port: u16,
    pub destination_port: u16,
    /// The Length field: header and data. Nothing checks it against the buffer: in a first fragment it is larger.
    pub length: usize,
    pub checksum: u16,
}

impl UdpHeader {
    /// Parses the header at the start of `datagram`.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] when it is not complete.
    pub fn parse(datagram: &[u8]) -> Result<Self, Malformed> {
        if datagram.len() < HEADER_LEN {
            return Err(Malformed::Truncated);
        }
        Ok(Self {
            source_port: be16(datagram, 0),
            destination_port: be16(datagram, 2),
            length: usize::from(be16(datagram, 4)),
            checksum: be16(datagram, CHECKSUM),
        })
    }

    /// Writes the header into `out[..8]`.
    ///
    /// # Panics
    /// When `out` is shorter.
    pub fn emit(&self, out: &mut [u8]) {
        put16(out, 0, self.source_port);
        put16(out, 2, self.destination_port);
        put16(out, 4, self.length as u16);
        put16(out, CHECKSUM, self.checksum);
    }
}

/// Writes the checksum field of the header at the start of `datagram`.
///
/// # Panics
/// When the field is not in `datagram`.
pub fn set_checksum(datagram: &mut [u8], value: u16) {
    put16(datagram, CHECKSUM, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emit_and_parse_are_inverse() {
        let header = UdpHeader { source_port: 53, destination_port: 40_000, length: 20, checksum: 0xbeef };
        let mut out = [0u8; 8];
        header.emit(&mut out);
        assert_eq!(out, [0, 53, 0x9c, 0x40, 0, 20, 0xbe, 0xef]);
        assert_eq!(UdpHeader::parse(&out), Ok(header));
        assert_eq!(UdpHeader::parse(&out[..7]), Err(Malformed::Truncated));
    }
}
