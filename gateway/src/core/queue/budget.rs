//! Memory for the queues of all sessions together.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Bytes that all queues of a process may hold, shared by its threads.
///
/// A queue may hold as much as is free (dynamic thresholds: Choudhury and Hahne 1998, with a factor of 1): one busy
/// session gets half of the memory, n of them get 1/(n + 1) each, and a newcomer always finds room.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
    refused: AtomicU64,
}

impl Budget {
    pub fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0), refused: AtomicU64::new(0) }
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Packets that were dropped because it was spent.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// What one queue may hold in all, now.
    pub fn share(&self) -> usize {
        self.limit.saturating_sub(self.used())
    }

    pub(super) fn take(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn refuse(&self, packets: u64) {
        self.refused.fetch_add(packets, Ordering::Relaxed);
    }
}
