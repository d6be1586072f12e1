//! Unsolicited SYNs: the client may open the same connection from its side within six seconds, and if it does not, the
//! sender gets an error (RFC 6146 section 3.5.2.2, CLOSED and V4 INIT; RFC 5382 REQ-4).
//!
//! They make no session before that: nobody outside can fill the session table.

use super::ports::Mapped;
use super::stats::Reason;
use crate::core::time::Now;
use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

/// SYNs held at once.
const MAX_HELD: usize = 256;
/// One IPv4 host may use this part of them.
const SHARE: usize = 4;
/// What is kept of each: an IPv4 header with options and 8 bytes, for the error.
const HEAD_LEN: usize = 68;

/// The connection that a SYN wants to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    pub remote: Ipv4Addr,
    pub remote_port: u16,
    pub mapped: Mapped,
}

#[derive(Debug, Default)]
pub struct HeldSyns {
    heads: BTreeMap<Wanted, (Now, Box<[u8]>)>,
    /// In order of their end, which is the order they came in. What the client has taken leaves its place here.
    order: VecDeque<(Now, Wanted)>,
}

impl HeldSyns {
    /// Keeps the head of a SYN. One that is sent again changes nothing.
    ///
    /// # Errors
    /// [`Reason::SynsFull`].
    pub fn hold(&mut self, now: Now, wait: Duration, wanted: Wanted, packet: &[u8]) -> Result<(), Reason> {
        if self.heads.contains_key(&wanted) {
            return Ok(());
        }
        let nothing = Mapped { address: 0, port: 0 };
        let first = Wanted { remote_port: 0, mapped: nothing, ..wanted };
        let of_host = self.heads.range(first..).take_while(|(other, _)| other.remote == wanted.remote).count();
        if self.heads.len() >= MAX_HELD || of_host >= MAX_HELD / SHARE || self.order.len() >= MAX_HELD * 2 {
            return Err(Reason::SynsFull);
        }
        let ends = now + wait;
        self.heads.insert(wanted, (ends, packet[..packet.len().min(HEAD_LEN)].into()));
        self.order.push_back((ends, wanted));
        Ok(())
    }

    /// Whether a SYN waits for the connection that a client opens now. It is forgotten, and so is one that waited too
    /// long: its sender has an answer now.
    pub fn take(&mut self, now: Now, wanted: &Wanted) -> bool {
        !self.heads.is_empty() && self.heads.remove(wanted).is_some_and(|(ends, _)| ends > now)
    }

    /// The head of a SYN that waited in vain.
    pub fn pop_expired(&mut self, now: Now) -> Option<Box<[u8]>> {
        while let Some((ends, wanted)) = self.order.front().copied()
            && ends <= now
        {
            self.order.pop_front();
            if self.heads.get(&wanted).is_some_and(|(end, _)| *end == ends) {
                return self.heads.remove(&wanted).map(|(_, head)| head);
            }
        }
        None
    }

    pub fn next_expiry(&self) -> Option<Now> {
        self.order.front().map(|(ends, _)| *ends)
    }

    pub fn len(&self) -> usize {
        self.heads.len()
    }

    pub fn clear(&mut self) {
        self.heads.clear();
        self.order.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(6);

    fn wanted(host: u8, port: u16) -> Wanted {
        Wanted { remote: [10, 0, 0, host].into(), remote_port: port, mapped: Mapped { address: 0, port: 40_000 } }
    }

    #[test]
    fn neither_one_host_nor_all_fill_the_memory() {
        let mut syns = HeldSyns::default();
        let held = |syns: &mut HeldSyns, host| {
            (1..=1000).filter(|port| syns.hold(Now(0), WAIT, wanted(host, *port), &[0; 1500]).is_ok()).count()
        };
        assert_eq!([held(&mut syns, 2), held(&mut syns, 1), held(&mut syns, 3), held(&mut syns, 4)], [64; 4]);
        assert_eq!((held(&mut syns, 5), syns.len()), (0, MAX_HELD));
        assert!(syns.pop_expired(Now::from_secs(6)).is_some_and(|head| head.len() == HEAD_LEN));
        assert_eq!((held(&mut syns, 5), syns.len()), (1, MAX_HELD));
    }

    #[test]
    fn what_the_client_takes_does_not_expire_and_takes_no_room_for_ever() {
        let mut syns = HeldSyns::default();
        for round in 0..2000u64 {
            let now = Now::from_secs(round);
            while syns.pop_expired(now).is_some() {}
            assert_eq!(syns.hold(now, WAIT, wanted(1, 80), &[0; 40]), Ok(()));
            assert!(syns.take(now, &wanted(1, 80)) && !syns.take(now, &wanted(1, 80)));
            assert!(syns.order.len() <= 7);
        }
        assert_eq!(syns.pop_expired(Now::from_secs(10_000)), None);
        assert_eq!((syns.len(), syns.next_expiry()), (0, None));
    }
}
