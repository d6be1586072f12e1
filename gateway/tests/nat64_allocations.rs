//! A packet of an established NAT64 session costs no heap allocation, whatever its size, protocol or direction.

// The Python module brings its own global allocator.
#![cfg(not(feature = "python"))]

use portico_gateway::core::frame::{Frame, HEADROOM, Offload, SegmentKind};
use portico_gateway::core::nat64::{Config, Nat64, PoolEntry, Prefix, Verdict};
use portico_gateway::core::time::Now;
use portico_gateway::wire::{icmpv4, ipv4, ipv6, tcp, udp};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{Ipv4Addr, Ipv6Addr};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const POOL: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 4);

fn v6_packet(protocol: u8, transport: &[u8]) -> Vec<u8> {
    let header = ipv6::Ipv6Header {
        traffic_class: 0,
        flow_label: 0,
        payload_len: transport.len(),
        next_header: protocol,
        hop_limit: 64,
        source: "fd00:1000::c1".parse::<Ipv6Addr>().unwrap(),
        destination: "fd00:7777::a00:4".parse::<Ipv6Addr>().unwrap(),
    };
    let mut out = vec![0; 40];
    header.emit(&mut out);
    out.extend_from_slice(transport);
    out
}

fn v4_packet(protocol: u8, dont_fragment: bool, transport: &[u8]) -> Vec<u8> {
    let header = ipv4::Ipv4Header {
        header_len: 20,
        traffic_class: 0,
        total_len: 20 + transport.len(),
        identification: 1,
        dont_fragment,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol,
        source: SERVER,
        destination: POOL,
    };
    let mut out = vec![0; 20];
    header.emit(&mut out);
    out.extend_from_slice(transport);
    out
}

fn tcp_segment(ports: (u16, u16), flags: u8, len: usize) -> Vec<u8> {
    let mut out = vec![0; tcp::HEADER_LEN + len];
    out[..2].copy_from_slice(&ports.0.to_be_bytes());
    out[2..4].copy_from_slice(&ports.1.to_be_bytes());
    (out[12], out[13]) = (0x50, flags);
    out
}

fn datagram(ports: (u16, u16), len: usize) -> Vec<u8> {
    let mut out = vec![0; udp::HEADER_LEN + len];
    let header = udp::UdpHeader {
        source_port: ports.0,
        destination_port: ports.1,
        length: udp::HEADER_LEN + len,
        checksum: 0x1234,
    };
    header.emit(&mut out);
    out
}

fn echo(kind: u8) -> Vec<u8> {
    let mut out = vec![kind, 0, 0, 0, 0x9c, 0x40, 0, 1];
    icmpv4::put_checksum(&mut out);
    out
}

#[test]
fn no_allocation_per_packet_of_an_established_session() {
    let prefix = Prefix::new("fd00:7777::".parse().unwrap(), 96).unwrap();
    let pool = vec![PoolEntry { address: POOL, first: 32_768, last: 60_999 }];
    let mut nat = Nat64::new(Config::new(prefix, pool, "fd00:1000::1".parse().unwrap())).unwrap();
    let mut buffer = vec![0u8; 70_000];
    let mut sunk = 0u64;
    let mut run = |packet: &[u8], offload: Offload, from_v6: bool| {
        buffer[HEADROOM..HEADROOM + packet.len()].copy_from_slice(packet);
        let mut frame = Frame::new(&mut buffer, HEADROOM, HEADROOM + packet.len(), offload);
        let mut sink = |_: &[u8]| sunk += 1;
        match from_v6 {
            true => nat.from_v6(Now::from_secs(1), &mut frame, &mut sink),
            false => nat.from_v4(Now::from_secs(1), &mut frame, &mut sink),
        }
    };

    let none = Offload::default();
    let large = Offload { kind: SegmentKind::Tcp, segment_size: 1220, partial_checksum: true };
    let datagrams = Offload { kind: SegmentKind::Udp, segment_size: 1200, partial_checksum: true };
    let out = (40_000, 80);
    let back = (80, 40_000);
    let cases = [
        (v6_packet(6, &tcp_segment(out, tcp::SYN, 0)), none, true, Verdict::Forward),
        (v4_packet(6, true, &tcp_segment(back, tcp::SYN | tcp::ACK, 0)), none, false, Verdict::Forward),
        (v6_packet(6, &tcp_segment(out, tcp::ACK, 1220)), none, true, Verdict::Forward),
        (v4_packet(6, true, &tcp_segment(back, tcp::ACK, 1220)), none, false, Verdict::Forward),
        (v6_packet(6, &tcp_segment(out, tcp::ACK, 60_000)), large, true, Verdict::Forward),
        (v4_packet(6, true, &tcp_segment(back, tcp::ACK, 60_000)), large, false, Verdict::Forward),
        (v6_packet(17, &datagram(out, 200)), none, true, Verdict::Forward),
        (v4_packet(17, true, &datagram(back, 200)), none, false, Verdict::Forward),
        (v6_packet(17, &datagram(out, 9000)), datagrams, true, Verdict::Forward),
        (v4_packet(17, true, &datagram(back, 9000)), datagrams, false, Verdict::Forward),
        (v4_packet(17, false, &datagram(back, 3000)), none, false, Verdict::Sent),
        (v6_packet(58, &echo(128)), none, true, Verdict::Forward),
        (v4_packet(1, true, &echo(0)), none, false, Verdict::Forward),
    ];
    // The first round makes the sessions.
    for (packet, offload, from_v6, expected) in &cases {
        assert_eq!(run(packet, *offload, *from_v6), *expected);
    }
    let before = ALLOCATIONS.with(Cell::get);
    let mut wrong = 0;
    for _ in 0..1000 {
        for (packet, offload, from_v6, expected) in &cases[2..] {
            wrong += u32::from(run(packet, *offload, *from_v6) != *expected);
        }
    }
    let allocations = ALLOCATIONS.with(Cell::get) - before;
    assert_eq!((wrong, allocations, sunk), (0, 0, 3003));
}
