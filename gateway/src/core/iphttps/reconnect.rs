//! When the client dials again: the reconnect timer of \[MS-IPHTTPS\] 3.1.2.1.
//!
//! The first failure waits 30 s. Each later one waits for the time that has passed since the first, at most 15 min.
//! A link that came up forgets all failures, and one that was lost is redialled at once. "Came up" is the 2xx response
//! and not the TLS connection: a full server ends the connection after TLS, and must not be hammered for it.

use std::time::Duration;

use crate::core::time::Now;

/// The wait after the first failure, and the shortest after any.
pub const FIRST_WAIT: Duration = Duration::from_secs(30);
/// The longest wait.
pub const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);
/// A link that lived shorter than this and died a second time in a row is not redialled at once.
pub const SHORT_LIFE: Duration = Duration::from_secs(5);
/// By how much jitter shortens a wait at most, so that clients of one dead server do not return in step.
const JITTER: f64 = 0.1;

#[derive(Clone, Debug, Default)]
pub struct Reconnect {
    first_failure: Option<Now>,
    up_since: Option<Now>,
    short_lives: u32,
    due: Option<Now>,
}

impl Reconnect {
    pub fn new() -> Self {
        Self::default()
    }

    /// When to dial; `None` while a connection is up or being made.
    pub fn due(&self) -> Option<Now> {
        self.due
    }

    /// Asks for a connection at once and forgets the failures: the link was enabled, or the network changed.
    pub fn redial(&mut self, now: Now) {
        *self = Self { due: Some(now), ..Self::default() };
    }

    /// An attempt begins.
    pub fn dialling(&mut self) {
        self.due = None;
    }

    /// An attempt failed. `jitter` in 0..1 shortens the wait by up to a tenth; 0 gives the exact schedule.
    pub fn failed(&mut self, now: Now, jitter: f64) -> Duration {
        self.up_since = None;
        let wait = match self.first_failure {
            None => {
                self.first_failure = Some(now);
                FIRST_WAIT
            }
            Some(first) => now.since(first).clamp(FIRST_WAIT, LONGEST_WAIT),
        };
        self.schedule(now, wait, jitter)
    }

    /// The link is up.
    pub fn succeeded(&mut self, now: Now) {
        self.first_failure = None;
        self.due = None;
        self.up_since = Some(now);
    }

    /// The link that was up is gone. Redials at once, except when links keep dying young: then after 1 s, doubling to
    /// 30 s, since an attempt that succeeds and ends in a loop never reaches the schedule for failures.
    pub fn lost(&mut self, now: Now, jitter: f64) -> Duration {
        let young = self.up_since.take().is_some_and(|since| now.since(since) < SHORT_LIFE);
        self.short_lives = if young { self.short_lives.saturating_add(1) } else { 0 };
        let wait = match self.short_lives {
            0 | 1 => Duration::ZERO,
            lives => Duration::from_secs(1 << (lives - 2).min(5)).min(FIRST_WAIT),
        };
        self.schedule(now, wait, jitter)
    }

    /// No further attempts.
    pub fn stop(&mut self) {
        *self = Self::default();
    }

    fn schedule(&mut self, now: Now, wait: Duration, jitter: f64) -> Duration {
        let wait = wait.mul_f64(1.0 - JITTER * jitter.clamp(0.0, 1.0));
        self.due = Some(now + wait);
        wait
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn reconnect_schedule() {
        let attempt = secs(10);
        let mut reconnect = Reconnect::new();
        let mut now = Now::from_secs(100);
        let mut waits = Vec::new();
        for _ in 0..9 {
            let wait = reconnect.failed(now, 0.0);
            waits.push(wait.as_secs());
            assert_eq!(reconnect.due(), Some(now + wait));
            now = now + wait + attempt;
        }
        // T = 10 s: 30, 30+T, 60+3T (the rule; the list in the specification says 60+2T), 120+7T, ...
        assert_eq!(waits, [30, 40, 90, 190, 390, 790, 900, 900, 900]);
        reconnect.succeeded(now);
        assert_eq!(reconnect.due(), None);
        assert_eq!(reconnect.failed(now, 0.0), FIRST_WAIT);
    }

    #[test]
    fn a_lost_link_is_redialled_at_once() {
        let mut reconnect = Reconnect::new();
        reconnect.failed(Now(0), 0.0);
        reconnect.succeeded(Now::from_secs(40));
        assert_eq!(reconnect.lost(Now::from_secs(50), 0.5), Duration::ZERO);
        assert_eq!(reconnect.due(), Some(Now::from_secs(50)));
        assert_eq!(reconnect.failed(Now::from_secs(60), 0.0), FIRST_WAIT);
    }

    #[test]
    fn links_that_die_young_slow_down() {
        let mut reconnect = Reconnect::new();
        let waits: Vec<_> = (0..9)
            .map(|second| {
                reconnect.succeeded(Now::from_secs(second));
                reconnect.lost(Now::from_secs(second), 0.0).as_secs()
            })
            .collect();
        assert_eq!(waits, [0, 1, 2, 4, 8, 16, 30, 30, 30]);
        reconnect.succeeded(Now::from_secs(100));
        assert_eq!(reconnect.lost(Now::from_secs(110), 0.0), Duration::ZERO);
    }

    #[test]
    fn a_network_change_forgets_the_schedule() {
        let mut reconnect = Reconnect::new();
        for second in [0, 30, 60, 120] {
            reconnect.failed(Now::from_secs(second), 0.0);
        }
        reconnect.redial(Now::from_secs(130));
        assert_eq!(reconnect.due(), Some(Now::from_secs(130)));
        reconnect.dialling();
        assert_eq!(reconnect.due(), None);
        assert_eq!(reconnect.failed(Now::from_secs(140), 0.0), FIRST_WAIT);
    }

    proptest! {
        #[test]
        fn waits_grow_within_their_bounds(attempts in prop::collection::vec(0u64..100_000, 1..60), jitter in 0.0..1.0) {
            let mut reconnect = Reconnect::new();
            let mut now = Now(0);
            let mut before = Duration::ZERO;
            for milliseconds in attempts {
                let mut exact = reconnect.clone();
                let wait = exact.failed(now, 0.0);
                prop_assert!(wait >= before && (FIRST_WAIT..=LONGEST_WAIT).contains(&wait));
                before = wait;
                let shortened = reconnect.failed(now, jitter);
                prop_assert!(shortened <= wait && shortened >= wait.mul_f64(0.9));
                // Attempts end later than the exact schedule says, never earlier, so that waits compare.
                now = now + wait + Duration::from_millis(milliseconds);
            }
        }

        #[test]
        fn success_always_resets(failures in 1u64..40) {
            let mut reconnect = Reconnect::new();
            for failure in 0..failures {
                reconnect.failed(Now::from_secs(failure * 1000), 0.0);
            }
            reconnect.succeeded(Now::from_secs(100_000));
            prop_assert_eq!(reconnect.lost(Now::from_secs(100_100), 0.9), Duration::ZERO);
            prop_assert_eq!(reconnect.failed(Now::from_secs(100_101), 0.0), FIRST_WAIT);
        }
    }
}
