//! What the gateway is told: JSON documents, taken as a whole or refused with the name of the field.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Deserializer};

use crate::core::dns64::config::Config as Dns64;

/// An IPv6 prefix, written `fd00::/64`, without host bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    pub address: Ipv6Addr,
    pub len: u8,
}

impl Prefix {
    pub fn contains(&self, address: Ipv6Addr) -> bool {
        let shift = 128 - u32::from(self.len);
        self.len == 0 || u128::from(self.address) >> shift == u128::from(address) >> shift
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parsed = text.split_once('/').and_then(|(address, len)| {
            let prefix = Self { address: address.parse().ok()?, len: len.parse().ok()? };
            (prefix.len <= 128).then_some(prefix)
        });
        let prefix = parsed.ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not an IPv6 prefix")))?;
        let host = u128::MAX.checked_shr(u32::from(prefix.len)).unwrap_or(0);
        if u128::from(prefix.address) & host != 0 {
            return Err(serde::de::Error::custom(format!("{text:?} has bits behind its length")));
        }
        Ok(prefix)
    }
}

/// Who may open a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Authentication {
    /// Clients with a certificate of one of the client authorities.
    Certificates,
    /// Everybody.
    None,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    pub workers: usize,
    pub iphttps: IpHttps,
    pub http: Http,
    pub tls: Tls,
    #[serde(default)]
    pub revoked: Vec<Revoked>,
    #[serde(default)]
    pub nat64: Option<Nat64>,
    #[serde(default)]
    pub dns64: Option<Dns64>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IpHttps {
    pub authentication: Authentication,
    pub link_local: Ipv6Addr,
    pub addresses: Vec<Ipv6Addr>,
    pub prefix: Prefix,
    pub routes: Vec<Prefix>,
    /// Seconds.
    pub route_lifetime: u32,
    /// Seconds; 0 when the server is no default router.
    pub router_lifetime: u16,
    /// Seconds between unsolicited advertisements.
    pub advertise_interval: u32,
    pub max_sessions: usize,
    pub max_addresses_per_session: usize,
    pub max_handshakes: usize,
    /// Seconds.
    pub handshake_timeout: f64,
    /// Seconds.
    pub request_timeout: f64,
    /// Seconds of silence after which an owner is probed.
    pub idle_probe: f64,
    pub segments: bool,
    /// Bytes that may wait for one client.
    pub queue_bytes: usize,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    pub paths: Vec<String>,
    pub max_body: usize,
    pub max_pending: usize,
    /// Seconds.
    pub timeout: f64,
}

/// What records are sealed with, in TLS 1.3 and 1.2 alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Cipher {
    #[serde(rename = "aes-128-gcm")]
    Aes128Gcm,
    #[serde(rename = "aes-256-gcm")]
    Aes256Gcm,
    #[serde(rename = "chacha20-poly1305")]
    Chacha20Poly1305,
}

impl Cipher {
    /// The order of preference of who says nothing else. The first is the fastest by far where processors have
    /// instructions for AES and SHA-256, which its suites go with: for records, and for handshakes, too.
    pub const PREFERRED: [Self; 3] = [Self::Aes128Gcm, Self::Aes256Gcm, Self::Chacha20Poly1305];
}

fn preferred_ciphers() -> Vec<Cipher> {
    Cipher::PREFERRED.to_vec()
}

#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM.
    pub certificate_chain: String,
    /// PEM.
    pub private_key: String,
    /// PEM, any number of authorities.
    pub client_ca: String,
    /// 64 hexadecimal digits each; the first encrypts, all decrypt.
    pub ticket_keys: Vec<String>,
    pub minimum_version: String,
    /// Those that are accepted; the first that a client has is taken, whatever the client prefers.
    #[serde(default = "preferred_ciphers")]
    pub ciphers: Vec<Cipher>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(secrets)")
    }
}

/// A certificate that must not be used any more.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoked {
    pub issuer_sha256: String,
    pub serial: String,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nat64 {
    /// Stands for all of IPv4; short for one mapping.
    #[serde(default)]
    pub prefix: Option<Prefix>,
    #[serde(default)]
    pub prefix_mappings: Vec<PrefixMapping>,
    pub pool: Vec<Pool>,
    pub mtu: usize,
    pub ipv6_mtu: usize,
    pub address: Ipv6Addr,
    /// Seconds, as the three that follow.
    pub tcp_established: u32,
    pub tcp_transitory: u32,
    pub udp: u32,
    pub icmp: u32,
    pub max_bindings: usize,
    pub max_bindings_per_client: usize,
    /// Twice the bindings when it is not given.
    #[serde(default)]
    pub max_sessions: Option<usize>,
    /// Four times the bindings of a client when it is not given.
    #[serde(default)]
    pub max_sessions_per_client: Option<usize>,
    #[serde(default)]
    pub filtering: Filtering,
    /// In both directions.
    #[serde(default)]
    pub traffic_class: TrafficClass,
    /// ICMP errors, of all workers together; 0 sends none.
    #[serde(default = "hundred")]
    pub errors_per_second: u32,
    #[serde(default)]
    pub static_bindings: Vec<StaticBinding>,
    #[serde(default)]
    pub log_bindings: bool,
    /// What clients reach whose users have not authenticated; everything when it is not given.
    #[serde(default)]
    pub open_hosts: Option<Vec<OpenHosts>>,
}

/// Hosts for everybody.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenHosts {
    pub network: Network,
    /// Only this TCP port.
    #[serde(default)]
    pub port: Option<u16>,
}

/// Which packets from IPv4 may use a binding (RFC 6146 section 3.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filtering {
    #[default]
    EndpointIndependent,
    AddressDependent,
}

/// What becomes of Traffic Class and Type of Service (RFC 7915 sections 4.1 and 5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrafficClass {
    #[default]
    Copy,
    Zero,
}

/// A translation prefix for the hosts of an IPv4 network; the longest network that covers a host counts.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrefixMapping {
    pub prefix: Prefix,
    pub network: Network,
}

/// An IPv4 network, written `10.0.0.0/8`, without host bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    pub address: Ipv4Addr,
    pub len: u8,
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parsed = text.split_once('/').and_then(|(address, len)| {
            let network = Self { address: address.parse().ok()?, len: len.parse().ok()? };
            (network.len <= 32).then_some(network)
        });
        let network = parsed.ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not an IPv4 network")))?;
        let host = u32::MAX.checked_shr(u32::from(network.len)).unwrap_or(0);
        if u32::from(network.address) & host != 0 {
            return Err(serde::de::Error::custom(format!("{text:?} has bits behind its length")));
        }
        Ok(network)
    }
}

/// A port that the administrator gave to a client for good.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticBinding {
    pub protocol: StaticProtocol,
    pub client: Ipv6Addr,
    pub client_port: u16,
    /// Of the pool, or another one of this server.
    pub address: Ipv4Addr,
    pub port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StaticProtocol {
    Tcp,
    Udp,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    pub address: Ipv4Addr,
    /// First and last, both included.
    pub ports: (u16, u16),
}

#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientConfig {
    pub url: String,
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// PEM.
    pub trust: String,
    #[serde(default)]
    pub certificate_chain: Option<String>,
    #[serde(default)]
    pub private_key: Option<String>,
    #[serde(default)]
    pub proxy: Option<Proxy>,
    pub link_local: Ipv6Addr,
    #[serde(default = "yes")]
    pub segments: bool,
    /// Seconds.
    #[serde(default = "ten")]
    pub connect_timeout: f64,
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientConfig({})", self.url)
    }
}

#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proxy {
    pub host: String,
    pub port: u16,
    #[serde(default)]
    pub user: Option<String>,
    #[serde(default)]
    pub password: Option<String>,
}

fn yes() -> bool {
    true
}

fn hundred() -> u32 {
    100
}

fn ten() -> f64 {
    10.0
}

/// Why a configuration was refused; the text names the field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl ServerConfig {
    /// Reads and checks a document.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let config: Self = serde_json::from_str(text).map_err(|error| Refused(error.to_string()))?;
        let check = |good: bool, text: &str| if good { Ok(()) } else { Err(Refused(text.to_owned())) };
        let seconds = |value: f64| value > 0.0 && value <= 86_400.0;
        check((1..=256).contains(&config.workers), "workers: 1 to 256")?;
        check(config.iphttps.prefix.len == 64, "iphttps.prefix: must be a /64, addresses are made by SLAAC")?;
        check(config.iphttps.max_sessions > 0, "iphttps.max_sessions: at least 1")?;
        check(config.iphttps.max_addresses_per_session > 0, "iphttps.max_addresses_per_session: at least 1")?;
        check(config.iphttps.max_handshakes > 0, "iphttps.max_handshakes: at least 1")?;
        check(seconds(config.iphttps.handshake_timeout), "iphttps.handshake_timeout: seconds, at most a day")?;
        check(seconds(config.iphttps.request_timeout), "iphttps.request_timeout: seconds, at most a day")?;
        check(seconds(config.iphttps.idle_probe), "iphttps.idle_probe: seconds, at most a day")?;
        check(config.iphttps.queue_bytes >= 65_536 + 64, "iphttps.queue_bytes: less than one super-segment")?;
        check(seconds(config.http.timeout), "http.timeout: seconds, at most a day")?;
        if let Some(nat64) = &config.nat64 {
            let all = Network { address: Ipv4Addr::UNSPECIFIED, len: 0 };
            let consistent = nat64.prefix.is_none_or(|prefix| {
                nat64.prefix_mappings.is_empty()
                    || nat64.prefix_mappings.contains(&PrefixMapping { prefix, network: all })
            });
            check(consistent, "nat64.prefix: contradicts nat64.prefix_mappings; give one of them")?;
            check(!nat64.pool.is_empty(), "nat64.pool: at least one address")?;
            let ordered = nat64.pool.iter().all(|pool| pool.ports.0 > 0 && pool.ports.0 <= pool.ports.1);
            check(ordered, "nat64.pool: ports from 1, first not above last")?;
            check(nat64.mtu >= 68 && nat64.ipv6_mtu >= 1280, "nat64.mtu: below what IP allows")?;
        }
        Ok(config)
    }
}

/// Where a client dials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub host: String,
    pub port: u16,
    pub path: String,
}

impl Url {
    /// Reads `https://host[:port]/path`; IPv6 addresses in brackets.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let refused = || Refused(format!("url: {text:?} is not https://host[:port]/path"));
        let rest = text.strip_prefix("https://").ok_or_else(refused)?;
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let (host, port) = if let Some(bracketed) = authority.strip_prefix('[') {
            let (host, after) = bracketed.split_once(']').ok_or_else(refused)?;
            (host, after.strip_prefix(':'))
        } else {
            authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)))
        };
        let port = port.map_or(Ok(443), str::parse).map_err(|_| refused())?;
        let clean = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if host.is_empty() || !clean(host) || !clean(path) {
            return Err(refused());
        }
        Ok(Self { host: host.to_owned(), port, path: path.to_owned() })
    }

    /// As the Host header and CONNECT name it.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl ClientConfig {
    /// Reads and checks a document.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let config: Self = serde_json::from_str(text).map_err(|error| Refused(error.to_string()))?;
        Url::parse(&config.url)?;
        if config.certificate_chain.is_some() != config.private_key.is_some() {
            return Err(Refused("private_key: a certificate and its key come together".to_owned()));
        }
        if !(config.connect_timeout > 0.0 && config.connect_timeout <= 3600.0) {
            return Err(Refused("connect_timeout: seconds, at most an hour".to_owned()));
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let url = Url::parse("https://da.example.net/IPHTTPS").unwrap();
        assert_eq!((url.host.as_str(), url.port, url.path.as_str()), ("da.example.net", 443, "/IPHTTPS"));
        let url = Url::parse("https://[2001:db8::1]:8443/x").unwrap();
        assert_eq!(
            (url.host.as_str(), url.port, url.authority().as_str()),
            ("2001:db8::1", 8443, "[2001:db8::1]:8443")
        );
        for bad in ["http://a/", "https:///x", "https://a:99999/", "https://[::1/", "https://a b/"] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn prefixes() {
        let read = |text: &str| serde_json::from_str::<Prefix>(&format!("{text:?}"));
        assert!(read("fd00::/64").unwrap().contains("fd00::5".parse().unwrap()));
        assert!(read("::/0").unwrap().contains("fd00::5".parse().unwrap()));
        assert!(!read("fd00::/64").unwrap().contains("fd00:0:0:1::5".parse().unwrap()));
        for bad in ["fd00::1/64", "fd00::", "fd00::/129", "10.0.0.0/8"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn unknown_fields_are_named() {
        let error = ClientConfig::parse(r#"{"url":"https://a/b","trust":"","link_local":"fe80::2","colour":1}"#);
        assert!(error.unwrap_err().0.contains("colour"));
    }
}
