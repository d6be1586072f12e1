//! A rate limit: so many per second, and a burst.

use crate::core::time::Now;

/// The generic cell rate algorithm: one instant is the whole state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limiter {
    /// Microseconds per unit.
    interval: u64,
    /// The most units at once.
    burst: u64,
    /// When the units taken so far will have been earned.
    earned_at: u64,
}

impl Limiter {
    /// # Panics
    /// When `per_second` is not within 1..=1,000,000.
    pub(super) const fn new(per_second: u64, burst: u64) -> Self {
        assert!(per_second >= 1 && per_second <= 1_000_000);
        Self { interval: 1_000_000 / per_second, burst, earned_at: 0 }
    }

    /// Takes `units` when there are that many. More than a burst counts as a whole burst.
    pub(super) fn take(&mut self, now: Now, units: u64) -> bool {
        let after = self.earned_at.max(now.0) + units.min(self.burst) * self.interval;
        let allowed = after - now.0 <= self.burst * self.interval;
        if allowed {
            self.earned_at = after;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let mut limiter = Limiter::new(10, 3);
        let start = Now::from_secs(5);
        assert_eq!((0..5).filter(|_| limiter.take(start, 1)).count(), 3);
        assert!(!limiter.take(Now(start.0 + 99_999), 1));
        assert!(limiter.take(Now(start.0 + 100_000), 1));
        assert!(limiter.take(Now::from_secs(60), 1000));
        assert!(!limiter.take(Now::from_secs(60), 1));
    }
}
