//! The transport header: which session it belongs to, and its ports and checksum rewritten in place.

use super::Protocol;
use super::stats::Reason;
use crate::core::frame::{Offload, SegmentKind};
use crate::wire::checksum::{self, Delta};
use crate::wire::tcp::TcpHeader;
use crate::wire::udp::UdpHeader;
use crate::wire::{be16, icmpv4, icmpv6, put16, tcp, udp};

/// Offset of the identifier in an echo message.
pub const ECHO_IDENTIFIER: usize = 4;

/// What the header says. For ICMP both ports are the identifier.
#[derive(Clone, Copy, Debug)]
pub struct Transport {
    pub protocol: Protocol,
    pub source_port: u16,
    pub destination_port: u16,
    /// TCP flags.
    pub flags: u8,
    pub header_len: usize,
    pub checksum: u16,
}

impl Transport {
    /// Reads the header at the start of `payload`. An echo message is ICMP; other ICMP is the caller's matter.
    ///
    /// # Errors
    /// [`Reason::Malformed`] when it is cut short.
    pub fn parse(protocol: Protocol, payload: &[u8]) -> Result<Self, Reason> {
        match protocol {
            Protocol::Tcp => {
                let header = TcpHeader::parse(payload).map_err(|_| Reason::Malformed)?;
                Ok(Self {
                    protocol,
                    source_port: header.source_port,
                    destination_port: header.destination_port,
                    flags: header.flags,
                    header_len: header.header_len,
                    checksum: header.checksum,
                })
            }
            Protocol::Udp => {
                let header = UdpHeader::parse(payload).map_err(|_| Reason::Malformed)?;
                Ok(Self {
                    protocol,
                    source_port: header.source_port,
                    destination_port: header.destination_port,
                    flags: 0,
                    header_len: udp::HEADER_LEN,
                    checksum: header.checksum,
                })
            }
            Protocol::Icmp => {
                if payload.len() < icmpv4::HEADER_LEN {
                    return Err(Reason::Malformed);
                }
                let identifier = be16(payload, ECHO_IDENTIFIER);
                Ok(Self {
                    protocol,
                    source_port: identifier,
                    destination_port: identifier,
                    flags: 0,
                    header_len: icmpv4::HEADER_LEN,
                    checksum: be16(payload, icmpv4::CHECKSUM),
                })
            }
        }
    }

    /// The transport payload bytes of one packet on the wire: those of a segment for a super-segment.
    ///
    /// # Errors
    /// [`Reason::Malformed`] when the offload contradicts the packet.
    pub fn wire_payload(&self, payload_len: usize, offload: Offload) -> Result<usize, Reason> {
        let matches = match offload.kind {
            SegmentKind::None => return Ok(payload_len),
            SegmentKind::Tcp => self.protocol == Protocol::Tcp,
            SegmentKind::Udp => self.protocol == Protocol::Udp,
        };
        if !matches || offload.segment_size == 0 || !offload.partial_checksum {
            return Err(Reason::Malformed);
        }
        Ok(payload_len.min(self.header_len + usize::from(offload.segment_size)))
    }
}

/// Packets on the wire that a frame becomes.
pub fn wire_packets(payload_len: usize, offload: Offload) -> usize {
    match offload.kind {
        SegmentKind::None => 1,
        _ => payload_len.div_ceil(usize::from(offload.segment_size).max(1)).max(1),
    }
}

/// Which port of the header belongs to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    Source,
    Destination,
}

/// Sets a TCP or UDP port and brings the checksum up to date; `addresses` is the change of the pseudo header.
///
/// Inside ICMP errors the header may be cut short: what is not there is not changed.
pub fn rewrite(payload: &mut [u8], protocol: Protocol, which: Port, port: u16, addresses: Delta, partial: bool) {
    let at = if which == Port::Source { 0 } else { 2 };
    if payload.len() < at + 2 {
        return;
    }
    let old = be16(payload, at);
    put16(payload, at, port);
    let field_at = if protocol == Protocol::Tcp { tcp::CHECKSUM } else { udp::CHECKSUM };
    if payload.len() < field_at + 2 {
        return;
    }
    let field = be16(payload, field_at);
    let value = if partial {
        addresses.apply_partial(field)
    } else if protocol == Protocol::Udp && field == 0 {
        0
    } else {
        match addresses.replace(old, port).apply(field) {
            // Zero would say that there is no checksum (RFC 768).
            0 if protocol == Protocol::Udp => 0xffff,
            value => value,
        }
    };
    put16(payload, field_at, value);
}

/// Turns a partial checksum (the pseudo-header sum in the field) into the whole one, before the packet is cut up.
pub fn complete(payload: &mut [u8], protocol: Protocol) {
    let field_at = if protocol == Protocol::Tcp { tcp::CHECKSUM } else { udp::CHECKSUM };
    // The pseudo-header sum is already in the field, so it is part of the sum over the payload.
    let value = match checksum::finish(checksum::sum(payload)) {
        0 if protocol == Protocol::Udp => 0xffff,
        value => value,
    };
    put16(payload, field_at, value);
}

/// An echo message from ICMPv6 to ICMPv4: `pseudo` is the pseudo-header sum that leaves the checksum.
///
/// Returns false when the message is no echo.
pub fn echo_to_v4(payload: &mut [u8], identifier: u16, pseudo: u16) -> bool {
    let kind = match payload.first() {
        Some(&icmpv6::ECHO_REQUEST) => icmpv4::ECHO_REQUEST,
        Some(&icmpv6::ECHO_REPLY) => icmpv4::ECHO_REPLY,
        _ => return false,
    };
    echo(payload, kind, identifier, Delta::NONE.replace(pseudo, 0))
}

/// An echo message from ICMPv4 to ICMPv6: `pseudo` is the pseudo-header sum that enters the checksum.
///
/// Returns false when the message is no echo.
pub fn echo_to_v6(payload: &mut [u8], identifier: u16, pseudo: u16) -> bool {
    let kind = match payload.first() {
        Some(&icmpv4::ECHO_REQUEST) => icmpv6::ECHO_REQUEST,
        Some(&icmpv4::ECHO_REPLY) => icmpv6::ECHO_REPLY,
        _ => return false,
    };
    echo(payload, kind, identifier, Delta::NONE.replace(0, pseudo))
}

fn echo(payload: &mut [u8], kind: u8, identifier: u16, pseudo: Delta) -> bool {
    if payload.len() < icmpv4::HEADER_LEN {
        return false;
    }
    let (old_word, old_identifier) = (be16(payload, 0), be16(payload, ECHO_IDENTIFIER));
    payload[0] = kind;
    put16(payload, ECHO_IDENTIFIER, identifier);
    let delta = pseudo.replace(old_word, be16(payload, 0)).replace(old_identifier, identifier);
    let field = be16(payload, icmpv4::CHECKSUM);
    put16(payload, icmpv4::CHECKSUM, delta.apply(field));
    true
}
