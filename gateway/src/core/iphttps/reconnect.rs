//! When the client dials again: the reconnect timer of \[MS-IPHTTPS\] 3.1.2.1.
//!
//! The first failure waits 30 s. Each later one waits for the time that has passed since the first, at most 15 min.
//! A link that came up forgets all failures, and one that was lost is redialled at once. "Came up" is the 2xx response
//! and not the TLS connection: a full server ends the connection after TLS, and must not be hammered for it.
//!
//! One thing the specification, which knows single servers, does not have: a loss in a cluster is a handover. The first
//! redial can still reach the server that is going (its listener takes the connection and dies with it) or come before
//! another has its buckets; 30 s later is far too late for a user, and a second later is enough. So the first failures
//! right after a link that had lived are followed by a few short waits, and the schedule begins after them. They are
//! few and only in the first seconds, so that a server which is gone, full or refuses us has at most
//! [`QUICK_WAITS`]`.len()` attempts more from each client than the specification gives it.

use std::time::Duration;

use crate::core::time::Now;

/// The wait after the first failure, and the shortest after any.
pub const FIRST_WAIT: Duration = Duration::from_secs(30);
/// The longest wait.
pub const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);
/// A link that lived shorter than this and died a second time in a row is not redialled at once.
pub const SHORT_LIFE: Duration = Duration::from_secs(5);
/// The waits after failures within [`HANDOVER`] of the loss of a link that had lived.
pub const QUICK_WAITS: [Duration; 4] =
    [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];
/// So long after a loss a failure is taken for a part of a handover.
pub const HANDOVER: Duration = Duration::from_secs(8);
/// By how much jitter shortens a wait at most, so that clients of one dead server do not return in step.
const JITTER: f64 = 0.1;
/// The same for the quick waits, which would hardly spread anybody with a tenth.
const QUICK_JITTER: f64 = 0.5;

#[derive(Clone, Debug, Default)]
pub struct Reconnect {
    first_failure: Option<Now>,
    up_since: Option<Now>,
    short_lives: u32,
    /// When a link that had lived was lost, until the next is up.
    handover_since: Option<Now>,
    quick_failures: usize,
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

    /// An attempt failed. `jitter` in 0..1 shortens the wait by up to a tenth, a quick one by up to half; 0 gives the
    /// exact schedule.
    pub fn failed(&mut self, now: Now, jitter: f64) -> Duration {
        self.up_since = None;
        if let Some(wait) = self.quick_wait(now) {
            return self.schedule(now, wait, QUICK_JITTER * jitter);
        }
        let wait = match self.first_failure {
            None => {
                self.first_failure = Some(now);
                FIRST_WAIT
            }
            Some(first) => now.since(first).clamp(FIRST_WAIT, LONGEST_WAIT),
        };
        self.schedule(now, wait, JITTER * jitter)
    }

    fn quick_wait(&mut self, now: Now) -> Option<Duration> {
        let since = self.handover_since?;
        let wait = QUICK_WAITS.get(self.quick_failures).filter(|_| now.since(since) < HANDOVER);
        if wait.is_none() {
            // The schedule has begun; a clock that stands still does not bring the quick waits back.
            self.handover_since = None;
        }
        self.quick_failures += 1;
        wait.copied()
    }

    /// The link is up.
    pub fn succeeded(&mut self, now: Now) {
        self.first_failure = None;
        self.handover_since = None;
        self.due = None;
        self.up_since = Some(now);
    }

    /// The link that was up is gone. Redials at once, except when links keep dying young: then after 1 s, doubling to
    /// 30 s, since an attempt that succeeds and ends in a loop never reaches the schedule for failures.
    pub fn lost(&mut self, now: Now, jitter: f64) -> Duration {
        let young = self.up_since.take().is_some_and(|since| now.since(since) < SHORT_LIFE);
        self.short_lives = if young { self.short_lives.saturating_add(1) } else { 0 };
        self.handover_since = (!young).then_some(now);
        self.quick_failures = 0;
        let wait = match self.short_lives {
            0 | 1 => Duration::ZERO,
            lives => Duration::from_secs(1 << (lives - 2).min(5)).min(FIRST_WAIT),
        };
        self.schedule(now, wait, JITTER * jitter)
    }

    /// No further attempts.
    pub fn stop(&mut self) {
        *self = Self::default();
    }

    /// `shortened` in 0..1 is the part of the wait that is left out.
    fn schedule(&mut self, now: Now, wait: Duration, shortened: f64) -> Duration {
        let wait = wait.mul_f64(1.0 - shortened.clamp(0.0, 1.0));
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

    /// The waits of attempts that fail at once, from the loss on.
    fn waits_after_loss(reconnect: &mut Reconnect, mut now: Now, count: usize) -> Vec<Duration> {
        (0..count)
            .map(|_| {
                let wait = reconnect.failed(now, 0.0);
                now = now + wait;
                wait
            })
            .collect()
    }

    #[test]
    fn the_first_failures_of_a_handover_wait_shortly_and_then_the_schedule_begins() {
        let mut reconnect = Reconnect::new();
        reconnect.succeeded(Now(0));
        reconnect.lost(Now::from_secs(60), 0.0);
        let waits = waits_after_loss(&mut reconnect, Now::from_secs(60), 7);
        assert_eq!(waits[..4], QUICK_WAITS);
        assert_eq!(waits[4..], [FIRST_WAIT, secs(30), secs(60)]);
    }

    #[test]
    fn a_link_that_died_young_or_was_never_up_has_no_handover() {
        let mut reconnect = Reconnect::new();
        assert_eq!(reconnect.failed(Now(0), 0.0), FIRST_WAIT);
        reconnect.succeeded(Now::from_secs(30));
        reconnect.lost(Now::from_secs(31), 0.0);
        assert_eq!(reconnect.failed(Now::from_secs(31), 0.0), FIRST_WAIT);
    }

    #[test]
    fn a_failure_long_after_the_loss_is_no_handover() {
        let mut reconnect = Reconnect::new();
        reconnect.succeeded(Now(0));
        reconnect.lost(Now::from_secs(60), 0.0);
        assert_eq!(reconnect.failed(Now::from_secs(61), 0.0), QUICK_WAITS[0]);
        assert_eq!(reconnect.failed(Now::from_secs(60) + HANDOVER, 0.0), FIRST_WAIT);
        assert_eq!(reconnect.failed(Now::from_secs(61), 0.0), FIRST_WAIT, "the clock went back");
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
            prop_assert_eq!(reconnect.failed(Now::from_secs(100_101), 0.0), QUICK_WAITS[0]);
            prop_assert_eq!(reconnect.failed(Now::from_secs(100_200), 0.0), FIRST_WAIT);
        }

        /// Whatever a server does to us: no more than the quick attempts in addition to the specification's.
        #[test]
        fn a_loss_costs_a_bounded_number_of_attempts(
            attempts in prop::collection::vec(0u64..3_000, 1..40),
            jitter in 0.0..1.0,
        ) {
            let mut reconnect = Reconnect::new();
            reconnect.succeeded(Now(0));
            let mut now = Now::from_secs(60);
            reconnect.lost(now, jitter);
            let mut quick = 0;
            let mut scheduled = false;
            for milliseconds in attempts {
                now = now + Duration::from_millis(milliseconds);
                let wait = reconnect.failed(now, jitter);
                prop_assert_eq!(reconnect.due(), Some(now + wait));
                if wait < FIRST_WAIT.mul_f64(0.9) {
                    prop_assert!(!scheduled, "the quick waits never come back");
                    prop_assert!(wait >= QUICK_WAITS[quick].mul_f64(0.5) && wait <= QUICK_WAITS[quick]);
                    quick += 1;
                } else {
                    scheduled = true;
                }
                now = now + wait;
            }
            prop_assert!(quick <= QUICK_WAITS.len());
        }
    }
}
