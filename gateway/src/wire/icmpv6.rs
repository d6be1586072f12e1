//! ICMPv6 (RFC 4443): type names, checksums and the emitter of errors.

use super::ipv6::{self, Ipv6Header};
use super::{checksum, put16, put32};
use std::net::Ipv6Addr;

/// Every message begins with type, code, checksum and four bytes whose meaning depends on the type.
pub const HEADER_LEN: usize = 8;
/// Offset of the checksum field.
pub const CHECKSUM: usize = 2;

pub const DESTINATION_UNREACHABLE: u8 = 1;
pub const PACKET_TOO_BIG: u8 = 2;
pub const TIME_EXCEEDED: u8 = 3;
pub const PARAMETER_PROBLEM: u8 = 4;
pub const ECHO_REQUEST: u8 = 128;
pub const ECHO_REPLY: u8 = 129;

pub const NO_ROUTE: u8 = 0;
pub const ADMINISTRATIVELY_PROHIBITED: u8 = 1;
pub const BEYOND_SCOPE: u8 = 2;
pub const ADDRESS_UNREACHABLE: u8 = 3;
pub const PORT_UNREACHABLE: u8 = 4;

pub const ERRONEOUS_FIELD: u8 = 0;
pub const UNRECOGNIZED_NEXT_HEADER: u8 = 1;

/// Whether a message of this type reports an error (RFC 4443 section 2.1).
pub const fn is_error(kind: u8) -> bool {
    kind < 128
}

/// An ICMPv6 error: type, code and the second word (MTU, pointer, or zero).
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

    /// Packet Too Big with the MTU of the next hop.
    pub const fn packet_too_big(mtu: u32) -> Self {
        Self { kind: PACKET_TOO_BIG, code: 0, word: mtu }
    }

    /// Hop limit exceeded in transit.
    pub const fn time_exceeded() -> Self {
        Self { kind: TIME_EXCEEDED, code: 0, word: 0 }
    }

    /// Parameter Problem; `pointer` is the byte offset in the invoking packet.
    pub const fn parameter_problem(code: u8, pointer: u32) -> Self {
        Self { kind: PARAMETER_PROBLEM, code, word: pointer }
    }

    /// Writes a whole packet that reports `invoking`, cut so that the packet has at most 1280 bytes
    /// (RFC 4443 section 2.4 (c)).
    ///
    /// Returns its length: 48 and as much of `invoking` as fits in `out`.
    ///
    /// # Panics
    /// When `out` is shorter than 48 bytes.
    pub fn emit(self, out: &mut [u8], source: Ipv6Addr, destination: Ipv6Addr, invoking: &[u8]) -> usize {
        let room = out.len().min(ipv6::MIN_MTU) - ipv6::HEADER_LEN - HEADER_LEN;
        let quoted = invoking.len().min(room);
        let len = ipv6::HEADER_LEN + HEADER_LEN + quoted;
        Ipv6Header {
            traffic_class: 0,
            flow_label: 0,
            payload_len: HEADER_LEN + quoted,
            next_header: ipv6::ICMPV6,
            hop_limit: 64,
            source,
            destination,
        }
        .emit(out);
        let message = &mut out[ipv6::HEADER_LEN..len];
        message[HEADER_LEN..].copy_from_slice(&invoking[..quoted]);
        message[0] = self.kind;
        message[1] = self.code;
        put32(message, 4, self.word);
        put_checksum(message, source, destination);
        len
    }
}

/// Computes and writes the checksum of a whole message.
///
/// # Panics
/// When `message` is shorter than four bytes.
pub fn put_checksum(message: &mut [u8], source: Ipv6Addr, destination: Ipv6Addr) {
    put16(message, CHECKSUM, 0);
    let value = checksum::transport_v6(source, destination, ipv6::ICMPV6, message);
    put16(message, CHECKSUM, value);
}

/// Whether an error may be sent about this packet: not about an error, and not to a source that names no single node
/// (RFC 4443 section 2.4 (e)). Multicast destinations are the caller's matter, since Packet Too Big may answer them.
pub fn may_answer(invoking: &[u8]) -> bool {
    let Ok(header) = Ipv6Header::parse_embedded(invoking) else { return false };
    if header.source.is_unspecified() || header.source.is_multicast() {
        return false;
    }
    match ipv6::upper_layer(invoking, &header) {
        Ok(upper) if upper.protocol == ipv6::ICMPV6 => match upper.fragment {
            Some(fragment) if fragment.offset != 0 => false,
            _ => invoking.get(upper.offset).is_some_and(|kind| !is_error(*kind)),
        },
        Ok(_) => true,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_a_valid_packet_of_at_most_1280_bytes() {
        let mut out = [0xff; 1500];
        let (source, destination): (Ipv6Addr, Ipv6Addr) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
        let len = ErrorMessage::packet_too_big(1280).emit(&mut out, source, destination, &[0x60; 1300]);
        assert_eq!(len, 1280);
        let header = Ipv6Header::parse(&out[..len]).unwrap();
        assert_eq!((header.payload_len, header.next_header), (1240, ipv6::ICMPV6));
        let pseudo = checksum::pseudo_v6(source, destination, ipv6::ICMPV6, 1240);
        assert_eq!(checksum::add(pseudo, checksum::sum(&out[40..len])), 0xffff);
        assert_eq!(&out[44..48], &1280u32.to_be_bytes());
    }

    #[test]
    fn errors_are_not_answered_with_errors() {
        let mut out = [0u8; 100];
        let (source, destination): (Ipv6Addr, Ipv6Addr) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
        let len = ErrorMessage::time_exceeded().emit(&mut out, source, destination, &[]);
        assert!(!may_answer(&out[..len]));
        out[40] = ECHO_REQUEST;
        assert!(may_answer(&out[..len]));
        out[8..24].fill(0);
        assert!(!may_answer(&out[..len]));
    }
}
