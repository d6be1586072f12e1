//! The Binding Information Base and the session table (RFC 6146 sections 3.1 and 3.2).
//!
//! A binding ties an IPv6 transport address to a port of the pool; it exists as long as it has sessions, or for good if
//! the administrator made it. A session is a binding and an IPv4 peer. Every table has a limit, and a limit for each
//! client.

use super::Protocol;
use super::config::{Config, Filtering, StaticBinding};
use super::hash::Seed;
use super::log::{Log, LogRow};
use super::ports::{Mapped, Pool};
use super::stats::Reason;
use super::storage::{Entry, NONE, Table};
use super::tcp_state::TcpState;
use super::timers::Wheel;
use crate::core::time::Now;
use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::net::{Ipv4Addr, Ipv6Addr};

#[derive(Clone, Copy, Debug)]
pub struct Binding {
    pub protocol: Protocol,
    pub client: Ipv6Addr,
    /// Port or ICMP identifier of the client.
    pub port: u16,
    pub mapped: Mapped,
    pub sessions: u32,
    /// Made by the administrator: stays without sessions.
    pub fixed: bool,
    next: u32,
}

/// Client address, protocol and port.
pub(super) type ClientKey = (u128, u32);

pub(super) fn client_key(protocol: Protocol, client: Ipv6Addr, port: u16) -> ClientKey {
    (u128::from(client), (protocol as u32) << 16 | u32::from(port))
}

impl Binding {
    pub(super) fn client_key(&self) -> ClientKey {
        client_key(self.protocol, self.client, self.port)
    }
}

impl Entry for Binding {
    type Key = ClientKey;

    fn key(&self) -> ClientKey {
        self.client_key()
    }

    fn next(&self) -> u32 {
        self.next
    }

    fn set_next(&mut self, next: u32) {
        self.next = next;
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Session {
    pub binding: u32,
    pub remote: Ipv4Addr,
    /// Zero for ICMP.
    pub remote_port: u16,
    /// `None` for UDP and ICMP.
    pub tcp: Option<TcpState>,
    pub expires: Now,
    next: u32,
}

impl Session {
    pub const fn new(binding: u32, remote: Ipv4Addr, remote_port: u16, tcp: Option<TcpState>, expires: Now) -> Self {
        Self { binding, remote, remote_port, tcp, expires, next: NONE }
    }
}

/// Binding, remote address and port.
type FlowKey = (u64, u16);

fn host_key(binding: u32, remote: Ipv4Addr) -> u64 {
    u64::from(binding) << 32 | u64::from(u32::from(remote))
}

impl Entry for Session {
    type Key = FlowKey;

    fn key(&self) -> FlowKey {
        (host_key(self.binding, self.remote), self.remote_port)
    }

    fn next(&self) -> u32 {
        self.next
    }

    fn set_next(&mut self, next: u32) {
        self.next = next;
    }
}

/// What a client has.
#[derive(Clone, Copy)]
struct Client {
    client: Ipv6Addr,
    /// Dynamic ones.
    bindings: u32,
    sessions: u32,
    /// The pool address of the newest binding.
    address: u16,
    next: u32,
}

impl Entry for Client {
    type Key = u128;

    fn key(&self) -> u128 {
        self.client.into()
    }

    fn next(&self) -> u32 {
        self.next
    }

    fn set_next(&mut self, next: u32) {
        self.next = next;
    }
}

/// An IPv4 host that a binding has sessions with.
#[derive(Clone, Copy)]
pub(super) struct Host {
    host: u64,
    sessions: u32,
    next: u32,
}

impl Entry for Host {
    type Key = u64;

    fn key(&self) -> u64 {
        self.host
    }

    fn next(&self) -> u32 {
        self.next
    }

    fn set_next(&mut self, next: u32) {
        self.next = next;
    }
}

struct Limits {
    bindings: usize,
    sessions: usize,
    bindings_per_client: usize,
    sessions_per_client: usize,
}

impl Limits {
    fn of(config: &Config) -> Self {
        Self {
            bindings: config.max_bindings,
            sessions: config.max_sessions,
            bindings_per_client: config.max_bindings_per_client,
            sessions_per_client: config.max_sessions_per_client,
        }
    }
}

pub struct Tables {
    pub pool: Pool,
    pub(super) bindings: Table<Binding>,
    pub(super) sessions: Table<Session>,
    clients: Table<Client>,
    /// Static bindings by their port outside, which the pool knows nothing of.
    pub(super) fixed: BTreeMap<(Protocol, Mapped), u32>,
    /// Kept only for address-dependent filtering.
    hosts: Option<Table<Host>>,
    wheel: Wheel,
    limits: Limits,
    seed: Seed,
    /// There is one if bindings are accounted for.
    pub log: Option<Log>,
    pub bindings_created: u64,
    pub sessions_created: u64,
}

impl Tables {
    pub fn new(config: &Config) -> Self {
        let seed = Seed(config.seed);
        let mut tables = Self {
            pool: Pool::new(config),
            bindings: Table::new(seed),
            sessions: Table::new(seed),
            clients: Table::new(seed),
            fixed: BTreeMap::new(),
            hosts: None,
            wheel: Wheel::new(),
            limits: Limits::of(config),
            seed,
            log: config.log_bindings.then(Log::default),
            bindings_created: 0,
            sessions_created: 0,
        };
        tables.index_hosts(config.filtering);
        for entry in config.own_static_bindings() {
            tables.fix(Now::default(), entry);
        }
        tables
    }

    /// Makes a static binding, or makes one of the binding that a client has with the same ports already.
    pub(super) fn fix(&mut self, now: Now, entry: &StaticBinding) {
        let Some(address) = self.pool.index_of(entry.address) else { return };
        let mapped = Mapped { address, port: entry.port };
        let (protocol, client, port) = (entry.protocol, entry.client, entry.client_port);
        let id = self.binding_of_client(protocol, client, port).unwrap_or_else(|| {
            self.bindings.insert(Binding { protocol, client, port, mapped, sessions: 0, fixed: true, next: NONE })
        });
        let binding = self.bindings.entry_mut(id);
        binding.mapped = mapped;
        if !std::mem::replace(&mut binding.fixed, true) {
            let binding = *binding;
            self.note(now, false, &binding);
            if let Some(client) = self.clients.find(&u128::from(client)) {
                self.clients.entry_mut(client).bindings -= 1;
            }
        }
        self.fixed.insert((protocol, mapped), id);
    }

    pub fn binding(&self, id: u32) -> &Binding {
        self.bindings.entry(id)
    }

    pub fn session(&self, id: u32) -> &Session {
        self.sessions.entry(id)
    }

    pub fn set_tcp(&mut self, id: u32, state: TcpState) {
        self.sessions.entry_mut(id).tcp = Some(state);
    }

    pub fn binding_of_client(&self, protocol: Protocol, client: Ipv6Addr, port: u16) -> Option<u32> {
        self.bindings.find(&client_key(protocol, client, port))
    }

    pub fn binding_of_port(&self, protocol: Protocol, mapped: Mapped) -> Option<u32> {
        let dynamic = self.pool.owner(protocol, mapped);
        if dynamic.is_some() || self.fixed.is_empty() {
            return dynamic;
        }
        self.fixed.get(&(protocol, mapped)).copied()
    }

    /// The live session of a binding with an IPv4 peer.
    pub fn find_session(&self, now: Now, binding: u32, remote: Ipv4Addr, remote_port: u16) -> Option<u32> {
        let id = self.sessions.find(&(host_key(binding, remote), remote_port))?;
        (self.session(id).expires > now).then_some(id)
    }

    /// Whether a binding has a session with any port of an IPv4 host. Always true without address-dependent filtering.
    pub fn has_host(&self, binding: u32, remote: Ipv4Addr) -> bool {
        self.hosts.as_ref().is_none_or(|hosts| hosts.find(&host_key(binding, remote)).is_some())
    }

    /// Whether a client may have one more session and, if `binding`, one more binding.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn admit(&self, client: Ipv6Addr, binding: bool) -> Result<(), Reason> {
        let used = self.clients.find(&u128::from(client)).map(|id| *self.clients.entry(id));
        let (bindings, sessions) = used.map_or((0, 0), |used| (used.bindings as usize, used.sessions as usize));
        if self.sessions.len() >= self.limits.sessions {
            return Err(Reason::SessionsFull);
        }
        if sessions >= self.limits.sessions_per_client {
            return Err(Reason::ClientSessions);
        }
        if binding && self.bindings.len() - self.fixed.len() >= self.limits.bindings {
            return Err(Reason::BindingsFull);
        }
        if binding && bindings >= self.limits.bindings_per_client {
            return Err(Reason::ClientBindings);
        }
        Ok(())
    }

    /// The number of a client, who is new if need be.
    fn client(&mut self, client: Ipv6Addr) -> u32 {
        let new = Client { client, bindings: 0, sessions: 0, address: 0, next: NONE };
        self.clients.find(&client.into()).unwrap_or_else(|| self.clients.insert(new))
    }

    /// Makes a binding, which the caller gives a session at once.
    ///
    /// # Errors
    /// [`Reason::PortsExhausted`]. Limits are [`Self::admit`]'s matter.
    pub fn create_binding(&mut self, now: Now, protocol: Protocol, client: Ipv6Addr, port: u16) -> Result<u32, Reason> {
        let key = client_key(protocol, client, port);
        // One address for all bindings of a client, as long as it has ports (RFC 6146 section 3.5.1.1).
        let used = self.clients.find(&key.0).map(|id| *self.clients.entry(id)).filter(|used| used.bindings > 0);
        let address = used.map_or_else(|| self.seed.hash_one(key.0), |used| u64::from(used.address));
        let start = self.seed.hash_one(key);
        let partner = self.binding_of_client(protocol, client, port ^ 1).map(|id| self.binding(id).mapped);
        let partner = partner.filter(|mapped| mapped.port % 2 != port % 2);
        let mapped = partner
            .and_then(|mapped| self.pool.partner(protocol, mapped))
            .or_else(|| self.pool.choose(protocol, port, address, start))
            .ok_or(Reason::PortsExhausted)?;
        let binding = Binding { protocol, client, port, mapped, sessions: 0, fixed: false, next: NONE };
        self.note(now, true, &binding);
        let id = self.bindings.insert(binding);
        self.pool.take(protocol, mapped, id);
        let client = self.client(client);
        let used = self.clients.entry_mut(client);
        used.bindings += 1;
        used.address = mapped.address;
        self.bindings_created += 1;
        Ok(id)
    }

    fn note(&mut self, at: Now, open: bool, binding: &Binding) {
        let Some(log) = &mut self.log else { return };
        log.push(LogRow {
            open,
            at,
            protocol: binding.protocol,
            client: binding.client,
            client_port: binding.port,
            address: self.pool.address(binding.mapped.address),
            port: binding.mapped.port,
        });
    }

    /// Makes a session. One that expired but was not yet removed makes way.
    pub fn create_session(&mut self, session: Session) -> u32 {
        if let Some(id) = self.sessions.find(&session.key()) {
            let former = self.sessions.entry_mut(id);
            (former.tcp, former.expires) = (session.tcp, session.expires);
            self.wheel.insert(id, session.expires);
            return id;
        }
        let id = self.sessions.insert(session);
        self.count_host(host_key(session.binding, session.remote));
        let binding = self.bindings.entry_mut(session.binding);
        binding.sessions += 1;
        let client = binding.client;
        let client = self.client(client);
        self.clients.entry_mut(client).sessions += 1;
        self.wheel.insert(id, session.expires);
        self.sessions_created += 1;
        id
    }

    fn count_host(&mut self, host: u64) {
        let Some(hosts) = &mut self.hosts else { return };
        let id = hosts.find(&host).unwrap_or_else(|| hosts.insert(Host { host, sessions: 0, next: NONE }));
        hosts.entry_mut(id).sessions += 1;
    }

    fn uncount_host(&mut self, host: u64) {
        let Some(hosts) = &mut self.hosts else { return };
        let Some(id) = hosts.find(&host) else { return };
        let entry = hosts.entry_mut(id);
        entry.sessions -= 1;
        if entry.sessions == 0 {
            hosts.remove(id);
        }
    }

    /// Sets the end of a session's life. Only an earlier end touches the wheel.
    pub fn set_expiry(&mut self, id: u32, expires: Now) {
        let session = self.sessions.entry_mut(id);
        let earlier = expires < session.expires;
        session.expires = expires;
        if earlier {
            self.wheel.insert(id, expires);
        }
    }

    /// Gives a session that has come up in [`Self::pop_expired`] another life.
    pub fn revive(&mut self, id: u32, expires: Now) {
        self.sessions.entry_mut(id).expires = expires;
        self.wheel.insert(id, expires);
    }

    /// One session whose life has ended; remove it.
    pub fn pop_expired(&mut self, now: Now) -> Popped {
        let Some(id) = self.wheel.pop(now) else { return Popped::Nothing };
        let expires = self.session(id).expires;
        if expires > now {
            self.wheel.insert(id, expires);
            return Popped::Alive;
        }
        Popped::Expired(id)
    }

    /// Removes a session, and a dynamic binding with the last one.
    pub fn remove_session(&mut self, now: Now, id: u32) {
        let session = self.sessions.remove(id);
        self.wheel.remove(id);
        self.uncount_host(host_key(session.binding, session.remote));
        let binding = self.bindings.entry_mut(session.binding);
        binding.sessions -= 1;
        let binding = *binding;
        let last = binding.sessions == 0 && !binding.fixed;
        if last {
            self.note(now, false, &binding);
            self.bindings.remove(session.binding);
            self.pool.release(binding.protocol, binding.mapped);
        }
        let Some(id) = self.clients.find(&u128::from(binding.client)) else { return };
        let used = self.clients.entry_mut(id);
        used.sessions -= 1;
        used.bindings -= u32::from(last);
        if used.sessions == 0 && used.bindings == 0 {
            self.clients.remove(id);
        }
    }

    /// Counts the hosts of every binding, or stops counting.
    pub(super) fn index_hosts(&mut self, filtering: Filtering) {
        self.hosts = (filtering == Filtering::AddressDependent).then(|| Table::new(self.seed));
        for place in 0..self.sessions.places() {
            if let Some(session) = self.sessions.get(place) {
                self.count_host(host_key(session.binding, session.remote));
            }
        }
    }

    /// Other limits for what is made from now on; nothing that exists goes.
    pub fn change_limits(&mut self, config: &Config) {
        self.limits = Limits::of(config);
        if config.log_bindings != self.log.is_some() {
            self.log = config.log_bindings.then(Log::default);
        }
    }

    pub fn next_expiry(&self) -> Option<Now> {
        self.wheel.next()
    }

    /// Numbers of bindings, sessions and clients.
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.bindings.len(), self.sessions.len(), self.clients.len())
    }

    /// Memory of bindings, sessions, clients and timers, in bytes: without the ports of the pool, whose memory is there
    /// from the beginning.
    pub fn bytes(&self) -> usize {
        let hosts = self.hosts.as_ref().map_or(0, Table::bytes);
        self.bindings.bytes() + self.sessions.bytes() + self.clients.bytes() + hosts + self.wheel.bytes()
    }
}

/// What the wheel brought up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Popped {
    Nothing,
    /// A session that was refreshed since and is back in the wheel.
    Alive,
    Expired(u32),
}
