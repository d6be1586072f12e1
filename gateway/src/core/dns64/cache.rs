//! Answers kept for later, positive, negative and failed alike: bounded in entries and in bytes of memory, the least recently
//! used leaves.
//!
//! Expired answers stay as long as they may stand in for servers that do not answer (RFC 8767).

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;

use super::answer::Answer;
use super::message::Question;
use super::name::Name;
use super::secret::Secret;
use crate::core::time::Now;

/// Answers larger than this are not kept: they are rare, and a few clients could fill the memory with them.
const MAX_ANSWER: usize = 8192;
/// Bytes of memory that an entry takes beside its name and its answer: its places in slab and index, which double when they
/// are full, the counts of the shared answer, and what four allocations are rounded up by.
const OVERHEAD: usize = 2 * (size_of::<Entry>() + 2 * size_of::<usize>()) + 16 + 4 * 16;
/// How long an answer that was reported as nearly expired is not reported again.
const REFRESH_PATIENCE: Duration = Duration::from_secs(5);
const NONE: usize = usize::MAX;

/// What makes two questions the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    name: Box<[u8]>,
    kind: u16,
    class: u16,
    flags: u8,
}

/// A [`Key`] whose name is kept elsewhere: what is looked up needs no memory of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRef<'a> {
    name: &'a [u8],
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

impl<'a> KeyRef<'a> {
    /// `lower` is the question's name in lower case.
    pub fn new(lower: &'a Name, question: &Question, flags: KeyFlags) -> Self {
        let KeyFlags { recursion, checking_disabled, dnssec_ok, made_here } = flags;
        let flags =
            [recursion, checking_disabled, dnssec_ok, made_here].iter().fold(0, |bits, &bit| bits << 1 | u8::from(bit));
        Self { name: lower.wire(), kind: question.kind, class: question.class, flags }
    }

    fn is(&self, key: &Key) -> bool {
        *self.name == *key.name && (self.kind, self.class, self.flags) == (key.kind, key.class, key.flags)
    }

    pub fn to_key(self) -> Key {
        let Self { name, kind, class, flags } = self;
        Key { name: name.into(), kind, class, flags }
    }

    fn hash(&self, state: &Secret) -> u64 {
        let mut hasher = state.build_hasher();
        hasher.write(self.name);
        let numbers = u64::from(self.kind) << 32 | u64::from(self.class) << 16 | u64::from(self.flags);
        hasher.write_u64(numbers);
        hasher.finish()
    }
}

impl Key {
    /// `lower` is the question's name in lower case.
    pub fn new(lower: &Name, question: &Question, flags: KeyFlags) -> Self {
        KeyRef::new(lower, question, flags).to_key()
    }

    pub fn as_ref(&self) -> KeyRef<'_> {
        KeyRef { name: &self.name, kind: self.kind, class: self.class, flags: self.flags }
    }
}

/// What the cache knows.
#[derive(Clone, Debug)]
pub enum Found {
    Fresh(Arc<Answer>),
    /// Still good, and time to ask again; said once in a while, not each time.
    NearlyExpired(Arc<Answer>),
    /// Expired. `ask` is false when servers are known not to answer.
    Stale {
        answer: Arc<Answer>,
        ask: bool,
    },
}

struct Entry {
    hash: u64,
    key: Key,
    answer: Arc<Answer>,
    /// Until when it is not reported as nearly expired again.
    quiet: Now,
    /// Until when, expired, it is given out without asking again.
    hold: Now,
    newer: usize,
    older: usize,
}

impl Entry {
    /// An answer kept for two questions counts twice: it may have to outlive either of them.
    fn footprint(&self) -> usize {
        OVERHEAD + self.key.name.len() + self.answer.footprint()
    }
}

/// A hasher for numbers that are hashes already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.0 = self.0 << 8 | u64::from(byte));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// The cache.
pub struct Cache {
    state: Secret,
    /// By the keyed hash of the question. Two questions with one hash share a place; nobody can find such a pair.
    index: HashMap<u64, usize, BuildHasherDefault<AsIs>>,
    entries: Slab<Entry>,
    newest: usize,
    oldest: usize,
    bounds: Bounds,
    /// How long expired answers are kept.
    stale: Duration,
    bytes: usize,
    pub evicted: u64,
    /// Those of `evicted` that had to leave although there was room for more entries.
    pub evicted_for_bytes: u64,
    pub too_large: u64,
}

/// What the cache holds at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub entries: usize,
    /// Of memory, with everything that belongs to the entries.
    pub bytes: usize,
}

impl Cache {
    pub fn new(secret: Secret, bounds: Bounds, stale: Duration) -> Self {
        Self {
            state: secret,
            index: HashMap::default(),
            entries: Slab::new(),
            newest: NONE,
            oldest: NONE,
            bounds,
            stale,
            bytes: 0,
            evicted: 0,
            evicted_for_bytes: 0,
            too_large: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of memory that the answers kept take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What is known about a question.
    pub fn get(&mut self, now: Now, key: &KeyRef<'_>) -> Option<Found> {
        let at = self.find(key)?;
        let entry = &mut self.entries[at];
        let answer = &entry.answer;
        let found = if answer.is_fresh(now) {
            if answer.is_nearly_expired(now) && now >= entry.quiet {
                entry.quiet = now + REFRESH_PATIENCE;
                Found::NearlyExpired(Arc::clone(answer))
            } else {
                Found::Fresh(Arc::clone(answer))
            }
        } else if answer.is_stale(now, self.stale) {
            Found::Stale { answer: Arc::clone(answer), ask: now >= entry.hold }
        } else {
            self.remove(at);
            return None;
        };
        if self.newest != at {
            self.unlink(at);
            self.link(at);
        }
        Some(found)
    }

    /// The answer, unless it has expired, or with `refresh` unless it soon will have.
    pub fn fresh(&mut self, now: Now, key: &KeyRef<'_>, refresh: bool) -> Option<Arc<Answer>> {
        let answer = &self.entries[self.find(key)?].answer;
        (answer.is_fresh(now) && !(refresh && answer.is_nearly_expired(now))).then(|| Arc::clone(answer))
    }

    /// The answer, if it has expired and may be given out all the same.
    pub fn stale(&self, now: Now, key: &KeyRef<'_>) -> Option<Arc<Answer>> {
        let answer = &self.entries[self.find(key)?].answer;
        answer.is_stale(now, self.stale).then(|| Arc::clone(answer))
    }

    /// Servers do not answer this question: until `until` nobody asks them again on behalf of the answer kept.
    pub fn hold(&mut self, key: &KeyRef<'_>, until: Now) {
        if let Some(at) = self.find(key) {
            self.entries[at].hold = until;
        }
    }

    /// Keeps an answer as long as its TTL says; one with TTL 0 not at all.
    pub fn insert(&mut self, key: Key, answer: Arc<Answer>) {
        let hash = key.as_ref().hash(&self.state);
        if let Some(&at) = self.index.get(&hash) {
            self.remove(at);
        }
        if answer.ttl == 0 || self.bounds.entries == 0 {
            return;
        }
        if answer.len() > MAX_ANSWER {
            self.too_large += 1;
            return;
        }
        let entry = Entry { hash, key, answer, quiet: Now(0), hold: Now(0), newer: NONE, older: NONE };
        self.bytes += entry.footprint();
        let at = self.entries.insert(entry);
        self.index.insert(hash, at);
        self.link(at);
        self.trim();
    }

    /// Other bounds; what they do not allow leaves.
    pub fn configure(&mut self, bounds: Bounds, stale: Duration) {
        (self.bounds, self.stale) = (bounds, stale);
        self.trim();
    }

    /// Forgets everything and returns how many answers that were.
    pub fn flush(&mut self) -> usize {
        let count = self.entries.len();
        self.index = HashMap::default();
        self.entries = Slab::new();
        (self.newest, self.oldest, self.bytes) = (NONE, NONE, 0);
        count
    }

    fn find(&self, key: &KeyRef<'_>) -> Option<usize> {
        let at = *self.index.get(&key.hash(&self.state))?;
        key.is(&self.entries[at].key).then_some(at)
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
        while self.oldest != NONE {
            let too_many = self.entries.len() > self.bounds.entries;
            if !too_many && self.bytes <= self.bounds.bytes {
                return;
            }
            self.evicted += 1;
            self.evicted_for_bytes += u64::from(!too_many);
            self.remove(self.oldest);
        }
    }

    fn remove(&mut self, at: usize) {
        self.unlink(at);
        let entry = self.entries.remove(at);
        self.bytes -= entry.footprint();
        self.index.remove(&entry.hash);
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
    use super::super::message;
    use super::*;

    const TWO: Bounds = Bounds { entries: 2, bytes: 1 << 20 };

    fn key(text: &str) -> Key {
        let name = Name::from_text(text).expect("a name");
        Key::new(&name, &Question { name, kind: 1, class: 1 }, KeyFlags::default())
    }

    fn failure() -> Arc<Answer> {
        Arc::new(Answer::failure(Now(0), &Question { name: Name::ROOT, kind: 1, class: 1 }, 2))
    }

    #[test]
    fn the_least_recently_used_leaves_and_the_expired_are_not_found() {
        let mut cache = Cache::new(Secret::fixed(), TWO, Duration::ZERO);
        cache.insert(key("a"), failure());
        cache.insert(key("b"), failure());
        assert!(cache.get(Now(0), &key("a").as_ref()).is_some());
        cache.insert(key("c"), failure());
        assert_eq!((cache.len(), cache.evicted), (2, 1));
        assert!(cache.get(Now(0), &key("b").as_ref()).is_none());
        assert!(cache.get(Now(0), &key("a").as_ref()).is_some());
        assert!(cache.get(Now::from_secs(1), &key("a").as_ref()).is_none());
        assert_eq!(cache.len(), 1);
        cache.configure(Bounds { entries: 0, ..TWO }, Duration::ZERO);
        assert_eq!((cache.len(), cache.bytes()), (0, 0));
        cache.insert(key("a"), failure());
        assert!(cache.is_empty());
    }

    /// Any response of a server of so many bytes.
    fn large(bytes: usize) -> Arc<Answer> {
        let question = Question { name: Name::ROOT, kind: 16, class: 1 };
        let mut message = message::bare_reply(0, 0, 0, Some(&question), None, 0);
        let data = bytes - message.len() - 11;
        message[7] = 1;
        message.extend([0, 0, 16, 0, 1, 0, 0, 14, 16]);
        message.extend((data as u16).to_be_bytes());
        message.resize(bytes, 0);
        Arc::new(Answer::from_server(Now(0), &message).expect("an answer"))
    }

    #[test]
    fn large_answers_cannot_fill_the_memory() {
        const BYTES: usize = 1 << 20;
        let mut cache = Cache::new(Secret::fixed(), Bounds { entries: 65_536, bytes: BYTES }, Duration::ZERO);
        for number in 0..1000 {
            cache.insert(key(&format!("n{number}")), large(MAX_ANSWER));
            assert!(cache.bytes() <= BYTES);
            // What is asked for meanwhile stays.
            cache.insert(key("wanted"), failure());
            assert!(cache.get(Now(0), &key("wanted").as_ref()).is_some());
        }
        let room = BYTES / MAX_ANSWER;
        assert!((room - 10..room).contains(&(cache.len() - 1)), "{} of {room}", cache.len());
        assert_eq!((cache.evicted, cache.evicted_for_bytes), (1001 - cache.len() as u64, cache.evicted));
        cache.insert(key("larger"), large(MAX_ANSWER + 1));
        assert_eq!(cache.too_large, 1);
        assert!(cache.get(Now(0), &key("larger").as_ref()).is_none());
        cache.flush();
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn the_bytes_counted_are_those_of_the_memory() {
        // Small answers, where everything around them weighs most. The counted bytes must not be fewer than those that a
        // process really loses: entry, two places of it while the slab grows, index, name, answer and its positions.
        let mut cache = Cache::new(Secret::fixed(), Bounds { entries: 65_536, bytes: 64 << 20 }, Duration::ZERO);
        for number in 0..65_536 {
            cache.insert(key(&format!("host{number}.corp.example.net")), failure());
        }
        assert_eq!((cache.len(), cache.evicted), (65_536, 0), "as many small answers as entries");
        let least = size_of::<Entry>() + 16 + size_of::<Answer>() + failure().len();
        assert!(cache.bytes() / cache.len() > least);
        assert!(size_of::<Entry>() + size_of::<Answer>() < 256, "{} + {}", size_of::<Entry>(), size_of::<Answer>());
    }

    #[test]
    fn what_expires_is_refreshed_and_then_kept_for_bad_days() {
        let mut cache = Cache::new(Secret::fixed(), TWO, Duration::from_secs(100));
        let question = Question { name: Name::ROOT, kind: 1, class: 1 };
        let none = Answer::failure(Now(0), &question, 3).kept_for(20);
        cache.insert(key("a"), Arc::new(none));
        let look = |cache: &mut Cache, seconds| match cache.get(Now::from_secs(seconds), &key("a").as_ref()) {
            Some(Found::Fresh(_)) => "fresh",
            Some(Found::NearlyExpired(_)) => "nearly expired",
            Some(Found::Stale { ask: true, .. }) => "stale",
            Some(Found::Stale { ask: false, .. }) => "held",
            None => "none",
        };
        assert_eq!(look(&mut cache, 17), "fresh");
        assert_eq!(look(&mut cache, 18), "nearly expired");
        assert_eq!(look(&mut cache, 19), "fresh");
        assert_eq!(look(&mut cache, 20), "stale");
        cache.hold(&key("a").as_ref(), Now::from_secs(50));
        assert_eq!(look(&mut cache, 49), "held");
        assert_eq!(look(&mut cache, 119), "stale");
        assert!(cache.stale(Now::from_secs(119), &key("a").as_ref()).is_some());
        assert_eq!(look(&mut cache, 120), "none");
        assert!(cache.is_empty());
        // Failures are not worth keeping.
        cache.insert(key("a"), failure());
        assert_eq!(look(&mut cache, 1), "none");
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
