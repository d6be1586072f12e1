//! Answers kept for later, positive, negative and failed alike: bounded in entries and bytes, the least recently used leaves.

use std::collections::HashMap;
use std::sync::Arc;

use slab::Slab;

use super::answer::Answer;
use super::message::Question;
use super::name::Name;
use crate::core::time::Now;

/// Answers larger than this are not kept: they are rare, and a few clients could fill the memory with them.
const MAX_ANSWER: usize = 8192;
/// Bytes of answers per entry, on average; the bound of the whole is this times the entries.
const BYTES_PER_ENTRY: usize = 1024;
const NONE: usize = usize::MAX;

/// What makes two questions the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    name: Box<[u8]>,
    kind: u16,
    class: u16,
    flags: u8,
}

/// The bits of a query that change a server's answer, and whether the answer is one made here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyFlags {
    pub recursion: bool,
    pub checking_disabled: bool,
    pub dnssec_ok: bool,
    /// What a client is told, as opposed to what a server said.
    pub made_here: bool,
}

impl Key {
    /// `lower` is the question's name in lower case.
    pub fn new(lower: &Name, question: &Question, flags: KeyFlags) -> Self {
        let KeyFlags { recursion, checking_disabled, dnssec_ok, made_here } = flags;
        let flags =
            [recursion, checking_disabled, dnssec_ok, made_here].iter().fold(0, |bits, &bit| bits << 1 | u8::from(bit));
        Self { name: lower.wire().into(), kind: question.kind, class: question.class, flags }
    }
}

struct Entry {
    key: Key,
    answer: Arc<Answer>,
    newer: usize,
    older: usize,
}

/// The cache.
pub struct Cache {
    index: HashMap<Key, usize>,
    entries: Slab<Entry>,
    newest: usize,
    oldest: usize,
    capacity: usize,
    bytes: usize,
    pub evicted: u64,
    pub too_large: u64,
}

impl Cache {
    pub fn new(capacity: usize) -> Self {
        Self {
            index: HashMap::new(),
            entries: Slab::new(),
            newest: NONE,
            oldest: NONE,
            capacity,
            bytes: 0,
            evicted: 0,
            too_large: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of the answers kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The answer, unless it has expired.
    pub fn get(&mut self, now: Now, key: &Key) -> Option<Arc<Answer>> {
        let at = *self.index.get(key)?;
        if !self.entries[at].answer.is_fresh(now) {
            self.remove(at);
            return None;
        }
        if self.newest != at {
            self.unlink(at);
            self.link(at);
        }
        Some(Arc::clone(&self.entries[at].answer))
    }

    /// Keeps an answer as long as its TTL says; one with TTL 0 not at all.
    pub fn insert(&mut self, key: Key, answer: Arc<Answer>) {
        if let Some(&at) = self.index.get(&key) {
            self.remove(at);
        }
        if answer.ttl == 0 || self.capacity == 0 {
            return;
        }
        if answer.len() > MAX_ANSWER {
            self.too_large += 1;
            return;
        }
        self.bytes += answer.len();
        let at = self.entries.insert(Entry { key: key.clone(), answer, newer: NONE, older: NONE });
        self.index.insert(key, at);
        self.link(at);
        self.trim();
    }

    pub fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
        self.trim();
    }

    /// Forgets everything and returns how many answers that were.
    pub fn flush(&mut self) -> usize {
        let count = self.entries.len();
        self.index = HashMap::new();
        self.entries = Slab::new();
        (self.newest, self.oldest, self.bytes) = (NONE, NONE, 0);
        count
    }

    /// Forgets the answers about a name in lower case, with `tree` also those about all names below it, and returns how many
    /// that were.
    pub fn remove_name(&mut self, lower: &Name, tree: bool) -> usize {
        let matches = |key: &Key| {
            let mut suffixes = Name::suffixes_of(&key.name);
            if tree { suffixes.any(|suffix| suffix == lower.wire()) } else { *key.name == *lower.wire() }
        };
        let found: Vec<usize> =
            self.entries.iter().filter(|(_, entry)| matches(&entry.key)).map(|(at, _)| at).collect();
        found.iter().for_each(|&at| self.remove(at));
        found.len()
    }

    fn trim(&mut self) {
        while self.oldest != NONE
            && (self.entries.len() > self.capacity || self.bytes > self.capacity * BYTES_PER_ENTRY)
        {
            self.evicted += 1;
            self.remove(self.oldest);
        }
    }

    fn remove(&mut self, at: usize) {
        self.unlink(at);
        let entry = self.entries.remove(at);
        self.bytes -= entry.answer.len();
        self.index.remove(&entry.key);
    }

    fn link(&mut self, at: usize) {
        let second = std::mem::replace(&mut self.newest, at);
        (self.entries[at].newer, self.entries[at].older) = (NONE, second);
        match self.entries.get_mut(second) {
            Some(entry) => entry.newer = at,
            None => self.oldest = at,
        }
    }

    fn unlink(&mut self, at: usize) {
        let (newer, older) = (self.entries[at].newer, self.entries[at].older);
        match self.entries.get_mut(newer) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
        match self.entries.get_mut(older) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        let name = Name::from_text(text).expect("a name");
        Key::new(&name, &Question { name, kind: 1, class: 1 }, KeyFlags::default())
    }

    fn failure() -> Arc<Answer> {
        Arc::new(Answer::failure(Now(0), &Question { name: Name::ROOT, kind: 1, class: 1 }, 2))
    }

    #[test]
    fn the_least_recently_used_leaves_and_the_expired_are_not_found() {
        let mut cache = Cache::new(2);
        cache.insert(key("a"), failure());
        cache.insert(key("b"), failure());
        assert!(cache.get(Now(0), &key("a")).is_some());
        cache.insert(key("c"), failure());
        assert_eq!((cache.len(), cache.evicted), (2, 1));
        assert!(cache.get(Now(0), &key("b")).is_none());
        assert!(cache.get(Now(0), &key("a")).is_some());
        assert!(cache.get(Now::from_secs(1), &key("a")).is_none());
        assert_eq!(cache.len(), 1);
        cache.set_capacity(0);
        assert_eq!((cache.len(), cache.bytes()), (0, 0));
        cache.insert(key("a"), failure());
        assert!(cache.is_empty());
    }

    #[test]
    fn every_flag_separates_answers() {
        let name = Name::from_text("a").expect("a name");
        let question = Question { name, kind: 28, class: 1 };
        let one = |bit: usize| KeyFlags {
            recursion: bit == 0,
            checking_disabled: bit == 1,
            dnssec_ok: bit == 2,
            made_here: bit == 3,
        };
        let keys: std::collections::HashSet<Key> = (0..5).map(|bit| Key::new(&name, &question, one(bit))).collect();
        assert_eq!(keys.len(), 5);
    }
}
