//! Builders and checkers that share no code with the translator.

use super::POOL;
use std::net::{Ipv4Addr, Ipv6Addr};

/// RFC 1071, word by word.
pub fn ones_sum(parts: &[&[u8]]) -> u16 {
    let mut total = 0u32;
    for part in parts {
        for (index, byte) in part.iter().enumerate() {
            total += if index % 2 == 0 { u32::from(*byte) * 256 } else { u32::from(*byte) };
        }
        while total > 0xffff {
            total = total % 0x10000 + total / 0x10000;
        }
    }
    total as u16
}

fn pseudo4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, len: usize) -> Vec<u8> {
    let mut out = [source.octets(), destination.octets()].concat();
    out.extend([0, protocol, (len / 256) as u8, (len % 256) as u8]);
    out
}

fn pseudo6(source: Ipv6Addr, destination: Ipv6Addr, next: u8, len: usize) -> Vec<u8> {
    let mut out = [source.octets(), destination.octets()].concat();
    out.extend((len as u32).to_be_bytes());
    out.extend([0, 0, 0, next]);
    out
}

pub fn udp(source: u16, destination: u16, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(source.to_be_bytes());
    out.extend(destination.to_be_bytes());
    out.extend((data.len() as u16 + 8).to_be_bytes());
    out.extend([0, 0]);
    out.extend(data);
    out
}

pub fn tcp(source: u16, destination: u16, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(source.to_be_bytes());
    out.extend(destination.to_be_bytes());
    out.extend(0x1122_3344u32.to_be_bytes());
    out.extend(0x5566_7788u32.to_be_bytes());
    out.extend([0x50, flags, 0x20, 0x00, 0, 0, 0, 0]);
    out.extend(data);
    out
}

pub fn icmp(kind: u8, code: u8, word: u32, data: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, code, 0, 0];
    out.extend(word.to_be_bytes());
    out.extend(data);
    out
}

/// Sets the checksum field for the protocol; nothing for others.
fn complete(payload: &mut [u8], protocol: u8, pseudo: &[u8]) {
    let at = match protocol {
        6 => 16,
        17 => 6,
        1 | 58 => 2,
        _ => return,
    };
    let pseudo = if protocol == 1 { &[] } else { pseudo };
    payload[at..at + 2].fill(0);
    let mut value = !ones_sum(&[pseudo, payload]);
    if protocol == 17 && value == 0 {
        value = 0xffff;
    }
    payload[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

pub struct V4 {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub protocol: u8,
    pub tos: u8,
    pub ttl: u8,
    pub id: u16,
    /// The 16 bits of flags and offset.
    pub fragment: u16,
    pub options: Vec<u8>,
}

impl V4 {
    pub fn new(source: Ipv4Addr, protocol: u8) -> Self {
        Self { source, destination: POOL, protocol, tos: 0, ttl: 64, id: 0x4321, fragment: 0x4000, options: Vec::new() }
    }

    /// The packet with the right transport checksum.
    pub fn build(&self, mut payload: Vec<u8>) -> Vec<u8> {
        let pseudo = pseudo4(self.source, self.destination, self.protocol, payload.len());
        complete(&mut payload, self.protocol, &pseudo);
        self.raw(&payload)
    }

    pub fn raw(&self, payload: &[u8]) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let mut out = vec![0x40 | (header_len / 4) as u8, self.tos];
        out.extend(((header_len + payload.len()) as u16).to_be_bytes());
        out.extend(self.id.to_be_bytes());
        out.extend(self.fragment.to_be_bytes());
        out.extend([self.ttl, self.protocol, 0, 0]);
        out.extend(self.source.octets());
        out.extend(self.destination.octets());
        out.extend(&self.options);
        let sum = !ones_sum(&[&out]);
        out[10..12].copy_from_slice(&sum.to_be_bytes());
        out.extend(payload);
        out
    }
}

pub struct V6 {
    pub source: Ipv6Addr,
    pub destination: Ipv6Addr,
    pub next: u8,
    pub class: u8,
    pub hops: u8,
    /// Extension headers; the first one's number is `first`, the last one names `next`.
    pub extensions: Vec<u8>,
    pub first: Option<u8>,
}

impl V6 {
    pub fn new(destination: Ipv6Addr, next: u8) -> Self {
        Self { source: super::client(), destination, next, class: 0, hops: 64, extensions: Vec::new(), first: None }
    }

    pub fn build(&self, mut payload: Vec<u8>) -> Vec<u8> {
        let pseudo = pseudo6(self.source, self.destination, self.next, payload.len());
        complete(&mut payload, self.next, &pseudo);
        self.raw(&payload)
    }

    pub fn raw(&self, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0x60 | self.class >> 4, self.class << 4, 0x0a, 0xbc];
        out.extend(((self.extensions.len() + payload.len()) as u16).to_be_bytes());
        out.extend([self.first.unwrap_or(self.next), self.hops]);
        out.extend(self.source.octets());
        out.extend(self.destination.octets());
        out.extend(&self.extensions);
        out.extend(payload);
        out
    }

    /// With a Fragment header: `field` is offset and M as on the wire.
    pub fn fragment(mut self, field: u16, id: u32) -> Self {
        self.first = Some(44);
        self.extensions = vec![self.next, 0];
        self.extensions.extend(field.to_be_bytes());
        self.extensions.extend(id.to_be_bytes());
        self
    }
}

/// Checks lengths, header checksum and transport checksum of a whole packet, then returns its transport part.
pub fn check(packet: &[u8]) -> &[u8] {
    if packet[0] >> 4 == 4 {
        let header_len = usize::from(packet[0] & 15) * 4;
        assert_eq!(u16::from_be_bytes([packet[2], packet[3]]) as usize, packet.len(), "total length");
        assert_eq!(ones_sum(&[&packet[..header_len]]), 0xffff, "header checksum");
        let payload = &packet[header_len..];
        if packet[6] & 0x3f == 0 && packet[7] == 0 {
            let pseudo = match packet[9] {
                1 => Vec::new(),
                protocol => pseudo4(address4(packet, 12), address4(packet, 16), protocol, payload.len()),
            };
            assert_eq!(ones_sum(&[&pseudo, payload]), 0xffff, "transport checksum");
        }
        payload
    } else {
        assert_eq!(u16::from_be_bytes([packet[4], packet[5]]) as usize + 40, packet.len(), "payload length");
        let payload = &packet[40..];
        if packet[6] != 44 {
            let pseudo = pseudo6(address6(packet, 8), address6(packet, 24), packet[6], payload.len());
            assert_eq!(ones_sum(&[&pseudo, payload]), 0xffff, "transport checksum");
        }
        payload
    }
}

pub fn address4(packet: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3])
}

pub fn address6(packet: &[u8], at: usize) -> Ipv6Addr {
    Ipv6Addr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap())
}

pub fn word16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub fn word32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Puts fragments together again; returns the transport part.
pub fn reassemble(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, packet) in packets.iter().enumerate() {
        let (offset, more, data) = if packet[0] >> 4 == 4 {
            let field = word16(packet, 6);
            (usize::from(field & 0x1fff) * 8, field & 0x2000 != 0, &packet[20..])
        } else {
            let field = word16(packet, 42);
            (usize::from(field & 0xfff8), field & 1 != 0, &packet[48..])
        };
        check(packet);
        assert_eq!(offset, out.len(), "fragment {index} continues");
        assert_eq!(more, index + 1 < packets.len());
        out.extend(data);
    }
    out
}
