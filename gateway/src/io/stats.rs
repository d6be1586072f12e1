//! Counters that one thread writes and any thread reads, without locks or locked instructions.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

/// A counter with a single writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Must be called by one thread only: a plain load and store is much cheaper than a locked addition.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// What was counted elsewhere. One thread only, as `add`.
    pub fn set(&self, count: u64) {
        self.0.store(count, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($(#[$outer:meta])* $name:ident { $($(#[$doc:meta])* $field:ident,)* }) => {
        $(#[$outer])*
        #[derive(Debug, Default)]
        pub struct $name { $($(#[$doc])* pub $field: Counter,)* }

        impl $name {
            /// The sums over several of them, by name.
            pub fn sums<'a>(all: impl Iterator<Item = &'a Self> + Clone) -> Value {
                let mut sums = serde_json::Map::new();
                $(sums.insert(
                    stringify!($field).to_owned(),
                    all.clone().map(|one| one.$field.get()).sum::<u64>().into(),
                );)*
                Value::Object(sums)
            }
        }
    };
}

counters! {
    /// What one worker did.
    WorkerCounters {
        accepted,
        /// Accepting failed, for whatever reason.
        accept_errors,
        /// Accepting paused since the process has no descriptor left; whoever dials waits in the kernel's queue.
        descriptors_exhausted,
        /// Connections that got a task of their own, and those of them that are over.
        connections_begun,
        connections_ended,
        /// Times that accepting paused, with connections left in the kernel's queue, since enough were being set up.
        admission_waits,
        handshakes,
        resumed,
        handshake_failures,
        /// Established connections that ended since a record was not authentic, too long or out of place.
        tls_failures,
        /// Those among them that sent record after record with nothing in it.
        tls_floods,
        /// Connections that sent nothing useful and gave way to newcomers.
        handshakes_evicted,
        refused,
        sessions_opened,
        sessions_closed,
        requests,
        requests_dropped,
        bytes_in,
        packets_in,
        bytes_out,
        packets_out,
        /// Reads of TUN queues that gave a packet or super-segment.
        host_reads,
        /// Packets and super-segments that had to wait for a client's connection, as the three that follow.
        queued,
        /// Sent with a mark that says "congestion" instead of being dropped.
        marked,
        /// Their flow had waited too long.
        drop_queue_delay,
        /// A client's queue, or the memory for all queues, was full.
        drop_queue_full,
        /// The owner of the packet is at another worker and that worker is behind.
        drop_handover_full,
        /// The client went away while its packet was under way.
        drop_no_session,
        /// From the host: neither packet nor super-segment that can travel.
        drop_unusable,
        /// For NAT64 while it is switched off.
        drop_nat64_off,
        /// NAT64 did not translate it.
        drop_nat64,
        /// From a client, refused by the link.
        drop_link,
        nat64_to_ipv4,
        nat64_to_ipv6,
    }
}

counters! {
    /// What happened to packets on their way to the host.
    HostCounters {
        packets,
        bytes,
        /// Each one packet or super-segment.
        writes,
        /// The kernel did not take it: queue full, interface down, or headers it does not like.
        refused,
    }
}

counters! {
    /// One session's traffic.
    Traffic {
        bytes_in,
        bytes_out,
        packets_in,
        packets_out,
        /// Packets and super-segments that had to wait for the socket, as all that follow.
        queued,
        /// Sent with a mark that says "congestion" instead of being dropped.
        marked,
        /// Their flow had waited too long.
        drop_queue_delay,
        /// The session's queue, or the memory for all queues, was full.
        drop_queue_full,
        /// Microseconds.
        longest_wait,
        /// From the host: neither packet nor super-segment that can travel.
        drop_unusable,
        /// As before, but found out after it had waited.
        drop_unframeable,
    }
}
