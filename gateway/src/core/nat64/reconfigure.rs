//! Another configuration for a translator that runs: what still fits stays.

use super::Nat64;
use super::bindings::{Binding, ClientKey, Session, Tables, client_key};
use super::config::{Config, ConfigError, StaticBinding};
use super::limiter::Limiter;
use super::ports::Pool;
use crate::core::time::Now;
use std::collections::BTreeMap;

impl Nat64 {
    /// Takes another configuration. Bindings whose address and port the new pool has keep them, with their sessions; the
    /// others are removed, and their number is returned. Static bindings come and go; a dynamic binding that has the
    /// port of a new one goes, unless it is the same binding. Sessions whose peer has another IPv6 address now are
    /// removed. Lifetimes that run are not cut short: a new timeout counts from the session's next packet.
    ///
    /// The place among the shards and the seed stay as they are, since the tables are built on them.
    ///
    /// # Errors
    /// [`ConfigError`]; then the former configuration stays in force.
    pub fn reconfigure(&mut self, now: Now, config: Config) -> Result<usize, ConfigError> {
        config.verify()?;
        let former = &self.config;
        let config = Config { shard: former.shard, shards: former.shards, seed: former.seed, ..config };
        let lost = self.tables.change(now, former, &config);
        if config.pool != former.pool || config.static_bindings != former.static_bindings {
            // They name ports of the former pool.
            self.held_syns.clear();
        }
        self.tables.change_limits(&config);
        if config.errors_per_second != self.config.errors_per_second {
            self.limiter = Limiter::new(config.errors_per_second);
        }
        let stricter = config.open_hosts != self.config.open_hosts;
        self.config = config;
        if stricter {
            self.close_refused(now, |_| true);
        }
        Ok(lost)
    }
}

impl Tables {
    /// Moves from the tables of `former` to those of `config`: what has no place or no meaning there is removed.
    /// Returns the number of bindings that went.
    fn change(&mut self, now: Now, former: &Config, config: &Config) -> usize {
        let pools_differ = config.pool != former.pool || config.static_bindings != former.static_bindings;
        let prefixes_differ = config.mappings != former.mappings;
        let before = self.bindings.len();
        if prefixes_differ {
            let moves = |remote| former.mappings.embed(remote) != config.mappings.embed(remote);
            self.remove_sessions(now, |session| moves(session.remote));
        }
        if pools_differ {
            let pool = Pool::new(config);
            let stays = self.staying(&pool, config);
            self.remove_sessions(now, |session| !stays[session.binding as usize]);
            self.move_to(pool, &stays);
            for entry in config.own_static_bindings() {
                self.fix(now, entry);
            }
        }
        if config.filtering != former.filtering {
            self.index_hosts(config.filtering);
        }
        before.saturating_sub(self.bindings.len())
    }

    fn remove_sessions(&mut self, now: Now, goes: impl Fn(&Session) -> bool) {
        for place in 0..self.sessions.places() {
            if self.sessions.get(place).is_some_and(&goes) {
                self.remove_session(now, place as u32);
            }
        }
    }

    /// By number: whether a binding has a place in `pool` or is static in `config`.
    fn staying(&self, pool: &Pool, config: &Config) -> Vec<bool> {
        let wanted: BTreeMap<ClientKey, &StaticBinding> = config
            .own_static_bindings()
            .map(|entry| (client_key(entry.protocol, entry.client, entry.client_port), entry))
            .collect();
        let stays = |binding: &Binding| {
            let address = self.pool.address(binding.mapped.address);
            match wanted.get(&binding.client_key()) {
                Some(entry) => (entry.address, entry.port) == (address, binding.mapped.port),
                None => !binding.fixed && pool.find(binding.protocol, address, binding.mapped.port).is_some(),
            }
        };
        (0..self.bindings.places()).map(|place| self.bindings.get(place).is_some_and(stays)).collect()
    }

    /// Moves the bindings of `stays` to their places in `pool`; what is left of the others goes.
    fn move_to(&mut self, mut pool: Pool, stays: &[bool]) {
        self.fixed.clear();
        for (place, stays) in stays.iter().enumerate() {
            let id = place as u32;
            if self.bindings.get(place).is_none() {
                continue;
            }
            if !stays {
                self.bindings.remove(id);
                continue;
            }
            let binding = self.bindings.entry_mut(id);
            let address = self.pool.address(binding.mapped.address);
            if let Some(mapped) = pool.find(binding.protocol, address, binding.mapped.port) {
                binding.mapped = mapped;
                pool.take(binding.protocol, mapped, id);
            }
        }
        self.pool = pool;
    }
}
