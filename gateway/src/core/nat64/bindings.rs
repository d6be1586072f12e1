//! The Binding Information Base and the session table (RFC 6146 sections 3.1 and 3.2).
//!
//! A binding ties an IPv6 transport address to a port of the pool; it exists as long as it has sessions. A session is a
//! binding and an IPv4 peer. Every table has a limit, and a limit for each client.

use super::Protocol;
use super::config::{Config, Filtering, StaticBinding};
use super::hash::Seed;
use super::log::{Log, LogRow};
use super::ports::{Mapped, Pool};
use super::stats::Reason;
use super::tcp_state::TcpState;
use super::timers::Wheel;
use crate::core::time::Now;
use slab::Slab;
use std::collections::{BTreeMap, BTreeSet, HashMap};
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
}

/// Client address, protocol and port.
type ClientKey = (u128, u32);
/// Binding, remote address and port.
type FlowKey = (u64, u16);

#[derive(Clone, Copy, Default)]
struct ClientUse {
    bindings: usize,
    sessions: usize,
    /// The pool address of the newest binding.
    address: u16,
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
    bindings: Slab<Binding>,
    sessions: Slab<Session>,
    by_client: HashMap<ClientKey, u32, Seed>,
    /// Static bindings by their port outside, which the pool knows nothing of.
    fixed: BTreeMap<(Protocol, Mapped), u32>,
    by_flow: HashMap<FlowKey, u32, Seed>,
    /// Sessions of a binding with an IPv4 host; kept only for address-dependent filtering.
    by_host: Option<HashMap<u64, u32, Seed>>,
    clients: HashMap<u128, ClientUse, Seed>,
    wheel: Wheel,
    limits: Limits,
    seed: Seed,
    /// There is one if bindings are accounted for.
    pub log: Option<Log>,
    pub bindings_created: u64,
    pub sessions_created: u64,
}

fn client_key(protocol: Protocol, client: Ipv6Addr, port: u16) -> ClientKey {
    (u128::from(client), (protocol as u32) << 16 | u32::from(port))
}

fn host_key(binding: u32, remote: Ipv4Addr) -> u64 {
    u64::from(binding) << 32 | u64::from(u32::from(remote))
}

impl Tables {
    pub fn new(config: &Config) -> Self {
        let seed = Seed(config.seed);
        let mut tables = Self {
            pool: Pool::new(config),
            bindings: Slab::new(),
            sessions: Slab::new(),
            by_client: HashMap::with_hasher(seed),
            fixed: BTreeMap::new(),
            by_flow: HashMap::with_hasher(seed),
            by_host: (config.filtering == Filtering::AddressDependent).then(|| HashMap::with_hasher(seed)),
            clients: HashMap::with_hasher(seed),
            wheel: Wheel::new(),
            limits: Limits::of(config),
            seed,
            log: config.log_bindings.then(Log::default),
            bindings_created: 0,
            sessions_created: 0,
        };
        for entry in config.own_static_bindings() {
            tables.fix(Now::default(), entry);
        }
        tables
    }

    /// Makes a static binding, or makes one of the binding that a client has with the same ports already.
    pub fn fix(&mut self, now: Now, entry: &StaticBinding) {
        let Some(address) = self.pool.index_of(entry.address) else { return };
        let mapped = Mapped { address, port: entry.port };
        let key = client_key(entry.protocol, entry.client, entry.client_port);
        let id = self.by_client.get(&key).copied().unwrap_or_else(|| {
            let id = self.bindings.insert(Binding {
                protocol: entry.protocol,
                client: entry.client,
                port: entry.client_port,
                mapped,
                sessions: 0,
                fixed: true,
            }) as u32;
            self.by_client.insert(key, id);
            id
        });
        let binding = &mut self.bindings[id as usize];
        binding.mapped = mapped;
        if !std::mem::replace(&mut binding.fixed, true) {
            let binding = *binding;
            self.note(now, false, &binding);
            if let Some(used) = self.clients.get_mut(&key.0) {
                used.bindings -= 1;
            }
        }
        self.fixed.insert((entry.protocol, mapped), id);
    }

    pub fn binding(&self, id: u32) -> &Binding {
        &self.bindings[id as usize]
    }

    pub fn session(&self, id: u32) -> &Session {
        &self.sessions[id as usize]
    }

    pub fn set_tcp(&mut self, id: u32, state: TcpState) {
        self.sessions[id as usize].tcp = Some(state);
    }

    pub fn binding_of_client(&self, protocol: Protocol, client: Ipv6Addr, port: u16) -> Option<u32> {
        self.by_client.get(&client_key(protocol, client, port)).copied()
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
        let id = *self.by_flow.get(&(host_key(binding, remote), remote_port))?;
        (self.sessions[id as usize].expires > now).then_some(id)
    }

    /// Whether a binding has a session with any port of an IPv4 host. Always true without address-dependent filtering.
    pub fn has_host(&self, binding: u32, remote: Ipv4Addr) -> bool {
        self.by_host.as_ref().is_none_or(|hosts| hosts.contains_key(&host_key(binding, remote)))
    }

    /// Whether a client may have one more session and, if `binding`, one more binding.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn admit(&self, client: Ipv6Addr, binding: bool) -> Result<(), Reason> {
        let used = self.clients.get(&u128::from(client)).copied().unwrap_or_default();
        if self.sessions.len() >= self.limits.sessions {
            return Err(Reason::SessionsFull);
        }
        if used.sessions >= self.limits.sessions_per_client {
            return Err(Reason::ClientSessions);
        }
        if binding && self.bindings.len() >= self.limits.bindings {
            return Err(Reason::BindingsFull);
        }
        if binding && used.bindings >= self.limits.bindings_per_client {
            return Err(Reason::ClientBindings);
        }
        Ok(())
    }

    /// Makes a binding, which the caller gives a session at once.
    ///
    /// # Errors
    /// [`Reason::PortsExhausted`]. Limits are [`Self::admit`]'s matter.
    pub fn create_binding(&mut self, now: Now, protocol: Protocol, client: Ipv6Addr, port: u16) -> Result<u32, Reason> {
        let key = client_key(protocol, client, port);
        // One address for all bindings of a client, as long as it has ports (RFC 6146 section 3.5.1.1).
        let used = self.clients.get(&key.0).filter(|used| used.bindings > 0);
        let address = used.map_or_else(|| self.seed.hash_one(key.0), |used| u64::from(used.address));
        let start = self.seed.hash_one(key);
        let mapped = self.pool.choose(protocol, port, address, start).ok_or(Reason::PortsExhausted)?;
        let binding = Binding { protocol, client, port, mapped, sessions: 0, fixed: false };
        self.note(now, true, &binding);
        let id = self.bindings.insert(binding) as u32;
        self.pool.take(protocol, mapped, id);
        self.by_client.insert(key, id);
        let used = self.clients.entry(key.0).or_default();
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
        let key = (host_key(session.binding, session.remote), session.remote_port);
        let client = u128::from(self.binding(session.binding).client);
        if let Some(id) = self.by_flow.get(&key).copied() {
            self.sessions[id as usize] = session;
            self.wheel.insert(id, session.expires);
            return id;
        }
        let id = self.sessions.insert(session) as u32;
        self.by_flow.insert(key, id);
        if let Some(hosts) = &mut self.by_host {
            *hosts.entry(key.0).or_insert(0) += 1;
        }
        self.bindings[session.binding as usize].sessions += 1;
        self.clients.entry(client).or_default().sessions += 1;
        self.wheel.insert(id, session.expires);
        self.sessions_created += 1;
        id
    }

    /// Sets the end of a session's life. Only an earlier end touches the wheel.
    pub fn set_expiry(&mut self, id: u32, expires: Now) {
        let session = &mut self.sessions[id as usize];
        let earlier = expires < session.expires;
        session.expires = expires;
        if earlier {
            self.wheel.insert(id, expires);
        }
    }

    /// Gives a session that has come up in [`Self::pop_expired`] another life.
    pub fn revive(&mut self, id: u32, expires: Now) {
        self.sessions[id as usize].expires = expires;
        self.wheel.insert(id, expires);
    }

    /// One session whose life has ended; remove it.
    pub fn pop_expired(&mut self, now: Now) -> Popped {
        let Some(id) = self.wheel.pop(now) else { return Popped::Nothing };
        let expires = self.sessions[id as usize].expires;
        if expires > now {
            self.wheel.insert(id, expires);
            return Popped::Alive;
        }
        Popped::Expired(id)
    }

    /// Removes a session, and a dynamic binding with the last one.
    pub fn remove_session(&mut self, now: Now, id: u32) {
        let session = self.sessions.remove(id as usize);
        self.wheel.remove(id);
        let host = host_key(session.binding, session.remote);
        self.by_flow.remove(&(host, session.remote_port));
        if let Some(hosts) = &mut self.by_host
            && let Some(count) = hosts.get_mut(&host)
        {
            *count -= 1;
            if *count == 0 {
                hosts.remove(&host);
            }
        }
        let binding = &mut self.bindings[session.binding as usize];
        binding.sessions -= 1;
        let binding = *binding;
        let client = u128::from(binding.client);
        let last = binding.sessions == 0 && !binding.fixed;
        if last {
            self.note(now, false, &binding);
            self.bindings.remove(session.binding as usize);
            self.pool.release(binding.protocol, binding.mapped);
            self.by_client.remove(&client_key(binding.protocol, binding.client, binding.port));
        }
        if let Some(used) = self.clients.get_mut(&client) {
            used.sessions -= 1;
            used.bindings -= usize::from(last);
            if used.sessions == 0 && used.bindings == 0 {
                self.clients.remove(&client);
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

    /// Bindings in table order, which depends on nothing but the packets seen.
    pub fn bindings(&self) -> impl Iterator<Item = &Binding> {
        self.bindings.iter().map(|(_, binding)| binding)
    }

    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.sessions.iter().map(|(_, session)| session)
    }

    /// The session in a place of the table; places are below [`Self::session_places`].
    pub fn session_at(&self, place: usize) -> Option<&Session> {
        self.sessions.get(place)
    }

    pub fn session_places(&self) -> usize {
        self.sessions.capacity()
    }

    pub fn binding_at(&self, place: usize) -> Option<&Binding> {
        self.bindings.get(place)
    }

    pub fn binding_places(&self) -> usize {
        self.bindings.capacity()
    }

    pub fn fixed_bindings(&self) -> usize {
        self.fixed.len()
    }

    /// Numbers of bindings, sessions and clients.
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.bindings.len(), self.sessions.len(), self.clients.len())
    }
}

/// What a change of pool, static bindings, prefixes or filtering removed.
#[derive(Debug, Default)]
pub struct Removed {
    pub bindings: usize,
    /// Numbers of sessions.
    pub sessions: Vec<u32>,
}

impl Tables {
    /// Moves from the tables of `former` to those of `config`: what has no place or no meaning there is removed.
    pub fn change(&mut self, now: Now, former: &Config, config: &Config) -> Removed {
        let mut removed = Removed::default();
        let pools_differ = config.pool != former.pool || config.static_bindings != former.static_bindings;
        let prefixes_differ = config.mappings != former.mappings;
        if !pools_differ && !prefixes_differ && config.filtering == former.filtering {
            return removed;
        }
        let pool = if pools_differ { Pool::new(config) } else { Pool::new(former) };
        let before = self.bindings.len();
        let stays = self.staying(&pool, config);
        let moves = |remote| former.mappings.embed(remote) != config.mappings.embed(remote);
        for (id, session) in &self.sessions {
            if !stays.contains(&session.binding) || prefixes_differ && moves(session.remote) {
                removed.sessions.push(id as u32);
            }
        }
        for &id in &removed.sessions {
            self.remove_session(now, id);
        }
        if pools_differ {
            self.move_to(pool, &stays);
            for entry in config.own_static_bindings() {
                self.fix(now, entry);
            }
        }
        if config.filtering != former.filtering {
            self.index_hosts(config.filtering);
        }
        removed.bindings = before.saturating_sub(self.bindings.len());
        removed
    }

    /// Bindings that have a place in `pool` or are static in `config`.
    fn staying(&self, pool: &Pool, config: &Config) -> BTreeSet<u32> {
        let wanted: BTreeMap<ClientKey, &StaticBinding> = config
            .own_static_bindings()
            .map(|entry| (client_key(entry.protocol, entry.client, entry.client_port), entry))
            .collect();
        let stays = |binding: &Binding| {
            let address = self.pool.address(binding.mapped.address);
            match wanted.get(&client_key(binding.protocol, binding.client, binding.port)) {
                Some(entry) => (entry.address, entry.port) == (address, binding.mapped.port),
                None => !binding.fixed && pool.find(binding.protocol, address, binding.mapped.port).is_some(),
            }
        };
        self.bindings.iter().filter(|(_, binding)| stays(binding)).map(|(id, _)| id as u32).collect()
    }

    /// Moves the bindings of `stays` to their places in `pool`; what is left of the others goes.
    fn move_to(&mut self, mut pool: Pool, stays: &BTreeSet<u32>) {
        self.fixed.clear();
        let Self { bindings, by_client, .. } = self;
        bindings.retain(|id, binding| {
            let stays = stays.contains(&(id as u32));
            if !stays {
                by_client.remove(&client_key(binding.protocol, binding.client, binding.port));
            }
            stays
        });
        for (id, binding) in &mut self.bindings {
            let address = self.pool.address(binding.mapped.address);
            if let Some(mapped) = pool.find(binding.protocol, address, binding.mapped.port) {
                binding.mapped = mapped;
                pool.take(binding.protocol, mapped, id as u32);
            }
        }
        self.pool = pool;
    }

    fn index_hosts(&mut self, filtering: Filtering) {
        self.by_host = (filtering == Filtering::AddressDependent).then(|| HashMap::with_hasher(self.seed));
        let Some(hosts) = &mut self.by_host else { return };
        for (_, session) in &self.sessions {
            *hosts.entry(host_key(session.binding, session.remote)).or_insert(0) += 1;
        }
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
