//! Histories of the DNS64 engine: queries, answers right, forged and damaged, silence, time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::Outcomes;
use super::input::Input;
use super::packets;
use crate::core::dns64::config::Config;
use crate::core::dns64::engine::Engine;
use crate::core::dns64::message::{self, u16_at};
use crate::core::dns64::name::Name;
use crate::core::dns64::{Action, Client, Transport};
use crate::core::time::Now;

const STEPS: usize = 120;
const MAX_QUERIES: usize = 12;
const MAX_PER_CLIENT: usize = 6;

struct Asked {
    attempt: u64,
    server: SocketAddr,
    bytes: Vec<u8>,
}

struct Run<'s> {
    engine: Engine,
    now: Now,
    asked: Vec<Asked>,
    /// Queries by client and id that have no reply yet.
    open: BTreeMap<(SocketAddr, u16), usize>,
    /// Queries too short for an id.
    unnumbered: u64,
    questions: usize,
    sent: usize,
    seen: &'s mut Outcomes,
}

fn configuration(input: &mut Input<'_>) -> Config {
    let flags = input.byte();
    let exclusions: &[&str] = if flags & 4 != 0 { &["2001:db8::/32", "b.example"] } else { &[] };
    let document = serde_json::json!({
        "prefix": "fd7c:1a2b:3c4d:7777::/96",
        "upstreams": [
            {"suffix": "", "servers": ["10.0.0.53", "10.0.0.54"]},
            {"suffix": "c.example", "servers": ["[fd00::53]:5353"]},
        ],
        "only_send_a_query": flags & 1 != 0,
        "always_synthesize": flags & 2 != 0,
        "latency_ms": if flags & 8 != 0 { 100 } else { 0 },
        "exclusions": exclusions,
        "max_queries": MAX_QUERIES,
        "max_queries_per_client": MAX_PER_CLIENT,
        "queries_per_second_per_client": 0,
        "accept_from": if flags & 32 != 0 { &["fd7c:1a2b:3c4d:1000::/127"][..] } else { &[] },
        "cache_entries": if flags & 16 != 0 { 4 } else { 64 },
    });
    serde_json::from_value(document).expect("a good configuration")
}

pub fn dns64(input: &mut Input<'_>, seen: &mut Outcomes) {
    // Numbers that look random and repeat from run to run (splitmix64).
    let mut state = 1u64;
    let entropy = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 27)
    };
    let engine = Engine::new(configuration(input), Box::new(entropy));
    let now = Now::from_secs(1000);
    let mut run =
        Run { engine, now, asked: Vec::new(), open: BTreeMap::new(), unnumbered: 0, questions: 0, sent: 0, seen };
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        run.step(input);
        run.collect();
        run.check();
    }
    run.wind_down();
}

fn name(input: &mut Input<'_>) -> Vec<u8> {
    let name: &[u8] = match input.byte() % 12 {
        0..=2 => b"\x01a\x07example\0",
        3 => b"\x01B\x07eXample\0",
        4 => b"\x01c\x07example\0",
        5 => b"\x08ipv4only\x04arpa\0",
        6 => b"\x01x\x01a\x07example\0",
        7 => b"\x011\x010\x010\x03192\x07in-addr\x04arpa\0",
        8 => &[0],
        // A name under the prefix: 10.0.0.4.
        9 => b"\x014\x010\x010\x010\x010\x010\x01a\x010\x010\x010\x010\x010\x010\x010\x010\x010\x017\x017\x017\x017\x01d\x014\x01c\x013\x01b\x012\x01a\x011\x01c\x017\x01d\x01f\x03ip6\x04arpa\0",
        _ => input.piece(),
    };
    name.to_vec()
}

impl Run<'_> {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.choice(9) {
            0..=2 => self.query(input),
            3..=5 => self.answer(input),
            6 => {
                if let Some(asked) = self.pick(input) {
                    self.engine.handle_unreachable(self.now, asked.attempt);
                }
            }
            7 => self.time(input),
            _ => {
                let config = configuration(input);
                self.engine.configure(self.now, config);
                if input.bit() {
                    let name = Name::from_text("a.example").filter(|_| input.bit());
                    self.engine.flush(name.as_ref(), input.bit());
                }
            }
        }
    }

    fn query(&mut self, input: &mut Input<'_>) {
        let who = input.byte();
        let address = SocketAddr::from(([0xfd7c, 0x1a2b, 0x3c4d, 0x1000, 0, 0, 0, u16::from(who & 3)], 40_000));
        let (address, transport) = match who & 12 {
            0 | 8 => (address, Transport::Udp { socket: 0 }),
            4 => (address, Transport::Tcp { connection: 1 }),
            _ => (SocketAddr::from(([0; 16], 0)), Transport::Local { ticket: 9 }),
        };
        let bytes = if who & 0xe0 == 0xe0 {
            input.piece().to_vec()
        } else {
            let (id, extra) = (u16::from(input.byte()), input.byte());
            let mut bytes = id.to_be_bytes().to_vec();
            bytes.extend([1, extra & 0x10, 0, 1, 0, 0, 0, 0, 0, 0]);
            bytes.extend(name(input));
            bytes.extend(input.of(&[[0, 28], [0, 28], [0, 1], [0, 12], [0, 5], [0, 255], [0, 6], [extra, 0]]));
            bytes.extend([0, 1]);
            if extra & 1 != 0 {
                message::push_opt(&mut bytes, extra & 2 != 0, 0, None);
            }
            if extra & 0xe0 == 0xe0 {
                packets::damage(input, &mut bytes);
            }
            bytes
        };
        if bytes.len() >= 2 {
            *self.open.entry((address, u16_at(&bytes, 0))).or_default() += 1;
        } else {
            self.unnumbered += 1;
        }
        self.questions += 1;
        let (client, mut reply) = (Client { address, transport }, Vec::new());
        if self.engine.handle_query(self.now, client, &bytes, &mut reply) {
            self.reply(client, &reply);
        }
    }

    fn pick(&mut self, input: &mut Input<'_>) -> Option<Asked> {
        let choice = usize::from(input.byte());
        (!self.asked.is_empty()).then(|| self.asked.remove(choice % self.asked.len()))
    }

    /// An answer to a question that a server was asked: right, or wrong in some way.
    fn answer(&mut self, input: &mut Input<'_>) {
        let Some(asked) = self.pick(input) else { return };
        let how = input.byte();
        let Some((question, _)) = message::question(&asked.bytes) else { panic!("a question without a question") };
        let end = message::HEADER + question.name.wire().len() + 4;
        let mut bytes = asked.bytes[..end].to_vec();
        let flags = 0x8180 | u16::from(input.of(&[0u8, 0, 0, 0, 2, 3, 5])) | if how & 1 != 0 { 0x0200 } else { 0 };
        bytes[2..4].copy_from_slice(&flags.to_be_bytes());
        let (mut answers, mut authorities) = (0u16, 0u16);
        for _ in 0..input.choice(4) {
            bytes.extend([0xc0, 12]);
            let data: &[u8] = match input.choice(6) {
                0 | 1 => &[0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 4],
                2 => &[0, 28, 0, 1, 0, 0, 1, 0, 0, 16, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6],
                3 => &[0, 5, 0, 1, 0, 0, 0, 30, 0, 4, 1, b'x', 0xc0, 12],
                4 => &[0, 39, 0, 1, 0, 0, 0, 30, 0, 3, 1, b'd', 0],
                _ => input.take(12),
            };
            bytes.extend(data);
            answers += 1;
        }
        if how & 2 != 0 {
            bytes.extend([0, 0, 6, 0, 1, 0, 0, 0, 90, 0, 22, 0, 0]);
            bytes.extend([0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 40]);
            authorities = 1;
        }
        bytes[6..8].copy_from_slice(&answers.to_be_bytes());
        bytes[8..10].copy_from_slice(&authorities.to_be_bytes());
        bytes[10..12].fill(0);
        if how & 4 != 0 {
            message::push_opt(&mut bytes, false, 0, None);
        }
        let (mut server, mut forged) = (asked.server, false);
        match how >> 5 {
            5 => {
                server.set_port(5399);
                forged = true;
            }
            6 => {
                bytes[0] ^= 0x40;
                forged = true;
            }
            7 => packets::damage(input, &mut bytes),
            _ => {}
        }
        let (before, kept) = (self.replies_due(), self.engine.stats(self.now).cache_entries);
        self.engine.handle_response(self.now, asked.attempt, server, &bytes);
        if forged {
            // Another sender's word changes nothing: no answer to anybody, nothing kept.
            assert_eq!(self.replies_due(), before);
            assert_eq!(self.engine.stats(self.now).cache_entries, kept);
        }
    }

    fn replies_due(&self) -> u64 {
        self.engine.stats(self.now).waiting
    }

    fn time(&mut self, input: &mut Input<'_>) {
        let wait = match input.byte() {
            short @ 0..=199 => u64::from(short) * 20,
            long => u64::from(long - 199) * 20_000,
        };
        self.pass(Duration::from_millis(wait));
    }

    fn pass(&mut self, wait: Duration) {
        let end = self.now + wait;
        for _ in 0..4096 {
            let Some(due) = self.engine.next_timeout().filter(|due| *due <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(due);
            self.engine.handle_timeout(self.now);
            self.collect();
        }
        panic!("handling timeouts brings no end of them");
    }

    fn collect(&mut self) {
        while let Some(action) = self.engine.poll_action() {
            self.seen.note("action", &action);
            match action {
                Action::SendUpstream { attempt, server, bytes, .. } => {
                    assert!(message::question(&bytes).is_some());
                    self.sent += 1;
                    self.asked.push(Asked { attempt, server, bytes });
                }
                Action::CancelUpstream { attempt } => self.asked.retain(|asked| asked.attempt != attempt),
                Action::Reply { client, bytes } => self.reply(client, &bytes),
                Action::Report { ticket, bytes, report } => {
                    self.seen.note("source", &report.source);
                    assert_eq!(ticket, 9);
                    let address = SocketAddr::from(([0; 16], 0));
                    self.reply(Client { address, transport: Transport::Local { ticket } }, &bytes);
                }
            }
        }
    }

    fn reply(&mut self, client: Client, bytes: &[u8]) {
        assert!(bytes.len() >= message::HEADER);
        let key = (client.address, u16_at(bytes, 0));
        let open = self.open.get_mut(&key).filter(|open| **open > 0).expect("a reply to a query, and one only");
        *open -= 1;
        assert!(u16_at(bytes, 2) & 0x8000 != 0);
        self.seen.note("rcode", &(bytes[3] & 15));
        self.seen.note("truncated", &(bytes[2] & 2 != 0));
        if matches!(client.transport, Transport::Udp { .. }) {
            assert!(bytes.len() <= message::MAX_UDP);
        }
    }

    fn check(&self) {
        let stats = self.engine.stats(self.now);
        assert!(stats.waiting <= MAX_QUERIES as u64 && stats.asking <= 3 * MAX_QUERIES as u64);
        // Every query costs a bounded number of messages: two questions, tried at two servers a few times each way; so does
        // every step of an alias, and every answer asked for again.
        let questions = self.questions + (stats.refreshed + stats.chains_followed) as usize;
        assert!(self.sent <= 32 * questions, "{} messages for {questions} queries", self.sent);
    }

    /// When servers keep silent, every query has its answer or was garbage, and nothing waits.
    fn wind_down(&mut self) {
        self.pass(Duration::from_secs(120));
        let stats = self.engine.stats(self.now);
        assert_eq!((stats.waiting, stats.asking), (0, 0));
        assert_eq!(self.open.values().sum::<usize>() as u64 + self.unnumbered, stats.dropped_garbage);
        for (name, value) in [
            ("stranger", stats.refused_stranger),
            ("cached", stats.answered_cached),
            ("local", stats.answered_local),
            ("resolved", stats.answered_resolved),
            ("cut", stats.answered_truncated),
            ("synthesized", stats.synthesized),
            ("reverse", stats.reverse),
            ("malformed", stats.refused_malformed),
            ("notimp", stats.refused_not_implemented),
            ("policy", stats.refused_policy),
            ("client_limit", stats.refused_client_limit),
            ("total_limit", stats.refused_total_limit),
            ("garbage", stats.dropped_garbage),
            ("joined", stats.joined),
            ("stale", stats.answered_stale),
            ("refreshed", stats.refreshed),
            ("guessed", stats.upstream_guessed),
            ("strays", stats.upstream_strays),
            ("followed", stats.chains_followed),
            ("broken", stats.chains_broken),
            ("tcp", stats.upstream_tcp),
            ("unexpected", stats.upstream_unexpected),
            ("upstream_malformed", stats.upstream_malformed),
            ("without_edns", stats.upstream_without_edns),
            ("wrong_case", stats.upstream_wrong_case),
            ("undecodable", stats.undecodable),
        ] {
            if value > 0 {
                self.seen.note_text("counted", name);
            }
        }
    }
}
