//! Bindings, sessions and counters as plain values, for people and for accounting.

use super::bindings::{Binding, Session};
use super::{Nat64, Protocol, Stats};
use crate::core::time::Now;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A mapping of an IPv6 transport address to one of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindingInfo {
    pub protocol: Protocol,
    pub client: Ipv6Addr,
    /// Port, or ICMP identifier.
    pub client_port: u16,
    pub address: Ipv4Addr,
    pub port: u16,
    pub sessions: u32,
}

/// A binding in use with one IPv4 peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    pub protocol: Protocol,
    pub client: Ipv6Addr,
    pub client_port: u16,
    pub address: Ipv4Addr,
    pub port: u16,
    pub remote: Ipv4Addr,
    /// Zero for ICMP.
    pub remote_port: u16,
    /// State of a TCP connection as in RFC 6146, "active" for UDP and ICMP.
    pub state: &'static str,
    /// Seconds until the session ends if it stays idle.
    pub expires_in: u64,
}

impl Nat64 {
    pub fn stats(&self) -> Stats {
        let (bindings, sessions, clients) = self.tables.sizes();
        Stats {
            fragments_expired: self.fragments.expired,
            bindings_created: self.tables.bindings_created,
            sessions_created: self.tables.sessions_created,
            bindings: bindings as u64,
            sessions: sessions as u64,
            clients: clients as u64,
            ..self.stats.clone()
        }
    }

    /// All bindings, by client, protocol and port.
    pub fn bindings(&self) -> Vec<BindingInfo> {
        let mut list: Vec<_> = self.tables.bindings().map(|binding| self.binding_info(binding)).collect();
        list.sort_by_key(|info| (info.client, info.protocol, info.client_port));
        list
    }

    /// All sessions that have not ended at `now`, by client, protocol, port and peer.
    pub fn sessions(&self, now: Now) -> Vec<SessionInfo> {
        let alive = self.tables.sessions().filter(|session| session.expires > now);
        let mut list: Vec<_> = alive.map(|session| self.session_info(now, session)).collect();
        list.sort_by_key(|info| (info.client, info.protocol, info.client_port, info.remote, info.remote_port));
        list
    }

    fn binding_info(&self, binding: &Binding) -> BindingInfo {
        BindingInfo {
            protocol: binding.protocol,
            client: binding.client,
            client_port: binding.port,
            address: self.tables.pool.address(binding.mapped.address),
            port: binding.mapped.port,
            sessions: binding.sessions,
        }
    }

    fn session_info(&self, now: Now, session: &Session) -> SessionInfo {
        let binding = self.tables.binding(session.binding);
        SessionInfo {
            protocol: binding.protocol,
            client: binding.client,
            client_port: binding.port,
            address: self.tables.pool.address(binding.mapped.address),
            port: binding.mapped.port,
            remote: session.remote,
            remote_port: session.remote_port,
            state: session.tcp.map_or("active", |state| state.as_str()),
            expires_in: session.expires.since(now).as_secs(),
        }
    }
}
