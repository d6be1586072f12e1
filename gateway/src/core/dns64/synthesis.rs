//! Addresses of IPv4 hosts in IPv6 (RFC 6052) and the answers made of them (RFC 6147 section 5).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::config::ConfigError;

/// A Pref64::/n. The lengths of RFC 6052 section 2.2 are 32, 40, 48, 56, 64 and 96.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
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
}
