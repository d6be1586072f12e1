//! What the administrator decided about DNS64, validated while it is read: a value of these types is usable as it is.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::name::Name;
use super::synthesis::Prefix;

/// The port of a server written without one.
const DNS_PORT: u16 = 53;
/// Servers tried for one question; more would outlast every client's patience.
pub const MAX_SERVERS: usize = 8;
/// Suffixes with servers of their own.
pub const MAX_UPSTREAMS: usize = 1024;
/// Entries of the exclusion list.
pub const MAX_EXCLUSIONS: usize = 4096;

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
    /// The NAT64 prefix that synthesized addresses start with.
    pub prefix: Prefix,
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
    pub cache_entries: usize,
    /// Questions waiting for servers, of all clients.
    pub max_queries: usize,
    /// Questions waiting for servers, of one client address.
    pub max_queries_per_client: usize,
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
    prefix: Prefix,
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
    #[serde(default = "default_max_queries")]
    max_queries: usize,
    #[serde(default = "default_max_queries_per_client")]
    max_queries_per_client: usize,
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

fn default_max_queries() -> usize {
    4096
}

fn default_max_queries_per_client() -> usize {
    256
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
        if !(1..=32_768).contains(&document.max_queries) {
            return refuse(format!("dns64.max_queries is {}; give 1 to 32768", document.max_queries));
        }
        if !(1..=document.max_queries).contains(&document.max_queries_per_client) {
            return refuse(format!(
                "dns64.max_queries_per_client is {}; give 1 to dns64.max_queries ({})",
                document.max_queries_per_client, document.max_queries
            ));
        }
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
            prefix: document.prefix,
            only_send_a_query: document.only_send_a_query,
            always_synthesize: document.always_synthesize,
            latency,
            exclusions: document.exclusions,
            upstreams: document.upstreams,
            timeout,
            cache_entries: document.cache_entries,
            max_queries: document.max_queries,
            max_queries_per_client: document.max_queries_per_client,
        })
    }
}

impl From<Config> for Document {
    fn from(config: Config) -> Self {
        Self {
            prefix: config.prefix,
            only_send_a_query: config.only_send_a_query,
            always_synthesize: config.always_synthesize,
            latency_ms: u64::try_from(config.latency.as_millis()).unwrap_or(u64::MAX),
            exclusions: config.exclusions,
            upstreams: config.upstreams,
            timeout: config.timeout.as_secs_f64(),
            cache_entries: config.cache_entries,
            max_queries: config.max_queries,
            max_queries_per_client: config.max_queries_per_client,
        }
    }
}

/// A DNS suffix; the empty one covers every name. A leading dot changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Suffix(pub Box<Name>);

impl FromStr for Suffix {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match Name::from_text(text.strip_prefix('.').unwrap_or(text)) {
            Some(name) => Ok(Self(Box::new(name.lower()))),
            None => Err(ConfigError(format!(
                "\"{text}\" is not a DNS suffix; write labels of 1 to 63 ASCII characters separated by dots"
            ))),
        }
    }
}

impl fmt::Display for Suffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_root() { Ok(()) } else { write!(f, "{}", self.0) }
    }
}

/// One entry of the exclusion list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Exclusion {
    /// Names under this suffix are answered as the servers answer them.
    Suffix(Suffix),
    /// AAAA records in this range count as absent (RFC 6147 section 5.1.4).
    Range { address: Ipv6Addr, length: u8 },
}

impl FromStr for Exclusion {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let Some((address, length)) = text.split_once('/') else {
            if text.contains(':') {
                return Err(ConfigError(format!("\"{text}\" has no prefix length; write {text}/128 for one address")));
            }
            return text.parse().map(Self::Suffix);
        };
        match (address.parse(), length.parse()) {
            (Ok(address), Ok(length)) if length <= 128 => Ok(Self::Range { address, length }),
            _ => Err(ConfigError(format!("\"{text}\" is not an IPv6 prefix; write it like 2001:db8::/32"))),
        }
    }
}

impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Suffix(suffix) => write!(f, "{suffix}"),
            Self::Range { address, length } => write!(f, "{address}/{length}"),
        }
    }
}

/// A DNS server: an address and a port, 53 unless written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Server(pub SocketAddr);

impl FromStr for Server {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let address = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, DNS_PORT));
        match address.or_else(|_| text.parse::<SocketAddr>()) {
            Ok(address) if address.ip().is_unspecified() || address.ip().is_multicast() || address.port() == 0 => {
                Err(ConfigError(format!("\"{text}\" cannot be asked; give the unicast address of a DNS server")))
            }
            Ok(address) => Ok(Self(address)),
            Err(_) => Err(ConfigError(format!(
                "\"{text}\" is not a DNS server; write 10.0.0.53, 10.0.0.53:5353, fd00::53 or [fd00::53]:5353"
            ))),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.port() == DNS_PORT { write!(f, "{}", self.0.ip()) } else { write!(f, "{}", self.0) }
    }
}

/// Text forms for serde, by way of `FromStr` and `Display`.
macro_rules! text_form {
    ($($type:ty),*) => {$(
        impl TryFrom<String> for $type {
            type Error = ConfigError;

            fn try_from(text: String) -> Result<Self, ConfigError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    )*};
}

text_form!(Suffix, Exclusion, Server, Prefix);

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
            (r#"{"exclusions": ["2001:db8::"]}"#, "prefix length"),
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
