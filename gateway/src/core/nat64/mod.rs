//! Stateful NAT64 (RFC 6146) with the packet translation of RFC 7915 and the addresses of RFC 6052, without I/O.
//!
//! A frame is translated where it is: its start moves by the difference of the headers, checksums are updated
//! incrementally, a super-segment stays whole. A packet of an established session costs no allocation.
//!
//! Reading order: `from_v6` and `from_v4` (the rules in the order of the RFC), `sessions` (which binding, what happens
//! to the session), `bindings`, `storage` and `ports` (the tables), `icmp` and `quote` (errors), `output` (headers, fragments).

mod access;
mod bindings;
mod config;
mod fragments;
mod from_v4;
mod from_v6;
pub(super) mod hash;
mod held;
mod icmp;
mod limiter;
mod listing;
mod log;
mod mappings;
mod output;
mod ports;
mod prefix;
mod quote;
mod reconfigure;
mod sessions;
mod shards;
mod stats;
mod storage;
mod tcp_state;
#[cfg(test)]
mod tests;
mod timers;
mod transport;

pub use access::OpenHosts;
pub use config::{Config, ConfigError, Filtering, PoolEntry, StaticBinding, Timeouts};
pub use listing::{BindingInfo, Filter, SessionInfo, Step};
pub use log::LogRow;
pub use mappings::{Mapping, MappingError, Mappings};
pub use prefix::{Prefix, PrefixError};
pub use shards::{Steering, shard_of_client, shard_of_port, shard_of_v4, shard_of_v6};
pub use stats::{Reason, Stats};

use crate::core::frame::Frame;
use crate::core::time::Now;
use crate::wire::ipv4::{self, Ipv4Header};
use crate::wire::ipv6::{self, Ipv6Header};
use crate::wire::{icmpv4, icmpv6};
use bindings::Tables;
use fragments::Fragments;
use held::HeldSyns;
use limiter::Limiter;
use std::collections::BTreeSet;
use std::net::Ipv6Addr;

/// Takes packets that do not fit in the frame of a call: fragments, and errors that a timeout causes.
pub trait Sink {
    /// One packet without offload; its version nibble tells the side it is for. An IPv6 packet to a translation prefix
    /// was put together from fragments and belongs to the shard that [`shard_of_v6`] tells.
    fn packet(&mut self, bytes: &[u8]);
}

impl<F: FnMut(&[u8])> Sink for F {
    fn packet(&mut self, bytes: &[u8]) {
        self(bytes);
    }
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// The frame holds the translated packet, whose version nibble tells the side it is for: a packet between two
    /// clients stays IPv6.
    Forward,
    /// The frame holds an ICMP error for the side it came from.
    Reply,
    /// The translated packet went to the sink in pieces.
    Sent,
    /// A fragment whose first is missing: a copy is kept, the frame is as it was.
    Held,
    Drop(Reason),
}

/// The transports that have bindings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp = 0,
    Udp = 1,
    /// Echo messages, by identifier.
    Icmp = 2,
}

impl Protocol {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }

    const fn from_v4(number: u8) -> Option<Self> {
        match number {
            ipv4::PROTOCOL_TCP => Some(Self::Tcp),
            ipv4::PROTOCOL_UDP => Some(Self::Udp),
            ipv4::PROTOCOL_ICMP => Some(Self::Icmp),
            _ => None,
        }
    }

    const fn from_v6(number: u8) -> Option<Self> {
        match number {
            ipv6::TCP => Some(Self::Tcp),
            ipv6::UDP => Some(Self::Udp),
            ipv6::ICMPV6 => Some(Self::Icmp),
            _ => None,
        }
    }

    const fn v4_number(self) -> u8 {
        match self {
            Self::Tcp => ipv4::PROTOCOL_TCP,
            Self::Udp => ipv4::PROTOCOL_UDP,
            Self::Icmp => ipv4::PROTOCOL_ICMP,
        }
    }

    const fn v6_number(self) -> u8 {
        match self {
            Self::Tcp => ipv6::TCP,
            Self::Udp => ipv6::UDP,
            Self::Icmp => ipv6::ICMPV6,
        }
    }
}

/// Why a packet is not translated, and the error its sender gets.
#[derive(Clone, Copy, Debug)]
enum Refusal {
    Silent(Reason),
    ToV6(Reason, icmpv6::ErrorMessage),
    ToV4(Reason, icmpv4::ErrorMessage),
}

impl Refusal {
    const fn reason(self) -> Reason {
        match self {
            Self::Silent(reason) | Self::ToV6(reason, _) | Self::ToV4(reason, _) => reason,
        }
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self::Silent(reason)
    }
}

/// One instance (shard) of the translator.
pub struct Nat64 {
    config: Config,
    tables: Tables,
    fragments: Fragments,
    limiter: Limiter,
    stats: Stats,
    held_syns: HeldSyns,
    /// Clients that reach everything although `open_hosts` restricts the others.
    opened: BTreeSet<Ipv6Addr>,
    identification: u32,
    /// Where ICMP errors are put together; their size is at most the minimum MTU of IPv6.
    scratch: Box<[u8; ipv6::MIN_MTU]>,
}

impl Nat64 {
    /// # Errors
    /// [`ConfigError`] when the configuration cannot work.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.verify()?;
        Ok(Self {
            tables: Tables::new(&config),
            fragments: Fragments::new(
                config.max_fragmented_packets,
                config.max_fragment_bytes,
                config.timeouts.fragment,
            ),
            limiter: Limiter::new(config.errors_per_second),
            stats: Stats::default(),
            held_syns: HeldSyns::default(),
            opened: BTreeSet::new(),
            // Shards have addresses in common, so each begins elsewhere in the 16 bits of IPv4 (RFC 7857 section 11).
            identification: (config.seed as u32).wrapping_add((config.shard * 65_536 / config.shards) as u32),
            scratch: Box::new([0; ipv6::MIN_MTU]),
            config,
        })
    }

    /// Translates a frame that came from IPv6.
    ///
    /// The frame needs no headroom here, but 48 bytes when the packet turns round to another client; an error needs a
    /// buffer of 1280 bytes. Without the room the packet is dropped ([`Reason::NoRoom`]).
    pub fn from_v6(&mut self, now: Now, frame: &mut Frame, sink: &mut impl Sink) -> Verdict {
        let len = frame.len() as u64;
        match self.v6_to_v4(now, frame, sink) {
            Ok(Verdict::Held) => {
                self.stats.fragments_held += 1;
                Verdict::Held
            }
            Ok(verdict) => {
                self.stats.packets_6to4 += 1;
                self.stats.bytes_6to4 += len;
                verdict
            }
            Err(refusal) => self.refuse(now, frame, refusal),
        }
    }

    /// Translates a frame that came from IPv4.
    ///
    /// The frame needs 28 bytes of headroom; an error needs a buffer of 1280 bytes. Without the room the packet is
    /// dropped ([`Reason::NoRoom`]).
    pub fn from_v4(&mut self, now: Now, frame: &mut Frame, sink: &mut impl Sink) -> Verdict {
        let len = frame.len() as u64;
        match self.v4_to_v6(now, frame, sink) {
            Ok(Verdict::Held) => {
                self.stats.fragments_held += 1;
                Verdict::Held
            }
            Ok(verdict) => {
                self.stats.packets_4to6 += 1;
                self.stats.bytes_4to6 += len;
                verdict
            }
            Err(refusal) => self.refuse(now, frame, refusal),
        }
    }

    /// Translates a fragment that was held, whose first fragment is known now, or a packet put together from fragments.
    fn release(&mut self, now: Now, frame: &mut Frame, from_v6: bool, sink: &mut impl Sink) {
        let result = if from_v6 { self.v6_to_v4(now, frame, sink) } else { self.v4_to_v6(now, frame, sink) };
        match result {
            Ok(Verdict::Forward) => sink.packet(frame.bytes()),
            Ok(_) => {}
            Err(refusal) => {
                if self.refuse(now, frame, refusal) == Verdict::Reply {
                    sink.packet(frame.bytes());
                }
            }
        }
    }

    /// Counts a refusal and makes the answer, if there is one and the rules of ICMP allow it.
    fn refuse(&mut self, now: Now, frame: &mut Frame, refusal: Refusal) -> Verdict {
        let reason = refusal.reason();
        self.stats.refuse(reason);
        let len = match refusal {
            Refusal::Silent(_) => None,
            Refusal::ToV6(_, error) => self.answer_v6(now, frame.bytes(), error),
            Refusal::ToV4(_, error) => self.answer_v4(now, frame.bytes(), error),
        };
        let Some(len) = len else { return Verdict::Drop(reason) };
        match self.put_scratch(frame, len) {
            Ok(()) => {
                self.stats.errors_sent += 1;
                Verdict::Reply
            }
            Err(reason) => {
                self.stats.refuse(reason);
                Verdict::Drop(reason)
            }
        }
    }

    fn answer_v6(&mut self, now: Now, packet: &[u8], error: icmpv6::ErrorMessage) -> Option<usize> {
        let header = Ipv6Header::parse(packet).ok()?;
        if !icmpv6::may_answer(packet) || !self.allow_error(now) {
            return None;
        }
        Some(error.emit(&mut self.scratch[..], self.config.address, header.source, packet))
    }

    fn answer_v4(&mut self, now: Now, packet: &[u8], error: icmpv4::ErrorMessage) -> Option<usize> {
        let header = Ipv4Header::parse(packet).ok()?;
        let about_error = header.protocol == ipv4::PROTOCOL_ICMP
            && packet.get(header.header_len).is_none_or(|kind| icmpv4::is_error(*kind));
        if header.fragment_offset != 0 || about_error || !self.allow_error(now) {
            return None;
        }
        Some(error.emit(&mut self.scratch[..], header.destination, header.source, packet))
    }

    fn allow_error(&mut self, now: Now) -> bool {
        let allowed = self.limiter.allow(now);
        self.stats.errors_limited += u64::from(!allowed);
        allowed
    }

    /// Replaces the frame's packet by the first `len` bytes of the scratch buffer.
    fn put_scratch(&self, frame: &mut Frame, len: usize) -> Result<(), Reason> {
        if frame.headroom() + frame.len() + frame.tailroom() < len {
            return Err(Reason::NoRoom);
        }
        frame.replace(&self.scratch[..len]);
        Ok(())
    }

    fn mtus(&self) -> icmp::Mtus {
        icmp::Mtus { v4: self.config.mtu as u32, v6: self.config.ipv6_mtu as u32 }
    }

    /// The first of `count` identifications that follow each other.
    fn next_identification(&mut self, count: usize) -> u32 {
        let first = self.identification;
        self.identification = first.wrapping_add(count as u32);
        first
    }
}
