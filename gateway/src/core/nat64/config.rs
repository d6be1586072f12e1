//! What the translator is told, and the rules that spread work over shards.

use super::Protocol;
use super::access::OpenHosts;
use super::mappings::Mappings;
use super::shards::shard_of_client;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// A range of ports (and ICMP identifiers) of one IPv4 address; both ends belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolEntry {
    pub address: Ipv4Addr,
    pub first: u16,
    pub last: u16,
}

/// A mapping that the administrator made: it exists before the client sends and after it is silent, and its port is
/// never handed out to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticBinding {
    /// TCP or UDP.
    pub protocol: Protocol,
    pub client: Ipv6Addr,
    pub client_port: u16,
    /// Need not be in the pool, nor the port in one of its ranges.
    pub address: Ipv4Addr,
    pub port: u16,
}

/// Which packets from IPv4 may use a mapping (RFC 4787 section 5; RFC 6146 section 3.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filtering {
    /// From any IPv4 host.
    #[default]
    EndpointIndependent,
    /// Only from IPv4 hosts that the mapping has sent to.
    AddressDependent,
}

/// Idle lifetimes of sessions (RFC 6146 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP_EST: 2 hours 4 minutes.
    pub tcp_established: Duration,
    /// TCP_TRANS: 4 minutes.
    pub tcp_transitory: Duration,
    /// TCP_INCOMING_SYN: 6 seconds.
    pub tcp_incoming_syn: Duration,
    /// UDP_DEFAULT: 5 minutes.
    pub udp: Duration,
    /// ICMP_DEFAULT: 60 seconds.
    pub icmp: Duration,
    /// FRAGMENT_MIN: 2 seconds.
    pub fragment: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_established: Duration::from_secs(7440),
            tcp_transitory: Duration::from_secs(240),
            tcp_incoming_syn: Duration::from_secs(6),
            udp: Duration::from_secs(300),
            icmp: Duration::from_secs(60),
            fragment: Duration::from_secs(2),
        }
    }
}

/// Everything a [`super::Nat64`] needs to know. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Which prefix stands for an IPv4 host.
    pub mappings: Mappings,
    /// The first address is also the source of ICMP errors made here when no other is known.
    pub pool: Vec<PoolEntry>,
    /// Of all shards; each takes those of its clients.
    pub static_bindings: Vec<StaticBinding>,
    /// MTU towards IPv4, at least 1280.
    pub mtu: usize,
    /// MTU towards IPv6, at least 1280.
    pub ipv6_mtu: usize,
    /// Source of ICMPv6 errors made here.
    pub address: Ipv6Addr,
    pub timeouts: Timeouts,
    /// The Traffic Class of every IPv6 packet made here; none copies the Type of Service (RFC 7915 section 4.1).
    pub traffic_class: Option<u8>,
    /// The Type of Service of every IPv4 packet made here; none copies the Traffic Class (RFC 7915 section 5.1).
    pub tos: Option<u8>,
    pub filtering: Filtering,
    /// Limits of this instance: divide the deployment's limits by the number of shards.
    pub max_bindings: usize,
    pub max_sessions: usize,
    /// Limits of one IPv6 address.
    pub max_bindings_per_client: usize,
    pub max_sessions_per_client: usize,
    /// Packets whose fragments may be in flight at once, and the bytes held for those whose first is missing.
    pub max_fragmented_packets: usize,
    pub max_fragment_bytes: usize,
    /// ICMP errors made here per second; as many may be made in one burst.
    pub errors_per_second: u32,
    /// Whether the beginning and the end of each dynamic binding is noted for [`super::Nat64::take_log`].
    pub log_bindings: bool,
    /// What clients reach that [`super::Nat64::open_for`] does not name; none: everything.
    pub open_hosts: Option<Vec<OpenHosts>>,
    /// Secret of hash tables and port choice: whoever knows it can provoke collisions.
    pub seed: u64,
    /// This instance among `shards`.
    pub shard: usize,
    pub shards: usize,
}

/// Why a configuration cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    EmptyPool,
    /// A range whose first port is zero or behind its last.
    PortRange(PoolEntry),
    /// A pool address that no host can have.
    PoolAddress(Ipv4Addr),
    /// Below 1280 bytes.
    Mtu(usize),
    /// A lifetime of nothing: no session would live to see its answer.
    Timeout,
    /// No shards, or an index outside them.
    Shard,
    /// The source of ICMPv6 errors is not a unicast address.
    Address(Ipv6Addr),
    /// A static binding that no packet could use: port zero, no host, neither TCP nor UDP.
    StaticBinding(StaticBinding),
    /// A static binding that has the client's or the pool's port of another one.
    StaticCollision(StaticBinding),
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::EmptyPool => write!(out, "the IPv4 address and port pool is empty"),
            Self::PortRange(entry) => write!(out, "ports {}-{} are not a range of ports", entry.first, entry.last),
            Self::PoolAddress(address) => write!(out, "{address} cannot be the address of a host"),
            Self::Mtu(mtu) => write!(out, "an MTU of {mtu} bytes is below 1280"),
            Self::Timeout => write!(out, "a lifetime of zero seconds"),
            Self::Shard => write!(out, "the shard index is outside the number of shards"),
            Self::Address(address) => write!(out, "{address} cannot be the source of ICMPv6 errors"),
            Self::StaticBinding(entry) => write!(
                out,
                "the static binding of {} port {} to {} port {} ({}) can never be used",
                entry.address,
                entry.port,
                entry.client,
                entry.client_port,
                entry.protocol.as_str()
            ),
            Self::StaticCollision(entry) => write!(
                out,
                "two static bindings have {} port {} or {} port {} ({})",
                entry.address,
                entry.port,
                entry.client,
                entry.client_port,
                entry.protocol.as_str()
            ),
        }
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// A configuration with the defaults of RFC 6146, one shard and a fixed seed (give a secret one to a listener).
    pub fn new(mappings: impl Into<Mappings>, pool: Vec<PoolEntry>, address: Ipv6Addr) -> Self {
        Self {
            mappings: mappings.into(),
            pool,
            static_bindings: Vec::new(),
            mtu: 1500,
            ipv6_mtu: 1280,
            address,
            timeouts: Timeouts::default(),
            traffic_class: None,
            tos: None,
            filtering: Filtering::default(),
            max_bindings: 262_144,
            max_sessions: 524_288,
            max_bindings_per_client: 4096,
            max_sessions_per_client: 16_384,
            max_fragmented_packets: 1024,
            max_fragment_bytes: 1 << 20,
            errors_per_second: 1000,
            log_bindings: false,
            open_hosts: None,
            seed: 0x9e37_79b9_7f4a_7c15,
            shard: 0,
            shards: 1,
        }
    }

    /// # Errors
    /// [`ConfigError`] names the first value that cannot work.
    pub fn verify(&self) -> Result<(), ConfigError> {
        if self.pool.is_empty() {
            return Err(ConfigError::EmptyPool);
        }
        for entry in &self.pool {
            if entry.first == 0 || entry.first > entry.last {
                return Err(ConfigError::PortRange(*entry));
            }
            if !is_host(entry.address) {
                return Err(ConfigError::PoolAddress(entry.address));
            }
        }
        if let Some(mtu) = [self.mtu, self.ipv6_mtu].into_iter().find(|mtu| *mtu < 1280) {
            return Err(ConfigError::Mtu(mtu));
        }
        let times = &self.timeouts;
        let lifetimes = [times.tcp_established, times.tcp_transitory, times.tcp_incoming_syn, times.udp, times.icmp];
        if lifetimes.iter().any(Duration::is_zero) || times.fragment.is_zero() {
            return Err(ConfigError::Timeout);
        }
        if self.shard >= self.shards || self.shards > 1024 {
            return Err(ConfigError::Shard);
        }
        if self.address.is_multicast() || self.address.is_unspecified() {
            return Err(ConfigError::Address(self.address));
        }
        self.verify_static_bindings()
    }

    /// The static bindings of this shard's clients.
    pub(super) fn own_static_bindings(&self) -> impl Iterator<Item = &StaticBinding> {
        let own = |entry: &&StaticBinding| shard_of_client(entry.client, self.shards) == self.shard;
        self.static_bindings.iter().filter(own)
    }

    fn verify_static_bindings(&self) -> Result<(), ConfigError> {
        let mut outside = BTreeSet::new();
        let mut inside = BTreeSet::new();
        for entry in &self.static_bindings {
            let client = !entry.client.is_unspecified() && !entry.client.is_multicast() && !entry.client.is_loopback();
            let usable = client && !self.mappings.contains(entry.client) && is_host(entry.address);
            if !usable || entry.port == 0 || entry.client_port == 0 || entry.protocol == Protocol::Icmp {
                return Err(ConfigError::StaticBinding(*entry));
            }
            if !outside.insert((entry.protocol, entry.address, entry.port))
                || !inside.insert((entry.protocol, entry.client, entry.client_port))
            {
                return Err(ConfigError::StaticCollision(*entry));
            }
        }
        Ok(())
    }
}

/// Whether a packet may come from or go to this IPv4 address: not 0.0.0.0/8, loopback, multicast or class E.
pub(super) fn is_host(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    first != 0 && first != 127 && first < 224
}
