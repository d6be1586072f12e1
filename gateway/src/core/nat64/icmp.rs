//! ICMP types, codes, pointers and MTUs from one family to the other: the tables of RFC 7915 sections 4.2 and 5.2.
//!
//! `None` means that the RFC has the message dropped.

use crate::wire::{icmpv4, icmpv6};

/// The MTUs of the next hops on both sides, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Mtus {
    pub v4: u32,
    pub v6: u32,
}

/// RFC 1191 section 7.1: the path MTUs that exist, for routers that do not say theirs.
const PLATEAUS: [u32; 11] = [65_535, 32_000, 17_914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68];

/// An ICMPv4 error as ICMPv6. `word` is the message's second word, `quoted_len` the Total Length of the packet quoted.
pub fn to_v6(kind: u8, code: u8, word: u32, quoted_len: u32, mtus: Mtus) -> Option<icmpv6::ErrorMessage> {
    use icmpv6::ErrorMessage as Error;
    match kind {
        icmpv4::DESTINATION_UNREACHABLE => match code {
            0 | 1 | 5 | 6 | 7 | 8 | 11 | 12 => Some(Error::unreachable(icmpv6::NO_ROUTE)),
            // Protocol unreachable: points at the Next Header field.
            icmpv4::PROTOCOL_UNREACHABLE => Some(Error::parameter_problem(icmpv6::UNRECOGNIZED_NEXT_HEADER, 6)),
            icmpv4::PORT_UNREACHABLE => Some(Error::unreachable(icmpv6::PORT_UNREACHABLE)),
            icmpv4::FRAGMENTATION_NEEDED => {
                let reported = match word & 0xffff {
                    0 => plateau_below(quoted_len),
                    mtu => mtu,
                };
                let mtu = (reported + 20).min(mtus.v6).min(mtus.v4 + 20);
                Some(Error::packet_too_big(mtu.max(1280)))
            }
            9 | 10 | 13 | 15 => Some(Error::unreachable(icmpv6::ADMINISTRATIVELY_PROHIBITED)),
            _ => None,
        },
        icmpv4::TIME_EXCEEDED => Some(Error { code, ..Error::time_exceeded() }),
        icmpv4::PARAMETER_PROBLEM if code == 0 || code == 2 => {
            let pointer = pointer_to_v6((word >> 24) as u8)?;
            Some(Error::parameter_problem(icmpv6::ERRONEOUS_FIELD, pointer))
        }
        _ => None,
    }
}

/// An ICMPv6 error as ICMPv4. `fragment` tells whether the packet quoted has a Fragment header.
pub fn to_v4(kind: u8, code: u8, word: u32, fragment: bool, mtus: Mtus) -> Option<icmpv4::ErrorMessage> {
    use icmpv4::ErrorMessage as Error;
    match kind {
        icmpv6::DESTINATION_UNREACHABLE => match code {
            icmpv6::NO_ROUTE | icmpv6::BEYOND_SCOPE | icmpv6::ADDRESS_UNREACHABLE => {
                Some(Error::unreachable(icmpv4::HOST_UNREACHABLE))
            }
            icmpv6::ADMINISTRATIVELY_PROHIBITED => Some(Error::unreachable(icmpv4::HOST_PROHIBITED)),
            icmpv6::PORT_UNREACHABLE => Some(Error::unreachable(icmpv4::PORT_UNREACHABLE)),
            _ => None,
        },
        icmpv6::PACKET_TOO_BIG => {
            // With a Fragment header the IPv6 packet shrinks by 28 bytes on its way to IPv4.
            let reported = word.saturating_sub(if fragment { 28 } else { 20 });
            let mtu = reported.min(mtus.v4).min(mtus.v6 - 20).max(68);
            Some(Error::fragmentation_needed(mtu as u16))
        }
        icmpv6::TIME_EXCEEDED => Some(Error { code, ..Error::time_exceeded() }),
        icmpv6::PARAMETER_PROBLEM => match code {
            icmpv6::ERRONEOUS_FIELD => {
                let pointer = pointer_to_v4(word)?;
                Some(Error { kind: icmpv4::PARAMETER_PROBLEM, code: 0, word: u32::from(pointer) << 24 })
            }
            icmpv6::UNRECOGNIZED_NEXT_HEADER => Some(Error::unreachable(icmpv4::PROTOCOL_UNREACHABLE)),
            _ => None,
        },
        _ => None,
    }
}

/// The greatest plateau below `len` that is at least 68.
fn plateau_below(len: u32) -> u32 {
    PLATEAUS.into_iter().find(|plateau| *plateau < len).unwrap_or(68)
}

/// RFC 7915 figure 3.
fn pointer_to_v6(pointer: u8) -> Option<u32> {
    match pointer {
        0 => Some(0),
        1 => Some(1),
        2 | 3 => Some(4),
        8 => Some(7),
        9 => Some(6),
        12..=15 => Some(8),
        16..=19 => Some(24),
        _ => None,
    }
}

/// RFC 7915 figure 6.
fn pointer_to_v4(pointer: u32) -> Option<u8> {
    match pointer {
        0 => Some(0),
        1 => Some(1),
        4 | 5 => Some(2),
        6 => Some(9),
        7 => Some(8),
        8..=23 => Some(12),
        24..=39 => Some(16),
        _ => None,
    }
}
