//! What happened on the link, countable from any thread.

use std::sync::atomic::{AtomicU64, Ordering};

use super::DropReason;

/// Things worth counting that are not drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkEvent {
    /// Router Advertisements sent.
    Advertised,
    /// Duplicate address probes answered for their owner or for the server.
    Defended,
    /// Neighbor Solicitations for the server answered.
    Answered,
    /// Silent owners asked whether they live.
    Probed,
    /// Owners that did not answer.
    EvictedSilent,
    /// Addresses taken over by the same machine on a new connection.
    TakenOver,
    /// Multicast packets passed on to other clients.
    MulticastForwarded,
    /// ICMPv6 errors sent.
    Errors,
}

impl LinkEvent {
    pub const ALL: &[Self] = &[
        Self::Advertised,
        Self::Defended,
        Self::Answered,
        Self::Probed,
        Self::EvictedSilent,
        Self::TakenOver,
        Self::MulticastForwarded,
        Self::Errors,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Advertised => "advertised",
            Self::Defended => "defended",
            Self::Answered => "answered",
            Self::Probed => "probed",
            Self::EvictedSilent => "evicted_silent",
            Self::TakenOver => "taken_over",
            Self::MulticastForwarded => "multicast_forwarded",
            Self::Errors => "errors",
        }
    }
}

#[derive(Debug, Default)]
pub struct LinkCounters {
    drops: [AtomicU64; DropReason::ALL.len()],
    events: [AtomicU64; LinkEvent::ALL.len()],
}

impl LinkCounters {
    pub(super) fn drop(&self, reason: DropReason) {
        self.drops[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn event(&self, event: LinkEvent) {
        self.events[event as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].load(Ordering::Relaxed)
    }

    pub fn happened(&self, event: LinkEvent) -> u64 {
        self.events[event as usize].load(Ordering::Relaxed)
    }
}
