//! Another configuration for a translator that runs: what still fits stays.

use super::Nat64;
use super::bindings::{Binding, ClientKey, Tables, client_key};
use super::config::{Config, ConfigError, StaticBinding};
use super::limiter::Limiter;
use super::ports::Pool;
use crate::core::time::Now;
use std::collections::{BTreeMap, BTreeSet};

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
        let removed = self.tables.change(now, former, &config);
        for id in &removed.sessions {
            self.held_syns.remove(id);
        }
        self.tables.change_limits(&config);
        if config.errors_per_second != self.config.errors_per_second {
            self.limiter = Limiter::new(config.errors_per_second);
        }
        self.config = config;
        Ok(removed.bindings)
    }
}

/// What a change of pool, static bindings, prefixes or filtering removed.
#[derive(Debug, Default)]
struct Removed {
    bindings: usize,
    /// Numbers of sessions.
    sessions: Vec<u32>,
}

impl Tables {
    /// Moves from the tables of `former` to those of `config`: what has no place or no meaning there is removed.
    fn change(&mut self, now: Now, former: &Config, config: &Config) -> Removed {
        let mut removed = Removed::default();
        let pools_differ = config.pool != former.pool || config.static_bindings != former.static_bindings;
        let prefixes_differ = config.mappings != former.mappings;
        let before = self.bindings.len();
        if prefixes_differ {
            let moves = |remote| former.mappings.embed(remote) != config.mappings.embed(remote);
            let moving = self.sessions.iter().filter(|(_, session)| moves(session.remote)).map(|(id, _)| id);
            removed.sessions.extend(moving.collect::<Vec<_>>());
            self.remove_sessions(now, &removed.sessions);
        }
        if pools_differ {
            let pool = Pool::new(config);
            let stays = self.staying(&pool, config);
            let going = self.sessions.iter().filter(|(_, session)| !stays.contains(&session.binding));
            let going: Vec<u32> = going.map(|(id, _)| id).collect();
            self.remove_sessions(now, &going);
            removed.sessions.extend(going);
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

    fn remove_sessions(&mut self, now: Now, ids: &[u32]) {
        for id in ids {
            self.remove_session(now, *id);
        }
    }

    /// Bindings that have a place in `pool` or are static in `config`.
    fn staying(&self, pool: &Pool, config: &Config) -> BTreeSet<u32> {
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
        self.bindings.iter().filter(|(_, binding)| stays(binding)).map(|(id, _)| id).collect()
    }

    /// Moves the bindings of `stays` to their places in `pool`; what is left of the others goes.
    fn move_to(&mut self, mut pool: Pool, stays: &BTreeSet<u32>) {
        self.fixed.clear();
        let ids: Vec<u32> = self.bindings.iter().map(|(id, _)| id).collect();
        for id in ids {
            if !stays.contains(&id) {
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
