//! Fragments other than the first have no ports: remember what the first one was translated to, and hold those that
//! come before it (RFC 6146 section 3.4). Bounded in packets, bytes and time.

use super::stats::Reason;
use crate::core::frame::HEADROOM;
use crate::core::time::Now;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

/// More fragments of one packet than its 65,535 bytes need at the smallest usual MTU.
const MAX_HELD_PER_PACKET: usize = 64;

/// What the fragments of one packet have in common (RFC 8200 section 4.5, RFC 791).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub identification: u32,
    pub protocol: u8,
}

enum State {
    /// The address of the mapping: of the pool for packets from IPv6, of the client for packets from IPv4.
    Known(IpAddr),
    Waiting(Vec<Vec<u8>>),
}

pub struct Fragments {
    packets: BTreeMap<Key, State>,
    /// Keys in order of their end; each key once, since a life is never prolonged.
    order: VecDeque<(Now, Key)>,
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
            bytes: 0,
            max_packets,
            max_bytes,
            lifetime,
            expired: 0,
        }
    }

    /// What the first fragment was translated to, if it has come.
    pub fn find(&mut self, now: Now, key: &Key) -> Option<IpAddr> {
        self.expire(now);
        match self.packets.get(key) {
            Some(State::Known(address)) => Some(*address),
            _ => None,
        }
    }

    /// Whether the first fragment has come.
    pub fn knows(&self, key: &Key) -> bool {
        matches!(self.packets.get(key), Some(State::Known(_)))
    }

    /// The first fragment has come: returns the held ones, each in a buffer with [`HEADROOM`] bytes before it.
    ///
    /// # Errors
    /// [`Reason::FragmentsFull`].
    pub fn learn(&mut self, now: Now, key: Key, address: IpAddr) -> Result<Vec<Vec<u8>>, Reason> {
        self.expire(now);
        if let Some(state) = self.packets.get_mut(&key) {
            return match std::mem::replace(state, State::Known(address)) {
                State::Known(_) => Ok(Vec::new()),
                State::Waiting(held) => {
                    self.bytes -= held.iter().map(Vec::len).sum::<usize>();
                    Ok(held)
                }
            };
        }
        self.insert(now, key, State::Known(address))?;
        Ok(Vec::new())
    }

    /// Keeps a copy of a fragment until its first comes.
    ///
    /// # Errors
    /// [`Reason::FragmentsFull`].
    pub fn hold(&mut self, now: Now, key: Key, packet: &[u8]) -> Result<(), Reason> {
        self.expire(now);
        let size = HEADROOM + packet.len();
        if self.bytes + size > self.max_bytes {
            return Err(Reason::FragmentsFull);
        }
        if !self.packets.contains_key(&key) {
            self.insert(now, key, State::Waiting(Vec::new()))?;
        }
        let Some(State::Waiting(held)) = self.packets.get_mut(&key) else { return Ok(()) };
        if held.len() >= MAX_HELD_PER_PACKET {
            return Err(Reason::FragmentsFull);
        }
        let mut buffer = vec![0; size];
        buffer[HEADROOM..].copy_from_slice(packet);
        held.push(buffer);
        self.bytes += size;
        Ok(())
    }

    fn insert(&mut self, now: Now, key: Key, state: State) -> Result<(), Reason> {
        if self.packets.len() >= self.max_packets {
            return Err(Reason::FragmentsFull);
        }
        self.order.push_back((now + self.lifetime, key));
        self.packets.insert(key, state);
        Ok(())
    }

    /// Forgets packets whose time is over.
    pub fn expire(&mut self, now: Now) {
        while let Some((end, key)) = self.order.front().copied()
            && end <= now
        {
            self.order.pop_front();
            if let Some(State::Waiting(held)) = self.packets.remove(&key) {
                self.bytes -= held.iter().map(Vec::len).sum::<usize>();
                self.expired += held.len() as u64;
            }
        }
    }

    pub fn next_expiry(&self) -> Option<Now> {
        self.order.front().map(|(end, _)| *end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(identification: u32) -> Key {
        Key { source: [1, 2, 3, 4].into(), destination: [5, 6, 7, 8].into(), identification, protocol: 17 }
    }

    #[test]
    fn held_fragments_are_released_by_the_first() {
        let mut fragments = Fragments::new(4, 1000, Duration::from_secs(2));
        fragments.hold(Now(0), key(1), &[7; 10]).unwrap();
        assert_eq!(fragments.find(Now(1), &key(1)), None);
        let held = fragments.learn(Now(1), key(1), [9, 9, 9, 9].into()).unwrap();
        assert_eq!(&held[0][HEADROOM..], &[7; 10]);
        assert_eq!(fragments.find(Now(1), &key(1)), Some([9, 9, 9, 9].into()));
        assert_eq!(fragments.find(Now::from_secs(2), &key(1)), None);
        assert_eq!((fragments.bytes, fragments.next_expiry()), (0, None));
    }

    #[test]
    fn packets_and_bytes_are_bounded() {
        let mut fragments = Fragments::new(2, 3 * (HEADROOM + 10), Duration::from_secs(2));
        for identification in [1, 1, 2] {
            fragments.hold(Now(0), key(identification), &[0; 10]).unwrap();
        }
        assert_eq!(fragments.hold(Now(0), key(2), &[0; 10]), Err(Reason::FragmentsFull));
        assert_eq!(fragments.learn(Now(0), key(3), [9, 9, 9, 9].into()), Err(Reason::FragmentsFull));
        fragments.expire(Now::from_secs(2));
        assert_eq!((fragments.bytes, fragments.expired, fragments.packets.len()), (0, 3, 0));
    }
}
