//! Packets by hand: every field is given, every checksum is computed byte by byte as RFC 1071 says.

use std::net::{Ipv4Addr, Ipv6Addr};

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
pub const FRAGMENT: u8 = 44;

/// The 16-bit one's complement of the one's complement sum of all words, the last one padded with zero.
pub fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    let mut at = 0;
    while at < bytes.len() {
        let low = if at + 1 < bytes.len() { bytes[at + 1] } else { 0 };
        sum += u32::from(bytes[at]) << 8 | u32::from(low);
        at += 2;
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[derive(Clone)]
pub struct Ip4 {
    pub tos: u8,
    pub id: u16,
    pub df: bool,
    pub mf: bool,
    /// In units of eight bytes.
    pub offset: u16,
    pub ttl: u8,
    pub protocol: u8,
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub options: Vec<u8>,
}

impl Ip4 {
    /// TTL 63 and DF clear, as a packet of up to 1260 bytes has that came from IPv6 with hop limit 64.
    pub fn new(protocol: u8, source: Ipv4Addr, destination: Ipv4Addr) -> Self {
        Self {
            tos: 0,
            id: 0,
            df: false,
            mf: false,
            offset: 0,
            ttl: 63,
            protocol,
            source,
            destination,
            options: Vec::new(),
        }
    }

    /// The header for a payload of `len` bytes.
    pub fn header(&self, len: usize) -> Vec<u8> {
        assert_eq!(self.options.len() % 4, 0);
        let ihl = 5 + self.options.len() / 4;
        let total = (ihl * 4 + len) as u16;
        let flags = u16::from(self.df) << 14 | u16::from(self.mf) << 13 | self.offset;
        let mut header = vec![0x40 | ihl as u8, self.tos];
        header.extend(total.to_be_bytes());
        header.extend(self.id.to_be_bytes());
        header.extend(flags.to_be_bytes());
        header.extend([self.ttl, self.protocol, 0, 0]);
        header.extend(self.source.octets());
        header.extend(self.destination.octets());
        header.extend(&self.options);
        let checksum = internet_checksum(&header);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    /// A packet whose payload is as given.
    pub fn with(&self, payload: &[u8]) -> Vec<u8> {
        [&self.header(payload.len())[..], payload].concat()
    }

    /// A whole packet whose transport checksum is filled in.
    pub fn packet(&self, payload: &[u8]) -> Vec<u8> {
        self.with(&self.sealed(payload))
    }

    /// The payload with its transport checksum.
    pub fn sealed(&self, payload: &[u8]) -> Vec<u8> {
        let mut pseudo = Vec::new();
        if self.protocol != ICMP {
            pseudo.extend(self.source.octets());
            pseudo.extend(self.destination.octets());
            pseudo.extend([0, self.protocol]);
            pseudo.extend((payload.len() as u16).to_be_bytes());
        }
        seal(self.protocol, pseudo, payload)
    }
}

#[derive(Clone)]
pub struct Ip6 {
    pub class: u8,
    pub flow: u32,
    pub hops: u8,
    /// The upper layer, also where extension headers come before it.
    pub upper: u8,
    pub source: Ipv6Addr,
    pub destination: Ipv6Addr,
    /// Kind and bytes of each extension header; their Next Header fields are filled in.
    pub extensions: Vec<(u8, Vec<u8>)>,
}

impl Ip6 {
    /// Hop limit 63, as a packet has that came from IPv4 with TTL 64.
    pub fn new(upper: u8, source: Ipv6Addr, destination: Ipv6Addr) -> Self {
        Self { class: 0, flow: 0, hops: 63, upper, source, destination, extensions: Vec::new() }
    }

    pub fn header(&self, len: usize) -> Vec<u8> {
        let length: usize = self.extensions.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() + len;
        let mut kinds: Vec<u8> = self.extensions.iter().map(|(kind, _)| *kind).collect();
        kinds.push(self.upper);
        let word = 6 << 28 | u32::from(self.class) << 20 | self.flow;
        let mut header = word.to_be_bytes().to_vec();
        header.extend((length as u16).to_be_bytes());
        header.extend([kinds[0], self.hops]);
        header.extend(self.source.octets());
        header.extend(self.destination.octets());
        for (index, (_, bytes)) in self.extensions.iter().enumerate() {
            header.push(kinds[index + 1]);
            header.extend(&bytes[1..]);
        }
        header
    }

    pub fn with(&self, payload: &[u8]) -> Vec<u8> {
        [&self.header(payload.len())[..], payload].concat()
    }

    pub fn packet(&self, payload: &[u8]) -> Vec<u8> {
        self.with(&self.sealed(payload))
    }

    pub fn sealed(&self, payload: &[u8]) -> Vec<u8> {
        let mut pseudo = Vec::new();
        pseudo.extend(self.source.octets());
        pseudo.extend(self.destination.octets());
        pseudo.extend((payload.len() as u32).to_be_bytes());
        pseudo.extend([0, 0, 0, self.upper]);
        seal(self.upper, pseudo, payload)
    }

    /// With a Fragment header: offset in units of eight bytes.
    pub fn fragment(&self, offset: u16, more: bool, id: u32) -> Self {
        let mut header = vec![0, 0];
        header.extend((offset << 3 | u16::from(more)).to_be_bytes());
        header.extend(id.to_be_bytes());
        self.extended(FRAGMENT, header)
    }

    pub fn extended(&self, kind: u8, bytes: Vec<u8>) -> Self {
        assert_eq!(bytes.len() % 8, 0);
        let mut out = self.clone();
        out.extensions.push((kind, bytes));
        out
    }
}

fn seal(protocol: u8, pseudo: Vec<u8>, payload: &[u8]) -> Vec<u8> {
    let at = match protocol {
        TCP => 16,
        UDP => 6,
        ICMP | ICMPV6 => 2,
        _ => return payload.to_vec(),
    };
    let mut sealed = payload.to_vec();
    sealed[at..at + 2].fill(0);
    let mut checksum = internet_checksum(&[&pseudo[..], &sealed].concat());
    if protocol == UDP && checksum == 0 {
        checksum = 0xffff;
    }
    sealed[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    sealed
}

pub fn udp(source: u16, destination: u16, data: &[u8]) -> Vec<u8> {
    let mut out = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    out.extend((8 + data.len() as u16).to_be_bytes());
    out.extend([0, 0]);
    out.extend(data);
    out
}

/// A TCP segment with an option, so that its header is 24 bytes long.
pub fn tcp(source: u16, destination: u16, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut out = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    out.extend([1, 2, 3, 4, 5, 6, 7, 8, 0x60, flags, 0xff, 0xff, 0, 0, 0, 0, 2, 4, 5, 0xb4]);
    out.extend(data);
    out
}

/// An ICMP message of either family with its second word.
pub fn icmp(kind: u8, code: u8, word: u32, body: &[u8]) -> Vec<u8> {
    [&[kind, code, 0, 0][..], &word.to_be_bytes(), body].concat()
}

pub fn echo(kind: u8, id: u16, sequence: u16, data: &[u8]) -> Vec<u8> {
    icmp(kind, 0, u32::from(id) << 16 | u32::from(sequence), data)
}

/// Bytes that differ from their neighbours.
pub fn data(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 256) as u8).collect()
}
