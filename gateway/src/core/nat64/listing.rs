//! Bindings, sessions and counters as plain values, for people and for accounting.

use super::bindings::{Binding, Session};
use super::log::{Log, LogRow};
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
    /// Made by the administrator.
    pub fixed: bool,
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
    /// The address that the client knows the peer by.
    pub remote_v6: Option<Ipv6Addr>,
    /// Zero for ICMP.
    pub remote_port: u16,
    /// State of a TCP connection as in RFC 6146, "active" for UDP and ICMP.
    pub state: &'static str,
    /// Seconds until the session ends if it stays idle.
    pub expires_in: u64,
}

/// Which bindings or sessions somebody asks for; what is `None` matches all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub client: Option<Ipv6Addr>,
    pub protocol: Option<Protocol>,
    /// Port of the pool, or ICMP identifier.
    pub port: Option<u16>,
    /// The IPv4 peer, for sessions only.
    pub destination: Option<Ipv4Addr>,
}

impl Filter {
    fn takes(&self, binding: &Binding) -> bool {
        self.protocol.is_none_or(|protocol| protocol == binding.protocol)
            && self.port.is_none_or(|port| port == binding.mapped.port)
            && self.client.is_none_or(|client| client == binding.client)
    }
}

/// A walk over a table in steps, between which packets may pass. Entries that come or go meanwhile may be missed or seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The first place to look at.
    pub from: usize,
    /// Places to look at, at most.
    pub places: usize,
    /// Entries to take, at most.
    pub entries: usize,
}

impl Nat64 {
    pub fn stats(&self) -> Stats {
        let (bindings, sessions, clients) = self.tables.sizes();
        Stats {
            fragments_expired: self.fragments.expired,
            bindings_created: self.tables.bindings_created,
            sessions_created: self.tables.sessions_created,
            syns_held: self.held_syns.len() as u64,
            log_dropped: self.tables.log.as_ref().map_or(0, |log| log.dropped),
            table_bytes: self.tables.bytes() as u64,
            bindings: bindings as u64,
            static_bindings: self.tables.fixed.len() as u64,
            sessions: sessions as u64,
            clients: clients as u64,
            ..self.stats.clone()
        }
    }

    /// All bindings, by client, protocol and port.
    pub fn bindings(&self) -> Vec<BindingInfo> {
        let mut list: Vec<_> = self.tables.bindings.iter().map(|(_, binding)| self.binding_info(binding)).collect();
        list.sort_by_key(|info| (info.client, info.protocol, info.client_port));
        list
    }

    /// All sessions that have not ended at `now`, by client, protocol, port and peer.
    pub fn sessions(&self, now: Now) -> Vec<SessionInfo> {
        let alive = self.tables.sessions.iter().filter(|(_, session)| session.expires > now);
        let mut list: Vec<_> = alive.map(|(_, session)| self.session_info(now, session)).collect();
        list.sort_by_key(|info| (info.client, info.protocol, info.client_port, info.remote, info.remote_port));
        list
    }

    /// One step over the bindings, in an order of their own. Returns the place to go on at; none at the end.
    pub fn walk_bindings(&self, filter: &Filter, step: Step, out: &mut Vec<BindingInfo>) -> Option<usize> {
        let table = |place| self.tables.bindings.get(place).filter(|binding| filter.takes(binding));
        walk(step, self.tables.bindings.places(), |place| {
            table(place).map(|binding| out.push(self.binding_info(binding))).is_some()
        })
    }

    /// One step over the sessions that have not ended at `now`, as [`Self::walk_bindings`].
    pub fn walk_sessions(&self, now: Now, filter: &Filter, step: Step, out: &mut Vec<SessionInfo>) -> Option<usize> {
        let takes = |session: &&Session| {
            session.expires > now
                && filter.destination.is_none_or(|destination| destination == session.remote)
                && filter.takes(self.tables.binding(session.binding))
        };
        walk(step, self.tables.sessions.places(), |place| {
            let session = self.tables.sessions.get(place).filter(takes);
            session.map(|session| out.push(self.session_info(now, session))).is_some()
        })
    }

    /// Numbers of bindings and of sessions.
    pub fn sizes(&self) -> (usize, usize) {
        let (bindings, sessions, _) = self.tables.sizes();
        (bindings, sessions)
    }

    /// Moves up to `count` rows of the accounting log, oldest first, to the end of `out`; returns how many were lost
    /// since the last call.
    pub fn take_log(&mut self, count: usize, out: &mut Vec<LogRow>) -> u64 {
        self.tables.log.as_mut().map_or(0, |log| log.take(count, out))
    }

    /// Rows that wait in the accounting log.
    pub fn log_len(&self) -> usize {
        self.tables.log.as_ref().map_or(0, Log::len)
    }

    fn binding_info(&self, binding: &Binding) -> BindingInfo {
        BindingInfo {
            protocol: binding.protocol,
            client: binding.client,
            client_port: binding.port,
            address: self.tables.pool.address(binding.mapped.address),
            port: binding.mapped.port,
            sessions: binding.sessions,
            fixed: binding.fixed,
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
            remote_v6: self.config.mappings.embed(session.remote),
            remote_port: session.remote_port,
            state: session.tcp.map_or("active", |state| state.as_str()),
            expires_in: session.expires.since(now).as_secs(),
        }
    }
}

/// Looks at places until enough entries were taken; `take` tells whether it took one.
fn walk(step: Step, places: usize, mut take: impl FnMut(usize) -> bool) -> Option<usize> {
    let end = step.from.saturating_add(step.places).min(places);
    let mut taken = 0;
    for place in step.from..end {
        if taken == step.entries {
            return Some(place);
        }
        taken += usize::from(take(place));
    }
    (end < places).then_some(end)
}
