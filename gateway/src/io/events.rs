//! Events on their way to the agent: JSON objects in a bounded queue.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex};
use serde::Serialize;
use serde_json::json;

/// Events kept for a reader that does not come; newer ones are dropped and counted.
const CAPACITY: usize = 65_536;
/// Events handed out at a time.
const BATCH: usize = 1024;
/// A warning of one code is told once in this time, with the number of times it happened.
const WARNING_INTERVAL: Duration = Duration::from_secs(5);
/// Codes are constants of this crate, so this is never reached.
const MAX_CODES: usize = 64;

/// Refused connections told of in one second.
const REFUSALS_PER_SECOND: u32 = 100;

#[derive(Debug)]
pub struct Events {
    queue: Mutex<VecDeque<String>>,
    arrived: Condvar,
    dropped: AtomicU64,
    warnings: Mutex<HashMap<&'static str, Repeated>>,
    refusals: Mutex<(Instant, u32)>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            queue: Mutex::default(),
            arrived: Condvar::new(),
            dropped: AtomicU64::new(0),
            warnings: Mutex::default(),
            refusals: Mutex::new((Instant::now(), REFUSALS_PER_SECOND)),
        }
    }
}

#[derive(Debug)]
struct Repeated {
    told: Instant,
    count: u64,
}

impl Events {
    /// Queues `event` with the fields of `body`, which becomes an object.
    pub fn push(&self, event: &str, body: impl Serialize) {
        let text = render(event, body);
        let mut queue = self.queue.lock();
        if queue.len() >= CAPACITY {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.push_back(text);
        self.arrived.notify_one();
    }

    /// Ends the wait of a reader, for whom something is ready elsewhere.
    pub fn wake(&self) {
        self.arrived.notify_one();
    }

    /// Tells of something that may happen very often.
    pub fn warn(&self, code: &'static str, text: &str) {
        let mut warnings = self.warnings.lock();
        let now = Instant::now();
        if warnings.len() >= MAX_CODES && !warnings.contains_key(code) {
            return;
        }
        let known = warnings.get_mut(code);
        let count = match known {
            Some(repeated) => {
                repeated.count += 1;
                if now.duration_since(repeated.told) < WARNING_INTERVAL {
                    return;
                }
                repeated.told = now;
                std::mem::take(&mut repeated.count)
            }
            None => {
                warnings.insert(code, Repeated { told: now, count: 0 });
                1
            }
        };
        drop(warnings);
        self.push("warning", json!({"code": code, "text": text, "count": count}));
    }

    /// Tells of a connection that was not admitted. In a flood only some are told; counters have them all.
    pub fn refused(&self, peer: &str, reason: &str) {
        {
            let mut budget = self.refusals.lock();
            let now = Instant::now();
            if now.duration_since(budget.0) >= Duration::from_secs(1) {
                *budget = (now, REFUSALS_PER_SECOND);
            }
            if budget.1 == 0 {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                return;
            }
            budget.1 -= 1;
        }
        self.push("refused", json!({"peer": peer, "reason": reason}));
    }

    /// Waits for events; empty when none came in time.
    pub fn next(&self, timeout: Duration) -> Vec<String> {
        let mut queue = self.queue.lock();
        if queue.is_empty() && !timeout.is_zero() {
            self.arrived.wait_for(&mut queue, timeout);
        }
        let count = queue.len().min(BATCH);
        queue.drain(..count).collect()
    }

    /// Events that nobody has fetched yet.
    pub fn waiting(&self) -> usize {
        self.queue.lock().len()
    }

    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// An event as the agent reads it: `body`, which becomes an object, with the event's name and the time.
pub fn render(event: &str, body: impl Serialize) -> String {
    #[derive(Serialize)]
    struct Event<'a, T> {
        event: &'a str,
        at: f64,
        #[serde(flatten)]
        body: T,
    }
    let rendered = serde_json::to_string(&Event { event, at: seconds_since_epoch(), body });
    rendered.expect("the fields of an event are named by this crate and none of them refuses to be written")
}

/// The wall clock, for people.
pub fn seconds_since_epoch() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_rate_limited() {
        let events = Events::default();
        for _ in 0..100 {
            events.warn("FLOOD", "text");
        }
        assert_eq!(events.next(Duration::ZERO).len(), 1);
    }

    #[test]
    fn the_queue_is_bounded() {
        let events = Events::default();
        for _ in 0..CAPACITY + 3 {
            events.push("x", json!({}));
        }
        assert_eq!(events.dropped(), 3);
        assert_eq!(events.next(Duration::ZERO).len(), BATCH);
    }
}
