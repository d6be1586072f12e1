//! What the administrator decided about DNS64, validated while it is read: a value of these types is usable as it is.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use super::cache::Bounds;
pub use super::forms::{Exclusion, Network, Server, Suffix};
use super::prefix::{Ipv4Network, Mapping, Mappings, Prefix};

/// Servers tried for one question; more would outlast every client's patience.
pub const MAX_SERVERS: usize = 8;
/// Suffixes with servers of their own.
pub const MAX_UPSTREAMS: usize = 1024;
/// Entries of the exclusion list.
pub const MAX_EXCLUSIONS: usize = 4096;
/// Networks whose queries are answered.
pub const MAX_ACCEPTED: usize = 1024;

/// A value that cannot be used; the text says which, why, and what would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// The `dns64` object of the gateway's configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Document", into = "Document")]
pub struct Config {
    /// The NAT64 prefixes that synthesized addresses start with (PrefixMapping).
    pub mappings: Mappings,
    /// Ask upstream only for A, whatever AAAA records exist (OnlySendAQuery).
    pub only_send_a_query: bool,
    /// Prefer synthesized addresses to existing AAAA records (AlwaysSynthesize).
    pub always_synthesize: bool,
    /// How long after the AAAA question the A question is sent (LatencyMilliseconds).
    pub latency: Duration,
    /// Names never synthesized for, and native addresses treated as absent (ExclusionList).
    pub exclusions: Vec<Exclusion>,
    /// Servers by suffix; the longest suffix wins.
    pub upstreams: Vec<Upstream>,
    /// How long a question may wait for its servers, all attempts together.
    pub timeout: Duration,
    /// Answers kept, positive and negative.
    pub cache: Bounds,
    /// Questions waiting for servers, of all clients.
    pub max_queries: usize,
    /// Questions waiting for servers, of one client address.
    pub max_queries_per_client: usize,
    /// Which server of a suffix is asked first.
    pub server_choice: ServerChoice,
    /// Ask again for names that are in demand shortly before their answers expire.
    pub prefetch: bool,
    /// How long an expired answer may still stand in for servers that do not answer (RFC 8767); zero for never.
    pub serve_stale: Duration,
    /// Queries that one client address may send in the long run; `None` for any number.
    pub rate: Option<Rate>,
    /// Who is answered (AcceptInterface, as addresses); empty for everybody.
    pub accept_from: Vec<Network>,
}

/// What one client address may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub per_second: u32,
    /// At once, after a silence.
    pub burst: u32,
}

/// Which server of a suffix is asked first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerChoice {
    /// The first of the list that answers.
    #[default]
    Ordered,
    /// The one that answers soonest; now and then another, to know.
    Fastest,
}

/// The servers for the names under one suffix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Empty for every name that no longer suffix matches.
    pub suffix: Suffix,
    /// In the order of preference; a later one is asked when those before it do not answer.
    pub servers: Vec<Server>,
}

/// The JSON form of [`Config`], as the settings write it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    /// The short form of one mapping of every IPv4 address.
    #[serde(default, skip_serializing)]
    prefix: Option<Prefix>,
    #[serde(default)]
    prefix_mappings: Vec<Mapping>,
    #[serde(default = "yes")]
    only_send_a_query: bool,
    #[serde(default)]
    always_synthesize: bool,
    #[serde(default)]
    latency_ms: u64,
    #[serde(default)]
    exclusions: Vec<Exclusion>,
    upstreams: Vec<Upstream>,
    #[serde(default = "default_timeout")]
    timeout: f64,
    #[serde(default = "default_cache_entries")]
    cache_entries: usize,
    #[serde(default = "default_cache_bytes")]
    cache_bytes: usize,
    #[serde(default = "default_max_queries")]
    max_queries: usize,
    #[serde(default = "default_max_queries_per_client")]
    max_queries_per_client: usize,
    #[serde(default)]
    server_choice: ServerChoice,
    #[serde(default = "yes")]
    prefetch: bool,
    #[serde(default = "default_serve_stale_seconds")]
    serve_stale_seconds: u32,
    #[serde(default = "default_queries_per_second_per_client")]
    queries_per_second_per_client: u32,
    #[serde(default = "default_query_burst_per_client")]
    query_burst_per_client: u32,
    #[serde(default)]
    accept_from: Vec<Network>,
}

fn yes() -> bool {
    true
}

fn default_timeout() -> f64 {
    5.0
}

fn default_cache_entries() -> usize {
    65_536
}

/// Small answers take half of it when there are as many as there may be; large ones cannot take more than this.
fn default_cache_bytes() -> usize {
    64 << 20
}

fn default_max_queries() -> usize {
    4096
}

fn default_max_queries_per_client() -> usize {
    256
}

/// A day: RFC 8767 section 5 suggests one to three.
fn default_serve_stale_seconds() -> u32 {
    86_400
}

fn default_queries_per_second_per_client() -> u32 {
    100
}

fn default_query_burst_per_client() -> u32 {
    200
}

impl TryFrom<Document> for Config {
    type Error = ConfigError;

    fn try_from(document: Document) -> Result<Self, ConfigError> {
        let refuse = |text: String| Err(ConfigError(text));
        if !(0.5..=30.0).contains(&document.timeout) {
            return refuse(format!("dns64.timeout is {} seconds; give 0.5 to 30", document.timeout));
        }
        let latency = Duration::from_millis(document.latency_ms);
        let timeout = Duration::from_secs_f64(document.timeout);
        if latency > timeout / 2 {
            return refuse(format!(
                "dns64.latency_ms is {}, which leaves the A question less than half of dns64.timeout ({} s); lower it",
                document.latency_ms, document.timeout
            ));
        }
        if document.cache_entries > 4_194_304 {
            return refuse(format!("dns64.cache_entries is {}; give at most 4194304", document.cache_entries));
        }
        if !(65_536..=4 << 30).contains(&document.cache_bytes) {
            return refuse(format!(
                "dns64.cache_bytes is {}; give 65536 to 4294967296, and 0 as dns64.cache_entries to keep no answers",
                document.cache_bytes
            ));
        }
        if !(1..=32_768).contains(&document.max_queries) {
            return refuse(format!("dns64.max_queries is {}; give 1 to 32768", document.max_queries));
        }
        if !(1..=document.max_queries).contains(&document.max_queries_per_client) {
            return refuse(format!(
                "dns64.max_queries_per_client is {}; give 1 to dns64.max_queries ({})",
                document.max_queries_per_client, document.max_queries
            ));
        }
        if document.serve_stale_seconds > 604_800 {
            return refuse(format!(
                "dns64.serve_stale_seconds is {}; give at most 604800, a week (RFC 8767), or 0 for never",
                document.serve_stale_seconds
            ));
        }
        let (per_second, burst) = (document.queries_per_second_per_client, document.query_burst_per_client);
        if per_second > 1_000_000 {
            return refuse(format!(
                "dns64.queries_per_second_per_client is {per_second}; give at most 1000000, or 0 for no limit"
            ));
        }
        if per_second > 0 && !(1..=1_000_000).contains(&burst) {
            return refuse(format!("dns64.query_burst_per_client is {burst}; give 1 to 1000000"));
        }
        if document.accept_from.len() > MAX_ACCEPTED {
            return refuse(format!(
                "dns64.accept_from has {} entries; give at most {MAX_ACCEPTED}",
                document.accept_from.len()
            ));
        }
        let mappings = match (document.prefix, document.prefix_mappings) {
            (Some(prefix), mappings) if mappings.is_empty() => vec![Mapping { prefix, network: Ipv4Network::ALL }],
            (None, mappings) => mappings,
            (Some(_), _) => {
                return refuse("dns64 has both prefix and prefix_mappings; give prefix_mappings alone".to_owned());
            }
        };
        let mappings = Mappings::new(mappings)?;
        if document.exclusions.len() > MAX_EXCLUSIONS {
            return refuse(format!(
                "dns64.exclusions has {} entries; give at most {MAX_EXCLUSIONS}",
                document.exclusions.len()
            ));
        }
        if document.upstreams.is_empty() || document.upstreams.len() > MAX_UPSTREAMS {
            return refuse(format!(
                "dns64.upstreams has {} entries; give 1 to {MAX_UPSTREAMS} (one with suffix \"\" for all names)",
                document.upstreams.len()
            ));
        }
        let mut suffixes = HashSet::new();
        for upstream in &document.upstreams {
            let suffix = &upstream.suffix;
            if !suffixes.insert(&suffix.0) {
                return refuse(format!("dns64.upstreams names the suffix \"{suffix}\" twice; merge the two entries"));
            }
            if upstream.servers.is_empty() || upstream.servers.len() > MAX_SERVERS {
                return refuse(format!(
                    "dns64.upstreams suffix \"{suffix}\" has {} servers; give 1 to {MAX_SERVERS}",
                    upstream.servers.len()
                ));
            }
        }
        Ok(Self {
            mappings,
            only_send_a_query: document.only_send_a_query,
            always_synthesize: document.always_synthesize,
            latency,
            exclusions: document.exclusions,
            upstreams: document.upstreams,
            timeout,
            cache: Bounds { entries: document.cache_entries, bytes: document.cache_bytes },
            max_queries: document.max_queries,
            max_queries_per_client: document.max_queries_per_client,
            server_choice: document.server_choice,
            prefetch: document.prefetch,
            serve_stale: Duration::from_secs(document.serve_stale_seconds.into()),
            rate: (per_second > 0).then_some(Rate { per_second, burst }),
            accept_from: document.accept_from,
        })
    }
}

impl From<Config> for Document {
    fn from(config: Config) -> Self {
        Self {
            prefix: None,
            prefix_mappings: config.mappings.as_written().to_vec(),
            only_send_a_query: config.only_send_a_query,
            always_synthesize: config.always_synthesize,
            latency_ms: u64::try_from(config.latency.as_millis()).unwrap_or(u64::MAX),
            exclusions: config.exclusions,
            upstreams: config.upstreams,
            timeout: config.timeout.as_secs_f64(),
            cache_entries: config.cache.entries,
            cache_bytes: config.cache.bytes,
            max_queries: config.max_queries,
            max_queries_per_client: config.max_queries_per_client,
            server_choice: config.server_choice,
            prefetch: config.prefetch,
            serve_stale_seconds: u32::try_from(config.serve_stale.as_secs()).unwrap_or(u32::MAX),
            queries_per_second_per_client: config.rate.map_or(0, |rate| rate.per_second),
            query_burst_per_client: config.rate.map_or_else(default_query_burst_per_client, |rate| rate.burst),
            accept_from: config.accept_from,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(change: &str) -> Result<Config, String> {
        let mut document = serde_json::json!({
            "prefix": "fd7c:1a2b:3c4d:7777::/96",
            "upstreams": [{"suffix": "", "servers": ["10.0.0.53", "[fd00::53]:5353", "fd00::54"]}],
        });
        let change: serde_json::Value = serde_json::from_str(change).expect("JSON");
        document.as_object_mut().expect("object").extend(change.as_object().expect("object").clone());
        serde_json::from_value(document).map_err(|error| error.to_string())
    }

    #[test]
    fn a_document_is_read_and_written_back() {
        let config = read(r#"{"latency_ms": 20, "exclusions": [".Lab.example", "2001:db8::/32"]}"#).expect("valid");
        assert_eq!(config.upstreams[0].servers[0].0, "10.0.0.53:53".parse().expect("address"));
        assert_eq!(config.upstreams[0].servers[1].0, "[fd00::53]:5353".parse().expect("address"));
        let text = serde_json::to_string(&config).expect("serializable");
        assert!(text.contains(r#""exclusions":["lab.example","2001:db8::/32"]"#), "{text}");
        assert_eq!(serde_json::from_str::<Config>(&text).expect("valid"), config);
    }

    #[test]
    fn unusable_values_are_refused_by_name() {
        for (change, words) in [
            (r#"{"timeout": 0}"#, "dns64.timeout"),
            (r#"{"latency_ms": 4000}"#, "dns64.latency_ms"),
            (r#"{"upstreams": []}"#, "dns64.upstreams"),
            (r#"{"upstreams": [{"suffix": "x", "servers": []}]}"#, "0 servers"),
            (r#"{"upstreams": [{"suffix": "x", "servers": ["::"]}]}"#, "cannot be asked"),
            (r#"{"upstreams": [{"suffix": "a..b", "servers": ["10.0.0.1"]}]}"#, "not a DNS suffix"),
            (r#"{"max_queries": 0}"#, "dns64.max_queries"),
            (r#"{"max_queries": 5, "max_queries_per_client": 6}"#, "dns64.max_queries_per_client"),
            (r#"{"cache_entries": 99999999}"#, "dns64.cache_entries"),
            (r#"{"cache_bytes": 1000}"#, "dns64.cache_bytes"),
            (r#"{"exclusions": ["2001:db8::"]}"#, "prefix length"),
            (r#"{"prefix_mappings": [{"prefix": "fd00::/96", "network": "0.0.0.0/0"}]}"#, "both prefix and"),
            (r#"{"prefix": null}"#, "0 entries"),
            (r#"{"serve_stale_seconds": 1000000}"#, "dns64.serve_stale_seconds"),
            (r#"{"queries_per_second_per_client": 2000000}"#, "dns64.queries_per_second_per_client"),
            (r#"{"query_burst_per_client": 0}"#, "dns64.query_burst_per_client"),
            (r#"{"accept_from": ["10.0.0.1/8"]}"#, "bits set behind"),
            (r#"{"accept_from": ["here"]}"#, "not an address range"),
            (r#"{"prefix": "fd00::/95"}"#, "RFC 6052"),
            (r#"{"prefix": "fd00::1/96"}"#, "bits set behind"),
            (r#"{"prefix": "fd00:0:0:0:0100::/96"}"#, "bits 64 to 71"),
            (r#"{"surprise": 1}"#, "surprise"),
        ] {
            let error = read(change).expect_err(change);
            assert!(error.contains(words), "{change}: {error}");
        }
    }
}
