//! Flow queueing (RFC 8290): which packet is next, and which goes when there is no room.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::budget::Budget;
use super::codel::{self, Codel};
use super::flow;
use crate::core::frame::Offload;
use crate::core::nat64::hash::Seed;
use crate::core::segments::pieces::Pieces;
use crate::core::time::Now;
use crate::wire::ipv6;

/// Flows told apart (RFC 8290 section 5.2.4).
const BUCKETS: usize = 1024;
/// What a waiting packet costs beyond its bytes: its place here, and what the allocator adds.
const OVERHEAD: usize = 96;
/// An ordinary packet: no flow's turn is shorter (RFC 8290 section 5.2.3).
const LEAST_QUANTUM: usize = 1514;
const NONE: u32 = u32::MAX;
const NO_FLOW: u16 = u16::MAX;

/// A packet or super-segment that has waited.
#[derive(Debug)]
pub struct Packet {
    pub bytes: Vec<u8>,
    pub offload: Offload,
    arrived: Now,
    next: u32,
}

/// What happened to packets and super-segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Put into the queue.
    pub queued: u64,
    /// Taken out to be sent.
    pub sent: u64,
    /// Dropped because their flow had waited too long.
    pub dropped_delay: u64,
    /// Dropped because the session's queue, or the memory for all of them, was full.
    pub dropped_full: u64,
    /// Sent with a mark instead of being dropped (RFC 3168).
    pub marked: u64,
    /// The longest wait of a packet that was sent.
    pub longest: Duration,
}

impl Counters {
    /// Those of two queues together.
    pub fn and(self, other: Option<&Self>) -> Self {
        let Some(other) = other else { return self };
        Self {
            queued: self.queued + other.queued,
            sent: self.sent + other.sent,
            dropped_delay: self.dropped_delay + other.dropped_delay,
            dropped_full: self.dropped_full + other.dropped_full,
            marked: self.marked + other.marked,
            longest: self.longest.max(other.longest),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listed {
    No,
    New,
    Old,
}

#[derive(Debug)]
struct Flow {
    head: u32,
    tail: u32,
    bytes: usize,
    deficit: isize,
    listed: Listed,
    codel: Codel,
}

/// The queue of one session.
#[derive(Debug)]
pub struct FairQueue {
    seed: Seed,
    budget: Arc<Budget>,
    limit: usize,
    quantum: usize,
    target: Duration,
    /// Where a flow is in `flows`, by its number.
    buckets: Box<[u16]>,
    flows: Vec<Flow>,
    /// Indices of flows: those that have just begun come before those that go on.
    new: VecDeque<u16>,
    old: VecDeque<u16>,
    /// Places of packets, used again in the order of `vacant`.
    places: Vec<Packet>,
    vacant: u32,
    packets: usize,
    /// With the overhead.
    bytes: usize,
    /// The fattest flow when it was last looked for, and its bytes then.
    fattest: (u16, usize),
    counters: Counters,
    used_at: Now,
}

impl FairQueue {
    /// An empty queue that holds `limit` bytes at most, overhead included, out of `budget`.
    pub fn new(now: Now, seed: u64, limit: usize, budget: Arc<Budget>) -> Self {
        let queue = Self {
            seed: Seed(seed),
            budget,
            limit,
            quantum: LEAST_QUANTUM,
            target: codel::TARGET,
            buckets: vec![NO_FLOW; BUCKETS].into_boxed_slice(),
            flows: Vec::new(),
            new: VecDeque::new(),
            old: VecDeque::new(),
            places: Vec::new(),
            vacant: NONE,
            packets: 0,
            bytes: Self::RESTING,
            fattest: (NO_FLOW, 0),
            counters: Counters::default(),
            used_at: now,
        };
        queue.budget.take(Self::RESTING);
        queue
    }

    /// Bytes of an empty queue, counted like those of packets.
    pub const RESTING: usize = BUCKETS * size_of::<u16>() + size_of::<Self>();

    pub fn is_empty(&self) -> bool {
        self.packets == 0
    }

    /// Packets and super-segments that wait.
    pub fn len(&self) -> usize {
        self.packets
    }

    /// Memory held: the packets with their overhead, and the queue itself.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// When it was last used.
    pub fn used_at(&self) -> Now {
        self.used_at
    }

    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// The line sends `grain` bytes in the time that one flow's turn may take; `packet_time` is what an ordinary packet
    /// takes. On a slow line a single packet exceeds the usual target (RFC 8289 section 4.2).
    pub fn set_grain(&mut self, grain: usize, packet_time: Duration) {
        self.quantum = grain.max(LEAST_QUANTUM);
        self.target = codel::TARGET.max(packet_time * 3 / 2);
    }

    /// Copies a packet in; the fattest flow makes room for it if there is none. A super-segment longer than one turn is
    /// cut into several.
    pub fn push(&mut self, now: Now, packet: &[u8], offload: Offload) {
        self.used_at = now;
        let index = self.flow_of(packet);
        let mut pieces = Pieces::new(packet, offload, self.quantum);
        let mut bytes = Vec::new();
        while let Some(offload) = pieces.next_into(&mut bytes) {
            self.append(index, Packet { bytes: std::mem::take(&mut bytes), offload, arrived: now, next: NONE });
        }
        self.make_room();
    }

    fn append(&mut self, index: u16, packet: Packet) {
        let len = packet.bytes.len();
        let place = self.occupy(packet);
        let flow = &mut self.flows[usize::from(index)];
        flow.bytes += len;
        match flow.tail {
            NONE => flow.head = place,
            tail => self.places[tail as usize].next = place,
        }
        let flow = &mut self.flows[usize::from(index)];
        flow.tail = place;
        if flow.listed == Listed::No {
            flow.listed = Listed::New;
            flow.deficit = self.quantum as isize;
            self.new.push_back(index);
        }
        self.counters.queued += 1;
        self.packets += 1;
        self.bytes += len + OVERHEAD;
        self.budget.take(len + OVERHEAD);
    }

    /// The packet that goes next.
    pub fn pop(&mut self, now: Now) -> Option<Packet> {
        self.used_at = now;
        loop {
            let from_new = !self.new.is_empty();
            let index = *if from_new { self.new.front() } else { self.old.front() }?;
            let flow = &mut self.flows[usize::from(index)];
            if flow.deficit <= 0 {
                flow.deficit += self.quantum as isize;
                self.put_with_old(index, from_new);
                continue;
            }
            let Some(packet) = self.take_from(index, now) else {
                // A flow that was new gets no second turn as such while others wait (RFC 8290 section 4.2).
                if from_new && !self.old.is_empty() {
                    self.put_with_old(index, true);
                } else {
                    let _ = if from_new { self.new.pop_front() } else { self.old.pop_front() };
                    self.flows[usize::from(index)].listed = Listed::No;
                }
                continue;
            };
            self.flows[usize::from(index)].deficit -= packet.bytes.len() as isize;
            self.counters.sent += 1;
            self.counters.longest = self.counters.longest.max(now.since(packet.arrived));
            return Some(packet);
        }
    }

    /// The next packet of one flow that CoDel lets through.
    fn take_from(&mut self, index: u16, now: Now) -> Option<Packet> {
        loop {
            let mut packet = self.unlink(index)?;
            let target = self.target;
            let flow = &mut self.flows[usize::from(index)];
            if !flow.codel.signals(now, now.since(packet.arrived), target, flow.bytes, self.quantum) {
                return Some(packet);
            }
            if ipv6::mark_congestion(&mut packet.bytes) {
                self.counters.marked += 1;
                return Some(packet);
            }
            self.counters.dropped_delay += 1;
        }
    }

    fn put_with_old(&mut self, index: u16, from_new: bool) {
        let _ = if from_new { self.new.pop_front() } else { self.old.pop_front() };
        self.flows[usize::from(index)].listed = Listed::Old;
        self.old.push_back(index);
    }

    fn flow_of(&mut self, packet: &[u8]) -> u16 {
        let bucket = flow::number(packet, self.seed) as usize % BUCKETS;
        if self.buckets[bucket] == NO_FLOW {
            // At most as many as there are buckets.
            self.buckets[bucket] = self.flows.len() as u16;
            self.flows.push(Flow {
                head: NONE,
                tail: NONE,
                bytes: 0,
                deficit: 0,
                listed: Listed::No,
                codel: Codel::default(),
            });
            self.bytes += size_of::<Flow>();
            self.budget.take(size_of::<Flow>());
        }
        self.buckets[bucket]
    }

    fn occupy(&mut self, packet: Packet) -> u32 {
        if self.vacant == NONE {
            self.places.push(packet);
            return (self.places.len() - 1) as u32;
        }
        let place = self.vacant;
        self.vacant = self.places[place as usize].next;
        self.places[place as usize] = packet;
        place
    }

    /// Takes the first packet of a flow out.
    fn unlink(&mut self, index: u16) -> Option<Packet> {
        let flow = &mut self.flows[usize::from(index)];
        let place = flow.head;
        if place == NONE {
            return None;
        }
        let vacated =
            Packet { bytes: Vec::new(), offload: Offload::default(), arrived: Now::default(), next: self.vacant };
        let packet = std::mem::replace(&mut self.places[place as usize], vacated);
        self.vacant = place;
        flow.head = packet.next;
        if flow.head == NONE {
            flow.tail = NONE;
        }
        flow.bytes -= packet.bytes.len();
        let cost = packet.bytes.len() + OVERHEAD;
        self.packets -= 1;
        self.bytes -= cost;
        self.budget.give_back(cost);
        if self.packets == 0 {
            // What a burst needed is not what the next one needs.
            (self.places, self.vacant) = (Vec::new(), NONE);
        }
        Some(packet)
    }

    /// Drops from the head of the fattest flow, whose sender learns it soonest there, until the limits hold.
    fn make_room(&mut self) {
        while self.packets > 0 {
            let over_share = self.bytes > self.budget.share();
            if self.bytes <= self.limit && !over_share {
                return;
            }
            let index = self.fattest();
            if self.unlink(index).is_none() {
                return;
            }
            self.counters.dropped_full += 1;
            if over_share {
                self.budget.refuse(1);
            }
        }
    }

    /// The fattest flow, or one that is at least half as fat as the fattest was when it was looked for: a flood of small
    /// packets does not search all flows for each of them.
    fn fattest(&mut self) -> u16 {
        let (known, bytes) = self.fattest;
        if known != NO_FLOW && self.flows[usize::from(known)].bytes * 2 > bytes {
            return known;
        }
        let mut found = (0, 0);
        for (index, flow) in self.flows.iter().enumerate() {
            if flow.bytes > found.1 {
                found = (index as u16, flow.bytes);
            }
        }
        self.fattest = found;
        found.0
    }
}

impl Drop for FairQueue {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}
