//! Queries that could not be answered at once: what is asked for them, and RFC 6147 section 5.1 as a decision about what is
//! known so far.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use super::answer::Answer;
use super::cache::{Found, Key};
use super::engine::{Engine, Plan, RECHECK, asked_name, client_key, has_ipv4, key_flags, server_question};
use super::message::{NOERROR, NXDOMAIN, Query, SERVFAIL, TYPE_A, TYPE_AAAA};
use super::name::Name;
use super::resolver::Waiter;
use super::synthesis::{self, TTL_WITHOUT_SOA};
use super::{Action, Asked, Client, Report, Source, Transport, reverse};
use crate::core::time::Now;

/// How long an answer is kept that was made although the servers' word on AAAA is missing, seconds: they may find it again.
const KEPT_ON_SUSPICION: u32 = 30;
/// How long an answer about A waits for the one about AAAA at least: longer than the pause before a lost question is repeated.
const PATIENCE_WITH_AAAA: Duration = Duration::from_millis(400);
/// The same where servers are known to withhold it (the Resolution Delay of RFC 8305 section 3).
const PATIENCE_WITH_WITHHELD_AAAA: Duration = Duration::from_millis(50);
/// How long a client waits for servers when there is an expired answer to give (RFC 8767 section 5).
const PATIENCE_WITH_STALE: Duration = Duration::from_millis(1800);
/// How long the next clients get the expired answer without waiting.
const HOLD_AFTER_PATIENCE: Duration = Duration::from_secs(5);

/// Which of a job's two questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
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

pub(super) struct Job {
    client: Client,
    query: Query,
    lower: Name,
    plan: Plan,
    aaaa: Slot,
    main: Slot,
    /// When the answer to the main question was there.
    main_at: Now,
    started: Now,
    timer: Option<Now>,
    /// What to say when servers do not answer (RFC 8767).
    stale: Option<Arc<Answer>>,
    /// Part of what is known has expired.
    revived: bool,
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

impl Engine {
    /// Begins to ask for a query that the cache cannot answer.
    pub(super) fn start(
        &mut self,
        now: Now,
        client: Client,
        query: Query,
        lower: Name,
        plan: Plan,
        stale: Option<Arc<Answer>>,
    ) {
        if client.transport != Transport::Nobody {
            *self.per_client.entry(client.address.ip()).or_default() += 1;
        }
        self.last_job += 1;
        let number = self.last_job;
        let job = Job {
            client,
            query,
            lower,
            plan,
            aaaa: Slot::NotAsked,
            main: Slot::NotAsked,
            main_at: now,
            started: now,
            timer: None,
            stale,
            revived: false,
            waited: false,
            asked: Vec::new(),
        };
        self.jobs.insert(number, job);
        let name = asked_name(&lower, plan);
        match plan {
            Plan::Forward | Plan::Reverse(_) => self.ask(now, number, Role::Main, name, query.question.kind),
            Plan::Synthesize if self.config.only_send_a_query => self.ask(now, number, Role::Main, name, TYPE_A),
            Plan::Synthesize => self.ask(now, number, Role::Aaaa, name, TYPE_AAAA),
        }
        self.advance(now, number);
        self.settle(now);
    }

    /// Lets the jobs go on whose time has come.
    pub(super) fn wake_jobs(&mut self, now: Now) {
        while let Some(&(at, number)) = self.timers.first().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, number));
            if let Some(job) = self.jobs.get_mut(&number) {
                job.timer = None;
            }
            self.advance(now, number);
        }
    }

    /// Puts one of a job's questions, or finds its answer in the cache.
    fn ask(&mut self, now: Now, number: u64, role: Role, lower: Name, kind: u16) {
        let Some(job) = self.jobs.get_mut(&number) else { return };
        let question = server_question(lower, kind, &job.query);
        let flags = key_flags(&job.query);
        let key = Key::new(&lower, &question, flags);
        let refresh = job.client.transport == Transport::Nobody;
        let known = if refresh {
            self.cache.fresh(now, &key.as_ref(), true)
        } else {
            match self.cache.get(now, &key.as_ref()) {
                Some(Found::Fresh(answer) | Found::NearlyExpired(answer)) => Some(answer),
                Some(Found::Stale { answer, ask: false }) => {
                    job.revived = true;
                    Some(Arc::new(answer.revived(now)))
                }
                Some(Found::Stale { .. }) | None => None,
            }
        };
        let slot = match role {
            Role::Aaaa => &mut job.aaaa,
            Role::Main => &mut job.main,
        };
        if let Some(answer) = known {
            *slot = Slot::Done(answer);
            if role == Role::Main {
                job.main_at = now;
            }
            return;
        }
        *slot = Slot::Waiting;
        job.waited = true;
        self.resolver.ask(now, key, question, flags, Waiter { job: number, role }, &mut self.out);
    }

    /// Hands ended questions to those who wait for them, until nothing ends any more.
    pub(super) fn settle(&mut self, now: Now) {
        while let Some(concluded) = self.resolver.take_concluded() {
            let key = concluded.key;
            let stale = if concluded.answer.is_conclusive() { None } else { self.cache.stale(now, &key.as_ref()) };
            let (answer, revived) = match stale {
                // A failure does not displace what was known before it.
                Some(stale) => {
                    self.cache.hold(&key.as_ref(), now + RECHECK);
                    (Arc::new(stale.revived(now)), true)
                }
                None => {
                    self.cache.insert(key, Arc::clone(&concluded.answer));
                    (Arc::clone(&concluded.answer), false)
                }
            };
            for Waiter { job: number, role } in concluded.waiters {
                // Some were answered meanwhile without this.
                let Some(job) = self.jobs.get_mut(&number) else { continue };
                let slot = match role {
                    Role::Aaaa => &mut job.aaaa,
                    Role::Main => &mut job.main,
                };
                *slot = Slot::Done(Arc::clone(&answer));
                if role == Role::Main {
                    job.main_at = now;
                }
                job.revived |= revived;
                if let Transport::Local { .. } = job.client.transport {
                    let (name, kind) = (concluded.question.name, concluded.question.kind);
                    let (server, rcode) = (concluded.answer.server, concluded.answer.rcode);
                    job.asked.push(Asked { name, kind, server, rcode });
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
                Step::Wait if job.stale.is_some() && now >= job.started + PATIENCE_WITH_STALE => {
                    return self.finish_stale(now, number, HOLD_AFTER_PATIENCE);
                }
                Step::Wait => return self.wait(now, number),
                Step::Pass(answer) => return self.finish(now, number, &answer),
                Step::Native(aaaa) => return self.finish_native(now, number, &aaaa),
                Step::Synthesize { a, cap, keep } => {
                    let unanswered = matches!(job.aaaa, Slot::Waiting) && !self.config.always_synthesize;
                    self.out.stats.synthesized_without_aaaa += u64::from(unanswered);
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
                let (until, withheld) = self.patience(job);
                let impatient = now >= until;
                return match (usable.or(a), &job.main) {
                    // 5.1.3: silence is treated as emptiness, early enough that the client is still listening.
                    (Some(a), _) if usable.is_some() && (always || impatient) => {
                        let keep = if always { u32::MAX } else { KEPT_ON_SUSPICION };
                        Step::Synthesize { a: Arc::clone(a), cap: TTL_WITHOUT_SOA, keep }
                    }
                    // A name that does not exist has no AAAA either. Where it exists without A, AAAA may be all it has:
                    // only those who say nothing about that are not waited for.
                    (Some(a), _) if impatient && (a.rcode == NXDOMAIN || withheld && a.rcode == NOERROR) => {
                        Step::Pass(Arc::clone(a))
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

    /// Until when an answer about A waits for the one about AAAA, and whether that one is known to be withheld. A server that
    /// took long over A may take as long over AAAA, but half of the time that servers have is the client's.
    fn patience(&self, job: &Job) -> (Now, bool) {
        let upstreams = self.resolver.upstreams();
        let withheld = upstreams.select(&job.lower).is_some_and(|group| upstreams.withholds_aaaa(group));
        let wait =
            if withheld { PATIENCE_WITH_WITHHELD_AAAA } else { job.main_at.since(job.started).max(PATIENCE_WITH_AAAA) };
        ((job.main_at + wait).min(job.started + self.config.timeout / 2), withheld)
    }

    /// Sets the timer for the next moment at which [`Engine::advance`] may decide otherwise.
    fn wait(&mut self, now: Now, number: u64) {
        let Some(job) = self.jobs.get(&number) else { return };
        let at = match (job.plan, &job.aaaa, &job.main) {
            (Plan::Synthesize, Slot::Waiting, Slot::NotAsked) => Some(job.started + self.config.latency),
            (Plan::Synthesize, Slot::Waiting, Slot::Done(_)) => Some(self.patience(job).0),
            _ => None,
        };
        let Some(job) = self.jobs.get_mut(&number) else { return };
        let stale = job.stale.as_ref().map(|_| job.started + PATIENCE_WITH_STALE);
        let at = at.into_iter().chain(stale).filter(|&at| at > now).min();
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
        let answer = Answer::failure(now, &job.query.question, target.rcode.min(0xf)).told_by(target.server);
        self.finish(now, number, &Arc::new(answer));
    }

    /// Ends a job with an answer made here, which is kept for the next client; `None` when it could not be made.
    fn finish_made(&mut self, now: Now, number: u64, made: Option<Answer>) {
        let Some(job) = self.jobs.get(&number) else { return };
        let Some(made) = made else {
            self.out.stats.undecodable += 1;
            let failure = Answer::failure(now, &job.query.question, SERVFAIL);
            return self.finish(now, number, &Arc::new(failure));
        };
        let made = Arc::new(made);
        // What is made of expired answers would outlive them.
        if !job.revived {
            self.cache.insert(client_key(&job.lower, &job.query, job.plan).to_key(), Arc::clone(&made));
        }
        self.finish(now, number, &made);
    }

    /// Ends a job with an answer, or with the expired one when servers failed.
    fn finish(&mut self, now: Now, number: u64, answer: &Arc<Answer>) {
        let Some(job) = self.jobs.get(&number) else { return };
        if job.stale.is_some() && (job.revived || !answer.is_conclusive()) {
            return self.finish_stale(now, number, RECHECK);
        }
        let known = match &job.aaaa {
            Slot::Done(aaaa) => aaaa.is_conclusive(),
            Slot::NotAsked => true,
            Slot::Waiting => false,
        };
        if job.plan == Plan::Synthesize && known && !job.revived && !answer.synthesized && answer.is_conclusive() {
            // The next client finds it without the two questions behind it.
            self.cache.insert(client_key(&job.lower, &job.query, job.plan).to_key(), Arc::clone(answer));
        }
        self.end(now, number, answer, job.revived);
    }

    /// Ends a job with the expired answer; the next clients get it at once for a while.
    fn finish_stale(&mut self, now: Now, number: u64, hold: Duration) {
        let Some(job) = self.jobs.get(&number) else { return };
        let Some(answer) = job.stale.clone() else { return };
        self.cache.hold(&client_key(&job.lower, &job.query, job.plan), now + hold);
        self.end(now, number, &answer, true);
    }

    fn end(&mut self, now: Now, number: u64, answer: &Answer, stale: bool) {
        let Some(job) = self.jobs.remove(&number) else { return };
        job.timer.into_iter().for_each(|at| _ = self.timers.remove(&(at, number)));
        if job.client.transport == Transport::Nobody {
            return;
        }
        let address = job.client.address.ip();
        if let Some(waiting) = self.per_client.get_mut(&address) {
            *waiting -= 1;
            if *waiting == 0 {
                self.per_client.remove(&address);
            }
        }
        let stats = &mut self.out.stats;
        stats.answered_stale += u64::from(stale);
        let source = if job.waited {
            stats.answered_resolved += 1;
            if stale { Source::Stale } else { Source::Upstream }
        } else {
            stats.answered_cached += 1;
            if stale { Source::Stale } else { Source::Cache }
        };
        let report = Report { source, asked: job.asked, ..Report::default() };
        let mut bytes = Vec::new();
        if self.send(now, job.client, &job.query, answer, stale, report, &mut bytes) {
            self.out.actions.push_back(Action::Reply { client: job.client, bytes });
        }
    }
}
