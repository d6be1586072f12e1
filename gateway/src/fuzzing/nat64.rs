//! Histories of the translator: clients, servers, errors, fragments, super-segments and time, against what must hold.
//!
//! Packets built here have right checksums, so that what comes out must have them too, by another computation
//! ([`oracle`]); damaged and arbitrary bytes must only not get further than a counted refusal or a well-formed packet.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::input::Input;
use super::oracle::{self, Seen, Sum};
use super::packets::{self, Packet};
use super::{Outcomes, packets::with_frame};
use crate::core::frame::{Offload, SegmentKind};
use crate::core::nat64::{
    Config, Filtering, Mapping, Mappings, Nat64, PoolEntry, Prefix, Protocol, Reason, StaticBinding, Verdict,
    shard_of_v4, shard_of_v6,
};
use crate::core::segments::split::Segments;
use crate::core::time::Now;

const POOL: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const MAX_BINDINGS: usize = 24;
const MAX_SESSIONS: usize = 32;
const MAX_BINDINGS_PER_CLIENT: usize = 12;
const MAX_SESSIONS_PER_CLIENT: usize = 20;
const STEPS: usize = 160;

fn prefix() -> Ipv6Addr {
    Ipv6Addr::new(0xfd7c, 0x1a2b, 0x3c4d, 0x7777, 0, 0, 0, 0)
}

fn gateway() -> Ipv6Addr {
    Ipv6Addr::new(0xfd7c, 0x1a2b, 0x3c4d, 0x1000, 0, 0, 0, 1)
}

fn configuration(input: &mut Input<'_>) -> Config {
    let flags = input.byte();
    let prefix = Prefix::new(prefix(), 96).expect("a prefix");
    let mut config = Config::new(prefix, vec![PoolEntry { address: POOL, first: 33_000, last: 33_019 }], gateway());
    if flags & 1 != 0 {
        config.pool.push(PoolEntry { address: Ipv4Addr::new(10, 0, 0, 3), first: 1, last: 65_535 });
    }
    if flags & 2 != 0 {
        config.filtering = Filtering::AddressDependent;
    }
    if flags & 4 != 0 {
        config.tos = Some(0);
        config.traffic_class = Some(0);
    }
    if flags & 8 != 0 {
        config.mtu = 1280;
    }
    if flags & 16 != 0 {
        config.ipv6_mtu = 1500;
    }
    if flags & 32 != 0 {
        config.errors_per_second = 2;
    }
    if flags & 64 != 0 {
        let network = Mapping { prefix, network: Ipv4Addr::new(10, 0, 0, 0), length: 8 };
        config.mappings = Mappings::new(vec![network]).expect("good mappings");
    }
    if flags & 128 != 0 {
        let client = Ipv6Addr::from(u128::from(gateway()) + 0xc0);
        let fixed = |protocol, port| StaticBinding { protocol, client, client_port: 32_991, address: POOL, port };
        config.static_bindings = vec![fixed(Protocol::Tcp, 22), fixed(Protocol::Udp, 33_001)];
    }
    config.log_bindings = true;
    config.max_bindings = MAX_BINDINGS;
    config.max_sessions = MAX_SESSIONS;
    config.max_bindings_per_client = MAX_BINDINGS_PER_CLIENT;
    config.max_sessions_per_client = MAX_SESSIONS_PER_CLIENT;
    config.max_fragmented_packets = 8;
    config.max_fragment_bytes = 16_384;
    config
}

struct Run<'s> {
    nat: Nat64,
    config: Config,
    now: Now,
    /// The last packets that were sent to either side, for errors about them and answers to them.
    sent: Vec<Vec<u8>>,
    refused: u64,
    /// Sessions that another pool had no place for.
    removed: u64,
    seen: &'s mut Outcomes,
}

pub fn nat64(input: &mut Input<'_>, seen: &mut Outcomes) {
    let config = configuration(input);
    let nat = Nat64::new(config.clone()).expect("a good configuration");
    let mut run = Run { nat, config, now: Now::from_secs(1000), sent: Vec::new(), refused: 0, removed: 0, seen };
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        run.step(input);
        run.check_tables();
    }
    run.wind_down();
    for reason in Reason::ALL.iter().filter(|reason| run.nat.stats().refused(**reason) > 0) {
        run.seen.note("reason", reason);
    }
}

impl Run<'_> {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.choice(12) {
            0..=3 => self.client_sends(input),
            4..=6 => self.server_sends(input),
            7 => self.answer(input),
            8 => self.error(input),
            9 => {
                let from_v6 = input.bit();
                let bytes = input.piece().to_vec();
                self.translate(&bytes, Offload::default(), from_v6);
            }
            10 => self.time(input),
            _ => self.reconfigure(input),
        }
    }

    fn client(input: &mut Input<'_>) -> Ipv6Addr {
        let host = input.byte();
        match host >> 5 {
            // Sources that no client has: unspecified, multicast, inside the prefix.
            5 => Ipv6Addr::UNSPECIFIED,
            6 => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
            7 => Ipv6Addr::from(u128::from(prefix()) | 0x0a00_0009),
            _ => Ipv6Addr::from(u128::from(gateway()) + 0xc0 + u128::from(host & 3)),
        }
    }

    fn host(input: &mut Input<'_>) -> Ipv4Addr {
        match input.byte() {
            host @ 0..=199 => Ipv4Addr::new(10, 0, 1, host & 7),
            // The pool itself: hairpinning.
            200..=229 => POOL,
            host @ 230..=239 => Ipv4Addr::new(host, 0, 0, 1),
            _ => Ipv4Addr::from(input.long()),
        }
    }

    fn transport(input: &mut Input<'_>, v6: bool, from: u16, to: u16) -> (u8, Vec<u8>) {
        let choice = input.byte();
        let data = packets::data(input);
        match choice % 8 {
            0..=2 => (6, packets::tcp(from, to, input.of(&[2, 16, 18, 24, 17, 4, 20, 0]), &data)),
            3..=5 => (17, packets::udp(from, to, &data)),
            6 => {
                let kind = match (v6, choice & 8 != 0) {
                    (true, true) => 128,
                    (true, false) => 129,
                    (false, true) => 8,
                    (false, false) => 0,
                };
                let id = if matches!(kind, 128 | 8) { from } else { to };
                (if v6 { 58 } else { 1 }, packets::icmp(kind, 0, u32::from(id) << 16 | 1, &data))
            }
            _ => (input.byte(), data),
        }
    }

    fn port(input: &mut Input<'_>) -> u16 {
        match input.byte() {
            port @ 0..=239 => 32_990 + u16::from(port & 63),
            _ => input.word(),
        }
    }

    fn client_sends(&mut self, input: &mut Input<'_>) {
        let (source, host, from) = (Self::client(input), Self::host(input), Self::port(input));
        let to = if host == POOL { Self::port(input) } else { input.of(&[80, 443, 53, 1]) };
        let destination = u128::from(prefix()) | u128::from(u32::from(host));
        let (protocol, payload) = Self::transport(input, true, from, to);
        let packet = Packet::new(&source.octets(), &destination.to_be_bytes(), protocol).vary(input);
        self.send(input, packet, &payload, true);
    }

    fn server_sends(&mut self, input: &mut Input<'_>) {
        let (host, from) = (Self::host(input), input.of(&[80, 443, 53, 1]));
        let bindings = self.nat.bindings();
        let choice = usize::from(input.byte());
        let (address, to) = match bindings.get(choice % (bindings.len() + 1)) {
            Some(binding) => (binding.address, binding.port),
            None => (input.of(&[POOL, Ipv4Addr::new(10, 0, 0, 3), Ipv4Addr::new(10, 0, 0, 99)]), Self::port(input)),
        };
        let (protocol, payload) = Self::transport(input, false, from, to);
        let packet = Packet::new(&host.octets(), &address.octets(), protocol).vary(input);
        self.send(input, packet, &payload, false);
    }

    /// An answer to a packet that was sent, from where it went.
    fn answer(&mut self, input: &mut Input<'_>) {
        let Some(packet) = self.pick(input) else { return };
        let Some(seen) = oracle::look(&packet) else { return };
        let mut payload = seen.payload.to_vec();
        match seen.protocol {
            6 | 17 if payload.len() >= 4 => {
                payload.swap(0, 2);
                payload.swap(1, 3);
                if let Some(flags) = payload.get_mut(13).filter(|_| seen.protocol == 6) {
                    *flags = input.of(&[18, 16, 2, 17, 4, 24]);
                }
            }
            1 | 58 if !payload.is_empty() => payload[0] = if seen.protocol == 1 { 0 } else { 129 },
            _ => return,
        }
        let answer = Packet::new(seen.destination, seen.source, seen.protocol).vary(input);
        let from_v6 = seen.version == 6;
        self.send(input, answer, &payload, from_v6);
    }

    /// An ICMP error about a packet that was sent, from its destination or from a router.
    fn error(&mut self, input: &mut Input<'_>) {
        let Some(mut quoted) = self.pick(input) else { return };
        quoted.truncate(usize::from(input.byte()) * 8);
        let (kind, code, word) = (input.byte(), input.byte() % 17, u32::from(input.word()));
        let Some(first) = quoted.first() else { return };
        let (message, from, to) = match first >> 4 {
            4 if quoted.len() >= 20 => {
                let message = packets::icmp(input.of(&[3, 11, 12, 4, 5, kind]), code, word << (kind & 24), &quoted);
                (message, vec![10, 9, 9, 9], quoted[12..16].to_vec())
            }
            6 if quoted.len() >= 40 => {
                let message = packets::icmp(input.of(&[1, 2, 3, 4, kind]), code, word, &quoted);
                (message, [&[0xfd, 9][..], &[0; 13], &[9]].concat(), quoted[8..24].to_vec())
            }
            _ => return,
        };
        let from_v6 = from.len() == 16;
        let protocol = if from_v6 { 58 } else { 1 };
        let packet = Packet::new(&from, &to, protocol).vary(input);
        self.send(input, packet, &message, from_v6);
    }

    fn pick(&self, input: &mut Input<'_>) -> Option<Vec<u8>> {
        let choice = usize::from(input.byte());
        (!self.sent.is_empty()).then(|| self.sent[choice % self.sent.len()].clone())
    }

    /// Sends a packet whole, in fragments, as a super-segment, or damaged.
    fn send(&mut self, input: &mut Input<'_>, packet: Packet, payload: &[u8], from_v6: bool) {
        let how = input.byte();
        match how % 8 {
            0..=4 => {
                let mut bytes = packet.build(payload);
                let offload = packets::offload(input, &mut bytes);
                self.translate(&bytes, offload, from_v6);
            }
            5 | 6 => {
                let whole = packet.build(payload);
                let mut fragments = fragments(&packet, &whole, payload.len(), input);
                let turned = fragments.len() / 2;
                if how & 8 != 0 {
                    fragments.rotate_left(turned);
                }
                for fragment in fragments {
                    self.translate(&fragment, Offload::default(), from_v6);
                }
            }
            _ => {
                let mut bytes = packet.build(payload);
                packets::damage(input, &mut bytes);
                self.translate(&bytes, Offload::default(), from_v6);
            }
        }
    }

    fn translate(&mut self, packet: &[u8], offload: Offload, from_v6: bool) {
        if packet.len() > 65_000 {
            return;
        }
        if from_v6 && packet.len() >= 40 {
            assert!(shard_of_v6(packet, 4) < 4);
        } else if !from_v6 {
            assert!(shard_of_v4(packet, 4).is_none_or(|shard| shard < 4));
        }
        let (nat, now) = (&mut self.nat, self.now);
        let mut sunk: Vec<Vec<u8>> = Vec::new();
        let mut sink = |bytes: &[u8]| sunk.push(bytes.to_vec());
        let (verdict, out, after) = with_frame(packet, offload, |frame| match from_v6 {
            true => nat.from_v6(now, frame, &mut sink),
            false => nat.from_v4(now, frame, &mut sink),
        });
        self.seen.note(if from_v6 { "from_v6" } else { "from_v4" }, &verdict);
        let refused = Reason::ALL.iter().map(|reason| self.nat.stats().refused(*reason)).sum();
        let counted = refused > self.refused;
        self.refused = refused;
        let input = oracle::look(packet);
        let beyond = |seen: &Seen<'_>| seen.fragment.is_some_and(|(offset, _)| offset + seen.payload.len() > 65_535);
        assert!(
            !input.as_ref().is_some_and(beyond) || matches!(verdict, Verdict::Reply | Verdict::Drop(_)),
            "a fragment beyond the largest packet must not pass"
        );
        match verdict {
            Verdict::Forward => {
                self.forwarded(input.as_ref(), offload, &out, after);
                self.sent.push(out);
            }
            Verdict::Reply => {
                assert!(counted, "an error is about a refusal");
                let error = oracle::well_formed(&out, "an error");
                assert_eq!((error.sum, after), (Sum::Good, Offload::default()));
                assert_eq!(error.version == 6, from_v6, "an error goes back");
                assert!(out.len() <= if from_v6 { 1280 } else { 576 });
            }
            // A packet put together from fragments may be refused as a whole.
            Verdict::Sent => assert!(!sunk.is_empty() || counted),
            Verdict::Held => assert_eq!(out, packet),
            Verdict::Drop(_) => assert!(counted, "each drop has a counter"),
        }
        for bytes in sunk {
            self.sunk(bytes);
        }
        self.sent.drain(..self.sent.len().saturating_sub(16));
    }

    /// What must hold of a translated packet, given what it was.
    fn forwarded(&mut self, before: Option<&Seen<'_>>, offload: Offload, out: &[u8], after: Offload) {
        let before = before.expect("what is translated has right lengths");
        let now = oracle::well_formed(out, "a translated packet");
        assert_eq!(offload, after);
        // Between two clients it is translated twice.
        let hops = if before.version == now.version { 2 } else { 1 };
        assert!(before.hops > hops && now.hops == before.hops - hops);
        assert!(!now.extended, "no options, no extension headers");
        let fine = |sum| matches!(sum, Sum::Good | Sum::Partial | Sum::Absent);
        if fine(before.sum) && now.fragment.is_none() {
            let wanted = if offload.partial_checksum { Sum::Partial } else { Sum::Good };
            // Zero can stand for both ends of a sum that is a multiple of 65,535.
            let both = now.sum == Sum::Good && offload.partial_checksum;
            assert!(now.sum == wanted || both, "{:?} became {:?}", before.sum, now.sum);
        }
        if matches!(before.protocol, 6 | 17) && now.fragment.is_none() {
            let skipped = if before.protocol == 6 { 18 } else { 8 };
            assert_eq!(now.payload.len(), before.payload.len());
            assert_eq!(now.payload.get(skipped..), before.payload.get(skipped..), "data is not touched");
        }
        if offload.kind == SegmentKind::None {
            let limit = if now.version == 4 { self.config.mtu } else { self.config.ipv6_mtu };
            assert!(out.len() <= limit, "{} bytes on a link of {limit}", out.len());
        } else {
            self.seen.note("super_segment", &offload.kind);
            let mut split = Segments::new(out, offload).expect("a super-segment stays one");
            let mut piece = vec![0; out.len()];
            while let Some(len) = split.next_into(&mut piece).expect("room for a packet") {
                let piece = oracle::well_formed(&piece[..len], "a segment");
                assert!(piece.sum == Sum::Good || before.sum == Sum::Bad);
            }
        }
    }

    fn sunk(&mut self, bytes: Vec<u8>) {
        let packet = oracle::well_formed(&bytes, "a packet of the sink");
        let limit = if packet.version == 4 { self.config.mtu } else { self.config.ipv6_mtu };
        assert!(bytes.len() <= limit, "{} bytes on a link of {limit}", bytes.len());
        self.seen.note("sunk", &packet.fragment.is_some());
        self.sent.push(bytes);
    }

    fn time(&mut self, input: &mut Input<'_>) {
        let wait = match input.byte() {
            short @ 0..=127 => Duration::from_millis(u64::from(short) * 50),
            long => Duration::from_secs(u64::from(long - 127) * 60),
        };
        self.now = self.now + wait;
        self.timeouts();
    }

    fn timeouts(&mut self) {
        for _ in 0..64 {
            if self.nat.next_timeout().is_none_or(|due| due > self.now) {
                return;
            }
            let mut sunk: Vec<Vec<u8>> = Vec::new();
            self.nat.handle_timeout(self.now, &mut |bytes: &[u8]| sunk.push(bytes.to_vec()));
            for bytes in sunk {
                self.sunk(bytes);
            }
        }
        panic!("handling timeouts brings no end of them");
    }

    fn reconfigure(&mut self, input: &mut Input<'_>) {
        let config = configuration(input);
        let dynamic = |nat: &Nat64| nat.bindings().iter().filter(|binding| !binding.fixed).count();
        let (before, sessions) = (dynamic(&self.nat), self.nat.stats().sessions);
        let lost = self.nat.reconfigure(self.now, config.clone()).expect("a good configuration");
        // One of them may have become a static binding.
        assert!(dynamic(&self.nat) <= before);
        self.removed += sessions - self.nat.stats().sessions;
        self.config = config;
        self.seen.note("reconfigured", &(lost > 0));
    }

    /// The tables agree with their counters and stay within their limits.
    fn check_tables(&self) {
        let (stats, bindings) = (self.nat.stats(), self.nat.bindings());
        assert_eq!(stats.bindings, bindings.len() as u64);
        let dynamic = bindings.iter().filter(|binding| !binding.fixed).count();
        assert!(dynamic <= MAX_BINDINGS && stats.sessions <= MAX_SESSIONS as u64);
        assert_eq!(bindings.iter().map(|binding| u64::from(binding.sessions)).sum::<u64>(), stats.sessions);
        let sessions = self.nat.sessions(self.now);
        assert!(sessions.len() as u64 <= stats.sessions);
        let (mut mapped, mut clients) = (BTreeMap::new(), BTreeMap::<_, (usize, usize)>::new());
        for binding in &bindings {
            let key = (binding.protocol, binding.address, binding.port);
            assert!(mapped.insert(key, binding.client).is_none(), "a mapped port has one owner");
            let client = clients.entry(binding.client).or_default();
            *client = (client.0 + usize::from(!binding.fixed), client.1 + binding.sessions as usize);
        }
        let dynamic = clients.values().filter(|(bindings, _)| *bindings > 0).count();
        assert!((dynamic as u64..=clients.len() as u64).contains(&stats.clients));
        for (bindings, sessions) in clients.values() {
            assert!(*bindings <= MAX_BINDINGS_PER_CLIENT && *sessions <= MAX_SESSIONS_PER_CLIENT);
        }
    }

    /// When nothing comes any more, everything ends.
    fn wind_down(&mut self) {
        for _ in 0..6 {
            self.now = self.now + Duration::from_secs(8000);
            self.timeouts();
        }
        let stats = self.nat.stats();
        let fixed = self.config.static_bindings.len() as u64;
        assert_eq!((stats.bindings, stats.sessions, stats.clients), (fixed, 0, 0));
        assert_eq!(stats.sessions_created, stats.sessions_expired + self.removed);
        assert_eq!(self.nat.next_timeout(), None);
        let mut log = Vec::new();
        assert_eq!(self.nat.take_log(usize::MAX, &mut log), 0);
        let opened = log.iter().filter(|row| row.open).count();
        assert_eq!(log.len(), 2 * opened, "each dynamic binding began and ended");
    }
}

/// A packet's payload in two to four fragments; offsets are multiples of eight.
fn fragments(packet: &Packet, whole: &[u8], payload: usize, input: &mut Input<'_>) -> Vec<Vec<u8>> {
    let payload = &whole[whole.len() - payload..];
    let id = input.long() & 3;
    let size = (payload.len() / (2 + input.choice(3))).next_multiple_of(8).clamp(8, 1208);
    let mut out = Vec::new();
    for (index, piece) in payload.chunks(size).enumerate() {
        let more = (index + 1) * size < payload.len();
        let mut fragment = packet.clone();
        fragment.dont_fragment = false;
        fragment.fragment = Some((id, index * size, more));
        out.push(fragment.raw(piece));
    }
    out
}
