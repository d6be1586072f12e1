//! Addresses of IPv4 hosts in IPv6 (RFC 6052): the prefixes, and which of them stands for which IPv4 network.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::config::ConfigError;

/// Entries of the list of prefix mappings.
pub const MAX_MAPPINGS: usize = 256;

/// A Pref64::/n. The lengths of RFC 6052 section 2.2 are 32, 40, 48, 56, 64 and 96.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    address: Ipv6Addr,
    length: u8,
}

impl Prefix {
    /// # Errors
    /// A length that RFC 6052 does not define, or bits set behind the prefix or in bits 64 to 71.
    pub fn new(address: Ipv6Addr, length: u8) -> Result<Self, ConfigError> {
        if !matches!(length, 32 | 40 | 48 | 56 | 64 | 96) {
            return Err(ConfigError(format!(
                "{address}/{length} is not a NAT64 prefix; RFC 6052 defines the lengths 32, 40, 48, 56, 64 and 96"
            )));
        }
        let bytes = address.octets();
        if bytes[usize::from(length / 8)..].iter().any(|&byte| byte != 0) {
            return Err(ConfigError(format!("{address}/{length} has bits set behind the prefix; clear them")));
        }
        if bytes[8] != 0 {
            return Err(ConfigError(format!("{address}/{length} has bits 64 to 71 set; RFC 6052 keeps them zero")));
        }
        Ok(Self { address, length })
    }

    pub fn address(self) -> Ipv6Addr {
        self.address
    }

    pub fn length(self) -> u8 {
        self.length
    }

    /// Positions of the four IPv4 bytes; they step over byte 8 (bits 64 to 71).
    fn positions(self) -> [usize; 4] {
        match self.length {
            32 => [4, 5, 6, 7],
            40 => [5, 6, 7, 9],
            48 => [6, 7, 9, 10],
            56 => [7, 9, 10, 11],
            64 => [9, 10, 11, 12],
            _ => [12, 13, 14, 15],
        }
    }

    /// True when one address could lie under both.
    fn overlaps(self, other: Self) -> bool {
        let common = usize::from(self.length.min(other.length) / 8);
        self.address.octets()[..common] == other.address.octets()[..common]
    }

    /// The IPv6 address of an IPv4 host.
    pub fn embed(self, address: Ipv4Addr) -> Ipv6Addr {
        let mut bytes = self.address.octets();
        for (position, byte) in self.positions().into_iter().zip(address.octets()) {
            bytes[position] = byte;
        }
        bytes.into()
    }

    /// The IPv4 host of an address under the prefix. The suffix bits are ignored, as RFC 6052 section 2.2 asks.
    pub fn extract(self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        let bytes = address.octets();
        let length = usize::from(self.length / 8);
        (bytes[..length] == self.address.octets()[..length])
            .then(|| self.positions().map(|position| bytes[position]).into())
    }
}

impl FromStr for Prefix {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let parts =
            text.split_once('/').and_then(|(address, length)| Some((address.parse().ok()?, length.parse().ok()?)));
        match parts {
            Some((address, length)) => Self::new(address, length),
            None => {
                Err(ConfigError(format!("\"{text}\" is not an IPv6 prefix; write it like fd7c:1a2b:3c4d:7777::/96")))
            }
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// An IPv4 network in the form 10.0.0.0/8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Network {
    address: Ipv4Addr,
    length: u8,
}

impl Ipv4Network {
    /// Every IPv4 address.
    pub const ALL: Self = Self { address: Ipv4Addr::UNSPECIFIED, length: 0 };

    pub fn contains(self, address: Ipv4Addr) -> bool {
        (u32::from(address) ^ u32::from(self.address)) & self.mask() == 0
    }

    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0)
    }
}

impl FromStr for Ipv4Network {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let parts =
            text.split_once('/').and_then(|(address, length)| Some((address.parse().ok()?, length.parse().ok()?)));
        let Some((address, length @ 0..=32)) = parts else {
            return Err(ConfigError(format!("\"{text}\" is not an IPv4 network; write it like 10.0.0.0/8")));
        };
        let network = Self { address, length };
        if u32::from(address) & !network.mask() != 0 {
            return Err(ConfigError(format!("\"{text}\" has bits set behind its length; clear them")));
        }
        Ok(network)
    }
}

impl fmt::Display for Ipv4Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// The prefix that stands for one IPv4 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    pub prefix: Prefix,
    pub network: Ipv4Network,
}

/// All mappings (PrefixMapping of Windows): the longest network that holds an IPv4 address decides its prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mappings {
    /// As they were written.
    written: Vec<Mapping>,
    /// The longest network first.
    by_length: Vec<Mapping>,
}

impl Mappings {
    /// # Errors
    /// No mapping or too many, one network twice, or two prefixes one of which lies inside the other: an address under
    /// both would name two hosts.
    pub fn new(written: Vec<Mapping>) -> Result<Self, ConfigError> {
        if written.is_empty() || written.len() > MAX_MAPPINGS {
            return Err(ConfigError(format!(
                "dns64.prefix_mappings has {} entries; give 1 to {MAX_MAPPINGS}",
                written.len()
            )));
        }
        for (index, mapping) in written.iter().enumerate() {
            for other in &written[..index] {
                if mapping.network == other.network {
                    return Err(ConfigError(format!(
                        "dns64.prefix_mappings names {} twice; one prefix stands for it",
                        mapping.network
                    )));
                }
                if mapping.prefix != other.prefix && mapping.prefix.overlaps(other.prefix) {
                    return Err(ConfigError(format!(
                        "dns64.prefix_mappings: {} and {} overlap; take prefixes apart from each other",
                        mapping.prefix, other.prefix
                    )));
                }
            }
        }
        let mut by_length = written.clone();
        by_length.sort_by_key(|mapping| std::cmp::Reverse(mapping.network.length));
        Ok(Self { written, by_length })
    }

    /// The IPv6 address of an IPv4 host; `None` for a host that no mapping covers.
    pub fn embed(&self, address: Ipv4Addr) -> Option<Ipv6Addr> {
        let mapping = self.by_length.iter().find(|mapping| mapping.network.contains(address))?;
        Some(mapping.prefix.embed(address))
    }

    /// The IPv4 host of an address under any of the prefixes.
    pub fn extract(&self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        self.written.iter().find_map(|mapping| mapping.prefix.extract(address))
    }

    /// The prefixes as they were written, each once.
    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> {
        let seen_before =
            |index: usize| self.written[..index].iter().any(|other| other.prefix == self.written[index].prefix);
        (0..self.written.len()).filter(move |&index| !seen_before(index)).map(|index| self.written[index].prefix)
    }

    pub fn as_written(&self) -> &[Mapping] {
        &self.written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6052 section 2.4, table 2.
    #[test]
    fn the_examples_of_rfc_6052() {
        let host = Ipv4Addr::new(192, 0, 2, 33);
        for (prefix, address) in [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
        ] {
            let prefix: Prefix = prefix.parse().expect("a prefix");
            let address: Ipv6Addr = address.parse().expect("an address");
            assert_eq!(prefix.embed(host), address, "{prefix}");
            assert_eq!(prefix.extract(address), Some(host), "{prefix}");
            assert_eq!(prefix.extract("fd00::1".parse().expect("an address")), None, "{prefix}");
        }
    }

    fn mappings(pairs: &[(&str, &str)]) -> Result<Mappings, ConfigError> {
        let mapping =
            |&(prefix, network): &(&str, &str)| Ok(Mapping { prefix: prefix.parse()?, network: network.parse()? });
        Mappings::new(pairs.iter().map(mapping).collect::<Result<_, ConfigError>>()?)
    }

    #[test]
    fn the_longest_network_decides_and_every_prefix_is_known() {
        let mappings = mappings(&[
            ("fd00:1::/96", "10.0.0.0/8"),
            ("fd00:2::/96", "10.1.0.0/16"),
            ("fd00:1::/96", "192.168.0.0/16"),
            ("fd00:3::/64", "10.1.2.3/32"),
        ])
        .expect("valid");
        let embed = |text: &str| mappings.embed(text.parse().expect("an address")).map(|address| address.to_string());
        assert_eq!(embed("10.9.0.1").as_deref(), Some("fd00:1::a09:1"));
        assert_eq!(embed("10.1.0.1").as_deref(), Some("fd00:2::a01:1"));
        assert_eq!(embed("10.1.2.3").as_deref(), Some("fd00:3::a:102:300:0"));
        assert_eq!(embed("192.168.7.7").as_deref(), Some("fd00:1::c0a8:707"));
        assert_eq!(embed("172.16.0.1"), None);
        let extract =
            |text: &str| mappings.extract(text.parse().expect("an address")).map(|address| address.to_string());
        assert_eq!(extract("fd00:2::a01:1").as_deref(), Some("10.1.0.1"));
        assert_eq!(extract("fd00:3::a:102:300:0").as_deref(), Some("10.1.2.3"));
        assert_eq!(extract("fd00:4::1"), None);
        let prefixes: Vec<String> = mappings.prefixes().map(|prefix| prefix.to_string()).collect();
        assert_eq!(prefixes, ["fd00:1::/96", "fd00:2::/96", "fd00:3::/64"]);
    }

    #[test]
    fn mappings_that_contradict_each_other_are_refused() {
        for (pairs, words) in [
            (&[][..], "0 entries"),
            (&[("fd00::/96", "10.0.0.0/8"), ("fd01::/96", "10.0.0.0/8")], "twice"),
            (&[("fd00::/96", "10.0.0.0/8"), ("fd00::/64", "10.1.0.0/16")], "overlap"),
            (&[("fd00::/96", "10.0.0.1/8")], "bits set behind"),
            (&[("fd00::/96", "10.0.0.0/33")], "not an IPv4 network"),
        ] {
            let error = mappings(pairs).expect_err(words);
            assert!(error.0.contains(words), "{error}");
        }
    }
}
