//! What the crowd counts. Memory is bounded whatever the length of a run.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

/// Buckets of one doubling: values are known to about 4 %.
const STEPS: usize = 16;
/// Doublings of a microsecond: up to 70 minutes.
const DOUBLINGS: usize = 32;
/// Different reasons that are kept apart.
const MAX_REASONS: usize = 64;

/// Durations in buckets that grow with them.
#[derive(Clone)]
pub struct Histogram {
    buckets: Box<[u64; STEPS * DOUBLINGS]>,
    count: u64,
    longest: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: Box::new([0; STEPS * DOUBLINGS]), count: 0, longest: Duration::ZERO }
    }
}

impl Histogram {
    pub fn add(&mut self, duration: Duration) {
        let micros = duration.as_micros().max(1) as f64;
        let index = (micros.log2() * STEPS as f64) as usize;
        self.buckets[index.min(self.buckets.len() - 1)] += 1;
        self.count += 1;
        self.longest = self.longest.max(duration);
    }

    /// The middle of the bucket below which `share` of the values lie, in milliseconds.
    fn quantile(&self, share: f64) -> f64 {
        let wanted = (self.count as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, &count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                let middle = ((index as f64 + 0.5) / STEPS as f64).exp2() / 1000.0;
                return middle.min(self.longest.as_secs_f64() * 1000.0);
            }
        }
        0.0
    }

    pub fn json(&self) -> Value {
        if self.count == 0 {
            return json!({"count": 0});
        }
        let rounded = |value: f64| (value * 1000.0).round() / 1000.0;
        json!({
            "count": self.count,
            "p50_ms": rounded(self.quantile(0.5)),
            "p90_ms": rounded(self.quantile(0.9)),
            "p99_ms": rounded(self.quantile(0.99)),
            "max_ms": rounded(self.longest.as_secs_f64() * 1000.0),
        })
    }
}

/// Numbers by reason.
#[derive(Clone, Default)]
pub struct Reasons(BTreeMap<String, u64>);

impl Reasons {
    pub fn add(&mut self, reason: &str) {
        let known = self.0.contains_key(reason) || self.0.len() < MAX_REASONS;
        *self.0.entry(if known { reason } else { "other" }.to_owned()).or_default() += 1;
    }

    pub fn json(&self) -> Value {
        json!(self.0)
    }
}

/// Everything since the start or the last reset.
#[derive(Clone, Default)]
pub struct Figures {
    /// When the counting began, if it began with a reset.
    began: Option<Instant>,
    /// TCP connections begun.
    pub dialled: u64,
    /// Attempts that ended without a tunnel.
    pub failed: Reasons,
    /// Tunnels that came up, and of those the resumed ones.
    pub came_up: u64,
    pub resumed: u64,
    /// Tunnels that ended though nobody here wanted it.
    pub lost: Reasons,
    /// Tunnels closed on purpose.
    pub closed: u64,
    /// From the first packet of TCP to the end of the TLS handshake, and to the 200 response.
    pub handshake: Histogram,
    pub until_up: Histogram,
    /// From the response to the first answered packet.
    pub until_reachable: Histogram,
    /// From the last reset to the first answered packet: how long after it those were back who had to dial again.
    pub since_reset: Histogram,
    pub round_trip: Histogram,
    pub pings: u64,
    pub ping_losses: u64,
    pub exchanges: u64,
    /// Exchanges that did not finish in time.
    pub exchange_losses: u64,
    pub packets_out: u64,
    pub packets_in: u64,
    pub bytes_out: u64,
    pub bytes_in: u64,
}

impl Figures {
    /// Nothing counted yet, as of now.
    pub fn begin() -> Self {
        Self { began: Some(Instant::now()), ..Self::default() }
    }

    /// A tunnel carries packets, `took` after the response that opened it.
    pub fn reachable(&mut self, took: Duration) {
        self.until_reachable.add(took);
        if let Some(began) = self.began {
            self.since_reset.add(began.elapsed());
        }
    }

    pub fn json(&self) -> Value {
        json!({
            "dialled": self.dialled,
            "failed": self.failed.json(),
            "came_up": self.came_up,
            "resumed": self.resumed,
            "lost": self.lost.json(),
            "closed": self.closed,
            "handshake": self.handshake.json(),
            "until_up": self.until_up.json(),
            "until_reachable": self.until_reachable.json(),
            "since_reset": self.since_reset.json(),
            "round_trip": self.round_trip.json(),
            "pings": self.pings,
            "ping_losses": self.ping_losses,
            "exchanges": self.exchanges,
            "exchange_losses": self.exchange_losses,
            "packets_out": self.packets_out,
            "packets_in": self.packets_in,
            "bytes_out": self.bytes_out,
            "bytes_in": self.bytes_in,
        })
    }
}
