//! Questions on their way to servers: attempts, retries, failover, and which messages are believed.
//!
//! A message is an answer only if it came on the attempt's own socket (a port nobody was told) from the server that was asked,
//! with the attempt's id and question, the letters of the name in the attempt's random case (draft-vixie-dnsext-dns0x20).
//! One question is asked once at a time, however many clients wait for it: a forger gets one race per name.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::answer::Answer;
use super::cache::{Key, KeyFlags};
use super::chain;
use super::config::Config;
use super::message::{
    self, BADVERS, FLAG_QR, FLAG_TC, FORMERR, HEADER, NOTIMP, Question, REFUSED, SERVFAIL, TYPE_AAAA, u16_at,
};
use super::name::Name;
use super::servers::Upstreams;
use super::{Action, Output, Way};
use crate::core::time::Now;

/// Messages sent for one question at most.
const MAX_ATTEMPTS: u32 = 16;
/// Aliases followed from one suffix to another.
const MAX_HOPS: u8 = 8;
/// Messages that come for an attempt and are not its answer, after which the question goes to TCP: somebody is guessing.
const MAX_GUESSES: u8 = 3;
/// The bounds of the wait before the first retry; each round through the servers doubles it.
const RETRY: (Duration, Duration) = (Duration::from_millis(300), Duration::from_millis(1000));

/// Random numbers from the shell: ids and letter case.
pub type Entropy = Box<dyn FnMut() -> u64 + Send>;

/// Who waits for a question: a number the engine understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiter<R> {
    pub job: u64,
    pub role: R,
}

/// A question that ended.
pub struct Concluded<R> {
    pub key: Key,
    pub question: Question,
    pub answer: Arc<Answer>,
    pub waiters: Vec<Waiter<R>>,
}

struct Attempt {
    number: u64,
    server: u8,
    sent: Now,
    /// Messages that were not its answer.
    guesses: u8,
    id: u16,
    spelled: Name,
    tcp: bool,
    edns: bool,
}

struct Lookup<R> {
    key: Key,
    /// The name in lower case.
    question: Question,
    flags: KeyFlags,
    group: usize,
    order: Vec<u8>,
    /// Attempts so far, by the order's rounds.
    tries: u32,
    /// Servers that answered with an error, one bit each: not asked again.
    errors: u8,
    error: Option<Answer>,
    attempts: Vec<Attempt>,
    waiters: Vec<Waiter<R>>,
    /// Other questions whose aliases led to this one.
    led_here: Vec<u64>,
    /// The aliases that led from this question to another, and that other.
    aliases: Option<(Arc<Answer>, u64)>,
    /// Aliases that led here from the question a client asked.
    hops: u8,
    begun: Now,
    deadline: Now,
    timer: Now,
}

/// All questions on their way.
pub struct Resolver<R> {
    upstreams: Upstreams,
    timeout: Duration,
    /// Questions at once, those that aliases lead to included.
    capacity: usize,
    lookups: HashMap<u64, Lookup<R>>,
    by_key: HashMap<Key, u64>,
    by_attempt: HashMap<u64, u64>,
    timers: BTreeSet<(Now, u64)>,
    last_number: u64,
    entropy: Entropy,
    concluded: Vec<Concluded<R>>,
}

impl<R: Copy> Resolver<R> {
    pub fn new(config: &Config, entropy: Entropy) -> Self {
        Self {
            upstreams: Upstreams::new(&config.upstreams, config.server_choice),
            timeout: config.timeout,
            capacity: 3 * config.max_queries,
            lookups: HashMap::new(),
            by_key: HashMap::new(),
            by_attempt: HashMap::new(),
            timers: BTreeSet::new(),
            last_number: 0,
            entropy,
            concluded: Vec::new(),
        }
    }

    pub fn upstreams(&self) -> &Upstreams {
        &self.upstreams
    }

    /// Questions waiting for servers.
    pub fn len(&self) -> usize {
        self.lookups.len()
    }

    pub fn next_timeout(&self) -> Option<Now> {
        self.timers.first().map(|&(at, _)| at)
    }

    /// Questions that ended since the last call; ask until there are none, since ending one may start others.
    pub fn take_concluded(&mut self) -> Option<Concluded<R>> {
        self.concluded.pop()
    }

    /// Takes other servers: questions on their way start anew with them, their deadlines stay.
    pub fn configure(&mut self, now: Now, config: &Config, out: &mut Output) {
        self.timeout = config.timeout;
        self.capacity = 3 * config.max_queries;
        self.upstreams = Upstreams::new(&config.upstreams, config.server_choice);
        let mut numbers: Vec<u64> = self.lookups.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            self.end_attempts(number, out);
            let Some(lookup) = self.lookups.get_mut(&number) else { continue };
            (lookup.tries, lookup.errors, lookup.error, lookup.aliases) = (0, 0, None, None);
            lookup.led_here.clear();
            match self.upstreams.select(&lookup.question.name) {
                Some(group) => {
                    lookup.group = group;
                    lookup.begun = now;
                    lookup.order = self.upstreams.order(now, group, lookup.question.kind);
                    self.try_next(now, number, out);
                }
                None => {
                    let answer = Answer::failure(now, &lookup.question, REFUSED);
                    self.conclude(now, number, answer, out);
                }
            }
        }
    }

    /// Asks a question, or joins it when it is on its way. `question` has its name in lower case.
    pub fn ask(
        &mut self,
        now: Now,
        key: Key,
        question: Question,
        flags: KeyFlags,
        waiter: Waiter<R>,
        out: &mut Output,
    ) {
        if let Some(lookup) = self.by_key.get(&key).and_then(|number| self.lookups.get_mut(number)) {
            out.stats.joined += 1;
            lookup.waiters.push(waiter);
            return;
        }
        match self.open(now, key.clone(), question, flags, 0, out) {
            Some(number) => {
                if let Some(lookup) = self.lookups.get_mut(&number) {
                    lookup.waiters.push(waiter);
                }
            }
            None => {
                let answer = Arc::new(Answer::failure(now, &question, REFUSED));
                self.concluded.push(Concluded { key, question, answer, waiters: vec![waiter] });
            }
        }
    }

    /// Begins to ask a question that is not on its way; `None` when no server is responsible.
    fn open(
        &mut self,
        now: Now,
        key: Key,
        question: Question,
        flags: KeyFlags,
        hops: u8,
        out: &mut Output,
    ) -> Option<u64> {
        let group = self.upstreams.select(&question.name)?;
        let order = self.upstreams.order(now, group, question.kind);
        let number = self.number();
        let deadline = now + self.timeout;
        self.by_key.insert(key.clone(), number);
        self.timers.insert((deadline, number));
        let lookup = Lookup {
            key,
            question,
            flags,
            group,
            order,
            tries: 0,
            errors: 0,
            error: None,
            attempts: Vec::new(),
            waiters: Vec::new(),
            led_here: Vec::new(),
            aliases: None,
            hops,
            begun: now,
            deadline,
            timer: deadline,
        };
        self.lookups.insert(number, lookup);
        self.try_next(now, number, out);
        Some(number)
    }

    /// Takes what came back on an attempt.
    pub fn handle_response(&mut self, now: Now, attempt: u64, server: SocketAddr, bytes: &[u8], out: &mut Output) {
        let Some((number, at)) = self.find(attempt) else {
            out.stats.upstream_unexpected += 1;
            return;
        };
        let lookup = &self.lookups[&number];
        let Attempt { id, server: index, sent, tcp, edns, spelled, .. } = lookup.attempts[at];
        let asked = self.upstreams.group(lookup.group).servers[usize::from(index)].address;
        if server != asked || bytes.len() < HEADER || u16_at(bytes, 0) != id || u16_at(bytes, 2) & 0xf800 != FLAG_QR {
            return self.guessed(now, number, at, out);
        }
        let flags = u16_at(bytes, 2);
        let rcode = flags & 0xf;
        let echoed = message::question(bytes).map(|(question, _)| question);
        // A server that could not read the query may leave the question out.
        let bare = u16_at(bytes, 4) == 0 && matches!(rcode, FORMERR | SERVFAIL | NOTIMP | REFUSED);
        let right = echoed.is_some_and(|echoed| {
            (echoed.name.lower(), echoed.kind, echoed.class)
                == (lookup.question.name, lookup.question.kind, lookup.question.class)
        });
        if !right && !bare {
            return self.guessed(now, number, at, out);
        }
        let (group, kind) = (lookup.group, lookup.question.kind);
        let known = self.upstreams.server(group, usize::from(index));
        known.alive(now, kind);
        if !tcp {
            known.measured(now.since(sent));
        }
        if kind == TYPE_AAAA {
            self.passed_over(now, number, index);
        }
        self.retire(number, at, out);
        if right && echoed.is_some_and(|echoed| echoed.name != spelled) && !tcp {
            out.stats.upstream_wrong_case += 1;
            return self.attempt(now, number, index, true, edns, out);
        }
        if flags & FLAG_TC != 0 && !tcp {
            out.stats.upstream_truncated += 1;
            return self.attempt(now, number, index, true, edns, out);
        }
        let question = self.lookups[&number].question;
        let answer = if bare {
            Ok(Answer::failure(now, &question, rcode))
        } else if flags & FLAG_TC != 0 {
            Err(super::answer::AnswerError::Malformed)
        } else {
            Answer::from_server(now, bytes)
        };
        match answer.map(|answer| answer.told_by(Some(server))) {
            Ok(answer) if answer.is_conclusive() => {
                out.stats.upstream_answers += 1;
                if !edns {
                    self.upstreams.server(group, usize::from(index)).refused_edns(now);
                }
                self.follow(now, number, answer, out);
            }
            Ok(answer) if edns && matches!(answer.rcode, FORMERR | NOTIMP | BADVERS) => {
                out.stats.upstream_without_edns += 1;
                self.attempt(now, number, index, tcp, false, out);
            }
            other => {
                match &other {
                    Ok(_) => out.stats.upstream_errors += 1,
                    Err(_) => out.stats.upstream_malformed += 1,
                }
                self.refused_by(now, number, index, other.ok(), out);
            }
        }
    }

    /// A server answered about AAAA: those that were asked before it have had their time.
    fn passed_over(&mut self, now: Now, number: u64, by: u8) {
        let Some(lookup) = self.lookups.get(&number) else { return };
        let mut silent = BTreeSet::new();
        for attempt in lookup.attempts.iter().filter(|attempt| attempt.server != by) {
            let server = &self.upstreams.group(lookup.group).servers[usize::from(attempt.server)];
            if server.patience().is_some_and(|patience| now.since(attempt.sent) > patience) {
                silent.insert(attempt.server);
            }
        }
        for index in silent {
            self.upstreams.server(lookup.group, usize::from(index)).left_aaaa_unanswered(now, lookup.begun);
        }
    }

    /// A message that is not the attempt's answer: late, damaged, or somebody's guess at its id and spelling. After a few the
    /// question is asked by TCP, where guessing takes more than a datagram.
    fn guessed(&mut self, now: Now, number: u64, at: usize, out: &mut Output) {
        out.stats.upstream_unexpected += 1;
        let Some(attempt) = self.lookups.get_mut(&number).and_then(|lookup| lookup.attempts.get_mut(at)) else {
            return;
        };
        attempt.guesses += 1;
        let (index, tcp, edns) = (attempt.server, attempt.tcp, attempt.edns);
        if attempt.guesses >= MAX_GUESSES && !tcp {
            out.stats.upstream_guessed += 1;
            self.retire(number, at, out);
            self.attempt(now, number, index, true, edns, out);
        }
    }

    /// Takes a server's answer: leaves out what does not belong to the question, and asks other servers where an alias leads
    /// to them.
    fn follow(&mut self, now: Now, number: u64, answer: Answer, out: &mut Output) {
        let Some(lookup) = self.lookups.get(&number) else { return };
        let (question, group, flags, hops) = (lookup.question, lookup.group, lookup.flags, lookup.hops);
        let elsewhere = |name: &Name| self.upstreams.select(name).is_some_and(|other| other != group);
        let walk = chain::walk(answer.bytes(), &question, elsewhere);
        let Some(walk) = walk else {
            out.stats.upstream_malformed += 1;
            return self.conclude(now, number, Answer::failure(now, &question, SERVFAIL), out);
        };
        if walk.is_whole() {
            return self.conclude(now, number, answer, out);
        }
        out.stats.upstream_strays += u64::from(walk.has_strays());
        let server = answer.server;
        let failure = || Answer::failure(now, &question, SERVFAIL).told_by(server);
        let Some(kept) = walk.apply(now, &answer) else {
            out.stats.undecodable += 1;
            return self.conclude(now, number, failure(), out);
        };
        let Some(target) = walk.cut else { return self.conclude(now, number, kept, out) };
        // The first answers are not needed any more; the others' turn.
        self.end_attempts(number, out);
        let question = Question { name: target, ..question };
        let key = Key::new(&target, &question, flags);
        let next = match self.by_key.get(&key) {
            Some(&next) if self.leads_to(next, number) => None,
            Some(&next) => Some(next),
            None if hops >= MAX_HOPS || self.lookups.len() >= self.capacity => None,
            None => self.open(now, key, question, flags, hops + 1, out),
        };
        let Some(next) = next else {
            out.stats.chains_broken += 1;
            return self.conclude(now, number, failure(), out);
        };
        out.stats.chains_followed += 1;
        if let Some(lookup) = self.lookups.get_mut(&number) {
            lookup.aliases = Some((Arc::new(kept), next));
            let deadline = lookup.deadline;
            self.set_timer(number, deadline);
        }
        if let Some(lookup) = self.lookups.get_mut(&next) {
            lookup.led_here.push(number);
        }
    }

    /// True when `number` is the question `from`, or the aliases found so far lead from `from` to it: waiting for `from` would
    /// be waiting for itself.
    fn leads_to(&self, mut from: u64, number: u64) -> bool {
        for _ in 0..=MAX_HOPS {
            if from == number {
                return true;
            }
            match self.lookups.get(&from).and_then(|lookup| lookup.aliases.as_ref()) {
                Some(&(_, next)) => from = next,
                None => return false,
            }
        }
        true
    }

    fn end_attempts(&mut self, number: u64, out: &mut Output) {
        let Some(lookup) = self.lookups.get_mut(&number) else { return };
        for attempt in lookup.attempts.drain(..) {
            self.by_attempt.remove(&attempt.number);
            out.actions.push_back(Action::CancelUpstream { attempt: attempt.number });
        }
    }

    /// The attempt cannot be answered: no route, port closed, connection ended, no socket to be had.
    pub fn handle_unreachable(&mut self, now: Now, attempt: u64, out: &mut Output) {
        let Some((number, at)) = self.find(attempt) else { return };
        out.stats.upstream_unreachable += 1;
        let lookup = &self.lookups[&number];
        let index = lookup.attempts[at].server;
        let (kind, begun) = (lookup.question.kind, lookup.begun);
        self.upstreams.server(lookup.group, usize::from(index)).silent(now, kind, begun);
        self.retire(number, at, out);
        self.refused_by(now, number, index, None, out);
    }

    pub fn handle_timeout(&mut self, now: Now, out: &mut Output) {
        while let Some(&(at, number)) = self.timers.first() {
            if at > now {
                return;
            }
            let Some(lookup) = self.lookups.get(&number) else {
                self.timers.pop_first();
                continue;
            };
            if let Some(attempt) = lookup.attempts.last() {
                out.stats.upstream_timeouts += 1;
                let (kind, begun) = (lookup.question.kind, lookup.begun);
                self.upstreams.server(lookup.group, usize::from(attempt.server)).silent(now, kind, begun);
            }
            if now >= lookup.deadline {
                if lookup.question.kind == TYPE_AAAA {
                    let asked: BTreeSet<u8> = lookup.attempts.iter().map(|attempt| attempt.server).collect();
                    for index in asked {
                        let server = self.upstreams.server(lookup.group, usize::from(index));
                        server.left_aaaa_unanswered(now, lookup.begun);
                    }
                }
                self.give_up(now, number, out);
            } else {
                self.try_next(now, number, out);
            }
        }
    }

    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn find(&self, attempt: u64) -> Option<(u64, usize)> {
        let number = *self.by_attempt.get(&attempt)?;
        let at = self.lookups.get(&number)?.attempts.iter().position(|known| known.number == attempt)?;
        Some((number, at))
    }

    fn retire(&mut self, number: u64, at: usize, out: &mut Output) {
        let Some(lookup) = self.lookups.get_mut(&number) else { return };
        let attempt = lookup.attempts.remove(at);
        self.by_attempt.remove(&attempt.number);
        out.actions.push_back(Action::CancelUpstream { attempt: attempt.number });
    }

    /// A server gave no usable answer: the next one's turn.
    fn refused_by(&mut self, now: Now, number: u64, index: u8, error: Option<Answer>, out: &mut Output) {
        let Some(lookup) = self.lookups.get_mut(&number) else { return };
        lookup.errors |= 1 << index;
        // The first error stands for all: it comes from the preferred server.
        lookup.error = lookup.error.take().or(error);
        self.try_next(now, number, out);
    }

    fn try_next(&mut self, now: Now, number: u64, out: &mut Output) {
        let Some(lookup) = self.lookups.get_mut(&number) else { return };
        let count = lookup.order.len() as u32;
        let next = (0..count)
            .map(|step| lookup.tries + step)
            .find(|tries| lookup.errors & (1 << lookup.order[(tries % count) as usize]) == 0);
        match next {
            // Every server said no, and no attempt can still bring better news.
            None if lookup.attempts.is_empty() => self.give_up(now, number, out),
            Some(tries) if tries < MAX_ATTEMPTS => {
                lookup.tries = tries + 1;
                let index = lookup.order[(tries % count) as usize];
                let edns = self.upstreams.server(lookup.group, usize::from(index)).takes_edns(now);
                self.attempt(now, number, index, false, edns, out);
            }
            _ => {
                let deadline = lookup.deadline;
                self.set_timer(number, deadline);
            }
        }
    }

    fn attempt(&mut self, now: Now, number: u64, index: u8, tcp: bool, edns: bool, out: &mut Output) {
        let attempt = self.number();
        let id = (self.entropy)() as u16;
        let Some(lookup) = self.lookups.get_mut(&number) else { return };
        let mut spelled = lookup.question.name;
        let mut bits = 0;
        for (position, byte) in spelled.wire_mut().iter_mut().enumerate() {
            if position % 64 == 0 {
                bits = (self.entropy)();
            }
            // Lengths are below 64, letters above: only letters change.
            if byte.is_ascii_lowercase() && bits >> (position % 64) & 1 == 1 {
                byte.make_ascii_uppercase();
            }
        }
        let server = self.upstreams.server(lookup.group, usize::from(index));
        server.sent += 1;
        let known = server.patience();
        let question = Question { name: spelled, ..lookup.question };
        let KeyFlags { recursion, checking_disabled, dnssec_ok, .. } = lookup.flags;
        let bytes = message::upstream_query(id, &question, recursion, checking_disabled, edns.then_some(dnssec_ok));
        let way = match tcp {
            false => Way::Udp,
            true if lookup.attempts.iter().any(|other| other.tcp && other.server == index) => Way::NewTcp,
            true => Way::Tcp,
        };
        out.actions.push_back(Action::SendUpstream { attempt, server: server.address, way, bytes });
        if tcp {
            out.stats.upstream_tcp += 1;
        } else {
            out.stats.upstream_udp += 1;
        }
        lookup.attempts.push(Attempt { number: attempt, server: index, sent: now, guesses: 0, id, spelled, tcp, edns });
        self.by_attempt.insert(attempt, number);
        let round = lookup.tries.saturating_sub(1) / lookup.order.len() as u32;
        // A connection takes two round trips more than a datagram.
        let longest = (self.timeout / 6).clamp(RETRY.0, RETRY.1);
        let first = known.map_or(longest, |known| known.clamp(RETRY.0, longest));
        let patience = first * (1 << round.min(4)) * if tcp { 2 } else { 1 };
        let timer = (now + patience).min(lookup.deadline);
        self.set_timer(number, timer);
    }

    fn set_timer(&mut self, number: u64, timer: Now) {
        let Some(lookup) = self.lookups.get_mut(&number) else { return };
        self.timers.remove(&(lookup.timer, number));
        lookup.timer = timer;
        self.timers.insert((timer, number));
    }

    fn give_up(&mut self, now: Now, number: u64, out: &mut Output) {
        let Some(lookup) = self.lookups.get_mut(&number) else { return };
        let answer = lookup.error.take().unwrap_or_else(|| Answer::failure(now, &lookup.question, SERVFAIL));
        self.conclude(now, number, answer, out);
    }

    /// Ends a question, and those whose aliases led to it.
    fn conclude(&mut self, now: Now, number: u64, answer: Answer, out: &mut Output) {
        let mut ended = vec![(number, Arc::new(answer))];
        while let Some((number, answer)) = ended.pop() {
            self.end_attempts(number, out);
            let Some(lookup) = self.lookups.remove(&number) else { continue };
            self.by_key.remove(&lookup.key);
            self.timers.remove(&(lookup.timer, number));
            for before in lookup.led_here {
                let Some(waiting) = self.lookups.get(&before) else { continue };
                // It may have begun anew since.
                let Some((aliases, _)) = waiting.aliases.as_ref().filter(|(_, next)| *next == number) else { continue };
                let failure = || Answer::failure(now, &waiting.question, SERVFAIL).told_by(answer.server);
                let whole = if answer.is_conclusive() { chain::joined(now, aliases, &answer) } else { None };
                ended.push((before, Arc::new(whole.unwrap_or_else(failure))));
            }
            let Lookup { key, question, waiters, .. } = lookup;
            self.concluded.push(Concluded { key, question, answer, waiters });
        }
    }
}
