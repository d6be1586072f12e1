//! What a packet of an established tunnel costs on its whole way, client and server together: no heap allocation, and
//! few writes to the host.

// The Python module brings its own global allocator.
#![cfg(not(feature = "python"))]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Read;
use std::net::{Ipv6Addr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portico_gateway::io::client::ClientTunnel;
use portico_gateway::io::gateway::{Gateway, GatewayDescriptors};
use portico_gateway::wire::{checksum, tcp, udp};
use serde_json::json;
use socket2::Socket;

mod common;
use common::{Authority, server, tun};

struct Counting;

/// Of all threads: the packets pass through three.
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const VIRTIO: usize = 12;
const ROUNDS: usize = 200;
/// Carrying packets allocates nothing; now and then a thread reports its state meanwhile, which does.
const TRIES: usize = 5;
/// Pieces in which 32 segments of one flow reach the host, on average; mostly 1.2 to 1.8.
const MERGED: u64 = 4;

/// A packet behind a virtio header without offloads.
fn packet(ends: (&str, &str), protocol: u8, mut transport: Vec<u8>, checksum_at: usize) -> Vec<u8> {
    let (source, destination): (Ipv6Addr, Ipv6Addr) = (ends.0.parse().unwrap(), ends.1.parse().unwrap());
    let sum = checksum::transport_v6(source, destination, protocol, &transport);
    transport[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
    let mut out = vec![0; VIRTIO];
    out.extend([0x60, 0, 0, 0]);
    out.extend((transport.len() as u16).to_be_bytes());
    out.extend([protocol, 64]);
    out.extend(source.octets());
    out.extend(destination.octets());
    out.extend(transport);
    out
}

/// Datagrams of 200 bytes, each of a flow of its own, so that none is merged.
fn datagrams(ends: (&str, &str)) -> Vec<Vec<u8>> {
    let one = |port: u16| {
        let mut out = vec![7; udp::HEADER_LEN + 200];
        out[..2].copy_from_slice(&port.to_be_bytes());
        out[2..4].copy_from_slice(&[0, 9]);
        out[4..6].copy_from_slice(&208u16.to_be_bytes());
        out[6..8].fill(0);
        packet(ends, 17, out, 6)
    };
    (1000..1032).map(one).collect()
}

/// Segments of 1200 bytes of one flow, in order: the far host gets them merged.
fn segments(ends: (&str, &str)) -> Vec<Vec<u8>> {
    let one = |index: u32| {
        let mut out = vec![7; tcp::HEADER_LEN + 1200];
        out[..4].copy_from_slice(&[3, 232, 0, 9]);
        out[4..8].copy_from_slice(&(index * 1200).to_be_bytes());
        out[8..12].fill(0);
        out[12..20].copy_from_slice(&[0x50, tcp::ACK, 16, 0, 0, 0, 0, 0]);
        packet(ends, 6, out, 16)
    };
    (0..32).map(one).collect()
}

/// Carries the packets across once; returns how many packets or super-segments the far host was handed.
fn carry(from: &Socket, to: &mut Socket, packets: &[Vec<u8>], buffer: &mut [u8]) -> u64 {
    let protocol = packets[0][VIRTIO + 6];
    let headers = VIRTIO + 40 + if protocol == 17 { udp::HEADER_LEN } else { tcp::HEADER_LEN };
    for packet in packets {
        assert_eq!(from.send(packet).unwrap(), packet.len());
    }
    let mut missing: usize = packets.iter().map(|packet| packet.len() - headers).sum();
    let mut arrived = 0;
    while missing > 0 {
        let count = to.read(buffer).unwrap();
        if buffer[VIRTIO + 6] == protocol {
            missing -= count - headers;
            arrived += 1;
        }
    }
    arrived
}

#[test]
fn packets_of_an_established_tunnel_cost_what_they_cost_today() {
    let authority = Authority::new();
    let (trust, config) = (authority.pem(), server(&authority, "none", 10));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (mut host, queue) = tun();
    let descriptors = GatewayDescriptors {
        tunnel: vec![queue],
        nat64: vec![],
        listeners: vec![listener.into()],
        dns_udp: vec![],
        dns_tcp: vec![],
    };
    let gateway = Gateway::start(&config.to_string(), descriptors).ok().unwrap();
    let (up, down) = (("fd00:1000::c1", "fd00:1::9"), ("fd00:1::9", "fd00:1000::c1"));
    let mut buffer = vec![0; 1 << 17];
    for segmented in [true, false] {
        let config = json!({"url": format!("https://da.example.net:{port}/IPHTTPS"), "addresses": ["127.0.0.1"],
            "trust": trust, "link_local": "fe80::c1", "segments": segmented});
        let (mut remote, queue) = tun();
        let client = ClientTunnel::start(&config.to_string(), queue).unwrap();
        let begun = Instant::now();
        while !client.status().contains("\"link_up\"") {
            assert!(begun.elapsed() < Duration::from_secs(10), "{}", client.status());
            std::thread::sleep(Duration::from_millis(10));
        }
        for (name, packets, upwards, pieces) in [
            ("small up", datagrams(up), true, 32),
            ("small down", datagrams(down), false, 32),
            ("bulk up", segments(up), true, MERGED),
            ("bulk down", segments(down), false, MERGED),
        ] {
            let mut run = || match upwards {
                true => carry(&remote, &mut host, &packets, &mut buffer),
                false => carry(&host, &mut remote, &packets, &mut buffer),
            };
            for _ in 0..20 {
                run();
            }
            let mut measure = || {
                let before = ALLOCATIONS.load(Ordering::Relaxed);
                let arrived: u64 = (0..ROUNDS).map(|_| run()).sum();
                (ALLOCATIONS.load(Ordering::Relaxed) - before, arrived)
            };
            let (spent, arrived) = (0..TRIES).map(|_| measure()).min().unwrap();
            let text = format!("{name}, segments {segmented}: {spent} allocations, {arrived} writes");
            println!("{text}");
            assert_eq!(spent, 0, "{text}");
            assert!(arrived <= pieces * ROUNDS as u64, "{text}");
        }
        client.close();
        while gateway.sessions(0, 1) != "[]" {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    gateway.close();
}
