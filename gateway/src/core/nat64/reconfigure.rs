//! Another configuration for a translator that runs: what still fits stays.

use super::Nat64;
use super::bindings::Tables;
use super::config::{Config, ConfigError};
use super::limiter::Limiter;
use super::ports::Pool;

impl Nat64 {
    /// Takes another configuration. Bindings whose address and port the new pool has keep them, with their sessions; the
    /// others are removed, and their number is returned. Lifetimes that run are not cut short: a new timeout counts
    /// from the session's next packet.
    ///
    /// Prefix, filtering and the place among the shards stay as they are, since the tables are built on them, and so
    /// does the seed.
    ///
    /// # Errors
    /// [`ConfigError`]; then the former configuration stays in force.
    pub fn reconfigure(&mut self, config: Config) -> Result<usize, ConfigError> {
        config.verify()?;
        let former = &self.config;
        let config = Config {
            prefix: former.prefix,
            filtering: former.filtering,
            shard: former.shard,
            shards: former.shards,
            seed: former.seed,
            ..config
        };
        let mut lost = 0;
        if config.pool != former.pool {
            let (bindings, sessions) = self.tables.change_pool(&config);
            for id in sessions {
                self.held_syns.remove(&id);
            }
            lost = bindings;
        }
        self.tables.change_limits(&config);
        if config.errors_per_second != self.config.errors_per_second {
            self.limiter = Limiter::new(config.errors_per_second);
        }
        self.config = config;
        Ok(lost)
    }
}

impl Tables {
    /// Moves to another pool. Returns the number of bindings that it has no place for, which are removed, and the
    /// sessions that went with them.
    fn change_pool(&mut self, config: &Config) -> (usize, Vec<u32>) {
        let pool = Pool::new(&config.pool, config.shard, config.shards);
        let before = self.sizes().0;
        let gone: Vec<u32> = self
            .sessions_with_ids()
            .filter(|(_, session)| {
                let binding = self.binding(session.binding);
                let address = self.pool.address(binding.mapped.address);
                pool.find(binding.protocol, address, binding.mapped.port).is_none()
            })
            .map(|(id, _)| id)
            .collect();
        for &id in &gone {
            self.remove_session(id);
        }
        self.move_to(pool);
        (before - self.sizes().0, gone)
    }
}
