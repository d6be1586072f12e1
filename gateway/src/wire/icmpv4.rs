//! ICMP for IPv4 (RFC 792, RFC 1191, RFC 1812): type names and the emitter of errors.

use super::ipv4::{self, Ipv4Header};
use super::{checksum, put16, put32};
use std::net::Ipv4Addr;

/// Every message begins with type, code, checksum and four bytes whose meaning depends on the type.
pub const HEADER_LEN: usize = 8;
/// Offset of the checksum field.
pub const CHECKSUM: usize = 2;

pub const ECHO_REPLY: u8 = 0;
pub const DESTINATION_UNREACHABLE: u8 = 3;
pub const SOURCE_QUENCH: u8 = 4;
pub const REDIRECT: u8 = 5;
pub const ECHO_REQUEST: u8 = 8;
pub const TIME_EXCEEDED: u8 = 11;
pub const PARAMETER_PROBLEM: u8 = 12;

pub const NET_UNREACHABLE: u8 = 0;
pub const HOST_UNREACHABLE: u8 = 1;
pub const PROTOCOL_UNREACHABLE: u8 = 2;
pub const PORT_UNREACHABLE: u8 = 3;
pub const FRAGMENTATION_NEEDED: u8 = 4;
pub const SOURCE_ROUTE_FAILED: u8 = 5;
pub const HOST_PROHIBITED: u8 = 10;
pub const ADMINISTRATIVELY_PROHIBITED: u8 = 13;

/// Errors stay within what every IPv4 host reassembles (RFC 1812 section 4.3.2.3).
pub const MAX_ERROR_LEN: usize = 576;

/// Whether a message of this type reports an error and so embeds a packet.
pub const fn is_error(kind: u8) -> bool {
    matches!(kind, DESTINATION_UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM)
}

/// An ICMP error: type, code and the second word (MTU in its low half, pointer in its high byte, or zero).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorMessage {
    pub kind: u8,
    pub code: u8,
    pub word: u32,
}

impl ErrorMessage {
    pub const fn unreachable(code: u8) -> Self {
        Self { kind: DESTINATION_UNREACHABLE, code, word: 0 }
    }

    /// Fragmentation needed and DF set, with the MTU of the next hop (RFC 1191 section 4).
    pub const fn fragmentation_needed(mtu: u16) -> Self {
        Self { kind: DESTINATION_UNREACHABLE, code: FRAGMENTATION_NEEDED, word: mtu as u32 }
    }

    /// TTL exceeded in transit.
    pub const fn time_exceeded() -> Self {
        Self { kind: TIME_EXCEEDED, code: 0, word: 0 }
    }

    /// Writes a whole packet that reports `invoking`, cut so that the packet has at most 576 bytes.
    ///
    /// Returns its length: 28 and as much of `invoking` as fits in `out`.
    ///
    /// # Panics
    /// When `out` is shorter than 28 bytes.
    pub fn emit(self, out: &mut [u8], source: Ipv4Addr, destination: Ipv4Addr, invoking: &[u8]) -> usize {
        let room = out.len().min(MAX_ERROR_LEN) - ipv4::HEADER_LEN - HEADER_LEN;
        let quoted = invoking.len().min(room);
        let len = ipv4::HEADER_LEN + HEADER_LEN + quoted;
        Ipv4Header {
            header_len: ipv4::HEADER_LEN,
            // Internetwork control, as RFC 1812 section 4.3.2.5 asks of errors.
            traffic_class: 0xc0,
            total_len: len,
            identification: 0,
            dont_fragment: false,
            more_fragments: false,
            fragment_offset: 0,
            ttl: 64,
            protocol: ipv4::PROTOCOL_ICMP,
            source,
            destination,
        }
        .emit(out);
        let message = &mut out[ipv4::HEADER_LEN..len];
        message[HEADER_LEN..].copy_from_slice(&invoking[..quoted]);
        message[0] = self.kind;
        message[1] = self.code;
        put32(message, 4, self.word);
        put_checksum(message);
        len
    }
}

/// Computes and writes the checksum of a whole message.
///
/// # Panics
/// When `message` is shorter than four bytes.
pub fn put_checksum(message: &mut [u8]) {
    put16(message, CHECKSUM, 0);
    put16(message, CHECKSUM, checksum::finish(checksum::sum(message)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_a_valid_packet_of_at_most_576_bytes() {
        let mut out = [0xff; 1500];
        let invoking = [0xab; 1400];
        let (source, destination) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 4));
        let len = ErrorMessage::fragmentation_needed(1260).emit(&mut out, source, destination, &invoking);
        assert_eq!(len, 576);
        assert_eq!(checksum::sum(&out[..20]), 0xffff);
        assert_eq!(checksum::sum(&out[20..len]), 0xffff);
        assert_eq!(&out[20..22], &[3, 4]);
        assert_eq!(&out[24..28], &[0, 0, 0x04, 0xec]);
        let header = Ipv4Header::parse(&out[..len]).unwrap();
        assert_eq!((header.source, header.destination, header.total_len), (source, destination, 576));
    }
}
