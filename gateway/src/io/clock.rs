//! The clock that the cores are told.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::core::time::Now;

/// Microseconds since the process's gateway was made; cheap to copy to every worker.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Starts an hour in, so that "long ago" can be expressed.
    pub fn start() -> Self {
        let now = Instant::now();
        Self(now.checked_sub(Duration::from_secs(3600)).unwrap_or(now))
    }

    pub fn now(self) -> Now {
        Now::default() + self.0.elapsed()
    }

    /// The instant at which `now()` will be `at`.
    pub fn instant(self, at: Now) -> tokio::time::Instant {
        (self.0 + at.since(Now::default())).into()
    }
}

/// Seconds since the epoch.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A number in 0..1 that differs between processes and calls; good for jitter, not for secrets.
pub fn jitter() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    (RandomState::new().hash_one(0) >> 11) as f64 / (1u64 << 53) as f64
}
