//! Memory that grows without moving what is in it, and hash indexes that grow one bucket at a time.
//!
//! A vector or an ordinary hash table of half a million entries stops its owner for tens of milliseconds when it grows.
//! Here nothing is copied but the entries of one bucket, so the longest step does not depend on the size.

use std::hash::{BuildHasher, Hash};

use super::hash::Seed;

const CHUNK_BITS: usize = 10;
const CHUNK: usize = 1 << CHUNK_BITS;
/// No entry.
pub const NONE: u32 = u32::MAX;

/// A growing array in chunks of 1024.
pub struct Chunked<T> {
    chunks: Vec<Box<[T]>>,
}

impl<T: Copy> Chunked<T> {
    pub const fn new() -> Self {
        Self { chunks: Vec::new() }
    }

    /// Makes room for places below `len`, new ones with `value`.
    pub fn grow(&mut self, len: usize, value: T) {
        while self.chunks.len() << CHUNK_BITS < len {
            self.chunks.push(vec![value; CHUNK].into_boxed_slice());
        }
    }

    #[inline]
    pub fn get(&self, place: usize) -> Option<&T> {
        self.chunks.get(place >> CHUNK_BITS).map(|chunk| &chunk[place & (CHUNK - 1)])
    }

    /// Memory in use, in bytes.
    pub fn bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<T>()
    }
}

impl<T> std::ops::Index<usize> for Chunked<T> {
    type Output = T;

    #[inline]
    fn index(&self, place: usize) -> &T {
        &self.chunks[place >> CHUNK_BITS][place & (CHUNK - 1)]
    }
}

impl<T> std::ops::IndexMut<usize> for Chunked<T> {
    #[inline]
    fn index_mut(&mut self, place: usize) -> &mut T {
        &mut self.chunks[place >> CHUNK_BITS][place & (CHUNK - 1)]
    }
}

#[derive(Clone, Copy)]
enum Slot<T> {
    /// With the next free place.
    Free(u32),
    Taken(T),
}

/// An entry that one [`Index`] or none links with others.
pub trait Entry: Copy {
    type Key: Hash + Eq;

    fn key(&self) -> Self::Key;
    fn next(&self) -> u32;
    fn set_next(&mut self, next: u32);
}

/// Entries with small numbers, found by number or by key.
pub struct Table<T: Entry> {
    slots: Chunked<Slot<T>>,
    free: u32,
    /// Places that were ever in use.
    places: usize,
    len: usize,
    index: Index,
    seed: Seed,
}

impl<T: Entry> Table<T> {
    pub fn new(seed: Seed) -> Self {
        Self { slots: Chunked::new(), free: NONE, places: 0, len: 0, index: Index::new(), seed }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Places that may hold an entry are below this.
    pub fn places(&self) -> usize {
        self.places
    }

    /// The entry with a number.
    ///
    /// # Panics
    /// When there is none: numbers come from this table.
    #[inline]
    pub fn entry(&self, id: u32) -> &T {
        match &self.slots[id as usize] {
            Slot::Taken(entry) => entry,
            Slot::Free(_) => panic!("no entry has this number"),
        }
    }

    #[inline]
    pub fn entry_mut(&mut self, id: u32) -> &mut T {
        match &mut self.slots[id as usize] {
            Slot::Taken(entry) => entry,
            Slot::Free(_) => panic!("no entry has this number"),
        }
    }

    #[inline]
    pub fn get(&self, place: usize) -> Option<&T> {
        match self.slots.get(place) {
            Some(Slot::Taken(entry)) => Some(entry),
            _ => None,
        }
    }

    #[inline]
    pub fn find(&self, key: &T::Key) -> Option<u32> {
        let mut id = self.index.heads[self.index.bucket(self.seed.hash_one(key))];
        while id != NONE {
            let entry = self.entry(id);
            if entry.key() == *key {
                return Some(id);
            }
            id = entry.next();
        }
        None
    }

    /// Adds an entry whose key the table does not have.
    pub fn insert(&mut self, mut entry: T) -> u32 {
        self.split();
        let bucket = self.index.bucket(self.seed.hash_one(entry.key()));
        entry.set_next(self.index.heads[bucket]);
        let id = if self.free == NONE {
            self.places += 1;
            self.slots.grow(self.places, Slot::Free(NONE));
            self.places as u32 - 1
        } else {
            self.free
        };
        if let Slot::Free(next) = std::mem::replace(&mut self.slots[id as usize], Slot::Taken(entry)) {
            self.free = next;
        }
        self.index.heads[bucket] = id;
        self.len += 1;
        id
    }

    /// Removes the entry with a number.
    ///
    /// # Panics
    /// When there is none.
    pub fn remove(&mut self, id: u32) -> T {
        let removed = *self.entry(id);
        let bucket = self.index.bucket(self.seed.hash_one(removed.key()));
        let mut at = self.index.heads[bucket];
        if at == id {
            self.index.heads[bucket] = removed.next();
        } else {
            while self.entry(at).next() != id {
                at = self.entry(at).next();
            }
            self.entry_mut(at).set_next(removed.next());
        }
        self.slots[id as usize] = Slot::Free(self.free);
        self.free = id;
        self.len -= 1;
        removed
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..self.places).filter_map(|place| self.get(place).map(|entry| (place as u32, entry)))
    }

    /// Memory in use, in bytes.
    pub fn bytes(&self) -> usize {
        self.slots.bytes() + self.index.heads.bytes()
    }

    /// Divides the next bucket if there are more than three entries for each four buckets.
    fn split(&mut self) {
        if self.len * 4 < self.index.buckets * 3 {
            return;
        }
        let (from, to) = self.index.grow();
        let mut at = std::mem::replace(&mut self.index.heads[from], NONE);
        while at != NONE {
            let entry = *self.entry(at);
            let bucket = self.index.bucket(self.seed.hash_one(entry.key()));
            debug_assert!(bucket == from || bucket == to, "a bucket is divided into itself and the new one");
            let head = std::mem::replace(&mut self.index.heads[bucket], at);
            self.entry_mut(at).set_next(head);
            at = entry.next();
        }
    }
}

/// Linear hashing (Litwin 1980): the buckets are divided one after the other, in rounds that double their number.
struct Index {
    heads: Chunked<u32>,
    buckets: usize,
    /// Buckets at the beginning of the round less one.
    mask: usize,
}

impl Index {
    fn new() -> Self {
        let mut heads = Chunked::new();
        heads.grow(1, NONE);
        Self { heads, buckets: 1, mask: 0 }
    }

    #[inline]
    fn bucket(&self, hash: u64) -> usize {
        let wide = hash as usize & (self.mask << 1 | 1);
        if wide < self.buckets { wide } else { wide & self.mask }
    }

    /// Adds a bucket; returns the one to be divided and the new one.
    fn grow(&mut self) -> (usize, usize) {
        let to = self.buckets;
        self.buckets += 1;
        self.heads.grow(self.buckets, NONE);
        let from = to & self.mask;
        if self.buckets == (self.mask + 1) * 2 {
            self.mask = self.mask << 1 | 1;
        }
        (from, to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Clone, Copy)]
    struct Word {
        key: u64,
        next: u32,
    }

    impl Entry for Word {
        type Key = u64;

        fn key(&self) -> u64 {
            self.key
        }

        fn next(&self) -> u32 {
            self.next
        }

        fn set_next(&mut self, next: u32) {
            self.next = next;
        }
    }

    fn table() -> Table<Word> {
        Table::new(Seed(0x1234_5678_9abc_def1))
    }

    impl Table<Word> {
        fn chain(&self, bucket: usize) -> usize {
            let (mut id, mut count) = (self.index.heads[bucket], 0);
            while id != NONE {
                id = self.entry(id).next();
                count += 1;
            }
            count
        }
    }

    /// Keys that follow each other, as ports do. The longest chain bounds both the longest search and the longest step
    /// of growth.
    #[test]
    fn half_a_million_entries_are_found_as_fast_as_a_few() {
        let mut words = table();
        let mut seen = Vec::new();
        for key in 0..500_000u64 {
            words.insert(Word { key, next: NONE });
            if [999, 9_999, 99_999, 499_999].contains(&key) {
                let chains = (0..words.index.buckets).map(|bucket| words.chain(bucket));
                let (longest, looks) =
                    chains.fold((0, 0), |(longest, looks), n| (n.max(longest), looks + n * (n + 1) / 2));
                seen.push((longest, looks as f64 / words.len() as f64));
            }
        }
        for (longest, looks) in seen {
            assert!(longest <= 10 && looks < 1.6, "{longest} entries in a bucket, {looks} looks a search");
        }
        assert!((0..500_000).all(|key| words.find(&key).is_some_and(|id| words.entry(id).key == key)));
        assert_eq!(words.find(&500_000), None);
    }

    #[test]
    fn a_place_is_used_again() {
        let mut words = table();
        for round in 0..100u64 {
            let ids: Vec<u32> = (0..50).map(|key| words.insert(Word { key: round * 50 + key, next: NONE })).collect();
            for id in ids {
                words.remove(id);
            }
        }
        assert_eq!((words.len(), words.places()), (0, 50));
    }

    proptest! {
        #[test]
        fn it_is_a_map(steps in proptest::collection::vec((any::<bool>(), 0u64..300), 1..2000)) {
            let mut words = table();
            let mut model = BTreeMap::new();
            for (add, key) in steps {
                match (add, model.get(&key).copied()) {
                    (true, None) => drop(model.insert(key, words.insert(Word { key, next: NONE }))),
                    (false, Some(id)) => {
                        prop_assert_eq!(words.remove(id).key, key);
                        model.remove(&key);
                    }
                    _ => {}
                }
            }
            prop_assert_eq!(words.len(), model.len());
            for key in 0..300 {
                prop_assert_eq!(words.find(&key), model.get(&key).copied());
            }
            let mut listed: Vec<_> = words.iter().map(|(id, word)| (word.key, id)).collect();
            listed.sort_unstable();
            prop_assert_eq!(listed, model.into_iter().collect::<Vec<_>>());
        }
    }
}
