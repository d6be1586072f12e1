//! A timer wheel: due times in slots of one second, bounded work per call, no order to maintain on refresh.
//!
//! A session that is refreshed keeps its place; when its slot comes up, its owner looks at the real due time and puts it
//! back. So refreshing costs nothing, and each session is touched about once per lifetime.

use super::storage::{Chunked, NONE};
use crate::core::time::Now;

const SLOTS: usize = 8192;
const TICK: u64 = 1_000_000;

#[derive(Clone, Copy)]
struct Link {
    previous: u32,
    next: u32,
    slot: u32,
}

const UNLINKED: Link = Link { previous: NONE, next: NONE, slot: NONE };

/// Entries are small numbers (table indices), each in the wheel at most once.
pub struct Wheel {
    heads: Vec<u32>,
    occupied: Vec<u64>,
    links: Chunked<Link>,
    /// Every tick before this one has been emptied.
    current: u64,
}

impl Wheel {
    pub fn new() -> Self {
        Self { heads: vec![NONE; SLOTS], occupied: vec![0; SLOTS / 64], links: Chunked::new(), current: 0 }
    }

    /// Puts `entry` where it will come up at `due` or up to a second later (or earlier, if that is far away).
    pub fn insert(&mut self, entry: u32, due: Now) {
        self.remove(entry);
        let tick = due.0.div_ceil(TICK).clamp(self.current, self.current + SLOTS as u64 - 1);
        let slot = (tick % SLOTS as u64) as usize;
        self.links.grow(entry as usize + 1, UNLINKED);
        let head = self.heads[slot];
        self.links[entry as usize] = Link { previous: NONE, next: head, slot: slot as u32 };
        if head != NONE {
            self.links[head as usize].previous = entry;
        }
        self.heads[slot] = entry;
        self.occupied[slot / 64] |= 1 << (slot % 64);
    }

    /// Takes `entry` out, if it is in.
    pub fn remove(&mut self, entry: u32) {
        let Some(link) = self.links.get(entry as usize).copied().filter(|link| link.slot != NONE) else { return };
        let slot = link.slot as usize;
        if link.previous == NONE {
            self.heads[slot] = link.next;
        } else {
            self.links[link.previous as usize].next = link.next;
        }
        if link.next != NONE {
            self.links[link.next as usize].previous = link.previous;
        }
        if self.heads[slot] == NONE {
            self.occupied[slot / 64] &= !(1 << (slot % 64));
        }
        self.links[entry as usize] = UNLINKED;
    }

    /// Takes out one entry whose slot has come up.
    pub fn pop(&mut self, now: Now) -> Option<u32> {
        let last = now.0 / TICK;
        match self.first() {
            Some(tick) if tick <= last => {
                self.current = tick;
                let entry = self.heads[(tick % SLOTS as u64) as usize];
                self.remove(entry);
                Some(entry)
            }
            _ => {
                self.current = self.current.max(last + 1);
                None
            }
        }
    }

    /// Memory in use, in bytes.
    pub fn bytes(&self) -> usize {
        self.heads.len() * size_of::<u32>() + self.links.bytes()
    }

    /// When the next slot comes up.
    pub fn next(&self) -> Option<Now> {
        self.first().map(|tick| Now(tick * TICK))
    }

    /// The earliest occupied tick.
    fn first(&self) -> Option<u64> {
        let start = (self.current % SLOTS as u64) as usize;
        let words = SLOTS / 64;
        for step in 0..=words {
            let index = (start / 64 + step) % words;
            let mut word = self.occupied[index];
            if step == 0 {
                word &= u64::MAX << (start % 64);
            } else if step == words {
                word &= !(u64::MAX << (start % 64));
            }
            if word != 0 {
                let slot = index * 64 + word.trailing_zeros() as usize;
                return Some(self.current + ((slot + SLOTS - start) % SLOTS) as u64);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn entries_come_up_in_order_of_time() {
        let mut wheel = Wheel::new();
        wheel.insert(3, Now::from_secs(300));
        wheel.insert(1, Now(1_500_000));
        wheel.insert(2, Now::from_secs(60));
        assert_eq!(wheel.next(), Some(Now::from_secs(2)));
        assert_eq!(wheel.pop(Now(1_999_999)), None);
        assert_eq!(wheel.pop(Now::from_secs(2)), Some(1));
        assert_eq!(wheel.pop(Now::from_secs(59)), None);
        wheel.remove(2);
        assert_eq!(wheel.next(), Some(Now::from_secs(300)));
        assert_eq!(wheel.pop(Now::from_secs(1000)), Some(3));
        assert_eq!((wheel.pop(Now::from_secs(1000)), wheel.next()), (None, None));
    }

    #[test]
    fn a_due_time_beyond_the_wheel_comes_up_early_and_can_be_put_back() {
        let mut wheel = Wheel::new();
        let due = Now::from_secs(20_000);
        wheel.insert(0, due);
        let early = wheel.next().unwrap();
        assert!(early < due);
        assert_eq!(wheel.pop(early), Some(0));
        wheel.insert(0, due);
        assert!(wheel.next().unwrap() > early);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_comes_early(dues in proptest::collection::vec(0u64..8000, 1..100), step in 1u64..500) {
            let mut wheel = Wheel::new();
            for (entry, due) in dues.iter().enumerate() {
                wheel.insert(entry as u32, Now::from_secs(*due));
            }
            let mut seen = vec![false; dues.len()];
            let mut now = 0;
            while now < 8000 + step {
                while let Some(entry) = wheel.pop(Now::from_secs(now)) {
                    prop_assert!(dues[entry as usize] <= now && !seen[entry as usize]);
                    seen[entry as usize] = true;
                }
                for (entry, due) in dues.iter().enumerate() {
                    prop_assert!(*due > now || seen[entry]);
                }
                now += step;
            }
        }
    }
}
