//! The accounting log of bindings as events for the agent.

use serde_json::{Value, json};

use super::Shards;
use crate::core::nat64::LogRow;
use crate::core::time::Now;
use crate::io::events::{self, seconds_since_epoch};

/// Rows in one event.
const ROWS: usize = 512;
/// Events handed out at a time.
const BATCHES: usize = 64;

impl Shards {
    /// Takes what the shards noted, as events; at most 64 of them, the rest at the next call.
    pub fn accounting_events(&self, now: Now, out: &mut Vec<String>) {
        let epoch = seconds_since_epoch() - now.since(Now::default()).as_secs_f64();
        let mut rows = Vec::new();
        let mut batches = 0;
        for shard in &self.shards {
            while batches < BATCHES {
                let dropped = shard.lock().take_log(ROWS, &mut rows);
                if rows.is_empty() && dropped == 0 {
                    break;
                }
                let texts: Vec<Value> = rows.drain(..).map(|entry| row(epoch, &entry)).collect();
                out.push(events::render("nat64_bindings", json!({"rows": texts, "dropped": dropped})));
                batches += 1;
            }
        }
    }
}

fn row(epoch: f64, entry: &LogRow) -> Value {
    // Milliseconds are more than a clock and a log of connections agree on.
    let at = ((epoch + entry.at.since(Now::default()).as_secs_f64()) * 1000.0).round() / 1000.0;
    json!([
        if entry.open { "open" } else { "close" },
        at,
        entry.protocol.as_str(),
        entry.client,
        entry.client_port,
        entry.address,
        entry.port,
    ])
}
