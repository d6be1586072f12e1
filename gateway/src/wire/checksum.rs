//! The Internet checksum (RFC 1071), pseudo headers and incremental updates (RFC 1624).
//!
//! Sums are one's complement sums of big-endian 16-bit words, folded to 16 bits but *not* complemented: they can be
//! added with [`add`] in any order. [`finish`] complements a sum into what a checksum field holds.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Folds a sum of 16-bit words to 16 bits.
pub const fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// The folded sum of `data`; an odd last byte counts as the high half of a word.
pub fn sum(data: &[u8]) -> u16 {
    if data.len() >= LONG {
        return sum_of_many(data);
    }
    // A 32-bit word is congruent to the sum of its two halves modulo 0xffff, so wide words may be added as they are.
    let mut total = 0u64;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        total += u64::from(u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
    }
    let mut last = [0u8; 4];
    let rest = words.remainder();
    last[..rest.len()].copy_from_slice(rest);
    fold(total + u64::from(u32::from_be_bytes(last)))
}

/// From here on the wider words of [`sum_of_many`] are worth their folding.
const LONG: usize = 128;

/// Adds words of 64 bits, with the carry that falls out put back, in this machine's byte order, which is undone in the
/// result (RFC 1071 section 2 B). Four sums side by side, so that none waits for the carry of another.
fn sum_of_many(data: &[u8]) -> u16 {
    let (blocks, rest) = data.as_chunks::<32>();
    let (mut a, mut b, mut c, mut d) = (0, 0, 0, 0);
    for block in blocks {
        if let ([one, two, three, four], _) = block.as_chunks() {
            (a, b, c, d) = (carried(a, *one), carried(b, *two), carried(c, *three), carried(d, *four));
        }
    }
    let halves = |sum: u64| (sum >> 32) + (sum & 0xffff_ffff);
    add(u16::from_be(fold(halves(a) + halves(b) + halves(c) + halves(d))), sum(rest))
}

#[inline]
const fn carried(sum: u64, word: [u8; 8]) -> u64 {
    let (sum, carry) = sum.overflowing_add(u64::from_ne_bytes(word));
    sum + carry as u64
}

/// The sum of two sums.
pub const fn add(a: u16, b: u16) -> u16 {
    fold(a as u64 + b as u64)
}

/// The sum `a` without the part `b`.
pub const fn subtract(a: u16, b: u16) -> u16 {
    fold(a as u64 + !b as u64)
}

/// The checksum field for a sum.
pub const fn finish(sum: u16) -> u16 {
    !sum
}

/// The pseudo-header sum of IPv4 (RFC 793, RFC 768): `protocol` above, `length` bytes of header and payload.
pub fn pseudo_v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, length: u32) -> u16 {
    fold(address_v4(source) + address_v4(destination) + u64::from(protocol) + u64::from(length))
}

/// The pseudo-header sum of IPv6 (RFC 8200 section 8.1).
pub fn pseudo_v6(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, length: u32) -> u16 {
    let addresses = u64::from(sum(&source.octets())) + u64::from(sum(&destination.octets()));
    fold(addresses + u64::from(next_header) + u64::from(length))
}

/// The pseudo-header sum of a packet's own addresses, IPv4 or IPv6 by its version nibble.
///
/// `length` is that of the transport header and payload in bytes.
pub fn pseudo_of(packet: &[u8], length: usize, protocol: u8) -> u16 {
    let addresses = if packet[0] >> 4 == 6 { sum(&packet[8..40]) } else { sum(&packet[12..20]) };
    fold(u64::from(addresses) + length as u64 + u64::from(protocol))
}

fn address_v4(address: Ipv4Addr) -> u64 {
    u64::from(u32::from(address))
}

/// A change of bytes under a checksum: the parts that leave and the parts that come (RFC 1624 equation 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(u64);

impl Delta {
    pub const NONE: Self = Self(0);

    /// The sum `old` is replaced by the sum `new`.
    #[must_use]
    pub const fn replace(self, old: u16, new: u16) -> Self {
        Self(self.0 + !old as u64 + new as u64)
    }

    /// The checksum field after the change.
    pub const fn apply(self, field: u16) -> u16 {
        !fold(!field as u64 + self.0)
    }

    /// A partial checksum field (folded and uncomplemented sum of the pseudo header) after the change.
    pub const fn apply_partial(self, field: u16) -> u16 {
        fold(field as u64 + self.0)
    }
}

/// The checksum of `data` whose checksum field is zero, under the IPv6 pseudo header.
pub fn transport_v6(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, data: &[u8]) -> u16 {
    finish(add(pseudo_v6(source, destination, next_header, data.len() as u32), sum(data)))
}

/// The checksum of `data` whose checksum field is zero, under the IPv4 pseudo header.
pub fn transport_v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, data: &[u8]) -> u16 {
    finish(add(pseudo_v4(source, destination, protocol, data.len() as u32), sum(data)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624() {
        // Section 4: field 0xDD2F, word 0x5555 becomes 0x3285, the result is 0x0000.
        assert_eq!(Delta::NONE.replace(0x5555, 0x3285).apply(0xdd2f), 0x0000);
    }

    #[test]
    fn an_odd_byte_is_padded_behind() {
        assert_eq!(sum(&[0xab]), 0xab00);
        assert_eq!(sum(&[1, 2, 3, 4, 5]), fold(0x0102 + 0x0304 + 0x0500));
    }

    proptest! {
        #[test]
        fn words_are_added_as_the_definition_says(data in proptest::collection::vec(any::<u8>(), 0..400)) {
            let words = data.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)));
            let definition = fold(words.sum());
            prop_assert!(sum(&data) == definition, "{} {definition}", sum(&data));
        }

        #[test]
        fn an_incremental_update_is_a_full_computation(
            mut data in proptest::collection::vec(any::<u8>(), 8..200), new in any::<[u8; 4]>(), at in 0usize..2,
        ) {
            data[6..8].fill(0);
            let field = finish(sum(&data));
            let old = sum(&data[at * 2..at * 2 + 4]);
            data[at * 2..at * 2 + 4].copy_from_slice(&new);
            let updated = Delta::NONE.replace(old, sum(&new)).apply(field);
            // 0x0000 and 0xffff are the same number in one's complement.
            let full = finish(sum(&data));
            prop_assert!(updated == full || updated.is_multiple_of(0xffff) && full.is_multiple_of(0xffff));
        }
    }
}
