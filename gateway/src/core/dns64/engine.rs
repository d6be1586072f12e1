//! DNS64's decisions: what is asked for a client's question, and what the client is told.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::answer::Answer;
use super::cache::{Cache, Key, KeyFlags};
use super::config::{Config, Exclusion};
use super::message::{
    self, BADVERS, CLASS_IN, Edns, FLAG_RD, FLAG_TC, FORMERR, NOERROR, NOTIMP, NXDOMAIN, Query, QueryError, Question,
    REFUSED, SERVFAIL, TYPE_A, TYPE_AAAA, TYPE_ANY, TYPE_OPT,
};
use super::name::Name;
pub use super::resolver::Entropy;
use super::resolver::{Resolver, Waiter};
use super::reverse::{self, Subject};
use super::stats::{ServerStats, Stats};
use super::synthesis::{self, ExcludedRanges, TTL_WITHOUT_SOA};
use super::{Action, Asked, Client, Output, Report, Source, Transport};
use crate::core::time::Now;

/// How long an answer is kept that was made although the servers' word on AAAA is missing, seconds: they may find it again.
const KEPT_ON_SUSPICION: u32 = 30;
/// The largest message TCP can carry.
const MAX_TCP: usize = 65_535;

/// What becomes of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// The servers' answer is the client's.
    Forward,
    /// AAAA, native or made from A.
    Synthesize,
    /// A reverse name under the prefix: an alias, then the answer about this address' own name.
    Reverse(Ipv4Addr),
}

/// Which of a job's two questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Aaaa,
    /// The A question of [`Plan::Synthesize`], the only question of the other plans.
    Main,
}

#[derive(Clone, Debug)]
enum Slot {
    NotAsked,
    Waiting,
    Done(Arc<Answer>),
}

struct Job {
    client: Client,
    query: Query,
    lower: Name,
    plan: Plan,
    aaaa: Slot,
    main: Slot,
    started: Now,
    timer: Option<Now>,
    /// False while everything came from the cache.
    waited: bool,
    /// Questions that ended, for the administrator's query alone.
    asked: Vec<Asked>,
}

/// What to do next about a [`Plan::Synthesize`].
enum Step {
    Wait,
    AskA,
    Pass(Arc<Answer>),
    /// The AAAA answer without excluded addresses.
    Native(Arc<Answer>),
    Synthesize {
        a: Arc<Answer>,
        cap: u32,
        keep: u32,
    },
}

/// The DNS64 engine.
pub struct Engine {
    config: Config,
    excluded: ExcludedRanges,
    unsynthesized: HashSet<Box<[u8]>>,
    cache: Cache,
    resolver: Resolver<Role>,
    jobs: HashMap<u64, Job>,
    per_client: HashMap<IpAddr, usize>,
    timers: BTreeSet<(Now, u64)>,
    last_job: u64,
    out: Output,
}

impl Engine {
    /// `entropy` gives 64 unpredictable bits a call; ids and letter case come from it.
    pub fn new(config: Config, entropy: Entropy) -> Self {
        Self {
            excluded: ExcludedRanges::new(&config.exclusions),
            unsynthesized: suffixes(&config),
            cache: Cache::new(config.cache_entries),
            resolver: Resolver::new(&config.upstreams, config.timeout, entropy),
            jobs: HashMap::new(),
            per_client: HashMap::new(),
            timers: BTreeSet::new(),
            last_job: 0,
            out: Output::default(),
            config,
        }
    }

    /// Takes another configuration. Queries on their way are answered under it; the cache survives unless what it holds
    /// could be wrong now.
    pub fn configure(&mut self, now: Now, config: Config) {
        let old = std::mem::replace(&mut self.config, config);
        let config = &self.config;
        self.excluded = ExcludedRanges::new(&config.exclusions);
        self.unsynthesized = suffixes(config);
        self.cache.set_capacity(config.cache_entries);
        let same_answers = |c: &Config| (c.mappings.clone(), c.only_send_a_query, c.always_synthesize);
        let new_servers = old.upstreams != config.upstreams;
        if new_servers || old.exclusions != config.exclusions || same_answers(&old) != same_answers(config) {
            self.cache.flush();
        }
        if new_servers || old.timeout != config.timeout {
            self.resolver.configure(now, &config.upstreams, config.timeout, &mut self.out);
        }
        self.settle(now);
    }

    /// Forgets cached answers and returns how many there were: all, those about one name, or with `tree` also those about
    /// the names below it. Answers on their way are not affected.
    pub fn flush(&mut self, name: Option<&Name>, tree: bool) -> usize {
        match name {
            None => self.cache.flush(),
            Some(name) => self.cache.remove_name(&name.lower(), tree),
        }
    }

    /// Takes a message from a client.
    pub fn handle_query(&mut self, now: Now, client: Client, bytes: &[u8]) {
        let accepted = self.accepts(client);
        let stats = &mut self.out.stats;
        stats.queries += 1;
        match client.transport {
            Transport::Udp { .. } => stats.queries_udp += 1,
            Transport::Tcp { .. } => stats.queries_tcp += 1,
            Transport::Local { .. } => stats.queries_local += 1,
        }
        if !accepted {
            return self.refuse_stranger(client, bytes);
        }
        let query = match Query::parse(bytes) {
            Ok(query) => query,
            Err(QueryError::Short | QueryError::Response) => {
                stats.dropped_garbage += 1;
                return;
            }
            Err(QueryError::Opcode { id, flags }) => {
                stats.refused_not_implemented += 1;
                return self.reply(client, message::bare_reply(id, flags, NOTIMP, None, None, 0));
            }
            Err(QueryError::Malformed { id, flags }) => {
                stats.refused_malformed += 1;
                return self.reply(client, message::bare_reply(id, flags, FORMERR, None, None, 0));
            }
        };
        if let Some((rcode, extra)) = self.refusal(client, &query) {
            let edns = query.edns.map(|edns| Edns { version: 0, ..edns });
            let bytes = message::bare_reply(query.id, query.flags, rcode, Some(&query.question), edns, extra);
            return self.reply(client, bytes);
        }
        self.admit(now, client, query);
    }

    fn accepts(&self, client: Client) -> bool {
        let accepted = &self.config.accept_from;
        accepted.is_empty()
            || matches!(client.transport, Transport::Local { .. })
            || accepted.iter().any(|network| network.contains(client.address.ip()))
    }

    /// Tells somebody who is not served so, in no more bytes than it sent.
    fn refuse_stranger(&mut self, client: Client, bytes: &[u8]) {
        match Query::parse(bytes) {
            Err(QueryError::Short | QueryError::Response) => self.out.stats.dropped_garbage += 1,
            Err(QueryError::Opcode { id, flags } | QueryError::Malformed { id, flags }) => {
                self.out.stats.refused_stranger += 1;
                self.reply(client, message::bare_reply(id, flags, REFUSED, None, None, 0));
            }
            Ok(query) => {
                self.out.stats.refused_stranger += 1;
                let edns = query.edns.map(|edns| Edns { version: 0, ..edns });
                let bytes = message::bare_reply(query.id, query.flags, REFUSED, Some(&query.question), edns, 0);
                self.reply(client, bytes);
            }
        }
    }

    /// Questions answered by a code alone.
    fn refusal(&mut self, client: Client, query: &Query) -> Option<(u16, u16)> {
        let stats = &mut self.out.stats;
        if query.edns.is_some_and(|edns| edns.version > 0) {
            stats.refused_edns_version += 1;
            return Some((BADVERS, 0));
        }
        match query.question.kind {
            0 | TYPE_OPT => {
                stats.refused_malformed += 1;
                Some((FORMERR, 0))
            }
            // IXFR and AXFR: several messages, and the zone's owner decides who may have it.
            251 | 252 => {
                stats.refused_policy += 1;
                Some((REFUSED, 0))
            }
            // The other meta types: TKEY, TSIG, MAILB, MAILA and unassigned ones.
            128..=254 => {
                stats.refused_not_implemented += 1;
                Some((NOTIMP, 0))
            }
            TYPE_ANY if matches!(client.transport, Transport::Udp { .. }) => {
                stats.answered_any_by_tcp += 1;
                Some((NOERROR, FLAG_TC))
            }
            _ => None,
        }
    }

    fn admit(&mut self, now: Now, client: Client, query: Query) {
        let question = query.question;
        let lower = question.name.lower();
        let subject = reverse::subject(&lower, &question, &self.config.mappings);
        let validating = query.dnssec_ok() && query.checking_disabled();
        let plan = match subject {
            Subject::Ipv4Only | Subject::WellKnownReverse => return self.answer_locally(now, client, &query, subject),
            Subject::Synthesized(_) if matches!(question.kind, message::TYPE_CNAME | TYPE_ANY) => {
                return self.answer_locally(now, client, &query, subject);
            }
            Subject::Synthesized(address) => Plan::Reverse(address),
            Subject::Other if (question.kind, question.class) != (TYPE_AAAA, CLASS_IN) => Plan::Forward,
            Subject::Other if validating => {
                self.out.stats.validating += 1;
                Plan::Forward
            }
            Subject::Other if lower.suffixes().any(|suffix| self.unsynthesized.contains(suffix)) => Plan::Forward,
            Subject::Other => Plan::Synthesize,
        };
        let made_here = plan != Plan::Forward;
        let key = Key::new(&lower, &question, KeyFlags { made_here, ..key_flags(&query) });
        if let Some(answer) = self.cache.get(now, &key) {
            self.out.stats.answered_cached += 1;
            self.out.stats.reverse += u64::from(matches!(plan, Plan::Reverse(_)));
            return self.send(now, client, &query, &answer, Report { source: Source::Cache, ..Report::default() });
        }
        let name = if let Plan::Reverse(address) = plan { reverse::in_addr_arpa(address) } else { lower };
        if self.resolver.upstreams().select(&name).is_none() {
            self.out.stats.refused_policy += 1;
            return self.send(now, client, &query, &Answer::failure(now, &question, REFUSED), Report::default());
        }
        let waiting = self.per_client.get(&client.address.ip()).copied().unwrap_or(0);
        if waiting >= self.config.max_queries_per_client {
            self.out.stats.refused_client_limit += 1;
            return self.send(now, client, &query, &Answer::failure(now, &question, REFUSED), Report::default());
        }
        // Questions can outlive the queries that asked them, so they are bounded on their own.
        if self.jobs.len() >= self.config.max_queries || self.resolver.len() >= 2 * self.config.max_queries {
            self.out.stats.refused_total_limit += 1;
            return self.send(now, client, &query, &Answer::failure(now, &question, SERVFAIL), Report::default());
        }
        *self.per_client.entry(client.address.ip()).or_default() += 1;
        self.last_job += 1;
        let number = self.last_job;
        let (aaaa, main) = (Slot::NotAsked, Slot::NotAsked);
        let job =
            Job { client, query, lower, plan, aaaa, main, started: now, timer: None, waited: false, asked: Vec::new() };
        self.jobs.insert(number, job);
        match plan {
            Plan::Forward => self.ask(now, number, Role::Main, lower, question.kind),
            Plan::Reverse(_) => self.ask(now, number, Role::Main, name, question.kind),
            Plan::Synthesize if self.config.only_send_a_query => self.ask(now, number, Role::Main, lower, TYPE_A),
            Plan::Synthesize => self.ask(now, number, Role::Aaaa, lower, TYPE_AAAA),
        }
        self.advance(now, number);
        self.settle(now);
    }

    fn answer_locally(&mut self, now: Now, client: Client, query: &Query, subject: Subject) {
        self.out.stats.answered_local += 1;
        let answer = reverse::local_answer(now, &query.question, subject, &self.config.mappings);
        let answer = answer.unwrap_or_else(|| Answer::failure(now, &query.question, SERVFAIL));
        self.send(now, client, query, &answer, Report::default());
    }

    /// Takes what came back on an attempt, and from where.
    pub fn handle_response(&mut self, now: Now, attempt: u64, server: SocketAddr, bytes: &[u8]) {
        self.resolver.handle_response(now, attempt, server, bytes, &mut self.out);
        self.settle(now);
    }

    /// Takes the news that an attempt will bring nothing: unreachable, refused, closed.
    pub fn handle_unreachable(&mut self, now: Now, attempt: u64) {
        self.resolver.handle_unreachable(now, attempt, &mut self.out);
        self.settle(now);
    }

    pub fn next_timeout(&self) -> Option<Now> {
        let own = self.timers.first().map(|&(at, _)| at);
        own.into_iter().chain(self.resolver.next_timeout()).min()
    }

    pub fn handle_timeout(&mut self, now: Now) {
        self.resolver.handle_timeout(now, &mut self.out);
        while let Some(&(at, number)) = self.timers.first().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, number));
            if let Some(job) = self.jobs.get_mut(&number) {
                job.timer = None;
            }
            self.advance(now, number);
        }
        self.settle(now);
    }

    pub fn poll_action(&mut self) -> Option<Action> {
        self.out.actions.pop_front()
    }

    /// Messages so far that get no answer at all.
    pub fn dropped(&self) -> u64 {
        self.out.stats.dropped_garbage
    }

    pub fn stats(&self, now: Now) -> Stats {
        let mut stats = self.out.stats.clone();
        stats.waiting = self.jobs.len() as u64;
        stats.asking = self.resolver.len() as u64;
        stats.cache_entries = self.cache.len() as u64;
        stats.cache_bytes = self.cache.bytes() as u64;
        stats.cache_evicted = self.cache.evicted;
        stats.cache_too_large = self.cache.too_large;
        for group in self.resolver.upstreams().groups() {
            stats.servers.extend(group.servers.iter().map(|server| ServerStats {
                suffix: group.suffix.clone(),
                address: server.address.to_string(),
                resting: server.is_resting(now),
                sent: server.sent,
                answered: server.answered,
                failed: server.failed,
            }));
        }
        stats
    }

    /// Puts one of a job's questions, or finds its answer in the cache.
    fn ask(&mut self, now: Now, number: u64, role: Role, lower: Name, kind: u16) {
        let Some(job) = self.jobs.get_mut(&number) else { return };
        let question = Question { name: lower, kind, class: job.query.question.class };
        let flags = key_flags(&job.query);
        let key = Key::new(&lower, &question, flags);
        let slot = match role {
            Role::Aaaa => &mut job.aaaa,
            Role::Main => &mut job.main,
        };
        if let Some(answer) = self.cache.get(now, &key) {
            *slot = Slot::Done(answer);
            return;
        }
        *slot = Slot::Waiting;
        job.waited = true;
        self.resolver.ask(now, key, question, flags, Waiter { job: number, role }, &mut self.out);
    }

    /// Hands ended questions to those who wait for them, until nothing ends any more.
    fn settle(&mut self, now: Now) {
        while let Some(concluded) = self.resolver.take_concluded() {
            self.cache.insert(concluded.key, Arc::clone(&concluded.answer));
            for Waiter { job: number, role } in concluded.waiters {
                // Some were answered meanwhile without this.
                let Some(job) = self.jobs.get_mut(&number) else { continue };
                let slot = match role {
                    Role::Aaaa => &mut job.aaaa,
                    Role::Main => &mut job.main,
                };
                *slot = Slot::Done(Arc::clone(&concluded.answer));
                if let Transport::Local { .. } = job.client.transport {
                    let (server, rcode) = (concluded.answer.server, concluded.answer.rcode);
                    job.asked.push(Asked {
                        name: concluded.question.name,
                        kind: concluded.question.kind,
                        server,
                        rcode,
                    });
                }
                self.advance(now, number);
            }
        }
    }

    /// Takes a job as far as it goes: to its answer, or to the next thing to wait for.
    fn advance(&mut self, now: Now, number: u64) {
        loop {
            let Some(job) = self.jobs.get(&number) else { return };
            let step = match (job.plan, &job.main) {
                (Plan::Synthesize, _) => self.decide(now, job),
                (Plan::Forward, Slot::Done(answer)) => Step::Pass(Arc::clone(answer)),
                (Plan::Reverse(address), Slot::Done(target)) => {
                    let target = Arc::clone(target);
                    return self.finish_reverse(now, number, address, &target);
                }
                (Plan::Forward | Plan::Reverse(_), _) => Step::Wait,
            };
            match step {
                Step::AskA => {
                    let lower = job.lower;
                    self.ask(now, number, Role::Main, lower, TYPE_A);
                }
                Step::Wait => return self.wait(now, number),
                Step::Pass(answer) => return self.finish(now, number, &answer),
                Step::Native(aaaa) => return self.finish_native(now, number, &aaaa),
                Step::Synthesize { a, cap, keep } => {
                    let made = synthesis::synthesize(now, &a, &self.config.mappings, cap);
                    return self.finish_made(now, number, made.map(|answer| answer.kept_at_most(keep)));
                }
            }
        }
    }

    /// RFC 6147 section 5.1 as a function of what is known so far.
    fn decide(&self, now: Now, job: &Job) -> Step {
        let always = self.config.always_synthesize;
        let a = if let Slot::Done(a) = &job.main { Some(a) } else { None };
        let usable = a.filter(|a| a.rcode == NOERROR && synthesis::has_usable_ipv4(a, &self.config.mappings));
        let aaaa = match &job.aaaa {
            Slot::NotAsked => {
                return match a {
                    Some(a) if usable.is_some() || has_ipv4(a) => {
                        Step::Synthesize { a: Arc::clone(a), cap: TTL_WITHOUT_SOA, keep: u32::MAX }
                    }
                    Some(a) => Step::Pass(Arc::clone(a)),
                    None => Step::Wait,
                };
            }
            Slot::Waiting => {
                let impatient = now >= job.started + self.config.timeout / 2;
                return match (usable, &job.main) {
                    // 5.1.3: silence is treated as emptiness, early enough that the client is still listening.
                    (Some(a), _) if always || impatient => {
                        let keep = if always { u32::MAX } else { KEPT_ON_SUSPICION };
                        Step::Synthesize { a: Arc::clone(a), cap: TTL_WITHOUT_SOA, keep }
                    }
                    (_, Slot::NotAsked) if now >= job.started + self.config.latency => Step::AskA,
                    _ => Step::Wait,
                };
            }
            Slot::Done(aaaa) => aaaa,
        };
        // 5.1.2: a name that does not exist has no A either.
        if aaaa.rcode == NXDOMAIN {
            return Step::Pass(Arc::clone(aaaa));
        }
        let native = aaaa.rcode == NOERROR && aaaa.has_address(|address| self.excluded.contains(address));
        if native && !always {
            return Step::Native(Arc::clone(aaaa));
        }
        match (usable, a) {
            (Some(a), _) => {
                let minimum = aaaa.soa_minimum.map(|minimum| minimum.saturating_sub(aaaa.age(now)));
                let keep = if aaaa.is_conclusive() { u32::MAX } else { KEPT_ON_SUSPICION };
                Step::Synthesize { a: Arc::clone(a), cap: minimum.unwrap_or(TTL_WITHOUT_SOA), keep }
            }
            (None, Some(_)) if native => Step::Native(Arc::clone(aaaa)),
            // "No AAAA" is the truth only when it is known that nothing could be made of A.
            (None, Some(a)) if a.is_conclusive() && aaaa.is_conclusive() => Step::Native(Arc::clone(aaaa)),
            // Addresses that no prefix stands for: an empty answer, for which the missing word on AAAA is no better.
            (None, Some(a)) if has_ipv4(a) => {
                Step::Synthesize { a: Arc::clone(a), cap: TTL_WITHOUT_SOA, keep: KEPT_ON_SUSPICION }
            }
            (None, Some(a)) => Step::Pass(Arc::clone(a)),
            (None, None) if matches!(job.main, Slot::NotAsked) => Step::AskA,
            (None, None) => Step::Wait,
        }
    }

    /// Sets the timer for the next moment at which [`Engine::decide`] may decide otherwise.
    fn wait(&mut self, now: Now, number: u64) {
        let Some(job) = self.jobs.get_mut(&number) else { return };
        let at = match (job.plan, &job.aaaa, &job.main) {
            (Plan::Synthesize, Slot::Waiting, Slot::NotAsked) => Some(job.started + self.config.latency),
            (Plan::Synthesize, Slot::Waiting, _) => Some(job.started + self.config.timeout / 2),
            _ => None,
        };
        let at = at.filter(|&at| at > now);
        if at != job.timer {
            job.timer.into_iter().for_each(|at| _ = self.timers.remove(&(at, number)));
            at.into_iter().for_each(|at| _ = self.timers.insert((at, number)));
            job.timer = at;
        }
    }

    fn finish_native(&mut self, now: Now, number: u64, aaaa: &Arc<Answer>) {
        let excluded = |data: &[u8]| <[u8; 16]>::try_from(data).is_ok_and(|address| self.excluded.contains(address));
        if !aaaa.data(TYPE_AAAA).any(excluded) {
            return self.finish(now, number, aaaa);
        }
        self.out.stats.excluded += 1;
        let made = synthesis::without_excluded(now, aaaa, &self.excluded);
        self.finish_made(now, number, made);
    }

    fn finish_reverse(&mut self, now: Now, number: u64, address: Ipv4Addr, target: &Answer) {
        let Some(job) = self.jobs.get(&number) else { return };
        self.out.stats.reverse += 1;
        if target.is_conclusive() {
            let made = reverse::aliased(now, &job.query.question, address, target);
            return self.finish_made(now, number, made);
        }
        let answer = Answer::failure(now, &job.query.question, target.rcode.min(0xf));
        self.finish(now, number, &answer);
    }

    /// Ends a job with an answer made here, which is kept for the next client; `None` when it could not be made.
    fn finish_made(&mut self, now: Now, number: u64, made: Option<Answer>) {
        let Some(job) = self.jobs.get(&number) else { return };
        let question = job.query.question;
        let Some(made) = made else {
            self.out.stats.undecodable += 1;
            return self.finish(now, number, &Answer::failure(now, &question, SERVFAIL));
        };
        let key = Key::new(&job.lower, &question, KeyFlags { made_here: true, ..key_flags(&job.query) });
        let made = Arc::new(made);
        self.cache.insert(key, Arc::clone(&made));
        self.finish(now, number, &made);
    }

    fn finish(&mut self, now: Now, number: u64, answer: &Answer) {
        let Some(job) = self.jobs.remove(&number) else { return };
        job.timer.into_iter().for_each(|at| _ = self.timers.remove(&(at, number)));
        let address = job.client.address.ip();
        if let Some(waiting) = self.per_client.get_mut(&address) {
            *waiting -= 1;
            if *waiting == 0 {
                self.per_client.remove(&address);
            }
        }
        let source = if job.waited {
            self.out.stats.answered_resolved += 1;
            Source::Upstream
        } else {
            self.out.stats.answered_cached += 1;
            Source::Cache
        };
        self.send(now, job.client, &job.query, answer, Report { source, asked: job.asked, ..Report::default() });
    }

    fn send(&mut self, now: Now, client: Client, query: &Query, answer: &Answer, report: Report) {
        let limit = match client.transport {
            Transport::Udp { .. } => query.udp_limit(),
            Transport::Tcp { .. } | Transport::Local { .. } => MAX_TCP,
        };
        let (bytes, truncated) = answer.reply(now, query, limit);
        let stats = &mut self.out.stats;
        stats.answered_truncated += u64::from(truncated);
        stats.servfail += u64::from(answer.rcode == SERVFAIL);
        stats.synthesized += u64::from(answer.synthesized);
        let Transport::Local { ticket } = client.transport else { return self.reply(client, bytes) };
        let report = Report { synthesized: answer.synthesized, server: answer.server, ..report };
        self.out.actions.push_back(Action::Report { ticket, bytes, report });
    }

    fn reply(&mut self, client: Client, bytes: Vec<u8>) {
        self.out.actions.push_back(match client.transport {
            Transport::Local { ticket } => Action::Report { ticket, bytes, report: Report::default() },
            _ => Action::Reply { client, bytes },
        });
    }
}

/// The bits of a query that its servers see. AD is always asked for and taken out of answers to those who did not ask.
fn key_flags(query: &Query) -> KeyFlags {
    KeyFlags {
        recursion: query.flags & FLAG_RD != 0,
        checking_disabled: query.checking_disabled(),
        dnssec_ok: query.dnssec_ok(),
        made_here: false,
    }
}

fn has_ipv4(answer: &Answer) -> bool {
    answer.data(TYPE_A).next().is_some()
}

fn suffixes(config: &Config) -> HashSet<Box<[u8]>> {
    let suffix = |exclusion: &Exclusion| match exclusion {
        Exclusion::Suffix(suffix) => Some(suffix.0.wire().into()),
        Exclusion::Range { .. } => None,
    };
    config.exclusions.iter().filter_map(suffix).collect()
}
