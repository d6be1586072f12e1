//! Packets as clients and hosts send them.

use std::net::{Ipv4Addr, Ipv6Addr};

use portico_gateway::wire::{checksum, ipv4, ipv6, tcp, udp};

pub const HOST: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 9);
pub const HOST4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 4);
pub const POOL: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The address of a client by its number.
pub fn client(number: usize) -> Ipv6Addr {
    Ipv6Addr::from_bits(0xfd00_1000_u128 << 96 | 0xc << 32 | number as u128)
}

/// The IPv6 address that stands for `HOST4`.
pub fn mapped() -> Ipv6Addr {
    Ipv6Addr::from_bits(0xfd00_7777_u128 << 96 | u128::from(HOST4.to_bits()))
}

fn packet6(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    protocol: u8,
    mut transport: Vec<u8>,
    checksum_at: usize,
) -> Vec<u8> {
    let sum = checksum::transport_v6(source, destination, protocol, &transport);
    transport[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
    let header = ipv6::Ipv6Header {
        traffic_class: 0,
        flow_label: 0,
        payload_len: transport.len(),
        next_header: protocol,
        hop_limit: 64,
        source,
        destination,
    };
    let mut out = vec![0; 40];
    header.emit(&mut out);
    out.extend_from_slice(&transport);
    out
}

fn packet4(protocol: u8, transport: &[u8]) -> Vec<u8> {
    let header = ipv4::Ipv4Header {
        header_len: 20,
        traffic_class: 0,
        total_len: 20 + transport.len(),
        identification: 1,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol,
        source: HOST4,
        destination: POOL,
    };
    let mut out = vec![0; 20];
    header.emit(&mut out);
    out.extend_from_slice(transport);
    out
}

fn segment(ports: (u16, u16), sequence: u32, flags: u8, len: usize) -> Vec<u8> {
    let mut out = vec![7; tcp::HEADER_LEN + len];
    out[..2].copy_from_slice(&ports.0.to_be_bytes());
    out[2..4].copy_from_slice(&ports.1.to_be_bytes());
    out[4..8].copy_from_slice(&sequence.to_be_bytes());
    out[8..12].fill(0);
    out[12..20].copy_from_slice(&[0x50, flags, 16, 0, 0, 0, 0, 0]);
    out
}

fn datagram(ports: (u16, u16), len: usize) -> Vec<u8> {
    let mut out = vec![7; udp::HEADER_LEN + len];
    let header =
        udp::UdpHeader { source_port: ports.0, destination_port: ports.1, length: udp::HEADER_LEN + len, checksum: 0 };
    header.emit(&mut out);
    out
}

pub fn tcp6(ends: (Ipv6Addr, Ipv6Addr), ports: (u16, u16), sequence: u32, flags: u8, len: usize) -> Vec<u8> {
    packet6(ends.0, ends.1, TCP, segment(ports, sequence, flags, len), 16)
}

pub fn udp6(ends: (Ipv6Addr, Ipv6Addr), ports: (u16, u16), len: usize) -> Vec<u8> {
    packet6(ends.0, ends.1, UDP, datagram(ports, len), 6)
}

pub fn tcp4(ports: (u16, u16), flags: u8, len: usize) -> Vec<u8> {
    let mut transport = segment(ports, 1, flags, len);
    let sum = checksum::transport_v4(HOST4, POOL, TCP, &transport);
    transport[16..18].copy_from_slice(&sum.to_be_bytes());
    packet4(TCP, &transport)
}

pub fn udp4(ports: (u16, u16), len: usize) -> Vec<u8> {
    let mut transport = datagram(ports, len);
    let sum = checksum::transport_v4(HOST4, POOL, UDP, &transport);
    transport[6..8].copy_from_slice(&sum.to_be_bytes());
    packet4(UDP, &transport)
}
