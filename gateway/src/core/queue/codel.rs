//! CoDel (RFC 8289 section 5) for one flow: signals when packets have waited longer than the target for an interval.

use std::time::Duration;

use crate::core::time::Now;

/// A wait that is acceptable as a standing queue (RFC 8289 section 4.2).
pub const TARGET: Duration = Duration::from_millis(5);
/// The time a sender needs to react: the upper end of usual round trips (RFC 8289 section 4.3).
pub const INTERVAL: Duration = Duration::from_millis(100);
/// A flow that comes back within so many intervals has not forgotten its rate (RFC 8289 section 5.5).
const MEMORY: u32 = 16;

/// What CoDel remembers of a flow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Codel {
    /// When the wait will have been too long for an interval.
    first_above: Option<Now>,
    next: Now,
    count: u32,
    last_count: u32,
    signalling: bool,
}

impl Codel {
    /// Whether the packet that is next must be marked or dropped. It has waited `sojourn`; `behind` bytes wait behind it,
    /// and no more than `enough` of them cannot be called a queue.
    pub fn signals(&mut self, now: Now, sojourn: Duration, target: Duration, behind: usize, enough: usize) -> bool {
        if sojourn < target || behind <= enough {
            self.first_above = None;
            self.signalling = false;
            return false;
        }
        let since = *self.first_above.get_or_insert(now + INTERVAL);
        if now < since {
            self.signalling = false;
            return false;
        }
        if self.signalling {
            if now < self.next {
                return false;
            }
            self.count += 1;
            self.next = self.next + spacing(self.count);
            return true;
        }
        self.signalling = true;
        // A rate that was right a moment ago is a better start than the lowest one.
        let delta = self.count.wrapping_sub(self.last_count);
        let recent = self.count > 0 && now.since(self.next) < INTERVAL * MEMORY;
        self.count = if recent && delta > 1 { delta } else { 1 };
        self.last_count = self.count;
        self.next = now + spacing(self.count);
        true
    }
}

/// The time to the next signal after `count` of them: it makes the rate of TCP fall linearly.
fn spacing(count: u32) -> Duration {
    INTERVAL.div_f64(f64::from(count.max(1)).sqrt())
}
