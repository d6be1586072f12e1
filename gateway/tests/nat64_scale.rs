//! Half a million bindings: what they cost in memory, and that no packet waits for a table to grow.
//!
//! The longest step is bounded without a clock: growth allocates and copies no more than one chunk, whatever the size
//! (`storage` bounds the entries that move with it). `--nocapture` prints the times as well.

// The Python module brings its own global allocator.
#![cfg(not(feature = "python"))]

use portico_gateway::core::frame::{Frame, HEADROOM, Offload};
use portico_gateway::core::nat64::{Config, Filter, Nat64, PoolEntry, Prefix, Step, Verdict};
use portico_gateway::core::time::Now;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

struct Watching;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn note(size: usize) {
    LARGEST.with(|largest| largest.set(largest.get().max(size)));
}

// SAFETY: every call is passed on to the system allocator unchanged.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

const BINDINGS: usize = 500_000;
const PORTS: usize = 4000;

/// A UDP packet from one of the clients' ports; its checksum is as wrong as it was, which no translator looks at.
fn question(number: usize) -> Vec<u8> {
    let client = u128::from("fd00:1000::1:0".parse::<Ipv6Addr>().unwrap()) + (number / PORTS) as u128;
    let mut packet = vec![0x60, 0, 0, 0, 0, 12, 17, 64];
    packet.extend(client.to_be_bytes());
    packet.extend("fd00:7777::a00:4".parse::<Ipv6Addr>().unwrap().octets());
    packet.extend((20_000 + (number % PORTS) as u16).to_be_bytes());
    packet.extend([0, 53, 0, 12, 0x12, 0x34, 1, 2, 3, 4]);
    packet
}

#[test]
fn half_a_million_bindings_are_small_and_grow_without_a_pause() {
    let prefix = Prefix::new("fd00:7777::".parse().unwrap(), 96).unwrap();
    let address = |last| PoolEntry { address: Ipv4Addr::new(10, 0, 1, last), first: 1024, last: 65_535 };
    let pool = (0..8).map(address).collect();
    let config = Config {
        max_bindings: BINDINGS,
        max_sessions: BINDINGS,
        ..Config::new(prefix, pool, "fd00:1000::1".parse().unwrap())
    };
    let mut nat = Nat64::new(config).unwrap();
    let mut buffer = vec![0u8; 2048];
    let mut run = |nat: &mut Nat64, now, number| {
        let packet = question(number);
        buffer[HEADROOM..HEADROOM + packet.len()].copy_from_slice(&packet);
        let mut frame = Frame::new(&mut buffer, HEADROOM, HEADROOM + packet.len(), Offload::default());
        let before = Instant::now();
        let verdict = nat.from_v6(now, &mut frame, &mut |_: &[u8]| {});
        (verdict, before.elapsed())
    };
    let (mut longest, mut total) = (Duration::ZERO, Duration::ZERO);
    LARGEST.with(|largest| largest.set(0));
    for number in 0..BINDINGS {
        let (verdict, time) = run(&mut nat, Now::from_secs(1), number);
        assert_eq!(verdict, Verdict::Forward, "{number}");
        (longest, total) = (longest.max(time), total + time);
    }
    let largest = LARGEST.with(Cell::get);
    assert!(largest <= 40 * 1024, "one step allocated {largest} bytes");
    let stats = nat.stats();
    assert_eq!((stats.bindings, stats.sessions, stats.clients), (BINDINGS as u64, BINDINGS as u64, 125));
    let each = stats.table_bytes as f64 / BINDINGS as f64;
    assert!(each < 80.0, "{each} bytes for a binding and its session");
    assert_ne!(run(&mut nat, Now::from_secs(1), BINDINGS).0, Verdict::Forward);

    let (mut known, mut known_longest) = (Duration::ZERO, Duration::ZERO);
    for number in (0..BINDINGS).step_by(5) {
        // In another order than they were made in.
        let (verdict, time) = run(&mut nat, Now::from_secs(2), number * 7919 % BINDINGS);
        assert_eq!(verdict, Verdict::Forward);
        (known, known_longest) = (known + time, known_longest.max(time));
    }

    let (mut from, mut listed, mut page) = (Some(0), 0, Duration::ZERO);
    while let Some(place) = from {
        let mut rows = Vec::with_capacity(1024);
        let before = Instant::now();
        let step = Step { from: place, places: 1024, entries: 1024 };
        from = nat.walk_sessions(Now::from_secs(2), &Filter::default(), step, &mut rows);
        page = page.max(before.elapsed());
        listed += rows.len();
    }
    assert_eq!(listed, BINDINGS);

    let (mut steps, mut expiry) = (0, Duration::ZERO);
    while nat.stats().sessions > 0 {
        let before = Instant::now();
        nat.handle_timeout(Now::from_secs(400), &mut |_: &[u8]| {});
        expiry = expiry.max(before.elapsed());
        steps += 1;
    }
    // Each session comes up at its first end, was refreshed, and comes up once more.
    assert!(steps <= 2 * BINDINGS / 256 + 2, "{steps} steps");
    assert_eq!((nat.stats().bindings, nat.stats().clients), (0, 0));
    println!(
        "{each:.1} bytes each; made in {:?} ({longest:?} at most), found in {:?} ({known_longest:?} at most); \
         {page:?} at most for 1,024 rows, {expiry:?} for 256 ends",
        total / BINDINGS as u32,
        known / (BINDINGS / 5) as u32,
    );
}
