//! IPv4-embedded IPv6 addresses (RFC 6052 section 2.2).

use std::net::{Ipv4Addr, Ipv6Addr};

/// A translation prefix of one of the six lengths of RFC 6052.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    bits: u128,
    /// The bits that `length` covers.
    mask: u128,
    length: u8,
}

/// Why a prefix cannot be used for translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefixError {
    /// The length is none of 32, 40, 48, 56, 64 and 96.
    Length(u8),
    /// Bits behind the prefix length are set.
    HostBits,
    /// Bits 64 to 71 are set (RFC 6052 section 2.2 keeps them zero).
    ReservedBits,
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}/{}", Ipv6Addr::from(self.bits), self.length)
    }
}

impl std::fmt::Display for PrefixError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Length(length) => {
                write!(out, "a prefix of {length} bits, where 32, 40, 48, 56, 64 or 96 are allowed")
            }
            Self::HostBits => write!(out, "bits behind the length of the prefix are set"),
            Self::ReservedBits => write!(out, "bits 64 to 71 of the prefix are set, which must be zero"),
        }
    }
}

/// Bits 64 to 71.
const RESERVED: u128 = 0xff << 56;

impl Prefix {
    /// # Errors
    /// [`PrefixError`] when RFC 6052 does not allow the prefix.
    pub fn new(address: Ipv6Addr, length: u8) -> Result<Self, PrefixError> {
        if !matches!(length, 32 | 40 | 48 | 56 | 64 | 96) {
            return Err(PrefixError::Length(length));
        }
        let bits = u128::from(address);
        if bits & (u128::MAX >> length) != 0 {
            return Err(PrefixError::HostBits);
        }
        if bits & RESERVED != 0 {
            return Err(PrefixError::ReservedBits);
        }
        Ok(Self { bits, mask: u128::MAX << (128 - length), length })
    }

    pub const fn length(&self) -> u8 {
        self.length
    }

    /// Whether an address can be in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        (self.bits ^ other.bits) & self.mask & other.mask == 0
    }

    #[inline]
    pub fn contains(&self, address: Ipv6Addr) -> bool {
        u128::from(address) & self.mask == self.bits
    }

    /// The IPv6 address that stands for `address`; the suffix is zero.
    pub fn embed(&self, address: Ipv4Addr) -> Ipv6Addr {
        let v4 = u128::from(u32::from(address));
        if self.length == 96 {
            return Ipv6Addr::from(self.bits | v4);
        }
        // The 32 bits follow the prefix and step over bits 64 to 71.
        let before = u32::from(64 - self.length).min(32);
        let after = 32 - before;
        let high = if before == 0 { 0 } else { (v4 >> after) << (128 - u32::from(self.length) - before) };
        let low = if after == 0 { 0 } else { (v4 & ((1 << after) - 1)) << (56 - after) };
        Ipv6Addr::from(self.bits | high | low)
    }

    /// The IPv4 address inside `address`, or nothing when the prefix is not this one or bits 64 to 71 are set.
    pub fn extract(&self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        if !self.contains(address) {
            return None;
        }
        let bits = u128::from(address);
        if self.length == 96 {
            return Some(Ipv4Addr::from(bits as u32));
        }
        if bits & RESERVED != 0 {
            return None;
        }
        let before = u32::from(64 - self.length).min(32);
        let after = 32 - before;
        let high = if before == 0 { 0 } else { (bits >> (128 - u32::from(self.length) - before)) << after };
        let low = if after == 0 { 0 } else { (bits >> (56 - after)) & ((1 << after) - 1) };
        Some(Ipv4Addr::from((high | low) as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of RFC 6052 section 2.4.
    const EXAMPLES: [(&str, u8, &str); 6] = [
        ("2001:db8::", 32, "2001:db8:c000:221::"),
        ("2001:db8:100::", 40, "2001:db8:1c0:2:21::"),
        ("2001:db8:122::", 48, "2001:db8:122:c000:2:2100::"),
        ("2001:db8:122:300::", 56, "2001:db8:122:3c0:0:221::"),
        ("2001:db8:122:344::", 64, "2001:db8:122:344:c0:2:2100::"),
        ("2001:db8:122:344::", 96, "2001:db8:122:344::192.0.2.33"),
    ];

    #[test]
    fn the_examples_of_rfc_6052() {
        for (prefix, length, embedded) in EXAMPLES {
            let prefix = Prefix::new(prefix.parse().unwrap(), length).unwrap();
            let expected: Ipv6Addr = embedded.parse().unwrap();
            assert_eq!(prefix.embed(Ipv4Addr::new(192, 0, 2, 33)), expected, "/{length}");
            assert_eq!(prefix.extract(expected), Some(Ipv4Addr::new(192, 0, 2, 33)), "/{length}");
        }
    }

    #[test]
    fn unusable_prefixes_are_refused() {
        let address = |text: &str| text.parse::<Ipv6Addr>().unwrap();
        assert_eq!(Prefix::new(address("2001:db8::"), 97), Err(PrefixError::Length(97)));
        assert_eq!(Prefix::new(address("2001:db8::1"), 96), Err(PrefixError::HostBits));
        assert_eq!(Prefix::new(address("2001:db8:0:0:100::"), 96), Err(PrefixError::ReservedBits));
        let prefix = Prefix::new(address("2001:db8::"), 96).unwrap();
        assert_eq!(prefix.extract(address("2001:db9::1")), None);
    }
}
