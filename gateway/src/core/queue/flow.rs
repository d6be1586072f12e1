//! Which flow a packet belongs to.

use std::hash::{BuildHasher, Hasher};

use crate::core::nat64::hash::Seed;
use crate::wire::ipv6;

/// A number for the flow of an IPv6 packet: addresses, protocol, and ports where they are in sight. Packets of one flow
/// have the same; different flows rarely do, and nobody who does not know the seed can make them.
///
/// Later fragments have no ports, so no fragment is told by its ports. Where extension headers hide the ports the flow
/// label tells flows apart (RFC 6437); it is left out otherwise, since a sender may change it in the middle of a
/// connection, and the order must not.
pub fn number(packet: &[u8], seed: Seed) -> u64 {
    let mut hash = seed.build_hasher();
    let Some(header) = packet.get(..ipv6::HEADER_LEN) else { return hash.finish() };
    hash.write(&header[8..40]);
    let payload = &packet[ipv6::HEADER_LEN..];
    let protocol = header[6];
    hash.write_u64(u64::from(protocol));
    match (protocol, payload) {
        (ipv6::TCP | ipv6::UDP, [a, b, c, d, ..]) => hash.write_u32(u32::from_be_bytes([*a, *b, *c, *d])),
        // Echo requests and answers: type and identifier, so that two pings are two flows.
        (ipv6::ICMPV6, [kind @ (128 | 129), _, _, _, a, b, ..]) => {
            hash.write_u32(u32::from_be_bytes([0, *kind, *a, *b]));
        }
        (ipv6::FRAGMENT, _) => {}
        _ => hash.write_u32(u32::from_be_bytes([0, header[1] & 15, header[2], header[3]])),
    }
    hash.finish()
}
