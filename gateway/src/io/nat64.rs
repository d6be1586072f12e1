//! The shards of NAT64 that all workers share. A client's bindings are all in one shard, and ports say which.

mod accounting;
mod query;

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use serde::Deserialize;
use serde_json::{Value, json};

use super::config::{Filtering as FilteringSetting, Nat64 as Settings, Refused, StaticProtocol, TrafficClass};
use crate::core::nat64::{
    Config, Filtering, Mapping, Mappings, Nat64, OpenHosts, PoolEntry, Prefix, Protocol, StaticBinding, Steering,
    Timeouts, shard_of_client, shard_of_v6,
};
use crate::core::time::Now;

pub struct Shards {
    pub shards: Box<[Mutex<Nat64>]>,
    settings: Mutex<Settings>,
    plan: RwLock<Arc<Plan>>,
}

/// What decides where packets go, the same for all workers; replaced as a whole.
#[derive(Debug)]
pub struct Plan {
    mappings: Mappings,
    steering: Steering,
    /// Of the pool and of static bindings.
    addresses: Vec<Ipv4Addr>,
}

impl Plan {
    fn new(config: &Config, count: usize) -> Self {
        let pool = config.pool.iter().map(|entry| entry.address);
        let mut addresses: Vec<_> = pool.chain(config.static_bindings.iter().map(|binding| binding.address)).collect();
        addresses.sort_unstable();
        addresses.dedup();
        Self { mappings: config.mappings.clone(), steering: Steering::new(&config.static_bindings, count), addresses }
    }

    /// Whether an IPv6 packet for this address is for the IPv4 side.
    pub fn contains(&self, destination: Ipv6Addr) -> bool {
        self.mappings.contains(destination)
    }

    /// Whether this is an address of the translator, which may also be the host's own.
    pub fn is_own(&self, address: Ipv4Addr) -> bool {
        self.addresses.contains(&address)
    }

    /// The shard of an IPv4 packet; `None` for a fragment other than the first.
    pub fn shard_of_v4(&self, packet: &[u8]) -> Option<usize> {
        self.steering.shard_of_v4(packet)
    }
}

/// The question of [`Shards::open_for`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenFor {
    clients: BTreeSet<Ipv6Addr>,
}

fn refused(error: &dyn std::fmt::Display) -> Refused {
    Refused(format!("nat64: {error}"))
}

fn mappings(settings: &Settings) -> Result<Mappings, Refused> {
    let prefix = |prefix: &super::config::Prefix| Prefix::new(prefix.address, prefix.len);
    let list = settings.prefix_mappings.iter().map(|mapping| {
        let (network, length) = (mapping.network.address, mapping.network.len);
        prefix(&mapping.prefix).map(|prefix| Mapping { prefix, network, length })
    });
    let list = list.collect::<Result<Vec<_>, _>>().map_err(|error| refused(&error))?;
    match &settings.prefix {
        Some(all) if list.is_empty() => Ok(prefix(all).map_err(|error| refused(&error))?.into()),
        _ => Mappings::new(list).map_err(|error| refused(&error)),
    }
}

fn open_hosts(settings: &Settings) -> Option<Vec<OpenHosts>> {
    let hosts = settings.open_hosts.as_ref()?.iter().map(|entry| OpenHosts {
        network: entry.network.address,
        length: entry.network.len,
        port: entry.port,
    });
    Some(hosts.collect())
}

fn static_bindings(settings: &Settings) -> Vec<StaticBinding> {
    let binding = |binding: &super::config::StaticBinding| StaticBinding {
        protocol: match binding.protocol {
            StaticProtocol::Tcp => Protocol::Tcp,
            StaticProtocol::Udp => Protocol::Udp,
        },
        client: binding.client,
        client_port: binding.client_port,
        address: binding.address,
        port: binding.port,
    };
    settings.static_bindings.iter().map(binding).collect()
}

/// What all of `count` shards are told; `numbered` makes it that of one.
fn config(settings: &Settings, count: usize) -> Result<Config, Refused> {
    let pool = &settings.pool;
    let pool = pool.iter().map(|pool| PoolEntry { address: pool.address, first: pool.ports.0, last: pool.ports.1 });
    let seconds = |value: u32| Duration::from_secs(value.into());
    let zero = (settings.traffic_class == TrafficClass::Zero).then_some(0);
    let max_sessions = settings.max_sessions.unwrap_or(settings.max_bindings * 2);
    let per_client = settings.max_bindings_per_client;
    let config = Config {
        static_bindings: static_bindings(settings),
        mtu: settings.mtu,
        ipv6_mtu: settings.ipv6_mtu,
        timeouts: Timeouts {
            tcp_established: seconds(settings.tcp_established),
            tcp_transitory: seconds(settings.tcp_transitory),
            udp: seconds(settings.udp),
            icmp: seconds(settings.icmp),
            ..Timeouts::default()
        },
        traffic_class: zero,
        tos: zero,
        filtering: match settings.filtering {
            FilteringSetting::EndpointIndependent => Filtering::EndpointIndependent,
            FilteringSetting::AddressDependent => Filtering::AddressDependent,
        },
        max_bindings: settings.max_bindings.div_ceil(count),
        max_sessions: max_sessions.div_ceil(count),
        max_bindings_per_client: per_client,
        max_sessions_per_client: settings.max_sessions_per_client.unwrap_or(per_client * 4),
        errors_per_second: settings.errors_per_second.div_ceil(count as u32),
        log_bindings: settings.log_bindings,
        open_hosts: open_hosts(settings),
        shards: count,
        ..Config::new(mappings(settings)?, pool.collect(), settings.address)
    };
    config.verify().map_err(|error| refused(&error))?;
    Ok(config)
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
        let config = config(settings, count)?;
        let seed = RandomState::new().hash_one(count);
        let shards = (0..count).map(|shard| {
            Nat64::new(Config { shard, seed: seed.wrapping_add(shard as u64), ..config.clone() }).map(Mutex::new)
        });
        let shards = shards.collect::<Result<_, _>>().map_err(|error| refused(&error))?;
        let plan = RwLock::new(Arc::new(Plan::new(&config, count)));
        Ok(Self { shards, settings: Mutex::new(settings.clone()), plan })
    }

    /// Whether the settings could work, without using them.
    pub fn check(settings: &Settings) -> Result<(), Refused> {
        config(settings, 1).map(drop)
    }

    /// Takes other settings; bindings that still have a place stay. Returns how many went.
    ///
    /// # Errors
    /// When the settings cannot work; then the former ones stay.
    pub fn reconfigure(&self, now: Now, settings: &Settings) -> Result<usize, Refused> {
        let mut current = self.settings.lock();
        if *current == *settings {
            return Ok(0);
        }
        let count = self.shards.len();
        let config = config(settings, count)?;
        let mut lost = 0;
        // They are equal but for their numbers, so all take it or the first one refuses it.
        for shard in &self.shards {
            lost += shard.lock().reconfigure(now, config.clone()).map_err(|error| refused(&error))?;
        }
        *self.plan.write() = Arc::new(Plan::new(&config, count));
        *current = settings.clone();
        Ok(lost)
    }

    /// Replaces the clients that reach everything, `{"clients": [...]}`; the answer is `{"closed": n}`.
    ///
    /// # Errors
    /// When the question cannot be read.
    pub fn open_for(&self, now: Now, question: &str) -> Result<Value, Refused> {
        let asked: OpenFor = serde_json::from_str(question).map_err(|error| refused(&error))?;
        let mut closed = 0;
        for (number, shard) in self.shards.iter().enumerate() {
            let own = asked.clients.iter().filter(|client| shard_of_client(**client, self.shards.len()) == number);
            closed += shard.lock().open_for(now, own.copied().collect());
        }
        Ok(json!({"closed": closed}))
    }

    pub fn plan(&self) -> Arc<Plan> {
        self.plan.read().clone()
    }

    /// The shard of an IPv6 packet, which is at least a header long.
    pub fn of_v6(&self, packet: &[u8]) -> &Mutex<Nat64> {
        &self.shards[shard_of_v6(packet, self.shards.len())]
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

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(more: &str) -> Settings {
        let text = format!(
            r#"{{"pool": [{{"address": "10.0.0.2", "ports": [32768, 60999]}}], "mtu": 1500, "ipv6_mtu": 1280,
            "address": "fd00:1000::1", "tcp_established": 7440, "tcp_transitory": 240, "udp": 300, "icmp": 60,
            "max_bindings": 100, "max_bindings_per_client": 10{more}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    const ALL: &str = r#", "prefix": "fd00:7777::/96""#;

    #[test]
    fn what_is_not_given_has_its_default() {
        let config = config(&settings(ALL), 3).unwrap();
        assert_eq!((config.max_bindings, config.max_sessions, config.max_sessions_per_client), (34, 67, 40));
        assert_eq!((config.filtering, config.traffic_class, config.tos), (Filtering::EndpointIndependent, None, None));
        assert_eq!((config.errors_per_second, config.log_bindings, config.shards), (34, false, 3));
    }

    #[test]
    fn everything_given_arrives() {
        let more = r#", "prefix_mappings": [{"prefix": "fd00:7777::/96", "network": "0.0.0.0/0"},
            {"prefix": "fd00:8888::/64", "network": "10.0.0.0/8"}], "filtering": "address_dependent",
            "traffic_class": "zero", "errors_per_second": 0, "max_sessions": 50, "max_sessions_per_client": 5,
            "static_bindings": [{"protocol": "tcp", "client": "fd00:1000::5", "client_port": 22, "address": "10.0.0.2",
            "port": 50022}], "log_bindings": true"#;
        let config = config(&settings(more), 1).unwrap();
        assert_eq!((config.max_sessions, config.max_sessions_per_client, config.errors_per_second), (50, 5, 0));
        assert_eq!(
            (config.filtering, config.traffic_class, config.tos),
            (Filtering::AddressDependent, Some(0), Some(0))
        );
        let near = "fd00:8888::a:0:300:0".parse().unwrap();
        assert_eq!(config.mappings.embed([10, 0, 0, 3].into()), Some(near));
        assert_eq!((config.static_bindings.len(), config.log_bindings), (1, true));
    }

    #[test]
    fn mistakes_are_named() {
        let error = |more| Shards::check(&settings(more)).unwrap_err().0;
        assert_eq!(error(""), "nat64: no translation prefix");
        assert!(error(r#", "prefix": "fd00:7777::/97""#).contains("97 bits"));
        let twice =
            r#"{"protocol": "udp", "client": "fd00:1000::5", "client_port": 22, "address": "10.0.0.2", "port": 5}"#;
        assert!(error(&format!(r#"{ALL}, "static_bindings": [{twice}, {twice}]"#)).contains("10.0.0.2 port 5"));
    }

    #[test]
    fn pages() {
        let shards = Shards::new(&settings(ALL), 3).unwrap();
        let answer = shards.list_sessions(Now(0), "{}").unwrap();
        assert_eq!(answer, json!({"sessions": [], "next": null, "total": 0}));
        for (question, text) in [
            (r#"{"limit": 0}"#, "limit"),
            (r#"{"after": "x"}"#, "after"),
            (r#"{"colour": 1}"#, "colour"),
            (r#"{"destination": "10.0.0.1"}"#, "destination"),
        ] {
            assert!(shards.list_bindings(question).unwrap_err().0.contains(text), "{question}");
        }
        assert_eq!(shards.list_sessions(Now(0), r#"{"after": "7.0"}"#).unwrap()["next"], json!(null));
    }
}
