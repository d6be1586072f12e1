//! DNS64's front: which queries are answered at once, which become jobs (`jobs`), and which are refused.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::answer::Answer;
use super::cache::{Cache, Found, KeyFlags, KeyRef};
use super::config::{Config, Exclusion};
use super::jobs::{Job, Role};
use super::message::{
    self, BADVERS, CLASS_IN, Edns, FLAG_RD, FLAG_TC, FORMERR, NOERROR, NOTIMP, Query, QueryError, Question, REFUSED,
    SERVFAIL, TYPE_A, TYPE_AAAA, TYPE_ANY, TYPE_OPT,
};
use super::name::Name;
use super::rate::{Allowance, Limiter};
pub use super::resolver::Entropy;
use super::resolver::Resolver;
use super::reverse::{self, Subject};
use super::secret::Secret;
use super::stats::{ServerStats, Stats};
use super::synthesis::ExcludedRanges;
use super::{Action, Client, Output, Report, Source, Transport};
use crate::core::time::Now;

/// The largest message TCP can carry.
const MAX_TCP: usize = 65_535;
/// How long expired answers are given out before servers that did not answer are asked again (RFC 8767 section 5).
pub(super) const RECHECK: Duration = Duration::from_secs(30);

/// What becomes of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// The servers' answer is the client's.
    Forward,
    /// AAAA, native or made from A.
    Synthesize,
    /// A reverse name under a prefix: an alias, then the answer about this address' own name.
    Reverse(Ipv4Addr),
}

/// The DNS64 engine.
pub struct Engine {
    pub(super) config: Config,
    pub(super) excluded: ExcludedRanges,
    unsynthesized: HashSet<Box<[u8]>>,
    pub(super) cache: Cache,
    pub(super) resolver: Resolver<Role>,
    pub(super) jobs: HashMap<u64, Job>,
    pub(super) per_client: HashMap<IpAddr, usize>,
    pub(super) timers: BTreeSet<(Now, u64)>,
    pub(super) last_job: u64,
    secret: Secret,
    limiter: Option<Limiter>,
    tcp_limiter: Option<Limiter>,
    pub(super) out: Output,
}

impl Engine {
    /// `entropy` gives 64 unpredictable bits a call; ids and letter case come from it.
    pub fn new(config: Config, mut entropy: Entropy) -> Self {
        let secret = Secret::new(&mut entropy);
        Self {
            excluded: ExcludedRanges::new(&config.exclusions),
            unsynthesized: suffixes(&config),
            cache: Cache::new(secret, config.cache, config.serve_stale),
            resolver: Resolver::new(&config, entropy),
            secret,
            jobs: HashMap::new(),
            per_client: HashMap::new(),
            timers: BTreeSet::new(),
            last_job: 0,
            limiter: config.rate.map(|rate| Limiter::new(secret, rate)),
            tcp_limiter: config.rate.map(|rate| Limiter::new(secret, rate)),
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
        self.cache.configure(config.cache, config.serve_stale);
        if old.rate != config.rate {
            self.limiter = config.rate.map(|rate| Limiter::new(self.secret, rate));
            self.tcp_limiter = config.rate.map(|rate| Limiter::new(self.secret, rate));
        }
        let same_answers = |c: &Config| (c.mappings.clone(), c.only_send_a_query, c.always_synthesize);
        let new_servers = old.upstreams != config.upstreams;
        if new_servers || old.exclusions != config.exclusions || same_answers(&old) != same_answers(config) {
            self.cache.flush();
        }
        if new_servers || (old.timeout, old.server_choice) != (config.timeout, config.server_choice) {
            self.resolver.configure(now, config, &mut self.out);
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

    /// How long a client's next query by TCP must wait for the client to keep to its rate; `None` for not at all, and then
    /// it has been counted. By UDP queries over the rate are turned away instead, since nothing can hold them back.
    pub fn tcp_wait(&mut self, now: Now, address: IpAddr) -> Option<Duration> {
        let wait = self.tcp_limiter.as_mut()?.wait(now, address);
        self.out.stats.tcp_paced += u64::from(wait.is_some());
        wait
    }

    /// Takes a message from a client. When it can be answered at once, the answer is in `out` and the result is true;
    /// otherwise an [`Action`] follows, now or later, or nothing does.
    pub fn handle_query(&mut self, now: Now, client: Client, bytes: &[u8], out: &mut Vec<u8>) -> bool {
        let stats = &mut self.out.stats;
        stats.queries += 1;
        let mut allowance = Allowance::Answer;
        match client.transport {
            Transport::Udp { .. } => {
                stats.queries_udp += 1;
                if let Some(limiter) = &mut self.limiter {
                    allowance = limiter.take(now, client.address.ip());
                }
            }
            Transport::Tcp { .. } => stats.queries_tcp += 1,
            Transport::Local { .. } => stats.queries_local += 1,
            Transport::Nobody => {}
        }
        if allowance == Allowance::Drop {
            stats.dropped_client_rate += 1;
            return false;
        }
        let query = match Query::parse(bytes) {
            Ok(query) => query,
            Err(QueryError::Short | QueryError::Response) => {
                stats.dropped_garbage += 1;
                return false;
            }
            Err(QueryError::Opcode { id, flags }) => {
                stats.refused_not_implemented += 1;
                message::bare_reply_into(out, id, flags, NOTIMP, None, None, 0);
                return self.at_once(client, out);
            }
            Err(QueryError::Malformed { id, flags }) => {
                stats.refused_malformed += 1;
                message::bare_reply_into(out, id, flags, FORMERR, None, None, 0);
                return self.at_once(client, out);
            }
        };
        if let Some((rcode, extra)) = self.refusal(client, &query, allowance) {
            let edns = query.edns.map(|edns| Edns { version: 0, ..edns });
            message::bare_reply_into(out, query.id, query.flags, rcode, Some(&query.question), edns, extra);
            return self.at_once(client, out);
        }
        self.admit(now, client, query, out)
    }

    /// Questions answered by a code alone, in no more bytes than they have.
    fn refusal(&mut self, client: Client, query: &Query, allowance: Allowance) -> Option<(u16, u16)> {
        let accepted = self.accepts(client);
        let stats = &mut self.out.stats;
        if !accepted {
            stats.refused_stranger += 1;
            return Some((REFUSED, 0));
        }
        if allowance == Allowance::Truncate {
            stats.answered_client_rate_by_tcp += 1;
            return Some((NOERROR, FLAG_TC));
        }
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

    fn accepts(&self, client: Client) -> bool {
        let accepted = &self.config.accept_from;
        accepted.is_empty()
            || matches!(client.transport, Transport::Local { .. })
            || accepted.iter().any(|network| network.contains(client.address.ip()))
    }

    fn admit(&mut self, now: Now, client: Client, query: Query, out: &mut Vec<u8>) -> bool {
        let question = query.question;
        let lower = question.name.lower();
        let subject = reverse::subject(&lower, &question, &self.config.mappings);
        let validating = query.dnssec_ok() && query.checking_disabled();
        let plan = match subject {
            Subject::Ipv4Only | Subject::WellKnownReverse => {
                return self.answer_locally(now, client, &query, subject, out);
            }
            Subject::Synthesized(_) if matches!(question.kind, message::TYPE_CNAME | TYPE_ANY) => {
                return self.answer_locally(now, client, &query, subject, out);
            }
            Subject::Synthesized(address) => Plan::Reverse(address),
            Subject::Other if (question.kind, question.class) != (TYPE_AAAA, CLASS_IN) => Plan::Forward,
            Subject::Other if validating => {
                self.out.stats.validating += 1;
                Plan::Forward
            }
            Subject::Other if self.is_excluded(&lower) => Plan::Forward,
            Subject::Other => Plan::Synthesize,
        };
        let key = client_key(&lower, &query, plan);
        let stale = match self.cache.get(now, &key) {
            None => None,
            Some(Found::Fresh(answer)) => return self.send_cached(now, client, &query, plan, &answer, false, out),
            Some(Found::NearlyExpired(answer)) => {
                let sent = self.send_cached(now, client, &query, plan, &answer, false, out);
                if self.config.prefetch {
                    self.refresh(now, &query, lower, plan);
                }
                return sent;
            }
            Some(Found::Stale { answer, ask: false }) => {
                return self.send_cached(now, client, &query, plan, &answer, true, out);
            }
            Some(Found::Stale { answer, ask: true }) => Some(answer),
        };
        let name = asked_name(&lower, plan);
        let refused = |code| Answer::failure(now, &question, code);
        let Some(group) = self.resolver.upstreams().select(&name) else {
            self.out.stats.refused_policy += 1;
            return self.send(now, client, &query, &refused(REFUSED), false, Report::default(), out);
        };
        let waiting = self.per_client.get(&client.address.ip()).copied().unwrap_or(0);
        let too_many = waiting >= self.config.max_queries_per_client;
        // Questions can outlive the queries that asked them, so they are bounded on their own.
        let full = self.jobs.len() >= self.config.max_queries || self.resolver.len() >= 2 * self.config.max_queries;
        if let Some(answer) =
            stale.as_ref().filter(|_| too_many || full || self.resolver.upstreams().is_down(now, group))
        {
            let sent = self.send_cached(now, client, &query, plan, answer, true, out);
            self.cache.hold(&key, now + RECHECK);
            self.refresh(now, &query, lower, plan);
            return sent;
        }
        if too_many {
            self.out.stats.refused_client_limit += 1;
            return self.send(now, client, &query, &refused(REFUSED), false, Report::default(), out);
        }
        if full {
            self.out.stats.refused_total_limit += 1;
            return self.send(now, client, &query, &refused(SERVFAIL), false, Report::default(), out);
        }
        self.start(now, client, query, lower, plan, stale);
        false
    }

    /// Asks again on nobody's behalf, unless there is enough to do for clients.
    fn refresh(&mut self, now: Now, query: &Query, lower: Name, plan: Plan) {
        if self.jobs.len() < self.config.max_queries / 2 && self.resolver.len() < self.config.max_queries {
            self.out.stats.refreshed += 1;
            let address = SocketAddr::from(([0; 16], 0));
            self.start(now, Client { address, transport: Transport::Nobody }, *query, lower, plan, None);
        }
    }

    fn is_excluded(&self, lower: &Name) -> bool {
        !self.unsynthesized.is_empty() && lower.suffixes().any(|suffix| self.unsynthesized.contains(suffix))
    }

    fn answer_locally(&mut self, now: Now, client: Client, query: &Query, subject: Subject, out: &mut Vec<u8>) -> bool {
        self.out.stats.answered_local += 1;
        let answer = reverse::local_answer(now, &query.question, subject, &self.config.mappings);
        let answer = answer.unwrap_or_else(|| Answer::failure(now, &query.question, SERVFAIL));
        self.send(now, client, query, &answer, false, Report::default(), out)
    }

    #[allow(clippy::too_many_arguments)] // all of them end up in one message
    fn send_cached(
        &mut self,
        now: Now,
        client: Client,
        query: &Query,
        plan: Plan,
        answer: &Arc<Answer>,
        stale: bool,
        out: &mut Vec<u8>,
    ) -> bool {
        let stats = &mut self.out.stats;
        stats.reverse += u64::from(matches!(plan, Plan::Reverse(_)));
        stats.answered_stale += u64::from(stale);
        stats.answered_cached += 1;
        let source = if stale { Source::Stale } else { Source::Cache };
        self.send(now, client, query, answer, stale, Report { source, ..Report::default() }, out)
    }

    /// Puts an answer into `out`; true when it is to be sent from there.
    #[allow(clippy::too_many_arguments)] // all of them end up in one message
    pub(super) fn send(
        &mut self,
        now: Now,
        client: Client,
        query: &Query,
        answer: &Answer,
        stale: bool,
        report: Report,
        out: &mut Vec<u8>,
    ) -> bool {
        let limit = match client.transport {
            Transport::Udp { .. } => query.udp_limit(),
            Transport::Tcp { .. } | Transport::Local { .. } | Transport::Nobody => MAX_TCP,
        };
        let truncated = answer.reply(now, query, limit, stale, out);
        let stats = &mut self.out.stats;
        stats.answered_truncated += u64::from(truncated);
        stats.servfail += u64::from(answer.rcode == SERVFAIL);
        stats.synthesized += u64::from(answer.synthesized);
        let Transport::Local { ticket } = client.transport else { return true };
        let report = Report { synthesized: answer.synthesized, server: answer.server, ..report };
        self.out.actions.push_back(Action::Report { ticket, bytes: std::mem::take(out), report });
        false
    }

    /// An answer in `out` that is neither cached nor a server's; true when it is to be sent from there.
    fn at_once(&mut self, client: Client, out: &mut Vec<u8>) -> bool {
        let Transport::Local { ticket } = client.transport else { return true };
        let report = Report::default();
        self.out.actions.push_back(Action::Report { ticket, bytes: std::mem::take(out), report });
        false
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
        self.wake_jobs(now);
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
        stats.cache_bytes_limit = self.config.cache.bytes as u64;
        stats.cache_evicted = self.cache.evicted;
        stats.cache_evicted_for_bytes = self.cache.evicted_for_bytes;
        stats.cache_too_large = self.cache.too_large;
        let limiters = [&self.limiter, &self.tcp_limiter];
        stats.rate_displaced = limiters.into_iter().flatten().map(|limiter| limiter.displaced).sum();
        for group in self.resolver.upstreams().groups() {
            stats.servers.extend(group.servers.iter().map(|server| ServerStats {
                suffix: group.suffix.clone(),
                address: server.address.to_string(),
                resting: server.is_resting(now),
                withholds_aaaa: server.withholds_aaaa(),
                round_trip_ms: server.round_trip_ms(),
                sent: server.sent,
                answered: server.answered,
                failed: server.failed,
            }));
        }
        stats
    }
}

/// The name that servers are asked about.
pub(super) fn asked_name(lower: &Name, plan: Plan) -> Name {
    if let Plan::Reverse(address) = plan { reverse::in_addr_arpa(address) } else { *lower }
}

/// Where the answer that clients get is kept.
pub(super) fn client_key<'a>(lower: &'a Name, query: &Query, plan: Plan) -> KeyRef<'a> {
    KeyRef::new(lower, &query.question, KeyFlags { made_here: plan != Plan::Forward, ..key_flags(query) })
}

/// The bits of a query that its servers see. AD is always asked for and taken out of answers to those who did not ask.
pub(super) fn key_flags(query: &Query) -> KeyFlags {
    KeyFlags {
        recursion: query.flags & FLAG_RD != 0,
        checking_disabled: query.checking_disabled(),
        dnssec_ok: query.dnssec_ok(),
        made_here: false,
    }
}

pub(super) fn has_ipv4(answer: &Answer) -> bool {
    answer.data(TYPE_A).next().is_some()
}

fn suffixes(config: &Config) -> HashSet<Box<[u8]>> {
    let suffix = |exclusion: &Exclusion| match exclusion {
        Exclusion::Suffix(suffix) => Some(suffix.0.wire().into()),
        Exclusion::Range { .. } => None,
    };
    config.exclusions.iter().filter_map(suffix).collect()
}

/// The question asked of servers for a client's question.
pub(super) fn server_question(name: Name, kind: u16, query: &Query) -> Question {
    Question { name, kind, class: query.question.class }
}
