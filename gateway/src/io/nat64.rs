//! The shards of NAT64 that all workers share. A client's bindings are all in one shard, and ports say which.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use serde_json::{Value, json};

use super::config::{Nat64 as Settings, Refused};
use crate::core::nat64::{Config, Nat64, PoolEntry, Prefix, Timeouts, shard_of_v6};

pub struct Shards {
    pub shards: Box<[Mutex<Nat64>]>,
    prefix: Prefix,
    settings: Mutex<Settings>,
    /// Of the pool; asked for packets.
    addresses: RwLock<Vec<Ipv4Addr>>,
}

fn refused(error: &dyn std::fmt::Display) -> Refused {
    Refused(format!("nat64: {error}"))
}

fn prefix_of(settings: &Settings) -> Result<Prefix, Refused> {
    Prefix::new(settings.prefix.address, settings.prefix.len).map_err(|error| refused(&format!("{error:?}")))
}

fn addresses(settings: &Settings) -> Vec<Ipv4Addr> {
    settings.pool.iter().map(|pool| pool.address).collect()
}

/// What one of `count` shards is told.
fn config(settings: &Settings, prefix: Prefix, seed: u64, shard: usize, count: usize) -> Config {
    let pool = &settings.pool;
    let pool = pool.iter().map(|pool| PoolEntry { address: pool.address, first: pool.ports.0, last: pool.ports.1 });
    let seconds = |value: u32| Duration::from_secs(value.into());
    Config {
        mtu: settings.mtu,
        ipv6_mtu: settings.ipv6_mtu,
        timeouts: Timeouts {
            tcp_established: seconds(settings.tcp_established),
            tcp_transitory: seconds(settings.tcp_transitory),
            udp: seconds(settings.udp),
            icmp: seconds(settings.icmp),
            ..Timeouts::default()
        },
        max_bindings: settings.max_bindings.div_ceil(count),
        max_sessions: (settings.max_bindings * 2).div_ceil(count),
        max_bindings_per_client: settings.max_bindings_per_client,
        max_sessions_per_client: settings.max_bindings_per_client * 4,
        seed: seed.wrapping_add(shard as u64),
        shard,
        shards: count,
        ..Config::new(prefix, pool.collect(), settings.address)
    }
}

impl std::fmt::Debug for Shards {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shards({})", self.shards.len())
    }
}

impl Shards {
    /// Makes as many shards as there are workers.
    ///
    /// # Errors
    /// When the settings cannot work.
    pub fn new(settings: &Settings, count: usize) -> Result<Self, Refused> {
        let prefix = prefix_of(settings)?;
        let seed = RandomState::new().hash_one(count);
        let shards = (0..count).map(|shard| Nat64::new(config(settings, prefix, seed, shard, count)).map(Mutex::new));
        let shards = shards.collect::<Result<_, _>>().map_err(|error| refused(&error))?;
        let addresses = RwLock::new(addresses(settings));
        Ok(Self { shards, prefix, settings: Mutex::new(settings.clone()), addresses })
    }

    /// Whether `reconfigure` can take these settings: under another prefix no binding has a meaning.
    pub fn can_become(&self, settings: &Settings) -> bool {
        prefix_of(settings).is_ok_and(|prefix| prefix == self.prefix)
    }

    /// Whether the settings could work, without using them.
    pub fn check(settings: &Settings) -> Result<(), Refused> {
        config(settings, prefix_of(settings)?, 0, 0, 1).verify().map_err(|error| refused(&error))
    }

    /// Takes other settings with the same prefix; bindings that the pool still has a place for stay. Returns how many
    /// went.
    ///
    /// # Errors
    /// When the settings cannot work; then the former ones stay.
    pub fn reconfigure(&self, settings: &Settings) -> Result<usize, Refused> {
        let mut current = self.settings.lock();
        if *current == *settings {
            return Ok(0);
        }
        let mut lost = 0;
        // They are equal but for their numbers, so all take it or the first one refuses it.
        for (index, shard) in self.shards.iter().enumerate() {
            let config = config(settings, self.prefix, 0, index, self.shards.len());
            lost += shard.lock().reconfigure(config).map_err(|error| refused(&error))?;
        }
        *self.addresses.write() = addresses(settings);
        *current = settings.clone();
        Ok(lost)
    }

    pub fn contains(&self, destination: Ipv6Addr) -> bool {
        self.prefix.contains(destination)
    }

    /// The shard of an IPv6 packet, which is at least a header long.
    pub fn of_v6(&self, packet: &[u8]) -> &Mutex<Nat64> {
        &self.shards[shard_of_v6(packet, self.shards.len())]
    }

    /// Whether this is an address of the pool, which may also be the host's own.
    pub fn in_pool(&self, address: Ipv4Addr) -> bool {
        self.addresses.read().contains(&address)
    }

    /// Counters, summed.
    pub fn stats(&self) -> Value {
        let mut sums = serde_json::Map::new();
        for shard in &self.shards {
            for (name, count) in shard.lock().stats().counters() {
                let sum = sums.get(&name).and_then(Value::as_u64).unwrap_or(0) + count;
                sums.insert(name, json!(sum));
            }
        }
        Value::Object(sums)
    }
}
