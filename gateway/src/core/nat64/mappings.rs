//! Which translation prefix stands for which part of the IPv4 Internet (RFC 6052 section 3.3 allows several).

use super::prefix::Prefix;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A prefix, and the IPv4 network whose hosts have their IPv6 addresses in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub prefix: Prefix,
    pub network: Ipv4Addr,
    /// Bits of the network, at most 32.
    pub length: u8,
}

impl Mapping {
    fn mask(&self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0)
    }

    fn covers(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask() == u32::from(self.network)
    }
}

/// Why mappings cannot be used together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MappingError {
    Empty,
    /// A network that is longer than 32 bits or has bits behind its length.
    Network(Ipv4Addr, u8),
    /// Two prefixes for one network.
    Duplicate(Ipv4Addr, u8),
    /// A prefix inside another one: an address would have two meanings.
    Overlap(Prefix, Prefix),
}

impl std::fmt::Display for MappingError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => write!(out, "no translation prefix"),
            Self::Network(network, length) => write!(out, "{network}/{length} is not an IPv4 network"),
            Self::Duplicate(network, length) => write!(out, "{network}/{length} has two translation prefixes"),
            Self::Overlap(inner, outer) => write!(out, "the translation prefixes {inner} and {outer} overlap"),
        }
    }
}

impl std::error::Error for MappingError {}

/// All mappings; the longest network that covers an IPv4 address decides about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mappings {
    /// Longest network first.
    list: Vec<Mapping>,
    /// The prefix of all of IPv4, if there is no other: each packet asks.
    all: Option<Prefix>,
}

impl From<Prefix> for Mappings {
    /// One prefix for all of IPv4.
    fn from(prefix: Prefix) -> Self {
        Self { list: vec![Mapping { prefix, network: Ipv4Addr::UNSPECIFIED, length: 0 }], all: Some(prefix) }
    }
}

impl Mappings {
    /// # Errors
    /// [`MappingError`] when an address could be translated in two ways, or none at all.
    pub fn new(mut list: Vec<Mapping>) -> Result<Self, MappingError> {
        if list.is_empty() {
            return Err(MappingError::Empty);
        }
        for mapping in &list {
            if mapping.length > 32 || u32::from(mapping.network) & !mapping.mask() != 0 {
                return Err(MappingError::Network(mapping.network, mapping.length));
            }
        }
        for (index, one) in list.iter().enumerate() {
            for other in &list[..index] {
                if (one.network, one.length) == (other.network, other.length) {
                    return Err(MappingError::Duplicate(one.network, one.length));
                }
                if one.prefix != other.prefix && one.prefix.overlaps(&other.prefix) {
                    return Err(MappingError::Overlap(one.prefix, other.prefix));
                }
            }
        }
        list.sort_by_key(|mapping| std::cmp::Reverse(mapping.length));
        let all = match &list[..] {
            [only] if only.length == 0 => Some(only.prefix),
            _ => None,
        };
        Ok(Self { list, all })
    }

    /// The IPv6 address of an IPv4 host; nothing when no network covers it.
    pub fn embed(&self, address: Ipv4Addr) -> Option<Ipv6Addr> {
        if let Some(prefix) = self.all {
            return Some(prefix.embed(address));
        }
        self.list.iter().find(|mapping| mapping.covers(address)).map(|mapping| mapping.prefix.embed(address))
    }

    /// The IPv4 host of an IPv6 address; nothing when its answers would come from another address.
    pub fn extract(&self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        if let Some(prefix) = self.all {
            return prefix.extract(address);
        }
        let inside = self.list.iter().find_map(|mapping| mapping.prefix.extract(address))?;
        (self.list.iter().find(|mapping| mapping.covers(inside))?.prefix.contains(address)).then_some(inside)
    }

    /// Whether an IPv6 address is in one of the prefixes.
    #[inline]
    pub fn contains(&self, address: Ipv6Addr) -> bool {
        if let Some(prefix) = &self.all {
            return prefix.contains(address);
        }
        self.list.iter().any(|mapping| mapping.prefix.contains(address))
    }

    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> {
        self.list.iter().map(|mapping| mapping.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(prefix: &str, network: &str, length: u8) -> Mapping {
        Mapping { prefix: Prefix::new(prefix.parse().unwrap(), 96).unwrap(), network: network.parse().unwrap(), length }
    }

    fn v6(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_network_decides_both_ways() {
        let list = vec![
            mapping("2001:db8:a::", "0.0.0.0", 0),
            mapping("2001:db8:b::", "10.0.0.0", 8),
            mapping("2001:db8:c::", "10.1.0.0", 16),
        ];
        let map = Mappings::new(list).unwrap();
        for (text, host) in [
            ("2001:db8:a::c000:201", [192, 0, 2, 1]),
            ("2001:db8:b::a02:1", [10, 2, 0, 1]),
            ("2001:db8:c::a01:1", [10, 1, 0, 1]),
        ] {
            assert_eq!(map.embed(host.into()), Some(v6(text)));
            assert_eq!(map.extract(v6(text)), Some(host.into()));
        }
        // Answers would come from 2001:db8:c::a01:1.
        assert_eq!(map.extract(v6("2001:db8:a::a01:1")), None);
        assert!(map.contains(v6("2001:db8:a::a01:1")) && !map.contains(v6("2001:db8:d::1")));
    }

    #[test]
    fn an_address_outside_all_networks_has_no_translation() {
        let map = Mappings::new(vec![mapping("2001:db8::", "10.0.0.0", 8)]).unwrap();
        assert_eq!(map.embed([192, 0, 2, 1].into()), None);
        assert_eq!(map.extract(v6("2001:db8::c000:201")), None);
    }

    #[test]
    fn ambiguous_mappings_are_refused() {
        let any = mapping("2001:db8::", "0.0.0.0", 0);
        assert_eq!(Mappings::new(Vec::new()), Err(MappingError::Empty));
        assert_eq!(
            Mappings::new(vec![any, mapping("2001:db8:1::", "0.0.0.0", 0)]),
            Err(MappingError::Duplicate(Ipv4Addr::UNSPECIFIED, 0))
        );
        let host_bits = mapping("2001:db8::", "10.0.0.1", 8);
        assert_eq!(Mappings::new(vec![host_bits]), Err(MappingError::Network([10, 0, 0, 1].into(), 8)));
        let outer = Prefix::new(v6("2001:db8::"), 32).unwrap();
        let overlap = Mapping { prefix: outer, network: [10, 0, 0, 0].into(), length: 8 };
        assert_eq!(Mappings::new(vec![any, overlap]), Err(MappingError::Overlap(outer, any.prefix)));
        let shared = Mapping { network: [10, 0, 0, 0].into(), length: 8, ..any };
        assert!(Mappings::new(vec![any, shared]).is_ok());
    }
}
