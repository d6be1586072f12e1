//! The Binding Information Base and the session table (RFC 6146 sections 3.1 and 3.2).
//!
//! A binding ties an IPv6 transport address to a port of the pool; it exists as long as it has sessions. A session is a
//! binding and an IPv4 peer. Every table has a limit, and a limit for each client.

use super::Protocol;
use super::config::{Config, Filtering};
use super::hash::Seed;
use super::ports::{Mapped, Pool};
use super::stats::Reason;
use super::tcp_state::TcpState;
use super::timers::Wheel;
use crate::core::time::Now;
use slab::Slab;
use std::collections::HashMap;
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
    by_flow: HashMap<FlowKey, u32, Seed>,
    /// Sessions of a binding with an IPv4 host; kept only for address-dependent filtering.
    by_host: Option<HashMap<u64, u32, Seed>>,
    clients: HashMap<u128, ClientUse, Seed>,
    wheel: Wheel,
    limits: Limits,
    seed: Seed,
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
        Self {
            pool: Pool::new(&config.pool, config.shard, config.shards),
            bindings: Slab::new(),
            sessions: Slab::new(),
            by_client: HashMap::with_hasher(seed),
            by_flow: HashMap::with_hasher(seed),
            by_host: (config.filtering == Filtering::AddressDependent).then(|| HashMap::with_hasher(seed)),
            clients: HashMap::with_hasher(seed),
            wheel: Wheel::new(),
            limits: Limits::of(config),
            seed,
            bindings_created: 0,
            sessions_created: 0,
        }
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
        self.pool.owner(protocol, mapped)
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
    pub fn create_binding(&mut self, protocol: Protocol, client: Ipv6Addr, port: u16) -> Result<u32, Reason> {
        let key = client_key(protocol, client, port);
        // One address for all bindings of a client, as long as it has ports (RFC 6146 section 3.5.1.1).
        let used = self.clients.get(&key.0).filter(|used| used.bindings > 0);
        let address = used.map_or_else(|| self.seed.hash_one(key.0), |used| u64::from(used.address));
        let start = self.seed.hash_one(key);
        let mapped = self.pool.choose(protocol, port, address, start).ok_or(Reason::PortsExhausted)?;
        let id = self.bindings.insert(Binding { protocol, client, port, mapped, sessions: 0 }) as u32;
        self.pool.take(protocol, mapped, id);
        self.by_client.insert(key, id);
        let used = self.clients.entry(key.0).or_default();
        used.bindings += 1;
        used.address = mapped.address;
        self.bindings_created += 1;
        Ok(id)
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

    /// Removes a session, and its binding with the last one.
    pub fn remove_session(&mut self, id: u32) {
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
        let last = binding.sessions == 0;
        if last {
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
    }

    /// Moves every binding to its place in `pool`, which must have one for each.
    pub fn move_to(&mut self, mut pool: Pool) {
        for (id, binding) in &mut self.bindings {
            let address = self.pool.address(binding.mapped.address);
            if let Some(mapped) = pool.find(binding.protocol, address, binding.mapped.port) {
                binding.mapped = mapped;
                pool.take(binding.protocol, mapped, id as u32);
            }
        }
        self.pool = pool;
    }

    pub fn sessions_with_ids(&self) -> impl Iterator<Item = (u32, &Session)> {
        self.sessions.iter().map(|(id, session)| (id as u32, session))
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

    /// Numbers of bindings, sessions and clients.
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.bindings.len(), self.sessions.len(), self.clients.len())
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
