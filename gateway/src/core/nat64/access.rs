//! Which IPv4 hosts a client reaches before its user has authenticated. Nobody is let further by default.

use super::bindings::Session;
use super::transport::Transport;
use super::{Nat64, Protocol};
use crate::core::time::Now;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

/// IPv4 hosts that every client reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenHosts {
    pub network: Ipv4Addr,
    /// Bits of the prefix, at most 32.
    pub length: u8,
    /// Only this TCP port; none: everything.
    pub port: Option<u16>,
}

impl OpenHosts {
    fn covers(&self, remote: Ipv4Addr, tcp_port: Option<u16>) -> bool {
        let shift = 32 - u32::from(self.length.min(32));
        let prefix = |address: Ipv4Addr| u64::from(u32::from(address)) >> shift;
        prefix(self.network) == prefix(remote) && (self.port.is_none() || self.port == tcp_port)
    }
}

impl Nat64 {
    /// Replaces the clients that reach everything. What the others have open now to hosts that are not for everybody
    /// ends. Returns the number of sessions that went.
    pub fn open_for(&mut self, now: Now, clients: BTreeSet<Ipv6Addr>) -> usize {
        let gone: BTreeSet<Ipv6Addr> = self.opened.difference(&clients).copied().collect();
        self.opened = clients;
        if gone.is_empty() { 0 } else { self.close_refused(now, |client| gone.contains(&client)) }
    }

    /// Ends sessions of clients that `whose` names, where they could not open them now.
    pub(super) fn close_refused(&mut self, now: Now, whose: impl Fn(Ipv6Addr) -> bool) -> usize {
        let refused = |nat: &Self, session: &Session| {
            let binding = nat.tables.binding(session.binding);
            let port = (binding.protocol == Protocol::Tcp).then_some(session.remote_port);
            whose(binding.client) && !nat.permits(binding.client, session.remote, port)
        };
        let places = 0..self.tables.sessions.places();
        let doomed: Vec<u32> = places
            .filter(|place| self.tables.sessions.get(*place).is_some_and(|session| refused(self, session)))
            .map(|place| place as u32)
            .collect();
        for id in &doomed {
            self.tables.remove_session(now, *id);
        }
        doomed.len()
    }

    /// Whether a client may send this: to hosts for everybody, as one of those that reach everything, or because the
    /// other end opened the session.
    pub(super) fn may_send(&self, now: Now, transport: &Transport, client: Ipv6Addr, remote: Ipv4Addr) -> bool {
        let protocol = transport.protocol;
        let port = (protocol == Protocol::Tcp).then_some(transport.destination_port);
        if self.permits(client, remote, port) {
            return true;
        }
        let remote_port = if protocol == Protocol::Icmp { 0 } else { transport.destination_port };
        self.tables
            .binding_of_client(protocol, client, transport.source_port)
            .is_some_and(|binding| self.tables.find_session(now, binding, remote, remote_port).is_some())
    }

    fn permits(&self, client: Ipv6Addr, remote: Ipv4Addr, tcp_port: Option<u16>) -> bool {
        self.config.open_hosts.as_ref().is_none_or(|hosts| {
            self.opened.contains(&client) || hosts.iter().any(|entry| entry.covers(remote, tcp_port))
        })
    }
}
