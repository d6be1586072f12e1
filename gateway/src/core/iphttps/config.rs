//! What the link is told, and what it refuses to be told.

use std::fmt;
use std::net::Ipv6Addr;
use std::time::Duration;

use super::advertise::advertisement;
use super::{Authentication, MTU};

/// A destination that the server leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub prefix: Ipv6Addr,
    pub length: u8,
}

impl Route {
    fn is_valid(&self) -> bool {
        let mask = u128::MAX.checked_shl(128 - u32::from(self.length.min(128))).unwrap_or(0);
        self.length <= 128 && u128::from(self.prefix) & !mask == 0
    }
}

impl fmt::Display for Route {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.prefix, self.length)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    pub authentication: Authentication,
    /// The server's link-local address, in fe80::/64.
    pub link_local: Ipv6Addr,
    /// The server's other addresses on the link; the first is the source of ICMPv6 errors.
    pub addresses: Vec<Ipv6Addr>,
    /// The clients' /64, advertised for address configuration.
    pub prefix: Ipv6Addr,
    /// Advertised as Route Information.
    pub routes: Vec<Route>,
    /// Of the routes, in seconds.
    pub route_lifetime: u32,
    /// In seconds; 0 unless the server shall be the clients' default router.
    pub router_lifetime: u16,
    /// The longest time between unsolicited advertisements (RFC 4861: MaxRtrAdvInterval).
    pub advertise_interval: Duration,
    pub max_sessions: usize,
    pub max_addresses_per_session: usize,
    /// An address unused for this long makes room for a new one of its session.
    pub idle_probe: Duration,
}

/// A configuration that makes no sense; the one in force stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// `link_local` is not in fe80::/64 or is fe80::.
    LinkLocal(Ipv6Addr),
    /// `addresses` is empty or holds something else than unicast addresses beyond the link.
    Addresses,
    /// `prefix` has bits behind the 64th, or is no unicast prefix.
    Prefix(Ipv6Addr),
    /// A route has bits behind its length, or a length over 128.
    Route(Route),
    /// The advertisement would not fit the MTU.
    TooManyRoutes(usize),
    /// `max_sessions`, `max_addresses_per_session` or `advertise_interval` is zero.
    Zero(&'static str),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LinkLocal(address) => write!(formatter, "link_local {address} is not an address in fe80::/64"),
            Self::Addresses => {
                formatter.write_str("addresses must hold at least one unicast address that is not link-local")
            }
            Self::Prefix(prefix) => write!(formatter, "prefix {prefix} is not the start of a unicast /64"),
            Self::Route(route) => write!(formatter, "route {route} is not a prefix"),
            Self::TooManyRoutes(count) => {
                write!(
                    formatter,
                    "{count} routes do not fit a router advertisement of {MTU} bytes; use shorter prefixes"
                )
            }
            Self::Zero(name) => write!(formatter, "{name} must not be zero"),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Whether an address is in fe80::/64: link-local addresses have 54 zero bits behind their prefix (RFC 4291 2.5.6).
pub(super) fn in_link_local(address: Ipv6Addr) -> bool {
    upper(address) == 0xfe80_0000_0000_0000
}

fn upper(address: Ipv6Addr) -> u64 {
    (u128::from(address) >> 64) as u64
}

impl LinkConfig {
    /// # Errors
    /// When it makes no sense.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !in_link_local(self.link_local) || self.link_local.segments()[4..] == [0; 4] {
            return Err(ConfigError::LinkLocal(self.link_local));
        }
        let usable = |address: Ipv6Addr| {
            !address.is_multicast()
                && !address.is_unspecified()
                && !address.is_loopback()
                && !address.is_unicast_link_local()
        };
        if self.addresses.is_empty() || !self.addresses.iter().all(|&address| usable(address)) {
            return Err(ConfigError::Addresses);
        }
        if self.prefix.segments()[4..] != [0; 4] || !usable(self.prefix) {
            return Err(ConfigError::Prefix(self.prefix));
        }
        if let Some(route) = self.routes.iter().find(|route| !route.is_valid()) {
            return Err(ConfigError::Route(*route));
        }
        if advertisement(self).packet_len() > MTU {
            return Err(ConfigError::TooManyRoutes(self.routes.len()));
        }
        for (name, zero) in [
            ("max_sessions", self.max_sessions == 0),
            ("max_addresses_per_session", self.max_addresses_per_session == 0),
            ("advertise_interval", self.advertise_interval.is_zero()),
        ] {
            if zero {
                return Err(ConfigError::Zero(name));
            }
        }
        Ok(())
    }

    /// Whether clients may have the address at all.
    pub(super) fn on_link(&self, address: Ipv6Addr) -> bool {
        in_link_local(address) || upper(address) == upper(self.prefix)
    }

    /// Whether the address is the server's: one of its own, or the subnet-router anycast address of either prefix
    /// (RFC 4291 section 2.6.1).
    pub(super) fn is_server(&self, address: Ipv6Addr) -> bool {
        address == self.link_local
            || self.addresses.contains(&address)
            || (self.on_link(address) && u128::from(address) as u64 == 0)
    }

    /// The source of an error sent to `destination`.
    pub(super) fn error_source(&self, destination: Ipv6Addr) -> Ipv6Addr {
        if in_link_local(destination) { self.link_local } else { self.addresses[0] }
    }
}
