//! Fragments other than the first have no ports: remember what the first one was translated to, and hold those that
//! come before it; packets whose checksum can only be made from the whole are put together here (RFC 6146 section 3.4).
//!
//! Bounded in packets, bytes and time, and one source may use no more than its share (RFC 6146 section 5.3).

use super::stats::Reason;
use crate::core::frame::HEADROOM;
use crate::core::time::Now;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

/// More fragments of one packet than its 65,535 bytes need at the smallest usual MTU.
const MAX_HELD_PER_PACKET: usize = 64;
/// One source may use this part of the packets and of the bytes.
const SHARE: usize = 4;
/// Room behind a packet put together here, for the ICMP error that may replace it.
const TAILROOM: usize = 1280;

/// What the fragments of one packet have in common (RFC 8200 section 4.5, RFC 791).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub identification: u32,
    pub protocol: u8,
}

/// Which part of the packet a fragment carries; its data begins at byte `at` of the fragment and goes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub at: usize,
    pub offset: usize,
    pub more: bool,
}

/// What is known about the packet of a later fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The address of the mapping: of the pool for packets from IPv6, of the client for packets from IPv4.
    Known(IpAddr),
    /// The packet is translated when it is whole.
    Whole,
    Nothing,
}

struct Held {
    buffer: Vec<u8>,
    span: Span,
}

enum State {
    /// Of the whole packet, `seen` bytes have passed; its length is known with the last fragment.
    Known {
        address: IpAddr,
        seen: usize,
        total: Option<usize>,
    },
    Waiting {
        held: Vec<Held>,
        whole: bool,
    },
}

struct Entry {
    ends: Now,
    state: State,
}

#[derive(Clone, Copy, Default)]
struct Use {
    packets: usize,
    bytes: usize,
}

pub struct Fragments {
    packets: BTreeMap<Key, Entry>,
    /// Keys in order of their end. A packet that was complete before leaves its key here until then.
    order: VecDeque<(Now, Key)>,
    sources: BTreeMap<IpAddr, Use>,
    bytes: usize,
    max_packets: usize,
    max_bytes: usize,
    lifetime: Duration,
    pub expired: u64,
}

impl Fragments {
    pub fn new(max_packets: usize, max_bytes: usize, lifetime: Duration) -> Self {
        Self {
            packets: BTreeMap::new(),
            order: VecDeque::new(),
            sources: BTreeMap::new(),
            bytes: 0,
            max_packets,
            max_bytes,
            lifetime,
            expired: 0,
        }
    }

    /// What the first fragment was translated to, if it has come; `len` bytes of data pass with this one.
    pub fn find(&mut self, now: Now, key: &Key, span: Span, len: usize) -> Found {
        self.expire(now);
        match self.packets.get_mut(key).map(|entry| &mut entry.state) {
            Some(State::Known { address, seen, total }) => {
                let address = *address;
                *seen += len;
                if !span.more {
                    *total = Some(span.offset + len);
                }
                if total.is_some_and(|total| *seen >= total) {
                    self.remove(key);
                }
                Found::Known(address)
            }
            Some(State::Waiting { whole: true, .. }) => Found::Whole,
            _ => Found::Nothing,
        }
    }

    /// Whether the first fragment has come.
    pub fn knows(&self, key: &Key) -> bool {
        self.packets.get(key).is_some_and(|entry| match entry.state {
            State::Known { .. } => true,
            State::Waiting { whole, .. } => whole,
        })
    }

    /// The first fragment, of `len` bytes, has come: returns the held ones, each in a buffer with [`HEADROOM`] bytes
    /// before it.
    ///
    /// # Errors
    /// [`Reason::FragmentsFull`].
    pub fn learn(&mut self, now: Now, key: Key, address: IpAddr, len: usize) -> Result<Vec<Vec<u8>>, Reason> {
        self.expire(now);
        let state = State::Known { address, seen: len, total: None };
        let Some(entry) = self.packets.get_mut(&key) else {
            self.insert(now, key, state)?;
            return Ok(Vec::new());
        };
        match std::mem::replace(&mut entry.state, state) {
            State::Known { .. } => Ok(Vec::new()),
            State::Waiting { held, .. } => {
                self.give_back(&key, held.iter().map(|held| held.buffer.len()).sum());
                Ok(held.into_iter().map(|held| held.buffer).collect())
            }
        }
    }

    /// Keeps a copy of a fragment until its first comes or, with `whole`, until all have come.
    ///
    /// Returns the packet put together once it is whole, in a buffer with [`HEADROOM`] bytes before it and room for an
    /// error behind it, and its length: the header of the first fragment as it came, then all the data.
    ///
    /// # Errors
    /// [`Reason::FragmentsFull`], or [`Reason::Malformed`] when fragments overlap or make too long a packet; then all of
    /// them are forgotten (RFC 5722 section 4).
    pub fn hold(
        &mut self,
        now: Now,
        key: Key,
        packet: &[u8],
        span: Span,
        whole: bool,
    ) -> Result<Option<(Vec<u8>, usize)>, Reason> {
        self.expire(now);
        let size = HEADROOM + packet.len();
        let used = self.sources.get(&key.source).copied().unwrap_or_default();
        if self.bytes + size > self.max_bytes || used.bytes + size > self.max_bytes / SHARE {
            return Err(Reason::FragmentsFull);
        }
        if !self.packets.contains_key(&key) {
            self.insert(now, key, State::Waiting { held: Vec::new(), whole })?;
        }
        let Some(Entry { state: State::Waiting { held, whole: wanted }, .. }) = self.packets.get_mut(&key) else {
            return Ok(None);
        };
        *wanted |= whole;
        if held.len() >= MAX_HELD_PER_PACKET {
            return Err(Reason::FragmentsFull);
        }
        let mut buffer = vec![0; size];
        buffer[HEADROOM..].copy_from_slice(packet);
        held.push(Held { buffer, span });
        let joined = if *wanted { join(held) } else { Ok(None) };
        self.bytes += size;
        self.sources.entry(key.source).or_default().bytes += size;
        if joined != Ok(None) {
            self.remove(&key);
        }
        joined
    }

    fn insert(&mut self, now: Now, key: Key, state: State) -> Result<(), Reason> {
        let used = self.sources.get(&key.source).copied().unwrap_or_default();
        if self.packets.len() >= self.max_packets || used.packets >= self.max_packets.div_ceil(SHARE) {
            return Err(Reason::FragmentsFull);
        }
        if self.order.len() >= self.max_packets * 8 {
            let packets = &self.packets;
            self.order.retain(|(end, key)| packets.get(key).is_some_and(|entry| entry.ends == *end));
        }
        let ends = now + self.lifetime;
        self.order.push_back((ends, key));
        self.sources.entry(key.source).or_default().packets += 1;
        self.packets.insert(key, Entry { ends, state });
        Ok(())
    }

    /// Forgets a packet; returns how many fragments of it were held.
    fn remove(&mut self, key: &Key) -> usize {
        let Some(entry) = self.packets.remove(key) else { return 0 };
        if let Some(used) = self.sources.get_mut(&key.source) {
            used.packets -= 1;
        }
        let held = match entry.state {
            State::Known { .. } => Vec::new(),
            State::Waiting { held, .. } => held,
        };
        self.give_back(key, held.iter().map(|held| held.buffer.len()).sum());
        held.len()
    }

    fn give_back(&mut self, key: &Key, bytes: usize) {
        self.bytes -= bytes;
        if let Some(used) = self.sources.get_mut(&key.source) {
            used.bytes -= bytes;
            if used.packets == 0 && used.bytes == 0 {
                self.sources.remove(&key.source);
            }
        }
    }

    /// Forgets packets whose time is over.
    pub fn expire(&mut self, now: Now) {
        while let Some((end, key)) = self.order.front().copied()
            && end <= now
        {
            self.order.pop_front();
            if self.packets.get(&key).is_some_and(|entry| entry.ends == end) {
                self.expired += self.remove(&key) as u64;
            }
        }
    }

    pub fn next_expiry(&self) -> Option<Now> {
        self.order.front().map(|(end, _)| *end)
    }
}

/// The packet that the fragments make, once none is missing.
fn join(held: &mut [Held]) -> Result<Option<(Vec<u8>, usize)>, Reason> {
    held.sort_by_key(|held| held.span.offset);
    let mut next = 0;
    let mut complete = false;
    for piece in held.iter() {
        let len = piece.buffer.len() - HEADROOM - piece.span.at;
        let misfit = piece.span.more && (len == 0 || !len.is_multiple_of(8));
        if complete || misfit || piece.span.offset < next {
            return Err(Reason::Malformed);
        }
        if piece.span.offset > next {
            return Ok(None);
        }
        next += len;
        complete = !piece.span.more;
    }
    if !complete {
        return Ok(None);
    }
    let mut joined = vec![0; HEADROOM];
    for (index, piece) in held.iter().enumerate() {
        let from = HEADROOM + if index == 0 { 0 } else { piece.span.at };
        joined.extend_from_slice(&piece.buffer[from..]);
    }
    let len = joined.len() - HEADROOM;
    if len > 65_535 {
        return Err(Reason::Malformed);
    }
    joined.resize(HEADROOM + len.max(1280) + TAILROOM, 0);
    Ok(Some((joined, len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(identification: u32) -> Key {
        Key { source: [1, 2, 3, 4].into(), destination: [5, 6, 7, 8].into(), identification, protocol: 17 }
    }

    const LATER: Span = Span { at: 0, offset: 16, more: true };

    #[test]
    fn held_fragments_are_released_by_the_first() {
        let mut fragments = Fragments::new(4, 1000, Duration::from_secs(2));
        fragments.hold(Now(0), key(1), &[7; 10], LATER, false).unwrap();
        assert_eq!(fragments.find(Now(1), &key(1), LATER, 10), Found::Nothing);
        let held = fragments.learn(Now(1), key(1), [9, 9, 9, 9].into(), 16).unwrap();
        assert_eq!(&held[0][HEADROOM..], &[7; 10]);
        assert_eq!(fragments.find(Now(1), &key(1), LATER, 8), Found::Known([9, 9, 9, 9].into()));
        assert_eq!(fragments.find(Now::from_secs(2), &key(1), LATER, 8), Found::Nothing);
        assert_eq!((fragments.bytes, fragments.next_expiry(), fragments.sources.len()), (0, None, 0));
    }

    #[test]
    fn packets_and_bytes_are_bounded_and_shared() {
        let mut fragments = Fragments::new(8, SHARE * 3 * (HEADROOM + 10), Duration::from_secs(2));
        for identification in [1, 1, 2] {
            fragments.hold(Now(0), key(identification), &[0; 10], LATER, false).unwrap();
        }
        assert_eq!(fragments.hold(Now(0), key(2), &[0; 10], LATER, false), Err(Reason::FragmentsFull));
        assert_eq!(fragments.learn(Now(0), key(3), [9, 9, 9, 9].into(), 8), Err(Reason::FragmentsFull));
        let other = Key { source: [4, 3, 2, 1].into(), ..key(1) };
        assert_eq!(fragments.learn(Now(0), other, [9, 9, 9, 9].into(), 8), Ok(Vec::new()));
        fragments.expire(Now::from_secs(2));
        assert_eq!((fragments.bytes, fragments.expired, fragments.packets.len()), (0, 3, 0));
        assert!(fragments.sources.is_empty());
    }

    #[test]
    fn a_packet_that_has_passed_is_forgotten_at_once() {
        let mut fragments = Fragments::new(4, 1000, Duration::from_secs(2));
        for round in 0..1000 {
            fragments.learn(Now(round), key(1), [9, 9, 9, 9].into(), 16).unwrap();
            let last = Span { at: 0, offset: 16, more: false };
            assert_eq!(fragments.find(Now(round), &key(1), last, 3), Found::Known([9, 9, 9, 9].into()));
            assert!(fragments.packets.is_empty() && fragments.order.len() <= 33);
        }
    }

    #[test]
    fn a_whole_packet_is_put_together_in_any_order() {
        let mut fragments = Fragments::new(4, 1000, Duration::from_secs(2));
        let last = Span { at: 2, offset: 8, more: false };
        let first = Span { at: 2, offset: 0, more: true };
        assert_eq!(fragments.hold(Now(0), key(1), b"hhLAST", last, true), Ok(None));
        let (joined, len) = fragments.hold(Now(0), key(1), b"HHfirst__!", first, true).unwrap().unwrap();
        assert_eq!(&joined[HEADROOM..HEADROOM + len], b"HHfirst__!LAST");
        assert_eq!((fragments.bytes, fragments.packets.len(), fragments.sources.len()), (0, 0, 0));
    }

    #[test]
    fn overlapping_fragments_are_all_forgotten() {
        let mut fragments = Fragments::new(4, 1000, Duration::from_secs(2));
        let first = Span { at: 0, offset: 0, more: true };
        assert_eq!(fragments.hold(Now(0), key(1), &[0; 16], first, true), Ok(None));
        let overlap = Span { at: 0, offset: 8, more: false };
        assert_eq!(fragments.hold(Now(0), key(1), &[0; 16], overlap, true), Err(Reason::Malformed));
        assert_eq!((fragments.bytes, fragments.packets.len()), (0, 0));
    }
}
