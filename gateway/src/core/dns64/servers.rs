//! Which servers are asked about a name, in which order, and what is known of them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::config::{ServerChoice, Upstream};
use super::message::TYPE_AAAA;
use super::name::Name;
use crate::core::time::Now;

/// Attempts without an answer, one after another, after which a server is passed over for a while.
const FAILURES_TO_REST: u32 = 3;
/// The longest a server that keeps silent is passed over.
const LONGEST_REST: Duration = Duration::from_secs(30);
/// Questions about AAAA without an answer, one after another, though the server answered others meanwhile, after which it is
/// taken for one that withholds them.
const UNANSWERED_AAAA: u32 = 2;
/// How long such a server is asked about AAAA after those that do answer.
const AAAA_REST: Duration = Duration::from_secs(60);
/// How long a server that refused EDNS is asked without.
const WITHOUT_EDNS: Duration = Duration::from_secs(900);
/// One question in so many goes to another server than the fastest, to learn whether that still is the fastest.
const EXPLORE: u64 = 32;

/// One server and its recent behaviour.
#[derive(Debug)]
pub struct Server {
    pub address: SocketAddr,
    /// Until when it is asked without EDNS, as it refused a query for its OPT record and answered without one (RFC 6891
    /// section 7).
    without_edns: Now,
    /// Smoothed time to an answer and its variation, microseconds (RFC 6298 section 2); 0 until it is known.
    round_trip: u64,
    variation: u64,
    failures: u32,
    rest_until: Now,
    /// When it last answered anything.
    heard: Now,
    unanswered_aaaa: u32,
    aaaa_rest_until: Now,
    pub sent: u64,
    pub answered: u64,
    pub failed: u64,
}

impl Server {
    pub fn is_resting(&self, now: Now) -> bool {
        now < self.rest_until
    }

    pub fn takes_edns(&self, now: Now) -> bool {
        now >= self.without_edns
    }

    /// It refused EDNS and answered without.
    pub fn refused_edns(&mut self, now: Now) {
        self.without_edns = now + WITHOUT_EDNS;
    }

    /// It took so long to answer a question by UDP.
    pub fn measured(&mut self, time: Duration) {
        let sample = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
        if self.round_trip == 0 {
            (self.round_trip, self.variation) = (sample, sample / 2);
        } else {
            self.variation = (3 * self.variation + self.round_trip.abs_diff(sample)) / 4;
            self.round_trip = (7 * self.round_trip + sample) / 8;
        }
    }

    /// How long an answer may take before another attempt is worth it; `None` until it is known.
    pub fn patience(&self) -> Option<Duration> {
        (self.round_trip > 0).then(|| Duration::from_micros(self.round_trip + 4 * self.variation))
    }

    pub fn round_trip_ms(&self) -> f64 {
        self.round_trip as f64 / 1000.0
    }

    /// It answered a question of this type, whatever it said.
    pub fn alive(&mut self, now: Now, kind: u16) {
        self.failures = 0;
        self.rest_until = Now(0);
        self.heard = now;
        self.answered += 1;
        if kind == TYPE_AAAA {
            self.unanswered_aaaa = 0;
            self.aaaa_rest_until = Now(0);
        }
    }

    /// Balancers and old servers answer A and drop AAAA (RFC 4074 section 4.1): that is all that this one keeps silent about,
    /// as far as is known.
    pub fn withholds_aaaa(&self) -> bool {
        self.unanswered_aaaa >= UNANSWERED_AAAA
    }

    /// A question about AAAA, first asked at `begun`, ended without a word.
    pub fn left_aaaa_unanswered(&mut self, now: Now, begun: Now) {
        if self.heard < begun {
            return;
        }
        self.unanswered_aaaa = self.unanswered_aaaa.saturating_add(1);
        if self.withholds_aaaa() {
            self.aaaa_rest_until = now + AAAA_REST;
        }
    }

    /// It did not answer a question of this type, first asked at `begun`, in time, or could not be reached.
    pub fn silent(&mut self, now: Now, kind: u16, begun: Now) {
        self.failed += 1;
        if kind == TYPE_AAAA && self.heard >= begun {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES_TO_REST {
            self.rest_until = now + self.rest();
        }
    }

    fn rest(&self) -> Duration {
        Duration::from_secs(1 << (self.failures - FAILURES_TO_REST).min(5)).min(LONGEST_REST)
    }
}

/// The servers for the names under one suffix.
#[derive(Debug)]
pub struct Group {
    pub suffix: String,
    pub servers: Vec<Server>,
}

/// All groups.
#[derive(Debug)]
pub struct Upstreams {
    by_suffix: HashMap<Box<[u8]>, usize>,
    groups: Vec<Group>,
    choice: ServerChoice,
    /// Questions so far.
    questions: u64,
}

impl Upstreams {
    pub fn new(upstreams: &[Upstream], choice: ServerChoice) -> Self {
        let mut by_suffix = HashMap::new();
        let mut groups = Vec::with_capacity(upstreams.len());
        for (index, upstream) in upstreams.iter().enumerate() {
            by_suffix.insert(upstream.suffix.0.wire().into(), index);
            let servers = upstream.servers.iter().map(|server| Server {
                address: server.0,
                without_edns: Now(0),
                round_trip: 0,
                variation: 0,
                failures: 0,
                rest_until: Now(0),
                heard: Now(0),
                unanswered_aaaa: 0,
                aaaa_rest_until: Now(0),
                sent: 0,
                answered: 0,
                failed: 0,
            });
            groups.push(Group { suffix: upstream.suffix.to_string(), servers: servers.collect() });
        }
        Self { by_suffix, groups, choice, questions: 0 }
    }

    /// The group of the longest suffix of a name in lower case.
    pub fn select(&self, lower: &Name) -> Option<usize> {
        lower.suffixes().find_map(|suffix| self.by_suffix.get(suffix)).copied()
    }

    pub fn group(&self, group: usize) -> &Group {
        &self.groups[group]
    }

    pub fn server(&mut self, group: usize, server: usize) -> &mut Server {
        &mut self.groups[group].servers[server]
    }

    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// True while every server of a group is passed over for its silence.
    pub fn is_down(&self, now: Now, group: usize) -> bool {
        self.groups[group].servers.iter().all(|server| server.is_resting(now))
    }

    /// True when no server of a group can be expected to say anything about AAAA.
    pub fn withholds_aaaa(&self, group: usize) -> bool {
        self.groups[group].servers.iter().all(Server::withholds_aaaa)
    }

    /// The order in which to ask a question of this type: as configured or by speed, servers at rest last. The first question
    /// after a server's rest finds it in its place again and stands for all: until it answers, the others keep passing it over.
    pub fn order(&mut self, now: Now, group: usize, kind: u16) -> Vec<u8> {
        self.questions += 1;
        let servers = &mut self.groups[group].servers;
        let mut order: Vec<u8> = (0..servers.len() as u8).collect();
        if self.choice == ServerChoice::Fastest {
            // Those that are not known yet come first and so become known.
            order.sort_by_key(|&index| servers[usize::from(index)].round_trip);
            if self.questions.is_multiple_of(EXPLORE) {
                let other = (self.questions / EXPLORE) as usize % order.len();
                order[..=other].rotate_right(1);
            }
        }
        let about_aaaa = kind == TYPE_AAAA;
        order.sort_by_key(|&index| {
            let server = &servers[usize::from(index)];
            (server.is_resting(now), about_aaaa && now < server.aaaa_rest_until)
        });
        let first = &mut servers[usize::from(order[0])];
        if about_aaaa && first.withholds_aaaa() {
            first.aaaa_rest_until = now + AAAA_REST;
        }
        if first.failures >= FAILURES_TO_REST {
            first.rest_until = now + first.rest();
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::dns64::config::{Server as ServerAddress, Suffix};
    use crate::core::dns64::message::TYPE_A;

    fn upstream(suffix: &str, servers: &[&str]) -> Upstream {
        let servers = servers.iter().map(|server| server.parse::<ServerAddress>().expect("a server"));
        Upstream { suffix: suffix.parse::<Suffix>().expect("a suffix"), servers: servers.collect() }
    }

    #[test]
    fn the_longest_suffix_wins_at_label_borders() {
        let upstreams = [upstream("corp.example", &["10.0.0.1"]), upstream("lab.corp.example", &["10.0.0.2"])];
        let upstreams = Upstreams::new(&upstreams, ServerChoice::Ordered);
        let select = |text| upstreams.select(&Name::from_text(text).expect("a name"));
        assert_eq!(select("a.corp.example"), Some(0));
        assert_eq!(select("corp.example"), Some(0));
        assert_eq!(select("x.lab.corp.example"), Some(1));
        assert_eq!(select("xlab.corp.example"), Some(0));
        assert_eq!(select("xcorp.example"), None);
    }

    #[test]
    fn a_silent_server_rests_and_one_question_tries_it_again() {
        let mut upstreams = Upstreams::new(&[upstream("", &["10.0.0.1", "10.0.0.2"])], ServerChoice::Ordered);
        let second = Now::from_secs(1);
        for _ in 0..3 {
            assert_eq!(upstreams.order(second, 0, TYPE_A), [0, 1]);
            upstreams.server(0, 0).silent(second, TYPE_A, second);
        }
        assert_eq!(upstreams.order(second, 0, TYPE_A), [1, 0]);
        let later = Now::from_secs(2);
        assert_eq!(upstreams.order(later, 0, TYPE_A), [0, 1]);
        assert_eq!(upstreams.order(later, 0, TYPE_A), [1, 0]);
        upstreams.server(0, 0).alive(later, TYPE_A);
        assert_eq!(upstreams.order(later, 0, TYPE_A), [0, 1]);
        assert_eq!(upstreams.order(later, 0, TYPE_A), [0, 1]);
    }

    #[test]
    fn the_fastest_is_asked_first_and_the_others_now_and_then() {
        let servers = [upstream("", &["10.0.0.1", "10.0.0.2", "10.0.0.3"])];
        let mut upstreams = Upstreams::new(&servers, ServerChoice::Fastest);
        for (server, millis) in [(0, 20), (1, 5), (2, 50)] {
            upstreams.server(0, server).measured(Duration::from_millis(millis));
        }
        let firsts: Vec<u8> = (0..2 * EXPLORE).map(|_| upstreams.order(Now(1), 0, TYPE_A)[0]).collect();
        let times = |server| firsts.iter().filter(|&&first| first == server).count();
        assert_eq!((times(1), times(0), times(2)), (62, 1, 1));
        assert_eq!(upstreams.server(0, 1).patience(), Some(Duration::from_millis(15)));
        for _ in 0..3 {
            upstreams.server(0, 1).silent(Now(1), TYPE_A, Now(1));
        }
        assert_eq!(upstreams.order(Now(1), 0, TYPE_A), [0, 2, 1]);
        assert!(!upstreams.is_down(Now(1), 0));
    }
    #[test]
    fn a_server_that_answers_all_but_aaaa_is_asked_about_it_last_and_nothing_else_changes() {
        let mut upstreams = Upstreams::new(&[upstream("", &["10.0.0.1", "10.0.0.2"])], ServerChoice::Ordered);
        let at = Now::from_secs;
        // Silent about everything says nothing about AAAA.
        upstreams.server(0, 0).left_aaaa_unanswered(at(1), at(1));
        upstreams.server(0, 0).left_aaaa_unanswered(at(1), at(1));
        assert!(!upstreams.server(0, 0).withholds_aaaa());
        for second in 1..=2 {
            upstreams.server(0, 0).alive(at(second), TYPE_A);
            for _ in 0..4 {
                upstreams.server(0, 0).silent(at(second), TYPE_AAAA, at(second));
            }
            upstreams.server(0, 0).left_aaaa_unanswered(at(second), at(second));
        }
        assert_eq!((upstreams.order(at(3), 0, TYPE_A), upstreams.order(at(3), 0, TYPE_AAAA)), (vec![0, 1], vec![1, 0]));
        assert!(upstreams.server(0, 0).withholds_aaaa() && !upstreams.withholds_aaaa(0));
        // One question in a while tries it again.
        assert_eq!(upstreams.order(at(63), 0, TYPE_AAAA), [0, 1]);
        assert_eq!(upstreams.order(at(63), 0, TYPE_AAAA), [1, 0]);
        upstreams.server(0, 0).alive(at(64), TYPE_AAAA);
        assert_eq!(upstreams.order(at(64), 0, TYPE_AAAA), [0, 1]);
        assert!(!upstreams.server(0, 0).withholds_aaaa());
    }
}
