//! Packets in, packets out: written from the RFC texts with builders and a checksum of their own.

mod access;
mod fixed;
mod icmp_errors;
mod listing;
mod packets;
mod properties;
mod reconfigure;
mod rfc6146;
mod rfc6146_tcp;
mod rfc7915_from_v4;
mod rfc7915_from_v6;
mod segments;

use super::*;
use crate::core::frame::{HEADROOM, Offload};
use std::net::{Ipv4Addr, Ipv6Addr};

pub const POOL: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 4);
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);

pub fn client() -> Ipv6Addr {
    "fd7c:1a2b:3c4d:1000::c1".parse().unwrap()
}

pub fn prefix() -> Prefix {
    Prefix::new("fd7c:1a2b:3c4d:7777::".parse().unwrap(), 96).unwrap()
}

pub fn server6() -> Ipv6Addr {
    "fd7c:1a2b:3c4d:7777::a00:4".parse().unwrap()
}

pub fn gateway6() -> Ipv6Addr {
    "fd7c:1a2b:3c4d:1000::1".parse().unwrap()
}

pub fn config() -> Config {
    Config::new(prefix(), vec![PoolEntry { address: POOL, first: 32_768, last: 60_999 }], gateway6())
}

/// A translator with a clock and what it sent to the sink.
pub struct Bench {
    pub nat: Nat64,
    pub now: Now,
    pub sunk: Vec<Vec<u8>>,
}

impl Bench {
    pub fn new(config: Config) -> Self {
        Self { nat: Nat64::new(config).unwrap(), now: Now::from_secs(1000), sunk: Vec::new() }
    }

    pub fn v6(&mut self, packet: &[u8]) -> (Verdict, Vec<u8>) {
        self.run(packet, Offload::default(), true).0
    }

    pub fn v4(&mut self, packet: &[u8]) -> (Verdict, Vec<u8>) {
        self.run(packet, Offload::default(), false).0
    }

    pub fn run(&mut self, packet: &[u8], offload: Offload, from_v6: bool) -> ((Verdict, Vec<u8>), Offload) {
        let mut buffer = vec![0; HEADROOM + packet.len() + 1500];
        buffer[HEADROOM..HEADROOM + packet.len()].copy_from_slice(packet);
        let mut frame = Frame::new(&mut buffer, HEADROOM, HEADROOM + packet.len(), offload);
        let sunk = &mut self.sunk;
        let mut sink = |bytes: &[u8]| sunk.push(bytes.to_vec());
        let verdict = match from_v6 {
            true => self.nat.from_v6(self.now, &mut frame, &mut sink),
            false => self.nat.from_v4(self.now, &mut frame, &mut sink),
        };
        ((verdict, frame.bytes().to_vec()), frame.offload)
    }

    /// Translates a packet that must pass.
    pub fn pass6(&mut self, packet: &[u8]) -> Vec<u8> {
        let (verdict, out) = self.v6(packet);
        assert_eq!(verdict, Verdict::Forward);
        out
    }

    pub fn pass4(&mut self, packet: &[u8]) -> Vec<u8> {
        let (verdict, out) = self.v4(packet);
        assert_eq!(verdict, Verdict::Forward);
        out
    }

    pub fn after(&mut self, seconds: u64) {
        self.now = Now(self.now.0 + seconds * 1_000_000);
        let sunk = &mut self.sunk;
        self.nat.handle_timeout(self.now, &mut |bytes: &[u8]| sunk.push(bytes.to_vec()));
    }
}
