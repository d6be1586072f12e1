//! RFC 6146: bindings, filtering, the TCP states, lifetimes, hairpinning, fragments out of order, limits.

use super::packets::*;
use super::*;
use std::time::Duration;

const SYN: u8 = 2;
const ACK: u8 = 16;
const FIN: u8 = 1;
const RST: u8 = 4;

fn out6(bench: &mut Bench, flags: u8) -> (Verdict, Vec<u8>) {
    bench.v6(&V6::new(server6(), 6).build(tcp(40_001, 80, flags, b"")))
}

fn in4(bench: &mut Bench, flags: u8) -> (Verdict, Vec<u8>) {
    bench.v4(&V4::new(SERVER, 6).build(tcp(80, 40_001, flags, b"")))
}

fn state(bench: &Bench) -> (&'static str, u64) {
    let sessions = bench.nat.sessions(bench.now);
    assert_eq!(sessions.len(), 1);
    (sessions[0].state, sessions[0].expires_in)
}

#[test]
fn a_tcp_connection_from_syn_to_the_end() {
    let mut bench = Bench::new(config());
    assert_eq!(out6(&mut bench, SYN).0, Verdict::Forward);
    assert_eq!(state(&bench), ("v6_init", 240));
    let (verdict, out) = in4(&mut bench, SYN | ACK);
    assert_eq!(verdict, Verdict::Forward);
    assert_eq!(word16(check(&out), 2), 40_001);
    assert_eq!(state(&bench), ("established", 7440));
    bench.after(7000);
    let _ = out6(&mut bench, ACK);
    assert_eq!(state(&bench), ("established", 7440));
    let _ = out6(&mut bench, FIN | ACK);
    assert_eq!(state(&bench), ("v6_fin_received", 7440));
    let _ = in4(&mut bench, FIN | ACK);
    assert_eq!(state(&bench), ("both_fin_received", 240));
    let _ = out6(&mut bench, ACK);
    assert_eq!(state(&bench), ("both_fin_received", 240));
    bench.after(241);
    assert_eq!((bench.nat.stats().sessions, bench.nat.stats().bindings, bench.nat.stats().clients), (0, 0, 0));
    assert_eq!(bench.nat.next_timeout(), None);
}

#[test]
fn a_reset_leaves_four_minutes() {
    let mut bench = Bench::new(config());
    let _ = out6(&mut bench, SYN);
    let _ = in4(&mut bench, SYN | ACK);
    let _ = in4(&mut bench, RST);
    assert_eq!(state(&bench), ("transitory", 240));
    let _ = out6(&mut bench, ACK);
    assert_eq!(state(&bench), ("established", 7440));
}

#[test]
fn tcp_without_a_session_is_dropped_unless_its_binding_is_known() {
    let mut bench = Bench::new(config());
    assert_eq!(out6(&mut bench, ACK).0, Verdict::Drop(Reason::NoSession));
    assert_eq!(in4(&mut bench, SYN).0, Verdict::Drop(Reason::NoBinding));
    let _ = out6(&mut bench, SYN);
    let other = V6::new(prefix().embed(ROUTER), 6).build(tcp(40_001, 80, ACK, b""));
    assert_eq!(bench.v6(&other).0, Verdict::Forward);
    assert_eq!(bench.nat.stats().sessions, 1);
}

#[test]
fn udp_and_icmp_live_five_minutes_and_one() {
    let mut bench = Bench::new(config());
    bench.pass6(&V6::new(server6(), 17).build(udp(5000, 53, b"")));
    bench.pass6(&V6::new(server6(), 58).build(icmp(128, 0, 7 << 16, b"")));
    bench.after(59);
    assert_eq!(bench.nat.stats().sessions, 2);
    bench.after(1);
    assert_eq!(bench.nat.stats().sessions, 1);
    bench.after(239);
    assert_eq!(bench.nat.stats().sessions, 1);
    bench.after(1);
    assert_eq!((bench.nat.stats().sessions, bench.nat.stats().sessions_expired), (0, 2));
}

#[test]
fn traffic_in_either_direction_keeps_a_udp_session() {
    let mut bench = Bench::new(config());
    bench.pass6(&V6::new(server6(), 17).build(udp(40_000, 53, b"")));
    for _ in 0..10 {
        bench.after(200);
        bench.pass4(&V4::new(SERVER, 17).build(udp(53, 40_000, b"")));
    }
    bench.after(300);
    let (verdict, reply) = bench.v4(&V4::new(SERVER, 17).build(udp(53, 40_000, b"")));
    assert_eq!((verdict, &check(&reply)[..2]), (Verdict::Reply, &[3, 3][..]));
}

#[test]
fn the_mapping_does_not_depend_on_the_endpoint() {
    let mut bench = Bench::new(config());
    let ports: Vec<u16> = [SERVER, ROUTER, Ipv4Addr::new(192, 0, 2, 1)]
        .into_iter()
        .map(|host| word16(check(&bench.pass6(&V6::new(prefix().embed(host), 17).build(udp(53, 99, b"")))), 0))
        .collect();
    assert!(ports.iter().all(|port| *port == ports[0] && port % 2 == 1), "{ports:?}");
    assert_eq!((bench.nat.bindings().len(), bench.nat.stats().sessions), (1, 3));
}

#[test]
fn filtering_is_endpoint_independent_by_default_and_address_dependent_on_demand() {
    for filtering in [Filtering::EndpointIndependent, Filtering::AddressDependent] {
        let mut bench = Bench::new(Config { filtering, ..config() });
        bench.pass6(&V6::new(server6(), 17).build(udp(40_000, 53, b"")));
        bench.pass4(&V4::new(SERVER, 17).build(udp(9999, 40_000, b"other port")));
        let (verdict, reply) = bench.v4(&V4::new(ROUTER, 17).build(udp(53, 40_000, b"other host")));
        if filtering == Filtering::EndpointIndependent {
            assert_eq!(verdict, Verdict::Forward);
        } else {
            assert_eq!((verdict, &check(&reply)[..2]), (Verdict::Reply, &[3, 13][..]));
        }
    }
}

#[test]
fn a_syn_from_ipv4_opens_a_known_binding_when_filtering_allows() {
    let mut bench = Bench::new(config());
    let _ = out6(&mut bench, SYN);
    let syn = V4::new(ROUTER, 6).build(tcp(5555, 40_001, SYN, b""));
    assert_eq!(bench.v4(&syn).0, Verdict::Forward);
    let states: Vec<_> = bench.nat.sessions(bench.now).iter().map(|session| session.state).collect();
    assert_eq!(states, ["v6_init", "v4_init"]);
}

#[test]
fn a_filtered_syn_waits_six_seconds_for_a_simultaneous_open() {
    let filtered = || Bench::new(Config { filtering: Filtering::AddressDependent, ..config() });
    let syn = V4::new(ROUTER, 6).build(tcp(5555, 40_001, SYN, b""));
    let mut bench = filtered();
    let _ = out6(&mut bench, SYN);
    assert_eq!(bench.v4(&syn).0, Verdict::Drop(Reason::Filtered));
    assert_eq!(bench.v4(&syn).0, Verdict::Drop(Reason::Filtered));
    bench.after(5);
    assert!(bench.sunk.is_empty());
    bench.after(2);
    assert_eq!(bench.sunk.len(), 1);
    let reply = &bench.sunk[0];
    assert_eq!((&check(reply)[..2], address4(reply, 16)), (&[3, 3][..], ROUTER));

    let mut bench = filtered();
    let _ = out6(&mut bench, SYN);
    let _ = bench.v4(&syn);
    let answer = V6::new(prefix().embed(ROUTER), 6).build(tcp(40_001, 5555, SYN, b""));
    assert_eq!(bench.v6(&answer).0, Verdict::Forward);
    assert_eq!(bench.v4(&syn).0, Verdict::Forward);
    bench.after(10);
    assert!(bench.sunk.is_empty());
    assert_eq!(bench.nat.stats().simultaneous_opens, 1);
}

/// RFC 6146 3.5.2.2, CLOSED: a SYN for a port that nobody has is stored too, "to support simultaneous open".
#[test]
fn a_syn_for_a_free_port_waits_six_seconds_as_well() {
    let syn = V4::new(SERVER, 6).build(tcp(80, 40_001, SYN, b""));
    let mut bench = Bench::new(config());
    assert_eq!(bench.v4(&syn).0, Verdict::Drop(Reason::NoBinding));
    assert_eq!((bench.nat.stats().sessions, bench.nat.stats().syns_held), (0, 1));
    bench.after(3);
    // The client opens the same connection, and its port is preserved.
    let _ = out6(&mut bench, SYN);
    assert_eq!(state(&bench), ("established", 7440));
    assert_eq!(in4(&mut bench, SYN).0, Verdict::Forward);
    bench.after(7);
    assert!(bench.sunk.is_empty());

    let mut bench = Bench::new(config());
    let _ = bench.v4(&syn);
    bench.after(6);
    let reply = bench.sunk.pop().expect("an error");
    assert_eq!((&check(&reply)[..2], address4(&reply, 12), address4(&reply, 16)), (&[3, 3][..], POOL, SERVER));
    assert_eq!(&reply[28..68], &syn[..40]);
    assert_eq!(bench.nat.next_timeout(), None);
}

#[test]
fn only_a_plain_syn_is_held() {
    let mut bench = Bench::new(config());
    for flags in [ACK, SYN | ACK, SYN | 0x04, SYN | 0x01, 0x04] {
        let _ = in4(&mut bench, flags);
    }
    bench.after(10);
    assert!(bench.sunk.is_empty());
}

#[test]
fn a_held_syn_opens_the_filter_for_nobody() {
    let mut bench = Bench::new(Config { filtering: Filtering::AddressDependent, ..config() });
    let _ = out6(&mut bench, SYN);
    let stranger = |flags| V4::new(ROUTER, 6).build(tcp(5555, 40_001, flags, b""));
    assert_eq!(bench.v4(&stranger(SYN)).0, Verdict::Drop(Reason::Filtered));
    assert_eq!(bench.v4(&stranger(ACK)).0, Verdict::Drop(Reason::Filtered));
    assert_eq!(bench.nat.stats().sessions, 1);
}

#[test]
fn a_session_whose_time_is_over_does_not_wait_for_the_timer() {
    let mut bench = Bench::new(Config { filtering: Filtering::AddressDependent, ..config() });
    let _ = out6(&mut bench, SYN);
    let _ = bench.v4(&V4::new(ROUTER, 6).build(tcp(5555, 40_001, SYN, b"")));
    bench.now = bench.now + Duration::from_secs(6);
    assert_eq!(bench.nat.sessions(bench.now).len(), 1);
    // The held SYN is too old: the client opens a connection of its own, and the old SYN is not answered any more.
    let _ = bench.v6(&V6::new(prefix().embed(ROUTER), 6).build(tcp(40_001, 5555, SYN, b"")));
    assert!(bench.nat.sessions(bench.now).iter().all(|session| session.state == "v6_init"));
    bench.after(300);
    assert!(bench.sunk.is_empty());
    assert_eq!((bench.nat.stats().sessions, bench.nat.stats().bindings), (0, 0));
}

#[test]
fn counters_have_names_and_the_listing_is_sorted() {
    let mut bench = Bench::new(config());
    for port in [9, 7, 8] {
        bench.pass6(&V6::new(server6(), 17).build(udp(port, 53, b"")));
    }
    let _ = bench.v6(&[]);
    let ports: Vec<u16> = bench.nat.bindings().iter().map(|binding| binding.client_port).collect();
    assert_eq!(ports, [7, 8, 9]);
    let counters = bench.nat.stats().counters();
    let value = |name: &str| counters.iter().find(|(counter, _)| counter == name).map(|(_, value)| *value);
    assert_eq!((value("packets_6to4"), value("refused_malformed"), value("sessions")), (Some(3), Some(1), Some(3)));
}

#[test]
fn the_same_packets_and_seed_give_the_same_ports() {
    let ports = |seed| -> Vec<u16> {
        let mut bench = Bench::new(Config { seed, ..config() });
        (1..200u16)
            .map(|port| word16(check(&bench.pass6(&V6::new(server6(), 17).build(udp(port, 53, b"")))), 0))
            .collect()
    };
    assert_eq!(ports(1), ports(1));
    assert_ne!(ports(1), ports(2));
}

#[test]
fn two_clients_reach_each_other_through_the_pool() {
    let mut bench = Bench::new(config());
    let other: Ipv6Addr = "fd7c:1a2b:3c4d:1000::c2".parse().unwrap();
    bench.pass6(&V6 { source: other, ..V6::new(server6(), 17) }.build(udp(41_000, 53, b"")));
    let out = bench.pass6(&V6::new(prefix().embed(POOL), 17).build(udp(40_000, 41_000, b"hello")));
    assert_eq!((address6(&out, 8), address6(&out, 24)), (prefix().embed(POOL), other));
    let payload = check(&out);
    assert_eq!((word16(payload, 0), word16(payload, 2), &payload[8..]), (40_000, 41_000, &b"hello"[..]));
    let back = V6 { source: other, ..V6::new(prefix().embed(POOL), 17) }.build(udp(41_000, 40_000, b"hi"));
    let back = bench.pass6(&back);
    assert_eq!(address6(&back, 24), client());
    check(&back);
    assert_eq!(bench.nat.stats().hairpinned, 2);
    // An error about it turns round as well.
    let error = V6 { source: other, ..V6::new(prefix().embed(POOL), 58) }.build(icmp(1, 4, 0, &out));
    let error = bench.pass6(&error);
    assert_eq!((address6(&error, 24), &check(&error)[..2]), (client(), &[1, 4][..]));
}

#[test]
fn a_service_of_the_pool_address_itself_is_left_to_the_host() {
    let mut bench = Bench::new(config());
    let out = bench.pass6(&V6::new(prefix().embed(POOL), 6).build(tcp(40_000, 22, SYN, b"")));
    assert_eq!((out[0] >> 4, address4(&out, 16)), (4, POOL));
}

#[test]
fn fragments_before_their_first_are_held_and_released() {
    for from_v6 in [true, false] {
        let mut bench = Bench::new(config());
        bench.pass6(&V6::new(server6(), 17).build(udp(40_000, 53, b"")));
        let (first, second) = if from_v6 {
            let whole = V6::new(server6(), 17).build(udp(40_000, 53, &[7; 1992]))[40..].to_vec();
            let packet = |field, data: &[u8]| V6::new(server6(), 17).fragment(field, 77).raw(data);
            (packet(1, &whole[..1200]), packet(1200, &whole[1200..]))
        } else {
            let whole = V4::new(SERVER, 17).build(udp(53, 40_000, &[7; 1992]))[20..].to_vec();
            let packet = |fragment, data: &[u8]| V4 { fragment, ..V4::new(SERVER, 17) }.raw(data);
            (packet(0x2000, &whole[..1200]), packet(150, &whole[1200..]))
        };
        let run = |bench: &mut Bench, packet: &[u8]| if from_v6 { bench.v6(packet) } else { bench.v4(packet) };
        assert_eq!(run(&mut bench, &second), (Verdict::Held, second.clone()));
        let (verdict, out) = run(&mut bench, &first);
        assert_eq!((verdict, bench.sunk.len()), (Verdict::Forward, 1));
        assert_eq!(reassemble(&[out, bench.sunk[0].clone()]).len(), 2000);
        // Two seconds later the packet is forgotten, and a lone fragment is counted when its time is over.
        bench.after(3);
        assert_eq!(run(&mut bench, &second).0, Verdict::Held);
        bench.after(3);
        assert_eq!(bench.nat.stats().fragments_expired, 1);
    }
}

#[test]
fn full_tables_answer_address_unreachable_and_recover() {
    let limits: [(Config, Reason); 5] = [
        (Config { max_bindings: 2, ..config() }, Reason::BindingsFull),
        (Config { max_bindings_per_client: 2, ..config() }, Reason::ClientBindings),
        (Config { max_sessions: 2, ..config() }, Reason::SessionsFull),
        (Config { max_sessions_per_client: 2, ..config() }, Reason::ClientSessions),
        (
            Config { pool: vec![PoolEntry { address: POOL, first: 50_000, last: 50_001 }], ..config() },
            Reason::PortsExhausted,
        ),
    ];
    for (config, reason) in limits {
        let mut bench = Bench::new(config);
        for port in [1000, 1001] {
            bench.pass6(&V6::new(server6(), 17).build(udp(port, 53, b"")));
        }
        let third = V6::new(server6(), 17).build(udp(1002, 53, b""));
        let (verdict, reply) = bench.v6(&third);
        assert_eq!((verdict, &check(&reply)[..2]), (Verdict::Reply, &[1, 3][..]), "{reason:?}");
        assert_eq!(bench.nat.stats().refused(reason), 1, "{reason:?}");
        // Those who have a session are not disturbed.
        bench.pass6(&V6::new(server6(), 17).build(udp(1000, 53, b"")));
        bench.after(301);
        bench.pass6(&third);
    }
}

#[test]
fn expiry_is_bounded_per_call_and_goes_on() {
    let mut bench = Bench::new(config());
    for port in 1..=3000 {
        bench.pass6(&V6::new(server6(), 17).build(udp(port, 53, b"")));
    }
    bench.after(400);
    assert_eq!(bench.nat.stats().sessions, 3000 - 256);
    while bench.nat.next_timeout().is_some_and(|at| at <= bench.now) {
        bench.after(0);
    }
    assert_eq!((bench.nat.stats().sessions, bench.nat.stats().bindings), (0, 0));
}

#[test]
fn errors_are_limited_in_rate_and_never_answer_errors() {
    let mut bench = Bench::new(Config { errors_per_second: 3, ..config() });
    let dying = V6 { hops: 1, ..V6::new(server6(), 17) }.build(udp(1, 2, b""));
    let replies = (0..10).filter(|_| bench.v6(&dying).0 == Verdict::Reply).count();
    assert_eq!((replies, bench.nat.stats().errors_limited), (3, 7));
    bench.now = bench.now + Duration::from_secs(1);
    let error = V6 { hops: 1, ..V6::new(server6(), 58) }.build(icmp(1, 4, 0, &[0; 48]));
    assert_eq!(bench.v6(&error).0, Verdict::Drop(Reason::HopLimit));
    let error = V4 { ttl: 1, ..V4::new(SERVER, 1) }.build(icmp(3, 3, 0, &[0; 28]));
    assert_eq!(bench.v4(&error).0, Verdict::Drop(Reason::HopLimit));
}

#[test]
fn shards_own_their_ports_and_find_their_replies() {
    for shard in 0..3 {
        let mut bench = Bench::new(Config { shard, shards: 3, ..config() });
        for port in 40_000..40_050 {
            let out = bench.pass6(&V6::new(server6(), 17).build(udp(port, 53, b"")));
            let mapped = word16(check(&out), 0);
            assert_eq!((shard_of_port(mapped, 3), mapped % 2), (shard, port % 2));
            let reply = V4::new(SERVER, 17).build(udp(53, mapped, b""));
            assert_eq!(shard_of_v4(&reply, 3), Some(shard));
            assert_eq!(word16(check(&bench.pass4(&reply)), 2), port);
            let error = V4::new(ROUTER, 1).build(icmp(3, 1, 0, &out));
            assert_eq!(shard_of_v4(&error, 3), Some(shard));
        }
    }
    assert_eq!(shard_of_v4(&V4 { fragment: 7, ..V4::new(SERVER, 17) }.raw(&[0; 8]), 3), None);
}
