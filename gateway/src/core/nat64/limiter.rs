//! A token bucket for the ICMP errors made here (RFC 4443 section 2.4 (f), RFC 1812 section 4.3.2.8).

use crate::core::time::Now;

pub struct Limiter {
    per_second: u64,
    /// Millionths of a token.
    tokens: u64,
    last: Now,
}

const TOKEN: u64 = 1_000_000;

impl Limiter {
    /// `per_second` tokens per second, as many in a burst.
    pub fn new(per_second: u32) -> Self {
        let per_second = u64::from(per_second);
        Self { per_second, tokens: per_second * TOKEN, last: Now(0) }
    }

    /// Takes a token if there is one.
    pub fn allow(&mut self, now: Now) -> bool {
        let elapsed = now.0.saturating_sub(self.last.0);
        self.last = self.last.max(now);
        let full = self.per_second * TOKEN;
        self.tokens = self.tokens.saturating_add(elapsed.saturating_mul(self.per_second)).min(full);
        let allowed = self.tokens >= TOKEN;
        if allowed {
            self.tokens -= TOKEN;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_a_steady_rate() {
        let mut limiter = Limiter::new(10);
        let burst = (0..100).filter(|_| limiter.allow(Now::from_secs(5))).count();
        assert_eq!(burst, 10);
        let steady = (0..1000u64).filter(|step| limiter.allow(Now(5_000_000 + step * 2000))).count();
        assert!((19..=20).contains(&steady), "{steady}");
    }
}
