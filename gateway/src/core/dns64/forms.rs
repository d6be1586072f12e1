//! The text forms of the settings' values, each valid by construction.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::config::ConfigError;
use super::name::Name;
use super::prefix::{Ipv4Network, Prefix};

/// The port of a server written without one.
const DNS_PORT: u16 = 53;

/// A DNS suffix; the empty one covers every name. A leading dot changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Suffix(pub Box<Name>);

impl FromStr for Suffix {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match Name::from_text(text.strip_prefix('.').unwrap_or(text)) {
            Some(name) => Ok(Self(Box::new(name.lower()))),
            None => Err(ConfigError(format!(
                "\"{text}\" is not a DNS suffix; write labels of 1 to 63 ASCII characters separated by dots"
            ))),
        }
    }
}

impl fmt::Display for Suffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_root() { Ok(()) } else { write!(f, "{}", self.0) }
    }
}

/// One entry of the exclusion list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Exclusion {
    /// Names under this suffix are answered as the servers answer them.
    Suffix(Suffix),
    /// AAAA records in this range count as absent (RFC 6147 section 5.1.4).
    Range { address: Ipv6Addr, length: u8 },
}

impl FromStr for Exclusion {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let Some((address, length)) = text.split_once('/') else {
            if text.contains(':') {
                return Err(ConfigError(format!("\"{text}\" has no prefix length; write {text}/128 for one address")));
            }
            return text.parse().map(Self::Suffix);
        };
        match (address.parse(), length.parse()) {
            (Ok(address), Ok(length)) if length <= 128 => Ok(Self::Range { address, length }),
            _ => Err(ConfigError(format!("\"{text}\" is not an IPv6 prefix; write it like 2001:db8::/32"))),
        }
    }
}

impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Suffix(suffix) => write!(f, "{suffix}"),
            Self::Range { address, length } => write!(f, "{address}/{length}"),
        }
    }
}

/// A DNS server: an address and a port, 53 unless written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Server(pub SocketAddr);

impl FromStr for Server {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let address = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, DNS_PORT));
        match address.or_else(|_| text.parse::<SocketAddr>()) {
            Ok(address) if address.ip().is_unspecified() || address.ip().is_multicast() || address.port() == 0 => {
                Err(ConfigError(format!("\"{text}\" cannot be asked; give the unicast address of a DNS server")))
            }
            Ok(address) => Ok(Self(address)),
            Err(_) => Err(ConfigError(format!(
                "\"{text}\" is not a DNS server; write 10.0.0.53, 10.0.0.53:5353, fd00::53 or [fd00::53]:5353"
            ))),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.port() == DNS_PORT { write!(f, "{}", self.0.ip()) } else { write!(f, "{}", self.0) }
    }
}

/// A range of IPv4 or IPv6 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    length: u8,
}

impl Network {
    /// True for an address of the range; an IPv4 address in IPv6 form counts as IPv4.
    pub fn contains(self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (u32::from(own) ^ u32::from(other)).checked_shr(32 - u32::from(self.length)).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (u128::from(own) ^ u128::from(other)).checked_shr(128 - u32::from(self.length)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let parts = text
            .split_once('/')
            .and_then(|(address, length)| Some((address.parse::<IpAddr>().ok()?, length.parse::<u8>().ok()?)));
        let bits = |address: IpAddr| if address.is_ipv4() { 32 } else { 128 };
        let Some((address, length)) = parts.filter(|&(address, length)| length <= bits(address)) else {
            return Err(ConfigError(format!(
                "\"{text}\" is not an address range; write it like fd00::/48 or 10.0.0.0/8"
            )));
        };
        let behind = match address {
            IpAddr::V4(address) => u128::from(u32::from(address)) << 96,
            IpAddr::V6(address) => u128::from(address),
        };
        if behind.checked_shl(length.into()).unwrap_or(0) != 0 {
            return Err(ConfigError(format!("\"{text}\" has bits set behind its length; clear them")));
        }
        Ok(Self { address, length })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// Text forms for serde, by way of `FromStr` and `Display`.
macro_rules! text_form {
    ($($type:ty),*) => {$(
        impl TryFrom<String> for $type {
            type Error = ConfigError;

            fn try_from(text: String) -> Result<Self, ConfigError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    )*};
}

text_form!(Suffix, Exclusion, Server, Network, Ipv4Network, Prefix);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_what_they_say() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.1.2.3", "11.0.0.1"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "fd00::1"),
            ("fd00:1::/32", "fd00:1:ffff::1", "fd00:2::1"),
            ("10.0.0.1/32", "10.0.0.1", "10.0.0.2"),
            ("0.0.0.0/0", "10.0.0.1", "::1"),
        ] {
            let range: Network = network.parse().expect("valid");
            assert!(range.contains(inside.parse().expect("an address")), "{network} {inside}");
            assert!(!range.contains(outside.parse().expect("an address")), "{network} {outside}");
            assert_eq!(range.to_string(), network);
        }
    }
}
