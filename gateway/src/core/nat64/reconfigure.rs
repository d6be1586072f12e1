//! Another configuration for a translator that runs: what still fits stays.

use super::Nat64;
use super::config::{Config, ConfigError};
use super::limiter::Limiter;
use crate::core::time::Now;

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
