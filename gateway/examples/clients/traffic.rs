//! What clients do with their tunnels: packets of ICMPv6 echo, and exchanges with the responder by UDP.

use std::collections::VecDeque;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::Duration;

use portico_gateway::wire::{checksum, ndp};
use serde::Deserialize;
use tokio::time::Instant;

/// How long an answer may take.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// Starts every datagram of an exchange.
pub const MAGIC: [u8; 4] = *b"PLD1";
/// Magic, client, number, replies, reply size, index.
pub const HEADER: usize = 20;
const UDP: u8 = 17;
const HEADERS: usize = 48;

/// What a client sends.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Profile {
    Idle,
    /// An echo request every so many milliseconds.
    Ping {
        interval_ms: u64,
    },
    /// `up` datagrams of `up_bytes` of payload; the last asks for `down` datagrams of `down_bytes`. At most `window`
    /// exchanges are under way, and a new one begins no sooner than `interval_ms` after the one before (0: at once).
    /// Source ports take turns among `ports`.
    Exchange {
        target: SocketAddrV6,
        #[serde(default = "one")]
        up: u16,
        up_bytes: u16,
        #[serde(default = "one")]
        down: u16,
        down_bytes: u16,
        #[serde(default = "one")]
        window: u16,
        #[serde(default)]
        interval_ms: f64,
        #[serde(default = "one")]
        ports: u16,
    },
}

fn one() -> u16 {
    1
}

/// One thing that waits for answers.
struct Waiting {
    number: u32,
    sent: Instant,
    missing: u16,
}

/// The traffic of one client.
#[derive(Default)]
pub struct Traffic {
    next: u32,
    waiting: VecDeque<Waiting>,
    due: Option<Instant>,
}

/// What a received datagram finished.
pub struct Finished(pub Duration);

impl Traffic {
    /// Begins anew; `phase` in 0..1 spreads clients over the interval.
    pub fn start(&mut self, profile: &Profile, phase: f64) {
        let first = match profile {
            Profile::Idle => None,
            Profile::Ping { interval_ms } => Some(*interval_ms as f64),
            Profile::Exchange { interval_ms, .. } => Some(*interval_ms),
        };
        self.waiting.clear();
        self.due = first.map(|interval| Instant::now() + Duration::from_secs_f64(interval * phase / 1000.0));
    }

    /// When there is something to send or to give up.
    pub fn due(&self) -> Option<Instant> {
        let overdue = self.waiting.front().map(|oldest| oldest.sent + PATIENCE);
        match (self.due, overdue) {
            (Some(due), Some(overdue)) => Some(due.min(overdue)),
            (due, overdue) => due.or(overdue),
        }
    }

    /// What waited too long, forgotten now.
    pub fn give_up(&mut self) -> u64 {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| waiting.sent.elapsed() < PATIENCE);
        (before - self.waiting.len()) as u64
    }

    /// The number of the next exchange or echo when one is due and allowed.
    pub fn next(&mut self, profile: &Profile) -> Option<u32> {
        let (window, interval, missing) = match profile {
            Profile::Idle => return None,
            Profile::Ping { interval_ms } => (usize::MAX, *interval_ms as f64, 1),
            Profile::Exchange { window, interval_ms, down, .. } => (usize::from(*window), *interval_ms, (*down).max(1)),
        };
        let now = Instant::now();
        if self.due.is_some_and(|due| due > now) {
            return None;
        }
        if self.waiting.len() >= window {
            // The answer, or giving up, brings the next.
            self.due = None;
            return None;
        }
        if interval > 0.0 {
            // Against the schedule and not against the clock, but without a burst after a long wait.
            let step = Duration::from_secs_f64(interval / 1000.0);
            let next = self.due.map_or(now, |due| due + step);
            self.due = Some(if next + step < now { now + step } else { next });
        }
        self.next = self.next.wrapping_add(1);
        self.waiting.push_back(Waiting { number: self.next, sent: now, missing });
        Some(self.next)
    }

    /// An answer came. The outcome when it was the last one of its exchange.
    pub fn answered(&mut self, number: u32) -> Option<Finished> {
        let at = self.waiting.iter().position(|waiting| waiting.number == number)?;
        let waiting = &mut self.waiting[at];
        waiting.missing -= 1;
        if waiting.missing > 0 {
            return None;
        }
        let took = waiting.sent.elapsed();
        self.waiting.remove(at);
        if self.due.is_none() {
            self.due = Some(Instant::now());
        }
        Some(Finished(took))
    }

    /// Whether another exchange may begin at once.
    pub fn is_closed_loop(profile: &Profile) -> bool {
        matches!(profile, Profile::Exchange { interval_ms, .. } if *interval_ms == 0.0)
    }
}

/// An echo request with its number in the data.
pub fn echo_request(source: Ipv6Addr, destination: Ipv6Addr, number: u32) -> Vec<u8> {
    let mut message = vec![128, 0, 0, 0, 0x50, 0x4f, 0, 1];
    message.extend(number.to_be_bytes());
    ndp::icmpv6(source, destination, 64, &message)
}

/// The number in an echo reply.
pub fn echo_number(packet: &[u8]) -> Option<u32> {
    let number = packet.get(HEADERS..HEADERS + 4)?;
    Some(u32::from_be_bytes([number[0], number[1], number[2], number[3]]))
}

/// The datagrams of one exchange, appended to `out` as IPv6 packets; returns how many bytes each has.
pub fn exchange(profile: &Profile, source: Ipv6Addr, client: u32, number: u32, out: &mut Vec<u8>) -> (usize, u16) {
    let &Profile::Exchange { target, up, up_bytes, down, down_bytes, ports, .. } = profile else { return (0, 0) };
    let payload = usize::from(up_bytes).max(HEADER);
    let length = 8 + payload;
    for index in 0..up.max(1) {
        let last = index + 1 == up.max(1);
        let start = out.len();
        out.extend([0x60, 0, 0, 0]);
        out.extend((length as u16).to_be_bytes());
        out.extend([UDP, 64]);
        out.extend(source.octets());
        out.extend(target.ip().octets());
        out.extend((20_000 + (number % u32::from(ports.max(1))) as u16).to_be_bytes());
        out.extend(target.port().to_be_bytes());
        out.extend((length as u16).to_be_bytes());
        out.extend([0, 0]);
        out.extend(MAGIC);
        out.extend(client.to_be_bytes());
        out.extend(number.to_be_bytes());
        out.extend(if last { down.max(1) } else { 0 }.to_be_bytes());
        out.extend((usize::from(down_bytes).max(HEADER) as u16).to_be_bytes());
        out.extend(u32::from(index).to_be_bytes());
        out.resize(start + 40 + length, 0);
        // What follows the header is zero and adds nothing.
        let pseudo = checksum::pseudo_v6(source, *target.ip(), UDP, length as u32);
        let sum = checksum::finish(checksum::add(pseudo, checksum::sum(&out[start + 40..start + HEADERS + HEADER])));
        let sum = if sum == 0 { 0xffff } else { sum };
        out[start + 46..start + HEADERS].copy_from_slice(&sum.to_be_bytes());
    }
    (40 + length, up.max(1))
}

/// The number of the exchange that a received packet belongs to.
pub fn exchange_number(packet: &[u8], client: u32) -> Option<u32> {
    let payload = packet.get(HEADERS..HEADERS + HEADER)?;
    let word = |at: usize| u32::from_be_bytes([payload[at], payload[at + 1], payload[at + 2], payload[at + 3]]);
    (packet[6] == UDP && payload[..4] == MAGIC && word(4) == client).then(|| word(8))
}
