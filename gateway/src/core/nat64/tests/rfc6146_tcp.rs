//! RFC 6146 section 3.5.2: every state of the TCP machine with every kind of segment, lifetimes, probes, simultaneous
//! open; section 3.5.1.1: one address per client; section 3.4: nobody fills the fragment table alone.

use super::packets::*;
use super::*;

const FIN: u8 = 0x11;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// A segment of the connection, from IPv6 or IPv4.
type Event = (bool, u8);

const EVENTS: [Event; 9] = [
    (true, SYN),
    (true, SYN | ACK),
    (true, FIN),
    (true, RST),
    (true, ACK),
    (false, SYN | ACK),
    (false, FIN),
    (false, RST),
    (false, ACK),
];

fn send(bench: &mut Bench, (from_v6, flags): Event) {
    let verdict = match from_v6 {
        true => bench.v6(&V6::new(server6(), 6).build(tcp(40_001, 80, flags, b""))).0,
        false => bench.v4(&V4::new(SERVER, 6).build(tcp(80, 40_001, flags, b""))).0,
    };
    assert_eq!(verdict, Verdict::Forward, "every segment of a known connection passes");
}

/// State and remaining seconds.
fn session(bench: &Bench) -> (&'static str, u64) {
    let sessions = bench.nat.sessions(bench.now);
    assert_eq!(sessions.len(), 1);
    (sessions[0].state, sessions[0].expires_in)
}

/// A bench in a state, one hundred seconds old.
fn bench_in(state: &str) -> Bench {
    let path: &[Event] = match state {
        "v6_init" => &[(true, SYN)],
        "established" => &[(true, SYN), (false, SYN | ACK)],
        "v4_fin_received" => &[(true, SYN), (false, SYN | ACK), (false, FIN)],
        "v6_fin_received" => &[(true, SYN), (false, SYN | ACK), (true, FIN)],
        "both_fin_received" => &[(true, SYN), (false, SYN | ACK), (true, FIN), (false, FIN)],
        "transitory" => &[(true, SYN), (false, SYN | ACK), (false, RST)],
        _ => &[],
    };
    let mut bench = Bench::new(config());
    if state == "v4_init" {
        // The binding exists because of another connection of the same port, which has ended with its session.
        bench.pass6(&V6::new(prefix().embed(ROUTER), 6).build(tcp(40_001, 80, SYN, b"")));
        bench.after(100);
        send(&mut bench, (false, SYN));
        bench.after(140);
        assert_eq!(session(&bench), ("v4_init", 100));
        return bench;
    }
    for event in path {
        send(&mut bench, *event);
    }
    bench.after(100);
    assert_eq!(session(&bench).0, state);
    bench
}

const TRANS: u64 = 240;
const EST: u64 = 7440;

#[test]
fn every_segment_in_every_state() {
    for state in
        ["v4_init", "v6_init", "established", "v4_fin_received", "v6_fin_received", "both_fin_received", "transitory"]
    {
        for event in EVENTS {
            let mut bench = bench_in(state);
            let before = session(&bench);
            send(&mut bench, event);
            let syn = event.1 & SYN != 0;
            let expected = match (state, event) {
                ("v4_init", (true, _)) if syn => ("established", EST),
                ("v6_init", (false, _)) if syn => ("established", EST),
                ("v6_init", (true, _)) if syn => ("v6_init", TRANS),
                ("established", (false, FIN)) => ("v4_fin_received", before.1),
                ("established", (true, FIN)) => ("v6_fin_received", before.1),
                ("established", (_, RST)) => ("transitory", TRANS),
                ("established", _) => ("established", EST),
                ("v4_fin_received", (true, FIN)) | ("v6_fin_received", (false, FIN)) => ("both_fin_received", TRANS),
                ("v4_fin_received" | "v6_fin_received", (_, RST)) => ("transitory", TRANS),
                ("v4_fin_received" | "v6_fin_received", _) => (state, EST),
                ("transitory", (_, RST)) => before,
                ("transitory", _) => ("established", EST),
                _ => before,
            };
            assert_eq!(session(&bench), expected, "{state} and {event:?}");
        }
    }
}

#[test]
fn an_idle_established_connection_is_probed_before_it_ends() {
    let mut bench = bench_in("established");
    bench.after(EST - 100);
    let probe = bench.sunk.pop().expect("a probe for the client");
    assert_eq!((address6(&probe, 8), address6(&probe, 24), probe.len()), (server6(), client(), 60));
    let segment = check(&probe);
    assert_eq!((word16(segment, 0), word16(segment, 2), segment[13]), (80, 40_001, ACK));
    assert_eq!((word32(segment, 4), word32(segment, 8)), (0, 0), "sequence and acknowledgement number");
    assert_eq!(session(&bench), ("transitory", TRANS));
    // A living client answers, and all goes on.
    send(&mut bench, (true, ACK));
    assert_eq!(session(&bench), ("established", EST));
    // One that has gone does not, and is forgotten.
    bench.after(EST);
    assert_eq!((bench.sunk.len(), session(&bench)), (1, ("transitory", TRANS)));
    bench.after(TRANS);
    assert_eq!((bench.nat.stats().sessions, bench.nat.stats().probes_sent, bench.sunk.len()), (0, 2, 1));
}

#[test]
fn other_states_end_without_a_probe() {
    for (state, life) in
        [("v6_init", TRANS), ("v4_fin_received", EST), ("v6_fin_received", EST), ("both_fin_received", TRANS)]
    {
        let mut bench = bench_in(state);
        bench.after(life - 101);
        assert_eq!(session(&bench).0, state);
        bench.after(1);
        assert_eq!((bench.nat.stats().sessions, bench.sunk.len()), (0, 0), "{state}");
    }
}

#[test]
fn a_client_keeps_its_pool_address_while_it_has_bindings() {
    let other = Ipv4Addr::new(10, 0, 0, 3);
    let entry = |address| PoolEntry { address, first: 40_000, last: 40_003 };
    let mut bench = Bench::new(Config { pool: vec![entry(POOL), entry(other)], ..config() });
    let mut open = |host: u16, port| {
        let source = Ipv6Addr::new(0xfd7c, 0, 0, 0, 0, 0, 0, host);
        let packet = V6 { source, ..V6::new(server6(), 17) };
        bench.v6(&packet.build(udp(port, 53, b""))).1[12..16].to_vec()
    };
    for host in 1..=4 {
        let first = open(host, 40_000);
        assert_eq!(open(host, 40_001), first, "client {host}");
    }
}

#[test]
fn one_source_cannot_fill_the_fragment_table() {
    let mut bench = Bench::new(config());
    let later = |source, id| V6 { source, ..V6::new(server6(), 17) }.fragment(64, id).raw(&[7; 1200]);
    let greedy = client();
    let held = (0..2000).filter(|id| bench.v6(&later(greedy, *id)).0 == Verdict::Held).count();
    assert!((100..=256).contains(&held), "{held}");
    let modest = "fd7c:1a2b:3c4d:1000::c2".parse().unwrap();
    assert_eq!(bench.v6(&later(modest, 1)).0, Verdict::Held);
    bench.after(3);
    assert_eq!(bench.v6(&later(greedy, 1)).0, Verdict::Held);
}

#[test]
fn an_error_from_a_router_belongs_to_the_shard_of_the_client_it_is_about() {
    let quoted = V6 { source: server6(), ..V6::new(client(), 17) }.build(udp(53, 40_000, b""));
    let router: Ipv6Addr = "fd00::99".parse().unwrap();
    let error = V6 { source: router, ..V6::new(server6(), 58) }.build(icmp(1, 4, 0, &quoted));
    let echo = V6 { source: router, ..V6::new(server6(), 58) }.build(icmp(128, 0, 0, &quoted));
    let fragment = V6 { source: router, ..V6::new(server6(), 58) }.fragment(64, 1).raw(&error[40..]);
    for shards in 1..50 {
        assert_eq!(shard_of_v6(&fragment, shards), shard_of_client(router, shards));
        assert_eq!(shard_of_v6(&error, shards), shard_of_client(client(), shards));
        assert_eq!(shard_of_v6(&echo, shards), shard_of_client(router, shards));
    }
}

/// RFC 4787 sections 4.2.2 and 4.2.3: an even port and the next, as RTP and RTCP use them, stay together.
#[test]
fn pairs_of_ports_stay_together() {
    let mut bench = Bench::new(config());
    let mut open = |host: u16, port| {
        let source = Ipv6Addr::new(0xfd7c, 0, 0, 0, 0, 0, 0, host);
        word16(check(&bench.pass6(&V6 { source, ..V6::new(server6(), 17) }.build(udp(port, 53, b"")))), 0)
    };
    for host in 1..1000 {
        let (rtp, rtcp) = if host % 2 == 0 {
            (open(host, 5004), open(host, 5005))
        } else {
            let rtcp = open(host, 5005);
            (open(host, 5004), rtcp)
        };
        // Only who came with the odd port may find the even one taken.
        assert!(rtp % 2 == 0 && rtcp % 2 == 1 && (rtcp == rtp + 1 || host % 2 == 1), "{host}: {rtp} {rtcp}");
    }
}

#[test]
fn a_fragmented_error_of_a_router_reaches_the_shard_of_the_client() {
    let shards = 4;
    let own = shard_of_client(client(), shards);
    let mut home = Bench::new(Config { shard: own, shards, ..config() });
    let out = home.pass6(&V6::new(server6(), 17).build(udp(40_000, 53, &[1; 1000])));
    let port = word16(check(&out), 0);
    let quoted = V6 { source: server6(), ..V6::new(client(), 17) }.build(udp(53, 40_000, &[1; 1000]));
    let router = |host: u16| Ipv6Addr::new(0xfd7c, 0x1a2b, 0x3c4d, 0x9999, 0, 0, 0, host);
    let router = (1..).map(router).find(|router| shard_of_client(*router, shards) != own).unwrap();
    let header = || V6 { source: router, ..V6::new(server6(), 58) };
    let error = header().build(icmp(1, 4, 0, &quoted));
    let (first, last) = (header().fragment(1, 9).raw(&error[40..640]), header().fragment(600, 9).raw(&error[640..]));
    let mut other = Bench::new(Config { shard: shard_of_v6(&first, shards), shards, ..config() });
    assert_eq!(other.v6(&first).0, Verdict::Held);
    assert_eq!(other.v6(&last).0, Verdict::Sent);
    let whole = other.sunk.pop().expect("the message, whole");
    assert_eq!((shard_of_v6(&whole, shards), other.nat.stats().handed_over), (own, 1));
    let out = home.pass6(&whole);
    let message = check(&out);
    assert_eq!((&message[..2], address4(&out, 16)), (&[3, 3][..], SERVER));
    assert_eq!(word16(message, 8 + 20 + 2), port);
}
