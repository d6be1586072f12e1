//! How much may wait in the kernel behind the queue, from how fast the connection takes it.

use std::time::Duration;

use crate::core::time::Now;

/// Unsent bytes in the kernel are worth this long: what our thread may need to come round again, and no more, since
/// nothing overtakes there.
const AHEAD: Duration = Duration::from_millis(2);
/// A packet that others wait behind takes no longer than this to send.
const GRAIN: Duration = Duration::from_millis(1);
/// Bytes are counted over so long at least for one estimate of the rate.
const WINDOW: Duration = Duration::from_millis(10);
/// Two full segments: with less, the connection would idle between two of our turns.
const LEAST_AHEAD: usize = 4096;
/// More gains nothing on the fastest lines and leaves the cache.
const MOST_AHEAD: usize = 256 * 1024;
const LEAST_GRAIN: usize = 1500;
const MOST_GRAIN: usize = 64 * 1024;

/// What the kernel says of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that the peer has acknowledged since the connection began.
    pub acknowledged: u64,
    /// Bytes that were not sent yet.
    pub unsent: u64,
}

/// The measured rate of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// Bytes a second; 0 while unknown.
    rate: u64,
    /// While packets wait: when counting began, and the bytes that had been acknowledged then.
    busy: Option<(Now, u64)>,
    /// While none wait: when counting began, and the bytes that the kernel took since.
    free: Option<(Now, u64)>,
}

impl Pace {
    /// Until the rate is known.
    pub const FIRST_AHEAD: usize = 128 * 1024;

    /// Whether `busy` is worth calling.
    pub fn is_due(&self, now: Now) -> bool {
        self.busy.is_none_or(|(since, _)| now.since(since) >= WINDOW)
    }

    /// Packets wait, and did so since the last call unless that was `took`.
    pub fn busy(&mut self, now: Now, progress: Progress) {
        self.free = None;
        let before = self.busy;
        let Some((since, acknowledged)) = before else {
            self.busy = Some((now, progress.acknowledged));
            return;
        };
        if now.since(since) < WINDOW {
            return;
        }
        self.busy = Some((now, progress.acknowledged));
        let measured = rate_of(progress.acknowledged.saturating_sub(acknowledged), now.since(since));
        // Up at once, since it was really sent; down by halves, since a pause may have other causes than the line. With
        // nothing left to send, the cause was that we came late.
        if progress.unsent > 0 || self.rate == 0 {
            self.rate = measured.max(self.rate / 2 + measured / 2);
        } else {
            self.rate = self.rate.max(measured);
        }
    }

    /// The kernel took so many bytes, and nothing waits: the line is at least as fast. Without this, a rate that was once
    /// measured too low would make our own turns so small that nothing ever waited again.
    pub fn took(&mut self, now: Now, bytes: usize) {
        self.busy = None;
        if self.rate == 0 {
            return;
        }
        let (since, total) = self.free.get_or_insert((now, 0));
        *total += bytes as u64;
        let elapsed = now.since(*since);
        if elapsed >= WINDOW {
            let sent = total.saturating_sub(self.ahead() as u64);
            self.free = None;
            self.rate = self.rate.max(rate_of(sent, elapsed));
        }
    }

    /// Bytes a second, 0 while unknown.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// Unsent bytes that the kernel should hold at most.
    pub fn ahead(&self) -> usize {
        if self.rate == 0 { Self::FIRST_AHEAD } else { self.bytes_in(AHEAD).clamp(LEAST_AHEAD, MOST_AHEAD) }
    }

    /// Bytes of the largest packet that others should have to wait behind.
    pub fn grain(&self) -> usize {
        if self.rate == 0 { MOST_GRAIN } else { self.bytes_in(GRAIN).clamp(LEAST_GRAIN, MOST_GRAIN) }
    }

    /// What an ordinary packet takes to send.
    pub fn packet_time(&self) -> Duration {
        match self.rate {
            0 => Duration::ZERO,
            rate => Duration::from_micros(LEAST_GRAIN as u64 * 1_000_000 / rate),
        }
    }

    fn bytes_in(&self, time: Duration) -> usize {
        (u128::from(self.rate) * time.as_micros() / 1_000_000) as usize
    }
}

fn rate_of(bytes: u64, time: Duration) -> u64 {
    (u128::from(bytes) * 1_000_000 / time.as_micros().max(1)) as u64
}
